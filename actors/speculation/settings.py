"""What an engine needs to know to speculate: plain data, and the rules that hold for it alone.

What depends on the engine, or on files, is checked where the engine starts (`actors.vllm_launch`,
`actors.speculation.drafter_check`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

DrafterKind = Literal["suffix", "eagle", "eagle3", "draft_model"]
LEARNED: frozenset[DrafterKind] = frozenset({"eagle", "eagle3", "draft_model"})
"""Kinds with weights of their own: a checkpoint to start from, and a stream of updates."""


@dataclass(frozen=True, slots=True)
class SpeculationSettings:
    """How an engine drafts tokens ahead. Whatever stands here, what is sampled keeps its distribution.

    Attributes:
        kind: what drafts.
        drafter: folder of the drafter's checkpoint, for learned kinds.
        lengths: draft lengths that the governor may choose from, ascending; 0 is always among them, and means that
            nothing is drafted.
        governor: a selector of `actors.speculation.selectors`, with `governor_options` the fields of `GovernorRules`
            and a `seed`; or ``fixed``, with the draft length from each batch size on (``{"1": 3, "8": 0}``); or
            ``"package.module:name"`` of a function from lengths and options to a `StepGovernor`.
        draft_sampling: drafted tokens are the drafter's likeliest ones (`greedy`), or drawn from its distribution
            (`probabilistic`; better where sampling is warm). Both are exact.
        acceptance: how drafts are verified. Only `standard` is exact, the others that vLLM knows are refused.
        retained_mib: hidden states that wait for the drafter while nothing is drafted, MiB; when there are more, the
            drafter reads them.
        required: a drafter that cannot be used is an error. Off: the engine starts without, and says why.
    """

    kind: DrafterKind
    drafter: str | None = None
    lengths: tuple[int, ...] = (0, 1, 3)
    governor: str = "model_based"
    governor_options: Mapping[str, float | str] = field(default_factory=dict)
    draft_sampling: Literal["greedy", "probabilistic"] = "greedy"
    acceptance: Literal["standard", "block", "fly", "synthetic"] = "standard"
    retained_mib: int = 64
    required: bool = True

    def __post_init__(self) -> None:
        if self.lengths != tuple(sorted(set(self.lengths))) or self.lengths[:1] != (0,) or len(self.lengths) < 2:
            raise ValueError(
                f"speculation.lengths={list(self.lengths)}: give ascending draft lengths that begin with 0 (no draft)"
            )
        if self.acceptance != "standard":
            raise ValueError(
                f"speculation.acceptance={self.acceptance}: {_REFUSED[self.acceptance]}; only 'standard' is accepted"
            )
        if (self.kind in LEARNED) != (self.drafter is not None):
            need = "needs a checkpoint folder" if self.kind in LEARNED else "has no checkpoint"
            raise ValueError(f"speculation.drafter={self.drafter}: a drafter of kind {self.kind} {need}")
        if self.retained_mib < 0:
            raise ValueError(f"speculation.retained_mib={self.retained_mib}: it cannot be negative")

    @property
    def longest(self) -> int:
        return self.lengths[-1]


_REFUSED = {
    "fly": "it accepts drafts that the target would not have sampled",
    "synthetic": "it accepts drafts by a coin and not by the target, which is for benchmarks",
    "block": "vLLM 0.32 verifies blocks without the per-request seed's order of draws, which no test here holds exact",
}
