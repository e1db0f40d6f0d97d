"""How fast each side can be, and who waits for whom: a roofline, no more. Pure.

A decoding step reads the weights once and every answer's keys and values, and multiplies each answer's token with the
weights: it takes the longer of the two, and what a step costs by itself. Prefill, training and a companion's reading
are products alone. What share of the published rates is reached differs between machines by far more than models
differ from each other; so every figure comes with a factor within which it is meant, and a run of the same kind, whose
times were recorded, takes its place where there is one (`orchestrator.planning.calibration`).
"""

from dataclasses import dataclass

from orchestrator.planning.hardware import Hardware
from orchestrator.planning.model_shape import ModelShape

BANDWIDTH_SHARE = 0.6
DECODE_SHARE = 0.4
PREFILL_SHARE = 0.5
TRAINING_SHARE = 0.35
"""Shares of the rates that such code usually reaches; assumptions, not measurements."""
GPU_STEP_S = 0.003
CPU_STEP_S = 0.005
"""Of a decoding step that has nothing to compute: scheduling and sampling (`docs/speculation.md` for the CPU)."""
SYNC_BYTES_PER_S = {"nccl": 20e9, "gloo": 0.5e9}
"""Of weights on their way, packing and checksums included; an assumption."""
UNCERTAIN = 2.0
CALIBRATED = 1.25
"""Factor within which a speed is meant, from published rates and from a recorded run."""
TAIL_SHARE = 0.6
"""Of a synchronous round, how full the engines are on average: the last answers run alone (`docs/performance.md`)."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one training step asks of both sides.

    Attributes:
        answers: sampled, over all engines; prompt, answer: their mean lengths in tokens.
        running: answers that an engine decodes at a time.
        draws_ahead: whether engines go on while the learner trains.
        reading, critic_passes: further models' passes over the batch: forward alone, and with a backward pass.
    """

    answers: int
    prompt: float
    answer: float
    running: float
    engines: int
    tensor_parallel: int
    ranks: int
    number: int
    trains: int
    draws_ahead: bool
    checkpointing: bool
    reading: int = 0
    critic_passes: int = 0

    @property
    def tokens(self) -> float:
        """Of a training step, prompts included."""
        return self.answers * (self.prompt + self.answer)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Measured seconds over predicted ones, of a recorded run: of decoding, and of the learner's step."""

    decode: float = 1.0
    learner: float = 1.0
    run: str = ""


@dataclass(frozen=True, slots=True)
class Balance:
    """Seconds of each side for one training step, and what comes of it.

    Attributes:
        decode_tokens_per_s: over all engines, while they decode.
        uncertain: every time is meant within this factor.
    """

    rollout_s: float
    learner_s: float
    sync_s: float
    decode_tokens_per_s: float
    tokens_per_s: float
    step_s: float
    uncertain: float

    @property
    def rollout_waits(self) -> float:
        """Share of a step in which the engines have nothing to do."""
        return max(0.0, 1 - self.rollout_s / self.step_s)

    @property
    def learner_waits(self) -> float:
        return max(0.0, 1 - self.learner_s / self.step_s)

    @property
    def waits(self) -> str:
        """Who waits for the other, where one clearly does."""
        if abs(self.rollout_s - self.learner_s) <= (self.uncertain - 1) * min(self.rollout_s, self.learner_s):
            return "either"
        return "learner" if self.rollout_s > self.learner_s else "rollout"


def decode_step_s(shape: ModelShape, work: Work, hardware: Hardware, step_s: float) -> float:
    """Of one step of an engine with `work.running` answers of middling length."""
    weights = work.number * min(shape.parameters, shape.active * max(1.0, work.running))
    held = work.number * shape.kv_numbers * work.running * (work.prompt + work.answer / 2)
    read = (weights + held) / work.tensor_parallel / (hardware.bandwidth * BANDWIDTH_SHARE)
    product = 2 * shape.active * work.running / work.tensor_parallel
    return step_s + max(read, product / (hardware.flops(work.number) * DECODE_SHARE))


def learner_step_s(shape: ModelShape, work: Work, hardware: Hardware) -> float:
    """Of one training step: a backward pass is twice a forward one, and checkpointing makes one more."""
    per_token = 2.0 * shape.active + 2.0 * shape.heads * shape.head_dim * len(shape.layers) * (
        work.prompt + work.answer
    )
    passes = 3 + work.checkpointing + work.reading + 3 * work.critic_passes + (1 if work.critic_passes else 0)
    rate = hardware.flops(work.trains) * TRAINING_SHARE * work.ranks
    return per_token * passes * work.tokens / rate


def balance(
    shape: ModelShape,
    work: Work,
    engine: Hardware,
    learner: Hardware,
    *,
    step_s: float,
    sync_bytes_per_s: float,
    calibration: Calibration | None = None,
) -> Balance:
    """Args:
    engine, learner: one accelerator of either, or the cores of one process.
    step_s: what a decoding step costs by itself.
    calibration: None without a recorded run.
    """
    factor = calibration or Calibration()
    step = decode_step_s(shape, work, engine, step_s) * factor.decode
    decoding = work.running / step * work.engines
    prefill_rate = engine.flops(work.number) * PREFILL_SHARE * work.engines * work.tensor_parallel
    prefill = 2 * shape.active * work.answers * work.prompt / prefill_rate * factor.decode
    sampling = work.answers * work.answer / decoding
    rollout = prefill + (sampling if work.draws_ahead else sampling / TAIL_SHARE)
    training = learner_step_s(shape, work, learner) * factor.learner
    sync = work.number * shape.parameters / sync_bytes_per_s
    whole = max(rollout, training + sync) if work.draws_ahead else rollout + training + sync
    uncertain = CALIBRATED if calibration is not None else UNCERTAIN
    return Balance(rollout, training, sync, decoding, work.answers * work.answer / whole, whole, uncertain)
