"""What the governor may choose between: how many tokens to draft, by which drafter, for which batch sizes.

Pure data. The batch sizes an engine can have are cut into buckets, as in TLT (arXiv 2511.16665): what speculation gains
depends on the number of running requests before anything else.

Invariants, checked when an `ArmTable` is built:
- the buckets cover 1, 2, ... without gap or overlap, and the last one is open;
- a bucket that is not declared static offers not drafting (`PLAIN`) and something else: with one arm there is
  nothing to learn, and that should be said, not happen;
- a static bucket has exactly one arm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FIRSTS = (1, 2, 3, 5, 9, 17, 33, 65)
"""First batch size of each bucket: 1, 2, 3-4, 5-8, 9-16, 17-32, 33-64, 65 and more."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to run a step.

    Attributes:
        k: tokens drafted for each request; 0 is ordinary decoding.
        drafter: which drafter makes them, where an engine has several; empty where it has one, and always for k = 0.
    """

    k: int
    drafter: str = ""

    def __post_init__(self) -> None:
        if self.k < 0:
            raise ValueError(f"k must be at least 0, not {self.k}")
        if self.k == 0 and self.drafter:
            raise ValueError(f"an arm that drafts nothing has no drafter, but {self.drafter!r} is named")

    def __str__(self) -> str:
        return f"{self.drafter} k={self.k}".lstrip()


PLAIN = Arm(0)


@dataclass(frozen=True, slots=True)
class Bucket:
    """Batch sizes from `first` to `last` (None: no end), and the arms there, as indices into the table's arms.

    Attributes:
        static: the one arm is always taken; nothing is learnt.
    """

    first: int
    last: int | None
    arms: tuple[int, ...]
    static: bool = False

    def __str__(self) -> str:
        if self.last is None:
            return f"{self.first}+"
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


class ArmTable:
    """Arms by bucket. `arms[0]` is `PLAIN`.

    Args:
        arms: all arms; `PLAIN` is put first, given or not.
        buckets: see the invariants of the module.

    Raises:
        ValueError: an invariant does not hold, or an arm is given twice.
    """

    def __init__(self, arms: Sequence[Arm], buckets: Sequence[Bucket]) -> None:
        self.arms = (PLAIN, *(arm for arm in arms if arm != PLAIN))
        self.buckets = tuple(buckets)
        if len(set(self.arms)) != len(self.arms):
            raise ValueError(f"an arm is given twice: {', '.join(map(str, self.arms))}")
        _check(self.buckets, len(self.arms))
        self._by_size = [0]
        for index, bucket in enumerate(self.buckets[:-1]):
            assert bucket.last is not None  # _check: only the last bucket is open
            self._by_size += [index] * (bucket.last + 1 - bucket.first)

    def bucket(self, running: int) -> int:
        """Index of the bucket that holds this batch size; 0 running counts as 1."""
        return self._by_size[running] if running < len(self._by_size) else len(self.buckets) - 1

    def index(self, arm: Arm) -> int:
        """Raises: ValueError: the arm is not in the table."""
        return self.arms.index(arm)


def everywhere(arms: Sequence[Arm], firsts: Sequence[int] = FIRSTS) -> ArmTable:
    """Every arm in every bucket.

    Args:
        firsts: first batch size of each bucket, ascending from 1.
    """
    given = (PLAIN, *(arm for arm in arms if arm != PLAIN))
    lasts = [*(first - 1 for first in firsts[1:]), None]
    indices = tuple(range(len(given)))
    return ArmTable(given, [Bucket(first, last, indices) for first, last in zip(firsts, lasts, strict=True)])


def fixed(arms: Mapping[int, Arm]) -> ArmTable:
    """A static table: from each batch size on, one arm, always. ``{1: Arm(3)}`` is a constant.

    Raises:
        ValueError: the batch sizes do not begin with 1.
    """
    firsts = sorted(arms)
    given = (PLAIN, *dict.fromkeys(arm for arm in arms.values() if arm != PLAIN))
    lasts = [*(first - 1 for first in firsts[1:]), None]
    return ArmTable(
        given,
        [
            Bucket(first, last, (given.index(arms[first]),), static=True)
            for first, last in zip(firsts, lasts, strict=True)
        ],
    )


def _check(buckets: Sequence[Bucket], arms: int) -> None:
    expected: int | None = 1
    for bucket in buckets:
        if bucket.first != expected or (bucket.last is not None and bucket.last < bucket.first):
            raise ValueError(f"buckets must cover 1, 2, ... without gap or overlap: {', '.join(map(str, buckets))}")
        expected = None if bucket.last is None else bucket.last + 1
        if not bucket.arms or any(not 0 <= arm < arms for arm in bucket.arms):
            raise ValueError(f"bucket {bucket} names arms {bucket.arms} of {arms}")
        if bucket.static and len(bucket.arms) != 1:
            raise ValueError(f"bucket {bucket} is static and must have one arm, not {len(bucket.arms)}")
        if not bucket.static and (len(bucket.arms) < 2 or 0 not in bucket.arms):
            raise ValueError(
                f"bucket {bucket} must offer k=0 and another arm, or be declared static: with one arm nothing is learnt"
            )
    if not buckets or expected is not None:
        raise ValueError("the last bucket must be open (last=None)")
