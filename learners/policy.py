"""The trained model: loaded from and saved as a Hugging Face checkpoint, read over packed sequences.

Invariants: parameters are float32 masters whatever the checkpoint's dtype (mixed precision is the caller's
affair); a checkpoint folder appears whole or not at all.
"""

import contextlib
import copy
import os
import pickle
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.core_model_loading import revert_weight_conversion

from learners.attention import FLASH, PACKED, AttentionArguments, attention_arguments
from learners.attention_watch import AttentionWatch
from learners.errors import PolicyError, first_line
from learners.logprobs import Moments, TokenLogprobs, chunked_logprobs
from learners.packing import PackedSequences
from learners.sequence_parallel import SequenceGroup

_HEAD_CHANGES = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier_scale")
"""Config keys of models that change the logits after the head, which `Policy` would skip."""


class PackedModel(nn.Module):
    """A model of transformers read over packed rows.

    It is a module of its own, so that FSDP's hooks run around the whole forward pass, the head included: the
    head's weight is used here and not by the model's forward.

    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def hidden(self, packed: PackedSequences, device: torch.device) -> Tensor:
        """[T, d] last hidden state at each token of the row."""
        arguments = attention_arguments(packed, self.model.config._attn_implementation, device)
        return self.states(packed.input_ids, packed.position_ids, arguments, device)

    def states(
        self, input_ids: Tensor, position_ids: Tensor, arguments: AttentionArguments, device: torch.device
    ) -> Tensor:
        """[T, d] last hidden state at each of these tokens: a row, or this rank's part of one."""
        states: Tensor = self.model.base_model(
            input_ids=input_ids.to(device).unsqueeze(0),
            position_ids=position_ids.to(device).unsqueeze(0),
            use_cache=False,
            **arguments,
        ).last_hidden_state[0]
        return states


class Policy(PackedModel):
    """A causal language model and the distribution of the next token that it gives.

    Args:
        sequence_group: the ranks with which this one shares every row; None where it reads alone.
    """

    def __init__(self, model: PreTrainedModel, sequence_group: SequenceGroup | None = None) -> None:
        super().__init__(model)
        self._sequence_group = sequence_group

    def forward(
        self,
        packed: PackedSequences,
        positions: Tensor | None = None,
        temperature: float = 1.0,
        moments: bool = False,
        attention: bool = False,
    ) -> TokenLogprobs:
        """Logprob of the token after each of `positions`, and the entropy of its distribution.

        Args:
            packed: on any device; moved to the model's.
            positions: [N] places in the row, ascending (`packed.next_token_positions()` where None: N = T - S).
            temperature, moments: see `learners.logprobs`.
            attention: whether it is watched (`learners.attention_watch`); not where ranks share rows.
        """
        chosen = packed.next_token_positions() if positions is None else positions
        targets = packed.input_ids[chosen + 1]
        device = self.model.get_output_embeddings().weight.device
        implementation = self.model.config._attn_implementation
        if self._sequence_group is None:
            arguments = attention_arguments(packed, implementation, device)
            watch = AttentionWatch()
            if attention:
                arguments["attention_watch"] = watch
            found = self._read(packed.input_ids, packed.position_ids, arguments, chosen, targets, temperature, moments)
            return found._replace(attention=watch.spread()[chosen.to(device)]) if attention else found
        assert not attention, "the learner refuses it"
        shard = self._sequence_group.shard(packed)
        arguments = attention_arguments(shard.row, implementation, device, shard)
        shares = shard.shares(chosen)
        own = shard.own(shares)
        seen = self._read(
            shard.row.input_ids[shard.places],
            shard.row.position_ids[shard.places],
            arguments,
            chosen[own] - shard.places.start,
            targets[own],
            temperature,
            moments,
        )
        moved = None if seen.moments is None else Moments(*(shard.gather(values, shares) for values in seen.moments))
        return TokenLogprobs(shard.gather(seen.logprobs, shares), shard.gather(seen.entropy, shares), moved)

    def _read(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        arguments: AttentionArguments,
        chosen: Tensor,
        targets: Tensor,
        temperature: float,
        moments: bool,
    ) -> TokenLogprobs:
        """One pass over [T] tokens; of [N] of them, how likely their successors `targets` are."""
        head = self.model.get_output_embeddings()
        device = head.weight.device
        return chunked_logprobs(
            self.states(input_ids, position_ids, arguments, device).index_select(0, chosen.to(device)),
            head.weight,
            getattr(head, "bias", None),
            targets.to(device),
            temperature=temperature,
            moments=moments,
        )


