"""The learner's part of a recipe: `algorithm` and `trainer`.

Frozen pydantic models. Settings that contradict each other within a section are refused here; rules that cross
sections (batch against ranks, response against token budget) are checked in `orchestrator.recipe`, before anything
starts.
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from learners.correction_presets import PRESETS, Level, Mode, PresetName
from learners.options import Option


class Section(BaseModel):
    """A part of a recipe: immutable, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CorrectionSettings(Section):
    """Importance correction for tokens sampled by other weights or another forward than the one trained on."""

    preset: PresetName | None = None
    """A published method (`learners.correction_presets`): the knobs below take its values."""
    level: Level = "token"
    """What one weight is the ratio of: a token, a whole answer, or an answer's geometric mean."""
    mode: Mode = "truncate"
    """What happens outside [low, high]: `truncate` caps from above, `clip` bounds both sides, `mask` drops."""
    low: float = Field(0.5, ge=0)
    high: float = Field(2.0, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _resolve_preset(cls, given: object) -> object:
        """Turn a preset's name into values of the knobs; those that the recipe sets itself must agree with it."""
        name = given.get("preset") if isinstance(given, dict) else None
        # A name that does not exist is left to the field's own check.
        preset = next((preset for known, preset in PRESETS.items() if known == name), None)
        if preset is None or not isinstance(given, dict):
            return given
        for knob, allowed in preset.allows().items():
            if knob in given and given[knob] not in allowed:
                raise ValueError(
                    f"preset={name} means {knob}={' or '.join(allowed)}, but {knob}={given[knob]} is set: "
                    f"leave out one of the two"
                )
        return {**preset.knobs(), **given}


class CompanionSettings(Section):
    """A policy that the trained one is compared with; loaded only where a term of the loss asks for it."""

    kind: Literal["fixed", "moving", "reset"] = "fixed"
    """`moving`: an average of the trained policy's past. `reset`: its state of some steps ago."""
    model: str | None = None
    """Folder or hub id; None is the checkpoint that training begins with."""
    decay: float = Field(0.99, ge=0, le=1)
    """`moving`: share of itself that it keeps at each step; 1 never moves."""
    every: int = Field(100, ge=1)
    """`reset`: training steps between two resets."""

    @model_validator(mode="after")
    def _moves_along_its_own(self) -> Self:
        if self.model is not None and self.kind != "fixed":
            raise ValueError(
                f"kind={self.kind} follows the trained policy, but model={self.model} is set: leave out one of the two"
            )
        return self


class CriticSettings(Section):
    """The value model beside the policy; loaded only where `advantage` is made of its values."""

    model: str | None = None
    """Folder or hub id of the causal language model whose body it starts from; None is the policy's own checkpoint."""
    learning_rate: float = Field(1e-5, gt=0)
    max_grad_norm: float = Field(1.0, gt=0)
    warmup_steps: int = Field(0, ge=0)
    """First training steps, in which the critic learns alone and the policy stays as it is."""
    clip: float | None = Field(None, gt=0)
    """How far a value may move within one batch; None lets it."""
    passes: int = Field(1, ge=1)
    """Times that it reads each minibatch, an optimizer step each: it may learn faster than the policy moves."""


class TermSettings(Section):
    """A further term of the loss: weight x loss is added to each trained token's."""

    name: str
    """Name in `learners.terms`."""
    weight: float
    against: Literal["reference", "teacher"] = "reference"
    """What a term that compares compares with."""
    options: dict[str, Option] = Field(default_factory=dict)


class PartSettings(Section):
    """A part by its name, of which an algorithm may have several."""

    name: str
    options: dict[str, Option] = Field(default_factory=dict)


class MaskSettings(PartSettings):
    alarm_below: float = Field(0.0, ge=0, le=1)
    """Warn of a step in which the mask's mean weight is less: so that nobody trains on next to nothing unawares."""


class PreferenceSettings(Section):
    """A loss that compares whole answers to one prompt, in the place of the surrogate."""

    name: str = "dpo"
    """Name in `learners.preferences`."""
    options: dict[str, Option] = Field(default_factory=dict)
    against: Literal["reference", "behaviour"] = "reference"
    """What the policy's likelihood is held against: `algorithm.reference`, or what the engine recorded when it sampled
    the answer, for which no second model is loaded."""


class AlgorithmSettings(Section):
    advantage: str = "grpo"
    """Name in `learners.advantages`: what a reward is compared with."""
    advantage_options: dict[str, Option] = Field(default_factory=dict)
    advantage_norm: str = "none"
    """Name in `learners.advantages.norms`: what is done to the advantages of a batch after that."""
    advantage_norm_options: dict[str, Option] = Field(default_factory=dict)
    surrogate: str = "ppo_clip"
    """Name in `learners.surrogates`: the loss of a token."""
    surrogate_options: dict[str, Option] = Field(default_factory=dict)
    clip_low: float = Field(0.2, ge=0, lt=1)
    clip_high: float = Field(0.28, ge=0)
    """Clip-higher (DAPO, arXiv 2503.14476): a wider upper bound lets unlikely tokens grow."""
    aggregation: Literal["token", "sequence"] = "token"
    """`token`: every trained token of the batch weighs the same. `sequence`: every answer does."""
    old_logprobs: Literal["behaviour", "recompute"] = "recompute"
    """What the clip's ratio compares with: the engine's logprobs, or the learner's own before the first step."""
    correction: CorrectionSettings = CorrectionSettings()
    policy_weight: float = Field(1.0, ge=0)
    """Weight of the surrogate; 0 trains by the terms alone."""
    masks: tuple[MaskSettings, ...] = ()
    """Names in `learners.masks`: which tokens the surrogate trains, and how much; their weights multiply."""
    off_policy: str = "shaped"
    """Name in `learners.off_policy`: the loss of tokens that another than the trained policy wrote."""
    off_policy_options: dict[str, Option] = Field(default_factory=dict)
    terms: tuple[TermSettings, ...] = ()
    preference: PreferenceSettings | None = None
    """A loss of pairs or groups of answers in the place of surrogate, advantages and aggregation."""
    reference: CompanionSettings = CompanionSettings()
    teacher: CompanionSettings | None = None
    """A fixed policy to learn from; it must read the same tokens."""
    group_filters: tuple[PartSettings, ...] = ()
    """Names in `orchestrator.policies.group_filters`, in order: what becomes of a scored group before it is trained."""
    refill_limit: int = Field(50, ge=1)
    """Batches' worth of groups that may be left out one after another, before the run stops for want of signal."""
    critic: CriticSettings | None = None
    """Of an advantage made of values, such as `gae`; None takes the defaults."""
    drop_zero_variance: bool = True
    """Leave out groups whose answers all got one reward (no signal) and dispatch other prompts in their place.

    To a critic such groups do say something (an expected reward that did not come), and it learns what it is shown:
    `true` spares the work and teaches it the values of groups that came out mixed, `false` those of all prompts.
    """

    @model_validator(mode="after")
    def _the_teacher_is_another_model(self) -> Self:
        if self.teacher is not None and self.teacher.model is None:
            raise ValueError("teacher.model is missing: name the checkpoint to learn from")
        if self.teacher is None and any(term.against == "teacher" for term in self.terms):
            raise ValueError("a term is against=teacher, but there is none: set teacher.model")
        return self

    @model_validator(mode="after")
    def _a_preference_stands_alone(self) -> Self:
        if self.preference is not None and self.terms:
            raise ValueError(
                f"preference={self.preference.name} is a loss of whole answers, but terms={self.terms[0].name} is a "
                f"loss of tokens: leave out one of the two"
            )
        return self

    @model_validator(mode="after")
    def _preset_has_what_it_needs(self) -> Self:
        name = self.correction.preset
        if name is None:
            return self
        if self.old_logprobs != "recompute":
            raise ValueError(
                f"correction.preset={name} weighs by recomputed logprobs, but old_logprobs={self.old_logprobs} is "
                f"set, with which every weight is 1: leave out one of the two"
            )
        surrogate = PRESETS[name].surrogate
        if surrogate not in (None, self.surrogate):
            raise ValueError(
                f"correction.preset={name} means surrogate={surrogate}, but surrogate={self.surrogate} is set: "
                f"leave out one of the two"
            )
        return self


class LoraSettings(Section):
    """Low-rank adapters (LoRA, arXiv 2106.09685): W + alpha / rank B A, of which A and B train and W never changes.

    Without dropout: logprobs under it are not those of the policy that engines sample from.
    """

    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0)
    target_modules: tuple[str, ...] | None = Field(None, min_length=1)
    """Linear layers that get an adapter, by the ends of their names, as ``q_proj``; None is all but the head."""
    seed: int = 0
    """Of the adapters' first values."""


