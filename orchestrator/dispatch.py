"""The dispatcher: which prompts start, and what becomes of each group that comes back.

A state machine without Ray, threads or clock: the rollout plane feeds it events and does what it says. It owns the
prompt source's cursor, the ledger and the buffer, so that the three cannot disagree.

Invariants: a prompt is drawn only when the staleness rule has room for it; every drawn prompt is in exactly one of
in flight, buffered, or ended in the ledger; groups are numbered in the order in which they are drawn.
"""

from collections.abc import Callable, Sequence

from actors.trajectory import Trajectory
from orchestrator.buffer import GroupBuffer
from orchestrator.groups import GroupInFlight, ScoredGroup
from orchestrator.ledger import End, Ledger
from orchestrator.prompts import Prompt, PromptSource
from orchestrator.staleness import StalenessRule
from rewards.response import Score


class Dispatcher:
    """Admits prompts and keeps their account.

    Args:
        encode: turns a prompt into its token ids.
        drop_zero_variance: end groups without signal as `filtered` and admit others in their place.
        wanted: groups that the run will train on; no more are admitted than can still be.
    """

    def __init__(
        self,
        *,
        source: PromptSource,
        encode: Callable[[Prompt], tuple[int, ...]],
        rule: StalenessRule,
        drop_zero_variance: bool,
        wanted: int,
    ) -> None:
        self._source = source
        self._encode = encode
        self._rule = rule
        self._drop_zero_variance = drop_zero_variance
        self._wanted = wanted
        self._in_flight: dict[int, GroupInFlight] = {}
        self._drawn = 0
        self.buffer = GroupBuffer(rule)
        self.ledger = Ledger()

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    def admit(self, version: int) -> list[GroupInFlight]:
        """Draw as many prompts as may start while engines serve `version`."""
        accepted, running = self.buffer.accepted, len(self._in_flight)
        room = self._rule.capacity(version=version, accepted=accepted, running=running)
        return [self._draw(version) for _ in range(min(room, self._wanted - accepted - running))]

    def finish(self, index: int, trajectories: Sequence[Trajectory], scores: Sequence[Score]) -> ScoredGroup:
        """A group has all its answers and scores: to the buffer, or out of it as filtered."""
        group = self._in_flight.pop(index)
        scored = ScoredGroup(
            index, group.prompt, group.prompt_ids, group.admitted_version, tuple(trajectories), tuple(scores)
        )
        if self._drop_zero_variance and not scored.has_signal:
            self.ledger.end(index, End.FILTERED)
        else:
            self.buffer.put(scored)
        return scored

    def fail(self, index: int) -> None:
        """A group could not be sampled or scored; another prompt takes its place."""
        del self._in_flight[index]
        self.ledger.end(index, End.FAILED)

    def take(self, version: int) -> tuple[ScoredGroup, ...] | None:
        """The batch to train on at `version`, or None while it is not complete; its groups count as pending still."""
        return self.buffer.take(
            version=version, in_flight_versions=(group.admitted_version for group in self._in_flight.values())
        )

    def trained(self, groups: Sequence[ScoredGroup]) -> None:
        """The learner has made its step on these groups."""
        for group in groups:
            self.ledger.end(group.index, End.TRAINED)

    def _draw(self, version: int) -> GroupInFlight:
        prompt = self._source.next()
        group = GroupInFlight(self._drawn, prompt, self._encode(prompt), version)
        self._drawn += 1
        self._in_flight[group.index] = group
        self.ledger.dispatch(group.index)
        return group
