"""No interleaving of finish, failure, update and abort breaks a bound or loses an item, whatever the policies.

Each example plays a whole run on the dispatcher: a made-up plane samples groups, finishes, filters or fails them in
any order, engines take new weights early or late, and rounds are cut. At its end every prompt must be accounted for.
"""

import random
from dataclasses import dataclass, field
from typing import get_args

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.trajectory import Trajectory
from orchestrator.policies.admission import Admission, Continuous, Leftovers, Rounds
from orchestrator.policies.dispatch import Dispatcher
from orchestrator.policies.groups import GroupInFlight
from orchestrator.policies.late import LatePolicy, LateRule
from orchestrator.policies.staleness import StalenessRule
from rewards.response import Score
from tests.orchestrator.builders import CountingSource, trajectory

POLICIES: tuple[LatePolicy, ...] = get_args(LatePolicy)
LEFTOVERS: tuple[Leftovers | None, ...] = (None, *get_args(Leftovers))
GROUP = 2


@dataclass
class Play:
    """A run with `steps` batches of `batch` groups; `chance` decides what happens next."""

    batch: int
    max_staleness: int
    late: LatePolicy
    leftovers: Leftovers | None
    stream: bool
    chance: random.Random
    steps: int = 6
    versions: dict[int, list[int]] = field(default_factory=dict)
    """Of each group in flight: the oldest version of each answer."""
    unfinished: dict[int, int] = field(default_factory=dict)
    """Of each group in flight: answers on their way."""
    ends: dict[int, str] = field(default_factory=dict)
    engine_version: int = 0

    def run(self) -> Dispatcher:
        rule = StalenessRule(self.batch, self.max_staleness)
        self.hard = self.max_staleness + 2
        self.places = GROUP * self.chance.randint(1, 3 * self.batch) - self.chance.randint(0, 1)
        admission: Admission = Continuous(rule, self.places, GROUP)
        if self.leftovers is not None:
            answers = 1.0 if self.leftovers == "resume" else 1.5
            admission = Rounds(batch=self.batch, prompts=1.5, answers=answers, leftovers=self.leftovers)
        dispatcher = Dispatcher(
            source=CountingSource(),
            encode=lambda p: (p.index,),
            rule=rule,
            admission=admission,
            late=LateRule(self.late, self.max_staleness, self.hard),
            group_size=GROUP,
            drop_zero_variance=True,
            wanted=self.steps * self.batch,
        )
        for version in range(self.steps):
            self.one_batch(dispatcher, version)
            self.cut(dispatcher)
        return dispatcher

    def one_batch(self, dispatcher: Dispatcher, version: int) -> None:
        lacking = self.batch
        for _ in range(100_000):
            # Engines may lag behind the learner, but not for ever.
            if self.engine_version < version and (self.chance.random() < 0.3 or not dispatcher.in_flight):
                self.engine_version += 1
            for group in dispatcher.admit(self.engine_version):
                self.start(group)
            if self.leftovers is None and self.max_staleness:
                assert sum(self.unfinished.values()) <= self.places + GROUP
            taken = dispatcher.take(version, least=1 if self.stream else lacking, most=lacking)
            for group, _ in taken.dropped:
                self.end(group.index, "dropped")
            if taken.groups is not None:
                bound = self.hard if self.late == "train" else self.max_staleness
                for scored in taken.groups:
                    ages = [version - oldest for oldest in scored.oldest_versions]
                    assert all(age <= bound for n, age in enumerate(ages) if n not in scored.masked)
                    assert self.late in ("train", "baseline_only") or not scored.late
                    self.end(scored.index, "trained")
                dispatcher.trained(taken.groups)
                lacking -= len(taken.groups)
                assert lacking >= 0
                if lacking == 0:
                    return
            elif self.versions:
                self.something_happens(dispatcher)
        raise AssertionError("the schedule must make progress")

    def start(self, group: GroupInFlight) -> None:
        assert group.index not in self.versions
        assert group.admitted_version <= self.engine_version
        kept = [t.completion.segments[0].version for t in group.kept]
        self.versions[group.index] = kept or [self.engine_version] * GROUP
        self.unfinished[group.index] = group.unfinished

    def something_happens(self, dispatcher: Dispatcher) -> None:
        index = self.chance.choice(list(self.versions))
        if self.unfinished[index] and self.chance.random() < 0.5:
            dispatcher.answered(index)
            self.unfinished[index] -= 1
            return
        oldest = self.leave(index)
        luck = self.chance.random()
        if luck < 0.1:
            dispatcher.fail(index)  # with answers on their way, or while it was scored
            self.end(index, "failed")
            return
        rewards = [1.0, 0.0] if luck < 0.8 else [1.0, 1.0]
        scored = dispatcher.finish(index, self.answers(index, oldest), [Score(r, {}) for r in rewards])
        if not scored.has_signal:
            self.end(index, "filtered")

    def cut(self, dispatcher: Dispatcher) -> None:
        cut = dispatcher.cut()
        for group in cut.suspend:
            kept = self.leave(group.index)
            # An answer that was not started yet has no token that could age.
            dispatcher.suspend(group.index, self.answers(group.index, kept) if self.chance.random() < 0.7 else ())
        for group in cut.throw_away:
            if group.index in self.versions:
                self.leave(group.index)
            if self.leftovers == "drop":
                self.end(group.index, "dropped")

    def answers(self, index: int, oldest: list[int]) -> list[Trajectory]:
        return [trajectory(f"{index}/{n}", versions=(v, self.engine_version)) for n, v in enumerate(oldest)]

    def leave(self, index: int) -> list[int]:
        del self.unfinished[index]
        return self.versions.pop(index)

    def end(self, index: int, how: str) -> None:
        assert index not in self.ends, f"group {index} ended twice"
        self.ends[index] = how


@settings(max_examples=400, deadline=None)
@given(
    batch=st.integers(1, 5),
    max_staleness=st.integers(0, 3),
    late=st.sampled_from(POLICIES),
    leftovers=st.sampled_from(LEFTOVERS),
    stream=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_no_interleaving_breaks_a_bound_or_loses_a_prompt(
    batch: int, max_staleness: int, late: LatePolicy, leftovers: Leftovers | None, stream: bool, seed: int
) -> None:
    if leftovers == "resume":
        max_staleness = max(1, max_staleness)
    play = Play(batch, max_staleness, late, leftovers, stream, random.Random(seed))
    dispatcher = play.run()
    counts = dispatcher.ledger.counts()
    for how in ("trained", "filtered", "dropped", "failed"):
        assert counts[how] == sum(end == how for end in play.ends.values())
    assert counts["trained"] == play.steps * batch
    unended = counts["dispatched"] - len(play.ends)
    assert counts["pending"] == unended == dispatcher.in_flight + dispatcher.aside + len(dispatcher.buffer)
    assert counts["pending"] == 0, "nothing is left over at the end of a run"
    if late == "wait" and leftovers != "drop":
        assert counts["dropped"] == 0
