"""What a process needs: items that stay, and moments of which the greatest counts. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Where = Literal["device", "host"]
GIB = 2**30
MIB = 2**20
KIB = 2**10


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time with what lies in memory only then: bytes by name."""

    name: str
    items: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.items.values())


@dataclass(frozen=True, slots=True)
class Need:
    """Of one process in one memory.

    Attributes:
        stays: bytes by name, there from the start to the end.
        moments: never two at a time; none for a process that has only what stays.
    """

    stays: Mapping[str, int]
    moments: tuple[Moment, ...] = ()

    @property
    def peak(self) -> Moment:
        """The moment that needs most."""
        return max(self.moments, key=lambda moment: moment.total, default=Moment("always"))

    @property
    def total(self) -> int:
        """Bytes that must be there."""
        return sum(self.stays.values()) + self.peak.total

    @property
    def items(self) -> dict[str, int]:
        """All that makes up `total`, by name, without what is nothing."""
        whole = dict(self.stays)
        for name, size in self.peak.items.items():
            whole[name] = whole.get(name, 0) + size
        return {name: size for name, size in whole.items() if size}

    def and_stays(self, more: Mapping[str, int]) -> "Need":
        """The same with more that stays."""
        return Need({**self.stays, **more}, self.moments)


def gib(size: float) -> str:
    """Bytes for people: in GiB from a tenth of one on, in MiB, or in KiB."""
    if abs(size) >= GIB / 10:
        return f"{size / GIB:,.1f} GiB"
    return f"{size / MIB:,.0f} MiB" if abs(size) >= 10 * MIB else f"{size / KIB:,.0f} KiB"
