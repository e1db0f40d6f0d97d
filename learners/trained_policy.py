"""The policy that a learner trains, as `trainer` wants it: loaded for this device, with adapters or without, its
activations kept or computed again, its rows read alone or shared. Not yet sharded."""

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from learners.adapters import Adapters, find_targets
from learners.attention import best_attention
from learners.errors import UnfitError
from learners.policy import Policy, load_policy
from learners.sequence_parallel import SequenceGroup, check_model
from learners.settings import TrainerSettings


def check_fit(config: PretrainedConfig, trainer: TrainerSettings, sequence_parallel: int) -> None:
    """Whether a model can be trained as the settings say, from its configuration alone.

    Args:
        sequence_parallel: ranks that share each row.

    Raises:
        UnfitError: it cannot.
    """
    _check_sharing(config, trainer, sequence_parallel)
    if trainer.lora is not None:
        with torch.device("meta"):
            find_targets(AutoModelForCausalLM.from_config(config), trainer.lora.target_modules)


def _check_sharing(config: PretrainedConfig, trainer: TrainerSettings, sequence_parallel: int) -> None:
    if sequence_parallel > 1 and trainer.backend != "fsdp2":
        reason = f"sharing rows needs trainer.backend=fsdp2, but {trainer.backend} is set"
        raise UnfitError("topology.learner.sequence_parallel", reason, "change one of the two")
    check_model(config, sequence_parallel)


def open_policy(
    model: str,
    trainer: TrainerSettings,
    sequence_group: SequenceGroup | None,
    device: torch.device,
    *,
    watched: bool = False,
) -> tuple[Policy, Adapters | None]:
    """Args:
        model: folder of a Hugging Face checkpoint, or a hub id.
        sequence_group: the ranks with which this one shares rows.
        device: on which the policy will compute.
        watched: whether its attention will be watched (`learners.attention_watch`).

    Returns: the policy on the CPU in float32, and its adapters where `trainer.lora` asks for them.

    Raises:
        PolicyError: the model cannot be loaded.
        UnfitError: it cannot be trained as the settings say.
    """
    if trainer.cpu_offload and device.type == "cpu":
        raise UnfitError("trainer.cpu_offload", "the learner runs on the CPU already", "leave it out")
    if watched and sequence_group is not None:
        reason = "the attention of rows that ranks share is not watched, and algorithm.masks asks for it"
        raise UnfitError("topology.learner.sequence_parallel", reason, "set it to 1, or leave out the mask")
    shared_rows = sequence_group is not None
    attention = best_attention(device, getattr(torch, trainer.dtype), shared_rows=shared_rows, watched=watched)
    loaded = load_policy(model, attention=attention)
    _check_sharing(loaded.config, trainer, 1 if sequence_group is None else sequence_group.size)
    if trainer.activation_checkpointing:
        if not loaded.supports_gradient_checkpointing:
            reason = f"{type(loaded).__name__} cannot compute a layer again"
            raise UnfitError("trainer.activation_checkpointing", reason, "leave it out")
        loaded.gradient_checkpointing_enable({"use_reentrant": False})
    adapters = None if trainer.lora is None else Adapters(loaded, trainer.lora)
    return Policy(loaded, sequence_group), adapters