def token_logprobs(model: PreTrainedModel, packed: PackedSequences, temperature: float = 1.0) -> Tensor:
    """[T - S] float32 logprob of each token after the first of its sequence, in the order of the row."""
    logprobs: Tensor = Policy(model)(packed, temperature=temperature).logprobs
    return logprobs


def load_policy(folder_or_id: str, dtype: torch.dtype = torch.float32, attention: str = PACKED) -> PreTrainedModel:
    """Load a causal language model for packed rows, on the CPU, in training mode.

    Args:
        folder_or_id: folder of a Hugging Face checkpoint, or a hub id.
        dtype: of the parameters; float32 for masters.
        attention: `learners.attention.PACKED` or `FLASH`.

    Raises:
        PolicyError: no such checkpoint, or a model whose logits are more than its head's product.
    """
    if attention not in (PACKED, FLASH):
        raise PolicyError(f"attention {attention!r} cannot read packed rows: use {PACKED!r} or {FLASH!r}")
    try:
        config = AutoConfig.from_pretrained(folder_or_id)
        changed = [key for key in _HEAD_CHANGES if getattr(config, key, None) not in (None, 1, 1.0)]
        if changed:
            raise PolicyError(f"model={folder_or_id}: its {changed[0]} changes logits after the head: not supported")
        model = AutoModelForCausalLM.from_pretrained(folder_or_id, dtype=dtype, attn_implementation=attention)
    except (OSError, SafetensorError) as error:
        reason = first_line(error)
        raise PolicyError(f"model={folder_or_id}: no loadable checkpoint there ({reason})") from error
    except pickle.UnpicklingError as error:  # a .bin is read with `weights_only`
        reason = "its .bin holds more than weights, and is refused unrun"
        raise PolicyError(f"model={folder_or_id}: {reason}: save it as safetensors") from error
    policy: PreTrainedModel = model.train()
    return policy


def own_state(model: PreTrainedModel) -> dict[str, Tensor]:
    """The model's tensors by their names in the model, a tied head left out. Nothing is copied."""
    own = {name for name, _ in model.named_parameters()}
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - own
    return {name: tensor for name, tensor in model.state_dict().items() if name not in tied}


def checkpoint_names(model: PreTrainedModel, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Full tensors of `own_state` under the names (and in the pieces) that the model's checkpoints use."""
    return dict(revert_weight_conversion(model, dict(state)))


def save_policy(
    model: PreTrainedModel,
    state: Mapping[str, Tensor] | None,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
) -> None:
    """Write a Hugging Face checkpoint: all of `folder` or, on any failure, nothing.

    Args:
        model: gives configuration and class, and the weights where `state` is None.
        state: full tensors by their names in the checkpoint, of one dtype, which the checkpoint declares.
        folder: must not exist yet (an empty one may).

    Raises:
        PolicyError: the folder is taken, or the disk refused (full, read-only).
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PolicyError(f"{folder} exists: name another folder for the checkpoint")
    tensors = checkpoint_names(model, own_state(model)) if state is None else dict(state)
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__.removeprefix("FSDP")]
    config.dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    draft = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        draft.mkdir(parents=True)
        save_torch_state_dict(tensors, draft, metadata={"format": "pt"})
        config.save_pretrained(draft)
        if model.generation_config is not None:
            model.generation_config.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()
        os.rename(draft, folder)
    except (OSError, SafetensorError) as error:
        raise PolicyError(f"cannot write the checkpoint {folder}: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
