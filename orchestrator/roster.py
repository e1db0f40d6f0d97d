"""Who belongs to the fleet: the workers that serve, what each may take, and those that are missed.

Pure bookkeeping, with times handed in. Invariants: a worker is known by its link, not by its name alone, so that what
is still said of a lost worker never meets its replacement; the version that counts for admission goes by the quorum of
those present.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from actors.settings import RolloutSettings
from orchestrator.pending import Pending
from orchestrator.policies.concurrency import Concurrency
from orchestrator.policies.routing import EngineView
from orchestrator.policies.version_quorum import VersionQuorum
from orchestrator.worker_link import WorkerLink


@dataclass(slots=True)
class Member:
    """A worker that serves."""

    link: WorkerLink
    concurrency: Concurrency
    version: int = 0
    running: dict[str, Pending] = field(default_factory=dict)
    """By submission."""
    draining: bool = False
    """Takes no new answers: it is to finish what it has before an update."""
    spared: bool = False
    """Takes no answers: it was emptied in the tail, so that it may stand idle."""

    @property
    def view(self) -> EngineView:
        """This worker as the router sees it."""
        closed = self.draining or self.spared
        return EngineView(self.link.name, self.version, len(self.running), self.concurrency.limit, closed)


class Roster:
    """Args: settings: say how many answers a worker may take, and how its KV cache bounds them."""

    def __init__(self, settings: RolloutSettings) -> None:
        self._settings = settings
        self._members: dict[str, Member] = {}
        self._absent: dict[str, str] = {}
        self._expected = 0
        self._quorum = VersionQuorum()

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def __len__(self) -> int:
        return len(self._members)

    def get(self, link: WorkerLink) -> Member | None:
        """The member behind this link, if it is one still."""
        member = self._members.get(link.name)
        return member if member is not None and member.link is link else None

    def named(self, name: str) -> Member | None:
        return self._members.get(name)

    def version(self, now: float) -> int:
        """The newest weight version that counts for admission."""
        return self._quorum.version(now)

    @property
    def absences(self) -> str:
        """The workers that were lost and are not back, each with the reason."""
        return "; ".join(f"{name}: {reason}" for name, reason in self._absent.items())

    @property
    def recruiting(self) -> bool:
        """Whether a replacement is on its way."""
        return self._expected > 0

    @property
    def deserted(self) -> bool:
        """Whether nobody serves and nobody comes."""
        return not self._members and not self._expected

    def join(self, link: WorkerLink, version: int, now: float) -> None:
        settings = self._settings
        concurrency = Concurrency(settings.max_running, settings.kv_low, settings.kv_high)
        self._members[link.name] = Member(link, concurrency, version)
        self._absent.pop(link.name, None)
        self._quorum.joined(link.name, version, now)

    def attested(self, member: Member, version: int, seconds: float, now: float) -> None:
        member.version = version
        self._quorum.synced(member.link.name, version, seconds, now)

    def leave(self, member: Member, reason: str) -> None:
        del self._members[member.link.name]
        self._absent[member.link.name] = reason
        self._quorum.left(member.link.name)

    def expect(self) -> None:
        """A replacement is on its way."""
        self._expected += 1

    def arrived(self, name: str, failure: str | None = None) -> None:
        """The replacement is here, or will never come for this reason."""
        self._expected -= 1
        if failure is not None:
            self._absent[name] = failure
