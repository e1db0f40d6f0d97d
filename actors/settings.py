"""The actors' part of a recipe: `rollout` and `weight_sync`.

Frozen pydantic models without behaviour; rules that cross sections are checked in `orchestrator.rules`.
"""

from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from learners.settings import Section


class OverSamplingSettings(Section):
    """Rounds: start more than a batch needs, cut when it is complete, and do something with what is left over."""

    prompts: float = Field(1.0, ge=1, le=2)
    """Prompts started per prompt wanted."""
    answers: float = Field(1.0, ge=1, le=4)
    """Answers started per answer wanted; the first to finish are kept. Not with `leftovers: resume`."""
    leftovers: Literal["resume", "long_round", "drop"] = "resume"
    """`resume`: partial answers are kept and continued in the next round (APRIL, arXiv 2509.18521). `long_round`: their
    prompts wait for a round of their own that is not cut (RollPacker, arXiv 2509.21009). `drop`: thrown away; favours
    short answers, there to show the bias."""


class ProbeSettings(Section):
    """Cuts through each answer, and what is asked for there: how much the answer was worth on its way. For advantages
    that differ along an answer; costs `samples` continuations for each cut of each answer."""

    every: int | None = Field(None, ge=1)
    """Cut behind every so many tokens."""
    unlikely: int | None = Field(None, ge=1)
    """Cut behind every so many tokens that were less likely than `below`: there the answer took its turns."""
    at: tuple[int, ...] | None = Field(None, min_length=1)
    """Cut behind these numbers of tokens: budgets."""
    below: float = Field(0.9, gt=0, le=1)
    most: int = Field(8, ge=1)
    """Most cuts of one answer, the first ones."""
    samples: int = Field(4, ge=1)
    """Continuations sampled from each cut."""
    ask: str = ""
    """Text put behind a cut, e.g. one that ends the thinking and asks for the answer; empty goes on where it was."""
    max_tokens: int | None = Field(None, ge=1)
    """Most tokens of a continuation; None: as many as the whole answer may still have."""

    @model_validator(mode="after")
    def _one_way_to_cut(self) -> Self:
        given = [name for name in ("every", "unlikely", "at") if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"{' and '.join(given)} are given" if given else "none is given"
            raise ValueError(f"answers are cut by exactly one of every, unlikely and at, {found}")
        return self

    @field_validator("at")
    @classmethod
    def _ascending(cls, at: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if at is not None and (at[0] < 1 or list(at) != sorted(set(at))):
            raise ValueError("numbers of tokens must ascend, from 1 on")
        return at


class LikelihoodSettings(Section):
    """Ask the engines how likely the reference is in the place of each answer: for the reward `rlpr`. Costs a forward
    pass over each answer, and one over each prompt."""

    opening: str = Field("<answer>", min_length=1)
    """Text behind which an answer stands; the last one counts. What follows it makes way for the reference."""
    direct: str | None = None
    """Text between the prompt and the reference where it is asked for without reasoning; None is `opening`."""


class AnchorSettings(Section):
    """Worked solutions from the data that join a group, trained by `algorithm.off_policy`."""

    solution: str
    """Column of the data that holds them."""
    when: Literal["none_right", "always"] = "none_right"
    """Which groups they join: those without a right answer, or all."""
    correct_at: float = 1.0
    """An answer, and a solution, is right from this reward on; a solution that is not right never joins."""


class RolloutSettings(Section):
    engine: Literal["vllm", "torch"] = "vllm"
    """`torch` is the small exact reference engine: slow, for tests and odd decode loops."""
    group_size: int = Field(8, ge=1)
    """Answers sampled for each prompt."""
    budgets: tuple[int, ...] | None = Field(None, min_length=2)
    """Token budgets under which equal shares of a group's answers are asked for: `{budget}` in `data.template`."""
    probes: ProbeSettings | None = None
    """Look at what answers are worth on their way; None does not."""
    anchors: AnchorSettings | None = None
    """Worked solutions beside the sampled answers; None for none."""
    likelihood: LikelihoodSettings | None = None
    """Measure how likely the references are; None does not."""
    max_prompt_tokens: int = Field(512, ge=1)
    max_response_tokens: int = Field(512, ge=1)
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    """0 keeps the whole vocabulary."""
    max_staleness: int = Field(1, ge=0)
    """Bound on (learner's version - version that sampled a token) in training; 0 is synchronous."""
    late: Literal["wait", "train", "drop", "baseline_only"] = "wait"
    """What becomes of answers older than `max_staleness`. `wait`: there are none, the learner waits for groups that
    would become too old. `train`: trained with correction, up to `hard_staleness`. `drop`: their group is dropped.
    `baseline_only`: their rewards count in the baseline, their tokens get no gradient."""
    hard_staleness: int = Field(8, ge=0)
    """With `late: train`, the bound that even late answers keep; beyond it their group is dropped."""
    kv_policy: Literal["keep", "recompute", "abort_resume"] = "keep"
    """An answer in progress at a weight update goes on with its KV as it is (`keep`, fastest), with its KV computed
    anew under the new weights (`recompute`), or is taken off the engine and continued on any (`abort_resume`)."""
    partial: bool = True
    """Weights are updated in the middle of answers. Off: each engine first finishes the answers it has."""
    over_sampling: OverSamplingSettings | None = None
    """None: prompts start continuously, as the staleness rule allows."""
    tail_order: Literal["longest_first", "fifo"] = "longest_first"
    """Order in which waiting answers start: a probe of each group, then the longest by prediction; or as they come."""
    consolidate: bool = True
    """With several engines, gather the last running answers on few of them, so that whole engines fall idle."""
    max_running: int = Field(128, ge=1)
    """Most answers decoded at the same time by one engine; pressure on its KV cache lowers it for a while."""
    kv_low: float = Field(0.7, gt=0, lt=1)
    """Below this use of the KV cache an engine may take more answers at a time."""
    kv_high: float = Field(0.9, gt=0, le=1)
    """Above this use of the KV cache it takes fewer."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    gpu_memory_utilization: float = Field(0.8, gt=0, lt=1)
    kv_cache_gib: float = Field(0.5, gt=0)
    """KV cache of one engine on CPU, GiB."""
    answer_timeout_s: float = Field(600.0, gt=0)
    """Deadline of one answer; a worker that misses it is taken out and its answers are sampled elsewhere."""
    start_timeout_s: float = Field(600.0, gt=0)
    max_restarts: int = Field(3, ge=0)
    """How often within ten minutes a dead worker is replaced before the run stops."""
    replay_lengths: str | None = None
    """File with one answer length per line: answers get lengths drawn from it instead of ending by themselves, so that
    a recorded length distribution can be replayed on real engines. For measuring, not for training."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far engine and learner may differ on the probe, nats: on average, and on one token."""

    mean: float
    max: float


TOLERANCES = {"bfloat16": Tolerance(0.15, 2.0), "float32": Tolerance(0.002, 0.05)}
"""Rounding alone stays several times below these. A bfloat16 logprob of -8 is itself rounded to 0.03."""


class GapAlarmSettings(Section):
    """When the logprobs of engine and learner, of the same tokens under the same weights, have grown too far apart."""

    limit: float | None = Field(None, gt=0)
    """Largest mean |engine - learner| that is usual, nats; None goes by `rollout.dtype`, as attestation does."""
    factor: float = Field(3.0, gt=1)
    """Too large is also what exceeds this many times its own early median."""
    patience: int = Field(3, ge=1)
    """Values in a row beyond the limit before the alarm rings, and within it before it is silent."""
    action: Literal["warn", "stop"] = "warn"


class WeightSyncSettings(Section):
    """How each sync is attested before an engine serves the new weights."""

    drill: bool = True
    """Open the run with a visible perturbation that is sent, attested, taken back and attested again."""
    drill_scale: float = Field(0.1, gt=0)
    """Size of that perturbation, in standard deviations of each tensor."""
    probe_tokens: int = Field(64, ge=2)
    """Length of the probe sequence whose logprobs engine and learner must agree on."""
    tolerance_mean: float | None = Field(None, gt=0)
    """Largest accepted mean |engine - learner| logprob gap on the probe, nats; None goes by `rollout.dtype`."""
    tolerance_max: float | None = Field(None, gt=0)
    """Largest accepted gap on one probe token, nats; None goes by `rollout.dtype`."""
    gap_alarm: GapAlarmSettings = GapAlarmSettings()
    """On the gap between engine and learner: of the probe at each sync, and of each step's fresh tokens."""
    timeout_s: float = Field(300.0, gt=0)
    """Deadline of one sync of one engine."""

    def tolerance(self, dtype: Literal["bfloat16", "float32"]) -> Tolerance:
        """What is accepted of an engine that computes in this type."""
        usual = TOLERANCES[dtype]
        return Tolerance(self.tolerance_mean or usual.mean, self.tolerance_max or usual.max)
