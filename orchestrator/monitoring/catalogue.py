"""The metrics that a run exports, each written down once: exporter, dashboard and documentation go by this list.

Names and units follow Prometheus' naming rules: base units (seconds, tokens), counters end in `_total`. Ray puts `ray_`
before each name. Invariant: a label takes few values, which are known from the recipe (workers, terms, draft lengths)
or from a `Literal` in the code (ends, kinds, actions); prompts, samples and messages never become labels.
"""

from dataclasses import dataclass
from typing import Literal

PREFIX = "ray_paceline_"
"""Of every exported name: Ray's own prefix, and the project's."""
RUN_LABELS = ("run", "recipe")
"""Every metric has these: the name of the run's folder, and of its recipe."""
SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)

Kind = Literal["gauge", "counter", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """Attributes:
    name: without `PREFIX`.
    says: one line, with the unit where the name does not have it.
    labels: beside `RUN_LABELS`.
    logged: the entry of a step's row in metrics.jsonl that it shows; what ends in `/` is a family, whose members are
        told apart by the one label.
    bounds: of a histogram's buckets.
    lasts: a gauge shows its last value until the next; where False it is read so often that it may fade with its actor.
    """

    name: str
    kind: Kind
    says: str
    labels: tuple[str, ...] = ()
    logged: str = ""
    bounds: tuple[float, ...] = ()
    lasts: bool = True

    @property
    def series(self) -> str:
        """The name that a query asks for; of a histogram, that of its buckets."""
        return PREFIX + self.name + ("_bucket" if self.kind == "histogram" else "")


# --- a training step, from its row in metrics.jsonl ------------------------------------------------------------------

STEP = Metric("step", "gauge", "Training steps made.")
REWARD = Metric("reward", "gauge", "Mean reward of the step's answers.", logged="reward")
REWARD_TERM = Metric("reward_term", "gauge", "Mean value of a reward term, before weighting.", ("term",), "reward/")
ACCURACY = Metric("accuracy", "gauge", "Held-out accuracy, at its last evaluation.", ("set",), "eval/")
TOKENS_PER_S = Metric("tokens_per_second", "gauge", "Tokens that engines delivered.", logged="tokens_per_s")
SAMPLES_PER_S = Metric("samples_per_second", "gauge", "Answers that were trained on.", logged="samples_per_s")
STEP_SECONDS = Metric("step_seconds", "gauge", "From the last step's end to this one's.", logged="seconds")
WAITED_SECONDS = Metric("step_waited_seconds", "gauge", "Of these, in which the learner waited.", logged="waited_s")
RESPONSE_MEAN = Metric("response_tokens_mean", "gauge", "Length of the step's answers.", logged="response_tokens/mean")
RESPONSE_MAX = Metric("response_tokens_max", "gauge", "The longest of them.", logged="response_tokens/max")
TRUNCATED = Metric("truncated_share", "gauge", "Answers that ran out of tokens, 0 to 1.", logged="truncated")
LENGTH_RATIO = Metric(
    "length_bias_ratio",
    "gauge",
    "Mean length of trained answers by that of submitted ones; below 1 the long ones are lost.",
    logged="length_bias/mean_ratio",
)
STALENESS_MEAN = Metric("staleness_mean", "gauge", "Versions between sampling and training.", logged="staleness/mean")
STALENESS_MAX = Metric("staleness_max", "gauge", "The stalest token of the step.", logged="staleness/max")
LATE_SHARE = Metric("late_share", "gauge", "Answers that counted as late, 0 to 1.", logged="late/answers")
LOSS = Metric("loss", "gauge", "The learner's loss.", logged="learner/loss")
GRAD_NORM = Metric("grad_norm", "gauge", "Norm of the gradient before clipping.", logged="learner/grad_norm")
ENTROPY = Metric("entropy", "gauge", "Of the policy per token, nats.", logged="learner/entropy")
LEARNING_RATE = Metric("learning_rate", "gauge", "As the schedule has it.", logged="learner/learning_rate")
ENGINE_GAP = Metric(
    "engine_gap", "gauge", "Mean |learner - engine| of fresh tokens' logprobs, nats.", logged="learner/engine_gap"
)
ACCEPTANCE = Metric(
    "acceptance_length",
    "gauge",
    "Tokens per answer and forward pass, in steps that verified drafts.",
    logged="speculation/acceptance_length",
)
ACCEPTANCE_ALL = Metric(
    "acceptance_length_all",
    "gauge",
    "The same in all steps: what speculation gains.",
    logged="speculation/acceptance_length_all",
)

# --- where everybody stands, twice a second --------------------------------------------------------------------------

RUNNING = Metric("answers_running", "gauge", "Answers on an engine.", ("worker",), lasts=False)
LIMIT = Metric("answers_limit", "gauge", "Answers that the engine may have at a time.", ("worker",), lasts=False)
KV_USE = Metric("kv_cache_use", "gauge", "Share of the engine's KV cache, 0 to 1.", ("worker",), lasts=False)
WEIGHTS_VERSION = Metric(
    "weights_version", "gauge", "The version of the weights that the engine serves.", ("worker",), lasts=False
)
WAITING = Metric("answers_waiting", "gauge", "Answers that no engine has yet.", lasts=False)
TO_SCORE = Metric("answers_to_score", "gauge", "Answers handed to the rewards and not scored yet.", lasts=False)
BUFFERED = Metric("groups_buffered", "gauge", "Scored groups that wait for the learner.", lasts=False)
IN_FLIGHT = Metric("groups_in_flight", "gauge", "Groups that are sampled or scored.", lasts=False)
ASIDE = Metric("groups_aside", "gauge", "Groups set aside, to go on later.", lasts=False)
IDLE = Metric(
    "idle_fraction", "gauge", "Share of the training time so far without work, 0 to 1.", ("actor",), lasts=False
)

# --- events ----------------------------------------------------------------------------------------------------------

PROMPTS = Metric("prompts_total", "counter", "Prompts dispatched, and how they ended.", ("end",))
ANSWERS = Metric("answers_total", "counter", "Answers that came off the engines, by why they ended.", ("finish",))
SAMPLED_TOKENS = Metric("sampled_tokens_total", "counter", "Tokens of these answers.")
ANSWER_SECONDS = Metric(
    "answer_seconds", "histogram", "An answer's time on engines, from its first submission.", bounds=SECONDS
)
REWARD_SECONDS = Metric("reward_seconds", "histogram", "Scoring of one answer.", bounds=SECONDS)
REWARD_FAILURES = Metric(
    "reward_failures_total", "counter", "Answers that got the fallback, by what happened.", ("kind", "term")
)
REWARD_FALLBACKS = Metric(
    "reward_fallbacks_total", "counter", "Answers of which a model could not tell a term.", ("kind", "term")
)
QUARANTINED = Metric("prompts_quarantined_total", "counter", "Prompts that are no longer scored.")
SYNCS = Metric("syncs_total", "counter", "Weight syncs of an engine, attested or failed.", ("stream", "verdict"))
SYNC_SECONDS = Metric("sync_seconds", "histogram", "One weight sync of one engine.", ("stream",), bounds=SECONDS)
PAUSE_SECONDS = Metric("pause_seconds", "histogram", "In which it sampled nothing for it.", ("stream",), bounds=SECONDS)
PROBE_GAP = Metric("probe_gap", "gauge", "Mean |learner - engine| on the probe at its last sync, nats.", ("worker",))
LOST = Metric("workers_lost_total", "counter", "Workers that died, hung or did not attest.", ("worker",))
JOINED = Metric("workers_joined_total", "counter", "Replacements that serve.", ("worker",))
WATCHDOG = Metric("watchdog_actions_total", "counter", "What the watchdog did about what took too long.", ("action",))
LEARNER_SECONDS = Metric("learner_seconds_total", "counter", "The learner's time, by what it did.", ("doing",))
DECODING_STEPS = Metric("decoding_steps_total", "counter", "Decoding steps of engines, by draft length K.", ("k",))
DRAFTS = Metric("drafts_total", "counter", "Answers that had a draft verified, step by step.")
ACCEPTED = Metric("accepted_tokens_total", "counter", "Drafted tokens that stayed.")
DRAFTERS = Metric("drafter_sessions_total", "counter", "Sessions of the drafter's training.", ("outcome",))

CATALOGUE: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All of them, in this file's order."""

LOGGED = {metric.logged: metric for metric in CATALOGUE if metric.logged}
"""By the entry of metrics.jsonl."""
