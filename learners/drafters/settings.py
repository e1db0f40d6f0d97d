"""Settings of a learned drafter: what it is, what it learns from, and how it learns.

Frozen pydantic models, one for each part that is built from them. `DrafterSettings` names every kind's knobs; a kind
refuses those that are set and not its own (`Drafter.build`).
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from learners.settings import Section


class DrafterSettings(Section):
    """What drafter to build for a target."""

    kind: str = "eagle"
    """Name in `learners.drafters.kinds.DRAFTERS`."""
    seed: int = 0
    """Of the initial weights that come from nowhere else."""
    fused_layers: tuple[int, ...] | None = None
    """`eagle3`: hidden states it fuses, by transformers' count, ascending; None takes a low, a middle, a high one."""
    draft_layers: int = Field(1, ge=1)
    """`draft_model`: how many of the target's first layers it starts from."""
    checkpoint: str | None = None
    """`draft_model`: folder of a Hugging Face checkpoint to start from instead of the target's first layers."""


class CaptureSettings(Section):
    """Which of the learner's hidden states become training windows."""

    tokens_per_pass: int = Field(2048, ge=2)
    """Tokens kept of one forward pass of one rank."""
    window_length: int = Field(256, ge=2)
    """Tokens of one window, contiguous within a sequence."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    seed: int = 0

    @model_validator(mode="after")
    def _a_window_fits(self) -> Self:
        if self.window_length > self.tokens_per_pass:
            raise ValueError(
                f"window_length={self.window_length} exceeds tokens_per_pass={self.tokens_per_pass}: no window fits"
            )
        return self


class WindowBufferSettings(Section):
    """What is kept to train on."""

    capacity_mib: float = Field(512.0, gt=0)
    """Of all windows together; what does not fit is dropped and counted."""
    previous_share: float = Field(0.5, ge=0, lt=1)
    """Share of a sample's tokens that come from long sequences of the previous step."""
    long_share: float = Field(0.25, ge=0, le=1)
    """Share of a step's sequences, the longest, whose windows are kept for the next step."""
    holdout_share: float = Field(0.1, ge=0, lt=1)
    """Share of the sequences, and of the capacity, that is held out for shadow evaluation."""
    seed: int = 0


class DrafterTrainingSettings(Section):
    """How a drafter is trained."""

    losses: dict[str, float] | None = None
    """Weights by name in `learners.drafters.losses`; None takes the kind's own."""
    unroll: int | None = Field(None, ge=1)
    """Draft positions trained, each after the first on the drafter's own outputs; None takes the kind's own."""
    unroll_decay: float = Field(0.8, gt=0, le=1)
    """Position k weighs unroll_decay^(k - 1): later ones are reached less often."""
    temperature: float = Field(1.0, gt=0)
    """At which answers are sampled: target and drafter are compared at this temperature."""
    learning_rate: float = Field(1e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Compute type; masters and optimizer state are float32 either way."""
    max_bad_updates: int = Field(5, ge=1)
    """Updates in a row without a finite gradient after which training stops with an error."""
