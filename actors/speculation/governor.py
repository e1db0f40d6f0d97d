"""Chooses how many tokens to draft in the next step, from the running requests and from what earlier steps brought.

Pure: batch sizes, step records and times in, arms out. A `Selector` holds the beliefs; the governor keeps it honest.
In each bucket of batch sizes one arm is in office, at first not drafting. Decisions are made every `turn` steps.

Invariants:
- **Never lose.** An arm is proven in a bucket when enough of its steps were seen there and they were no slower than not
  drafting. Steps of other arms that draft are paid from an `ExplorationBudget`: at most `budget` of the time, and when
  that is spent, nothing is drafted. So is the catch-up of a drafter that is attached for a trial.
- **Never blind.** An arm is not tried where the cost model, one standard deviation to its favour, predicts less than
  `worth_trying` of the speed of not drafting. Evidence changes that: from other arms, other buckets, or as old evidence
  fades after `fade_s`, after an update of the target or of the drafter.
- **Never flutter.** Another arm takes office only after it led by `margin` for `patience` steps.
- Only steady steps teach: same arm and attachment as the step before, no prefill, no catch-up. The first step after a
  change still verifies what was drafted before it.

The drafter's own cost while nothing is drafted counts: where the engine can leave it out (`detachable`), not drafting
means without it, and `attached` says whether it should run in the next step (`Attachment`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actors.speculation.arms import PLAIN, Arm, ArmTable
from actors.speculation.attachment import Attachment
from actors.speculation.cost_model import CostModels
from actors.speculation.exploration_budget import ExplorationBudget
from actors.speculation.selectors import SELECTORS, Selector
from actors.speculation.step_cost import CostPrior
from actors.speculation.step_record import StepRecord

LONGEST_CHARGE = 1.5
"""A step counts as at most so many times what was predicted for it: a stall is no fault of the arm that it met."""
UNMEASURED_GAP = 64
"""Tokens per request that a detached drafter is reckoned to miss, before any catch-up was seen."""


@dataclass(frozen=True, slots=True)
class GovernorRules:
    """Attributes:
    budget: share of the time that may go into arms not known to be as fast as not drafting.
    head_start: steps, as long as one without drafts, that may be spent beyond that share, once.
    worth_trying: predicted speed, against not drafting, below which an arm is not tried.
    margin: share by which another arm must be faster to take office.
    patience: steps for which it must be.
    turn: steps between two decisions; the first of them is not learnt from if the arm changed.
    least_samples, least_baseline: steady steps that a belief must rest on: about an arm, and about not drafting.
    least_drafts: drafts that a belief about an arm must rest on; with few requests that takes more steps.
    target_keep, drafter_keep: weight that old evidence of drafting keeps when the target, or the drafter, was updated.
    fade_s: seconds after which evidence of drafting loses half its weight without any update.
    """

    budget: float = 0.02
    head_start: int = 32
    worth_trying: float = 0.9
    margin: float = 0.02
    patience: int = 8
    turn: int = 5
    least_samples: int = 3
    least_baseline: int = 8
    least_drafts: int = 16
    target_keep: float = 0.5
    drafter_keep: float = 0.1
    fade_s: float = 120.0

    def __post_init__(self) -> None:
        if not 0 <= self.budget < 1 or not 0 <= self.target_keep <= 1 or not 0 <= self.drafter_keep <= 1:
            raise ValueError("budget must lie in [0, 1), target_keep and drafter_keep in [0, 1]")
        if min(self.turn, self.least_samples, self.least_baseline) < 1 or min(self.head_start, self.patience) < 0:
            raise ValueError("turn, least_samples and least_baseline must be at least 1, head_start and patience 0")
        if min(self.worth_trying, self.margin) < 0 or self.fade_s <= 0:
            raise ValueError("worth_trying and margin must be at least 0, fade_s above 0")


@dataclass(frozen=True, slots=True)
class Standing:
    """What is believed about one bucket: the arm in office, and rate (tokens/s per request) and samples by arm."""

    bucket: str
    office: Arm
    rates: Mapping[str, float]
    samples: Mapping[str, int]


class _Place:
    """What goes on in one bucket; arms as indices."""

    __slots__ = (
        "arm",
        "challenger",
        "charged_s",
        "doubted_s",
        "first",
        "lead",
        "left",
        "needed",
        "office",
        "office",
        "open",
        "open_version",
        "probing",
    )

    def __init__(self, office: int, first: int, needed: int) -> None:
        self.first, self.needed = first, needed
        self.office = self.arm = office
        self.challenger, self.lead, self.left = office, 0, 0
        self.probing = False
        self.charged_s = 0.0
        self.doubted_s: dict[int, float] = {}
        self.open: list[int] = []
        self.open_version = -1


class Governor:
    """Args:
    costs: is kept up to date here; the selector was made with the same.
    detachable: whether the engine heeds `attached`.
    """

    def __init__(
        self,
        table: ArmTable,
        selector: Selector,
        costs: CostModels,
        rules: GovernorRules | None = None,
        *,
        detachable: bool = False,
    ) -> None:
        self._table, self._selector, self._costs = table, selector, costs
        self._rules = rules or GovernorRules()
        self._detachable = detachable
        self._costs.base_attached = not detachable
        self._budget = ExplorationBudget(self._rules.budget)
        self._attachment = Attachment()
        self._places = [
            _Place(
                bucket.arms[0] if bucket.static else 0,
                bucket.first,
                max(self._rules.least_samples, math.ceil(self._rules.least_drafts / bucket.first)),
            )
            for bucket in table.buckets
        ]
        self._indices = {(arm.k, arm.drafter): index for index, arm in enumerate(table.arms)}
        self._last: StepRecord | None = None
        self._attached = not detachable
        self._faded_at: float | None = None

    @property
    def attached(self) -> bool:
        """Whether the drafter should run in the step that was last chosen for, if only to keep its KV in step."""
        return self._attached

    @property
    def explored(self) -> float:
        """Share of the observed time that was paid from the exploration budget."""
        return self._budget.spent_s / self._budget.earned_s if self._budget.earned_s else 0.0

    def choose(self, running: int, now: float) -> Arm:
        """The arm for a step with so many requests; `now` is in monotonic seconds."""
        if self._faded_at is None:
            self._faded_at = now
        elif now - self._faded_at >= self._rules.fade_s:
            self._faded_at = now
            self._discount(0.5)
        index = self._table.bucket(running)
        place = self._places[index]
        if place.left > 0 and (place.charged_s == 0 or self._budget.allows(place.charged_s)):
            place.left -= 1
        else:
            self._decide(place, index, running)
        return self._table.arms[self._with_drafter(place, index, running) if self._detachable else place.arm]

    def observe(self, record: StepRecord) -> None:
        """What the step brought that was last chosen for.

        Raises:
            KeyError: no arm has this k and drafter.
        """
        last, self._last = self._last, record
        arm = self._indices[record.k, record.drafter]
        index = self._table.bucket(record.running)
        bucket = self._table.buckets[index]
        self._budget.earn(record.seconds)
        if not bucket.static:
            self._charge(arm, index, record)
        if last is None:
            return
        if record.catch_up_s > 0:
            self._costs.of(self._table.arms[arm]).catch_up.observe(last.behind, record.catch_up_s)
        if not _is_steady(last, record):
            return
        self._costs.observe(record)
        if bucket.static:
            return
        if arm == 0:
            if self._detachable and record.attached:
                return
            self._costs.base_attached = record.attached
        seconds, running, first = record.seconds, record.running, bucket.first
        if running != first:
            # By the factor of plain steps, whatever the arm: so arms compare at the batch that ran, not at the first.
            step, base = self._costs.of(PLAIN).step, self._costs.base_attached
            seconds *= step.seconds(first, 0, base) / step.seconds(running, 0, base)
        self._selector.learn(index, arm, record.emitted / (running * seconds), seconds, running)

    def target_updated(self) -> None:
        """The target has new weights: acceptance may have changed."""
        self._discount(self._rules.target_keep)

    def drafter_updated(self) -> None:
        """The drafter has new weights: acceptance has probably changed."""
        self._discount(self._rules.drafter_keep)

    def standings(self) -> tuple[Standing, ...]:
        """What is believed, bucket by bucket, for logs and metrics."""
        arms = self._table.arms
        found = []
        for index, (bucket, place) in enumerate(zip(self._table.buckets, self._places, strict=True)):
            rates, samples = self._selector.rates(index), self._selector.samples(index)
            found.append(
                Standing(
                    str(bucket),
                    arms[place.office],
                    {str(arms[i]): rates[i] for i in bucket.arms},
                    {str(arms[i]): samples[i] for i in bucket.arms},
                )
            )
        return tuple(found)

    def _discount(self, keep: float) -> None:
        self._selector.discount(keep)
        self._costs.discount(keep)

    def _decide(self, place: _Place, index: int, running: int) -> None:
        place.left = self._rules.turn - 1
        if self._table.buckets[index].static:
            return
        place.probing, place.charged_s = False, 0.0
        rates, samples = self._selector.rates(index), self._selector.samples(index)
        if samples[0] < self._rules.least_baseline:
            place.arm, place.probing = 0, True
            return
        if not self._budget.started:
            self._budget.start(self._rules.head_start * self._seconds(0, running))
        self._reconsider(place, index, rates, samples)
        probe = self._probe(place, index, running, rates, samples)
        if probe is not None:
            place.arm, place.probing = probe, True
        else:
            place.arm = place.office
        if not self._is_proven(place, place.arm, rates, samples):
            place.charged_s = self._seconds(place.arm, running)
            if not self._budget.allows(place.charged_s):
                place.arm, place.office, place.probing, place.charged_s = 0, 0, False, 0.0

    def _reconsider(self, place: _Place, index: int, rates: Sequence[float], samples: Sequence[int]) -> None:
        """Who is in office."""
        rules = self._rules
        fit = [
            a for a in self._table.buckets[index].arms if a == place.office or self._is_proven(place, a, rates, samples)
        ]
        best = max(fit, key=rates.__getitem__)
        if best == place.office or rates[best] <= rates[place.office] * (1 + rules.margin):
            place.challenger = place.office
        elif best != place.challenger:
            place.challenger, place.lead = best, 0
        else:
            place.lead += rules.turn
            if place.lead >= rules.patience:
                place.office = best

    def _probe(
        self, place: _Place, index: int, running: int, rates: Sequence[float], samples: Sequence[int]
    ) -> int | None:
        """Another arm than the one in office, for one turn."""
        candidates = [arm for arm in self._open(place, index, running) if arm != place.office]
        untested = [arm for arm in candidates if arm and samples[arm] < place.needed]
        # What was begun is ended first: the budget may not last for judging two.
        untested.sort(key=samples.__getitem__, reverse=True)
        arm = self._selector.explore(index, candidates, untested)
        if arm is None or arm == 0 or arm == place.office:
            return None if arm == place.office else arm
        steps, catch_up = self._rules.turn, 0.0
        if self._detachable and not self._attachment.held:
            # Once the catch-up is paid, the trial goes on until the arm can be judged.
            steps, catch_up = max(steps, place.needed - samples[arm] + 1), self._catch_up(arm)
        cost = (
            catch_up if self._is_proven(place, arm, rates, samples) else catch_up + steps * self._seconds(arm, running)
        )
        if cost > 0 and not self._budget.allows(cost):
            return None
        place.left = steps - 1
        return arm

    def _open(self, place: _Place, index: int, running: int) -> list[int]:
        """Arms that are worth trying in this bucket, the most promising first; not drafting always is."""
        if place.open_version != self._costs.version:
            place.open_version = self._costs.version
            base = self._costs.base_attached
            speed = {0: 1.0}
            for arm in self._table.buckets[index].arms:
                if arm:
                    choice = self._table.arms[arm]
                    prediction = self._costs.of(choice).predict(running, choice.k, base_attached=base)
                    if prediction.optimistic >= self._rules.worth_trying:
                        speed[arm] = prediction.speed_up
            place.open = sorted(speed, key=speed.__getitem__, reverse=True)
        return place.open

    def _with_drafter(self, place: _Place, index: int, running: int) -> int:
        """The arm to play, and whether the drafter is attached: it may have to wait until catching up is worth it."""
        arm, attachment = place.arm, self._attachment
        if place.probing:
            self._attached = arm > 0
            return arm
        if arm == 0:
            model = self._costs.of(PLAIN)
            gap = UNMEASURED_GAP * running
            price = model.catch_up.predict(gap) if model.catch_up.typical is None else model.catch_up.typical
            attachment.unwanted(model.step.draft_seconds(running, 0), price)
        elif self._table.buckets[index].static:
            attachment.attach()
        else:
            rates = self._selector.rates(index)
            gain = 1 - rates[0] / rates[arm] if rates[arm] > rates[0] else 0.0
            if not attachment.wanted(gain * self._seconds(arm, running), self._catch_up(arm)):
                arm = 0
        self._attached = attachment.held
        return arm

    def _charge(self, arm: int, index: int, record: StepRecord) -> None:
        """Pay for a step of an arm that is not proven; once it is, what was paid for its steps comes back."""
        place = self._places[index]
        if arm == 0:
            return
        if not self._is_proven(place, arm, self._selector.rates(index), self._selector.samples(index)):
            bound = LONGEST_CHARGE * self._seconds(arm, record.running)
            cost = min(record.seconds - record.catch_up_s, bound)
            place.doubted_s[arm] = place.doubted_s.get(arm, 0.0) + cost
            self._budget.spend(cost + record.catch_up_s)
            return
        self._budget.spend(-place.doubted_s.pop(arm, 0.0))
        if place.probing:
            self._budget.spend(record.catch_up_s)

    def _is_proven(self, place: _Place, arm: int, rates: Sequence[float], samples: Sequence[int]) -> bool:
        seen = samples[arm]
        if arm == 0 or seen < self._rules.least_samples:
            return arm == 0
        # Few drafts prove an arm only if they did much better: half of a draft, more or less, is chance.
        lead = 1.0 if seen >= place.needed else 1 + 1 / math.sqrt(seen * place.first)
        return rates[arm] >= lead * rates[0]

    def _seconds(self, arm: int, running: int) -> float:
        choice = self._table.arms[arm]
        attached = arm > 0 or self._costs.base_attached
        return self._costs.of(choice).step.seconds(running, choice.k, attached)

    def _catch_up(self, arm: int) -> float:
        behind = self._last.behind if self._last else 0
        return self._costs.of(self._table.arms[arm]).catch_up.predict(behind)


def _is_steady(last: StepRecord, record: StepRecord) -> bool:
    return (
        record.k == last.k
        and record.drafter == last.drafter
        and record.attached == last.attached
        and record.prefill == 0
        and record.catch_up_s == 0
        and record.emitted > 0
        and record.seconds > 0
        and (record.k == 0 or record.drafted > 0)
    )


def build_governor(
    table: ArmTable,
    selector: str,
    *,
    seed: int,
    prior: CostPrior | None = None,
    acceptance: float = 0.7,
    rules: GovernorRules | None = None,
    detachable: bool = False,
) -> Governor:
    """A governor with the selector of that name.

    Args:
        acceptance: share of drafted tokens expected to be kept before any was drafted.

    Raises:
        learners.registry.UnknownNameError: there is no such selector.
    """
    costs = CostModels(table.arms, prior, acceptance)
    return Governor(table, SELECTORS[selector](table, costs, seed), costs, rules, detachable=detachable)
