"""The learner's part of a recipe: `algorithm` and `trainer`.

Frozen pydantic models without behaviour. Rules that cross sections (batch against ranks, response against token
budget) are checked in `orchestrator.recipe`, before anything starts.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A part of a recipe: immutable, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CorrectionSettings(Section):
    """Importance correction for tokens sampled by other weights or another forward than the one trained on."""

    level: Literal["token", "sequence", "geometric"] = "token"
    """What one weight is the ratio of: a token, a whole answer, or an answer's geometric mean."""
    mode: Literal["off", "truncate", "clip", "mask"] = "truncate"
    """What happens outside [low, high]: `truncate` caps from above, `clip` bounds both sides, `mask` drops."""
    low: float = Field(0.5, ge=0)
    high: float = Field(2.0, gt=0)


class AlgorithmSettings(Section):
    advantage: str = "grpo"
    """Name in `learners.advantages`."""
    surrogate: str = "ppo_clip"
    """Name in `learners.surrogates`."""
    clip_low: float = Field(0.2, ge=0, lt=1)
    clip_high: float = Field(0.28, ge=0)
    """Clip-higher (DAPO, arXiv 2503.14476): a wider upper bound lets unlikely tokens grow."""
    aggregation: Literal["token", "sequence"] = "token"
    """`token`: every trained token of the batch weighs the same. `sequence`: every answer does."""
    old_logprobs: Literal["behaviour", "recompute"] = "recompute"
    """What the clip's ratio compares with: the engine's logprobs, or the learner's own before the first step."""
    correction: CorrectionSettings = CorrectionSettings()
    drop_zero_variance: bool = True
    """Leave out groups whose answers all got one reward (no signal) and dispatch other prompts in their place."""


class TrainerSettings(Section):
    steps: int = Field(100, ge=1)
    prompts_per_step: int = Field(16, ge=1)
    """Groups in a training batch."""
    minibatches: int = Field(1, ge=1)
    """Optimizer steps per training batch."""
    ranks: int = Field(1, ge=1)
    """Processes of the learner group (FSDP2 shards over all of them)."""
    token_budget: int = Field(8192, ge=1)
    """Tokens in one packed micro-batch of one rank."""
    learning_rate: float = Field(1e-6, gt=0)
    warmup_steps: int = Field(0, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Compute type; master weights and reductions are float32 either way."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of each rank; None divides the machine's cores among the actors."""
    checkpoint_every: int = Field(0, ge=0)
    """Steps between checkpoints, each a Hugging Face model; 0 writes the final model alone."""
    step_timeout_s: float = Field(1800.0, gt=0)
    """Deadline of one optimizer step, collectives included."""
