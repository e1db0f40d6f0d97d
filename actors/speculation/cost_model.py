"""Predicts what drafting k tokens would bring: tokens emitted per step over the seconds of the step.

Pure. `StepCost` for the seconds, `Acceptance` for the tokens; the quotient is what Seer minimises the inverse of
(T_SD, arXiv 2511.14617), with acceptance by position instead of one rate for all. One model per drafter; steps without
drafts teach all of them.

Coming back to a drafter that was left out costs a catch-up: its KV lacks every token since (`CatchUpCost`).
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from actors.speculation.acceptance import Acceptance
from actors.speculation.arms import Arm
from actors.speculation.step_cost import CostPrior, StepCost
from actors.speculation.step_record import StepRecord

RECENT_CATCH_UPS = 3
MOST_OPTIMISM = 0.2
"""So much faster than predicted an arm may be hoped to be: beyond, doubt would open every arm before any evidence."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Of one step.

    Attributes:
        seconds: of the step.
        tokens_per_s: over all running requests.
        speed_up: against a step without drafts.
        log_deviation: standard deviation of the logarithm of `speed_up`.
    """

    seconds: float
    tokens_per_s: float
    speed_up: float
    log_deviation: float

    @property
    def optimistic(self) -> float:
        """`speed_up`, one standard deviation up, within `MOST_OPTIMISM`."""
        return self.speed_up * (1 + min(self.log_deviation, MOST_OPTIMISM))


class CatchUpCost:
    """Seconds that a drafter takes to read what it missed: the mean cost per token of the last few times."""

    def __init__(self, step: StepCost) -> None:
        self._step = step
        self._recent: deque[tuple[int, float]] = deque(maxlen=RECENT_CATCH_UPS)

    def observe(self, tokens: int, seconds: float) -> None:
        if tokens > 0:
            self._recent.append((tokens, seconds))

    def predict(self, tokens: int) -> float:
        """Nothing for no tokens. Before the first time: a pass of the drafter, by the fitted step cost."""
        if tokens <= 0:
            return 0.0
        if not self._recent:
            return self._step.read_seconds(tokens)
        return tokens * sum(seconds for _, seconds in self._recent) / sum(seen for seen, _ in self._recent)

    @property
    def typical(self) -> float | None:
        """Mean of the last few times; None before the first."""
        return sum(seconds for _, seconds in self._recent) / len(self._recent) if self._recent else None


class CostModel:
    """Args:
    longest: the longest draft among the arms.
    acceptance: share of drafted tokens expected to be kept before any was drafted.
    """

    def __init__(self, longest: int, prior: CostPrior, acceptance: float) -> None:
        self.step = StepCost(prior)
        self.acceptance = Acceptance(longest, acceptance)
        self.catch_up = CatchUpCost(self.step)

    @property
    def version(self) -> int:
        """Changes when predictions do."""
        return self.step.version + self.acceptance.version

    def observe(self, record: StepRecord) -> None:
        """Learn from a step without prefill, catch-up, or a change of k just before."""
        self.step.observe(record.running, record.k, record.attached, record.seconds)
        if record.k and record.drafted:
            # An answer that got a shorter draft than k, or none, counts as one whose draft was not kept: what is asked
            # for is what a step with k brings for every answer in it.
            self.acceptance.observe(record.k, record.running, record.accepted, record.by_position)

    def emitted(self, k: int) -> float:
        """Tokens that a step with k drafts emits for each request."""
        return 1 + self.acceptance.expected(k)

    def predict(self, running: int, k: int, *, base_attached: bool = True) -> Prediction:
        """A step with k drafts.

        Args:
            base_attached: whether the drafter's pass runs in steps without drafts.
        """
        attached = k > 0 or base_attached
        seconds = self.step.seconds(running, k, attached)
        ratio, deviation = self.step.ratio(running, k, attached, base_attached=base_attached)
        emitted = self.emitted(k)
        return Prediction(
            seconds,
            running * emitted / seconds,
            emitted / ratio,
            (deviation**2 + self.acceptance.log_deviation(k) ** 2) ** 0.5,
        )


class CostModels:
    """One `CostModel` for each drafter among the arms.

    `base_attached` says what not drafting is: a step in which the drafter's pass still runs, or one without.
    """

    def __init__(self, arms: Sequence[Arm], prior: CostPrior | None = None, acceptance: float = 0.7) -> None:
        self.base_attached = True
        longest: dict[str, int] = {}
        for arm in arms:
            if arm.k:
                longest[arm.drafter] = max(arm.k, longest.get(arm.drafter, 0))
        prior = prior or CostPrior()
        self._models = {drafter: CostModel(k, prior, acceptance) for drafter, k in longest.items()}
        if not self._models:
            self._models = {"": CostModel(0, prior, acceptance)}
        self._any = next(iter(self._models.values()))
        self._all = tuple(self._models.values())

    @property
    def version(self) -> int:
        """Changes when any prediction does."""
        return self._any.version if len(self._all) == 1 else sum(model.version for model in self._all)

    def of(self, arm: Arm) -> CostModel:
        """The model of the arm's drafter; for not drafting, any."""
        return self._models[arm.drafter] if arm.k else self._any

    def observe(self, record: StepRecord) -> None:
        """As `CostModel.observe`."""
        if record.k:
            self._models[record.drafter].observe(record)
        else:
            for model in self._all:
                model.observe(record)

    def discount(self, keep: float) -> None:
        """Let what was seen of acceptance weigh `keep` of what it did; the cost of a step is another matter."""
        for model in self._all:
            model.acceptance.discount(keep)
