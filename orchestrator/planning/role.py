"""One line of a plan: a kind of process, what each of them needs, and what there is for it."""

from dataclasses import dataclass
from typing import Literal

from orchestrator.planning.memory import Need

Memory = Literal["accelerator", "main memory"]
RoleName = Literal["learner", "rollout", "drafter", "reward", "judge", "driver"]


@dataclass(frozen=True, slots=True)
class Role:
    """Attributes:
    count: processes, or accelerators, of which each needs `need`.
    limit: bytes that each may take; None where they share the machine's main memory.
    sure: whether `need` was compared with measured memory; else it is an estimate.
    note: what else there is to know, in a few words.
    """

    name: RoleName
    label: str
    count: int
    memory: Memory
    need: Need
    limit: int | None = None
    sure: bool = True
    note: str = ""

    @property
    def lacks(self) -> int:
        """Bytes; 0 where it fits or nothing bounds it by itself."""
        return 0 if self.limit is None else max(0, self.need.total - self.limit)