class LearnerPlaces(Section):
    """The learner's part of a recipe's `topology`."""

    ranks: int = Field(1, ge=1)
    """Processes of the learner group; weights, gradients and optimizer state are spread over all of them."""
    sequence_parallel: int = Field(1, ge=1)
    """Ranks that share each packed row, for sequences too long for one: divides `ranks` and the attention heads."""
    gpus: float | None = Field(None, ge=0, le=1)
    """GPUs of one rank; None is one where the run is on GPUs, and half a one where it shares it with an engine."""
    cpus: float = Field(1.0, ge=0)
    """Cores that Ray sets aside for one rank."""
    memory_gib: float | None = Field(None, gt=0)
    """Main memory that Ray sets aside for one rank; None sets none aside."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of each rank; None divides the machine's cores among the actors."""
    nodes: str | None = None
    """Custom resource of the nodes that the ranks shall be on; None is any node."""

    @model_validator(mode="after")
    def _ranks_share_rows_evenly(self) -> Self:
        if self.ranks % self.sequence_parallel:
            raise ValueError(
                f"sequence_parallel={self.sequence_parallel} does not divide ranks={self.ranks}: change one of the two"
            )
        return self


class TrainerSettings(Section):
    steps: int = Field(100, ge=1)
    prompts_per_step: int = Field(16, ge=1)
    """Groups in a training batch."""
    minibatches: int = Field(1, ge=1)
    """Optimizer steps per training batch."""
    stream: bool = False
    """Train on groups as they finish: their gradients add up until the batch is complete, then the step is made."""
    backend: Literal["fsdp2", "deepspeed"] = "fsdp2"
    """The library that spreads weights, gradients and optimizer state over the ranks: PyTorch's own, or DeepSpeed's
    ZeRO."""
    zero_stage: Literal[2, 3] | None = None
    """`deepspeed`: 3 spreads all three, 2 keeps whole weights on every rank; None is 3."""
    token_budget: int = Field(8192, ge=1)
    """Tokens in one packed micro-batch of one rank, or of the ranks that share it."""
    activation_checkpointing: bool = False
    """Keep each layer's input alone and compute the layer again in the backward pass: less memory, more work."""
    cpu_offload: bool = False
    """Keep parameters, gradients and optimizer state in main memory; the GPU holds a layer while it computes."""
    lora: LoraSettings | None = None
    """Train low-rank adapters alone; None trains all weights."""
    learning_rate: float = Field(1e-6, gt=0)
    warmup_steps: int = Field(0, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Compute type; master weights and reductions are float32 either way."""
    max_skipped_updates: int = Field(3, ge=1)
    """Updates in a row left out, since loss or gradient was not finite, after which training stops."""
    checkpoint_every: int = Field(0, ge=0)
    """Steps between checkpoints, from which a run resumes, each with a Hugging Face model; 0 writes none."""
    optimizer_from: str | None = None
    """The `optimizer` folder of a finished run: training begins with its moments, and with none where this is None."""
    keep_optimizer: bool = False
    """Write the optimizer's moments beside the finished model."""
    keep_checkpoints: int = Field(2, ge=1)
    """How many of them can be resumed from at a time; of older ones the model stays."""
    step_timeout_s: float = Field(1800.0, gt=0)
    """Deadline of one optimizer step, collectives included."""
    stop_timeout_s: float = Field(120.0, ge=0)
    """What a run that is asked to stop (Ctrl-C, SIGTERM, `paceline stop`) may take to finish its step and write a
    checkpoint of it; 0 stops at once and writes none."""

    @model_validator(mode="after")
    def _stages_are_of_zero(self) -> Self:
        if self.zero_stage is not None and self.backend != "deepspeed":
            raise ValueError(
                f"zero_stage={self.zero_stage} is DeepSpeed's, but backend={self.backend} is set: "
                f"set backend=deepspeed or leave out zero_stage"
            )
        return self

    @model_validator(mode="after")
    def _the_backend_can_do_it(self) -> Self:
        asked = {"lora": self.lora is not None, "cpu_offload": self.cpu_offload}
        wanting = next((name for name, is_set in asked.items() if is_set), None)
        if wanting is not None and self.backend != "fsdp2":
            raise ValueError(f"{wanting} needs backend=fsdp2, but backend={self.backend} is set: change one of the two")
        return self

    @model_validator(mode="after")
    def _streams_one_minibatch(self) -> Self:
        if self.stream and self.minibatches > 1:
            raise ValueError(
                f"stream=true makes one optimizer step of a batch, but minibatches={self.minibatches} is set: "
                f"leave out one of the two"
            )
        return self
