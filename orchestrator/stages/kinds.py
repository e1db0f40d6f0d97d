"""What a stage's kind stands for: settings that it brings along, and settings that mean nothing under it.

Every kind but `sft` is the same driver (`orchestrator.run`), engines, rewards and weight bus included; a kind says what
is made of the scored groups. So `distill` is settings and nothing else, `rejection` and `preference` are settings and a
way of building batches (`orchestrator.stages.batches`).

- `rl`: advantages of all answers.
- `rejection`: likelihood of the answers that a rule keeps (`keep`).
- `preference`: a loss of pairs or groups of answers (`pairs`, `algorithm.preference`).
- `distill`: the terms alone, first of all the divergence from a teacher on the student's own answers.
"""

from collections.abc import Mapping
from typing import Final, Literal

RolloutKind = Literal["rl", "rejection", "preference", "distill"]
Kind = Literal["rl", "rejection", "preference", "distill", "sft"]
KINDS: Final = ("rl", "rejection", "preference", "distill", "sft")

Tree = dict[str, object]

BROUGHT: Final[Mapping[str, Tree]] = {
    "rl": {},
    "rejection": {
        "keep": {},
        # Answers of one kind are no loss here: all right is the best that a group can be.
        "algorithm": {"surrogate": "reinforce", "old_logprobs": "behaviour", "drop_zero_variance": False},
    },
    "preference": {
        "pairs": {},
        "algorithm": {"preference": {"name": "dpo"}, "old_logprobs": "behaviour"},
    },
    "distill": {
        "algorithm": {
            "policy_weight": 0.0,
            "drop_zero_variance": False,
            "terms": [{"name": "kl_k2", "weight": 1.0, "against": "teacher"}],
        },
    },
    "sft": {},
}
"""Settings under those of a recipe: what the kind takes where nothing else is said."""

_OF_TOKENS: Final = tuple(
    f"algorithm.{name}"
    for name in (
        "advantage",
        "advantage_options",
        "advantage_norm",
        "advantage_norm_options",
        "surrogate",
        "surrogate_options",
        "clip_low",
        "clip_high",
        "old_logprobs",
        "correction",
        "masks",
        "off_policy",
        "off_policy_options",
        "critic",
    )
)
"""What a policy gradient is made of."""

IDLE: Final[Mapping[str, tuple[str, ...]]] = {
    "rl": ("keep", "pairs", "algorithm.preference"),
    "rejection": ("pairs", "algorithm.preference", *_OF_TOKENS),
    "preference": ("keep", *_OF_TOKENS, "algorithm.aggregation", "algorithm.policy_weight", "algorithm.terms"),
    "distill": ("keep", "pairs", "algorithm.preference"),
    "sft": (),
}
"""Dotted names of settings that a kind has no use for: they stay as the kind brings them, or at their defaults. A stage
does not inherit them."""
