"""Drafters in the `speculators` format, which vLLM serves by the drafter's path alone.

Its `config.json` names the target ("verifier"), the number of drafted tokens, and the drafter's layer as a nested
configuration. vLLM 0.32 reads this format for `eagle3` and not for `eagle` or `draft_model`
(vllm/transformers_utils/configs/speculators/algos.py), so those are refused here; their plain folders
(`learners.drafters.drafter_files.save_drafter`) are what vLLM loads.
"""

import json
from pathlib import Path

import torch
from transformers import PretrainedConfig

from learners.drafters.drafter import Drafter
from learners.drafters.drafter_files import publish, write_weights
from learners.drafters.errors import DrafterError

FORMAT_VERSION = "0.5.0"
"""Of the `speculators` library whose layout this is."""

_OWN_FIELDS = (
    "draft_vocab_size",
    "target_hidden_size",
    "norm_before_residual",
    "norm_before_fc",
    "eagle_aux_hidden_state_layer_ids",
)
"""Fields of the drafter itself, beside those of its decoder layer."""


def export_speculators(
    drafter: Drafter,
    folder: Path,
    dtype: torch.dtype,
    *,
    target: str,
    target_config: PretrainedConfig,
    draft_tokens: int,
) -> None:
    """Write a drafter in the `speculators` format.

    Args:
        folder: must not exist yet.
        target: folder or hub id that a server shall load as the target.
        draft_tokens: tokens drafted at a time.

    Raises:
        DrafterError: a kind that vLLM does not read in this format, a taken folder, or a disk that refused.
    """
    if drafter.kind != "eagle3":
        raise DrafterError(f"vLLM reads no {drafter.kind} drafter in the speculators format: export kind=eagle3")
    described = drafter.describe()
    config = {
        "architectures": ["Eagle3DraftModel"],
        "dtype": str(dtype).removeprefix("torch."),
        "speculators_model_type": drafter.kind,
        "speculators_version": FORMAT_VERSION,
        "tie_word_embeddings": False,
        "speculators_config": {
            "algorithm": drafter.kind,
            "default_proposal_method": "greedy",
            "proposal_methods": [
                {
                    "proposal_type": "greedy",
                    "speculative_tokens": draft_tokens,
                    "verifier_accept_k": 1,
                    "accept_tolerance": 0.0,
                }
            ],
            "verifier": {"name_or_path": target, "architectures": list(target_config.architectures or [])},
        },
        "transformer_layer_config": drafter.config.to_dict(),
        **{name: described[name] for name in _OWN_FIELDS},
    }
    with publish(folder) as draft:
        write_weights(drafter, draft, dtype)
        (draft / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
