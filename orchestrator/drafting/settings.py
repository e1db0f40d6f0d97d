"""The recipe's part `speculation`: how engines draft tokens ahead, and how the drafter learns.

Frozen pydantic models without behaviour; rules that cross sections are checked in `orchestrator.rules`. Written as one
word, ``speculation: adaptive`` is all defaults and ``speculation: suffix`` the drafter without a model.
"""

from typing import Literal

from pydantic import Field, field_validator

from actors.speculation.settings import DrafterKind
from learners.drafters.settings import CaptureSettings, DrafterTrainingSettings, WindowBufferSettings
from learners.settings import Section


class RetrainSettings(Section):
    """When the drafter is trained, and how much."""

    policy: Literal["decay", "always", "never"] = "decay"
    """`decay`: at first until a session brings nothing more, then whenever acceptance has fallen. `always` and `never`
    are there to compare with."""
    delta: float = Field(0.05, gt=0, lt=1)
    """Fall of acceptance (of first drafted tokens) below its best that calls for training."""
    memory: int = Field(2000, ge=1)
    """Drafts over which acceptance is averaged."""
    least_gap_s: float = Field(5.0, ge=0)
    """Seconds between the beginnings of two sessions."""
    session_steps: int = Field(40, ge=1)
    """Micro-steps of a session; the drafter is judged, and perhaps published, at its end."""
    token_budget: int = Field(2048, ge=2)
    """Tokens of a micro-step."""
    beside_share: float = Field(0.25, gt=0, le=1)
    """Where no accelerator idles: share of the time that training beside the learner may take."""
    lease_s: float = Field(20.0, gt=0)
    """How long a lease of an idle accelerator lasts without being renewed; it is renewed at each micro-step."""
    least_work_s: float = Field(1.0, ge=0)
    """Seconds of training that make a lease worth its switch."""
    step_timeout_s: float = Field(300.0, gt=0)
    """Deadline of one call to the trainer."""
    threads: int = Field(1, ge=1)
    """CPU threads of the trainer, where there is no GPU."""
    parcels_mib: float = Field(256.0, gt=0)
    """Windows on their way to the trainer; what exceeds this is dropped and counted, never waited for."""


class SpeculationSection(Section):
    """None in a recipe: every token is decoded by itself."""

    drafter: DrafterKind = "eagle"
    """`suffix` needs no model; `eagle`, `eagle3` and `draft_model` learn while the run goes on."""
    checkpoint: str | None = None
    """Folder of a drafter to start from; None starts a new one."""
    lengths: tuple[int, ...] = (0, 1, 2, 4)
    """Draft lengths that the governor may choose from; 0 drafts nothing and is always among them."""
    governor: str = "model_based"
    """`model_based`, `thompson`, `epsilon_greedy`, or `fixed`."""
    governor_options: dict[str, float] = Field(default_factory=dict)
    """Of that governor; for `fixed`, the draft length from each number of running answers on: {1: 4, 8: 0}."""
    draft_sampling: Literal["greedy", "probabilistic"] = "greedy"
    """Draft the likeliest tokens, or draw them from the drafter's distribution. Both are exact."""
    draft_positions: int = Field(4, ge=1)
    """Draft length by which drafters are judged before they are published."""
    fused_layers: tuple[int, ...] | None = None
    """`eagle3`: hidden states it fuses; None takes a low, a middle and a high one."""
    draft_layers: int = Field(1, ge=1)
    """`draft_model`: how many of the target's first layers a new one starts from."""
    required: bool = False
    """A drafter that cannot be used stops the run. Off: the run goes on without speculation, and says so."""
    retrain: RetrainSettings = RetrainSettings()
    capture: CaptureSettings = CaptureSettings()
    windows: WindowBufferSettings = WindowBufferSettings()
    training: DrafterTrainingSettings = DrafterTrainingSettings(learning_rate=1e-3)

    @field_validator("lengths")
    @classmethod
    def _lengths_begin_with_none(cls, lengths: tuple[int, ...]) -> tuple[int, ...]:
        if lengths != tuple(sorted(set(lengths))) or lengths[:1] != (0,) or len(lengths) < 2:
            raise ValueError("give ascending draft lengths that begin with 0, which drafts nothing")
        return lengths

    @property
    def learns(self) -> bool:
        """Whether there is a drafter with weights that the run may train."""
        return self.drafter != "suffix" and self.retrain.policy != "never"


PRESETS: dict[str, dict[str, object] | None] = {
    "off": None,
    "adaptive": {},
    "suffix": {"drafter": "suffix"},
}
"""What ``speculation: <word>`` stands for."""
