import resource
from collections.abc import Callable

from rewards.frame_room import with_room

CALLS = 400


def leaf() -> None:
    return


def at_depth(depth: int, work: Callable[[], None]) -> None:
    if depth:
        at_depth(depth - 1, work)
    else:
        work()


def faults_of_calls() -> int:
    """Pages that the kernel brought in while the leaf was called again and again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(CALLS):
        leaf()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def worst() -> int:
    """Of all depths, a few of which lie at a border of two chunks."""
    found: list[int] = []
    for depth in range(300):
        at_depth(depth, lambda: found.append(faults_of_calls()))
    return max(found)


def test_calls_across_the_border_of_two_chunks_bring_in_no_memory() -> None:
    assert worst() >= CALLS, "without room there is a border, and each call across it faults"
    assert with_room(worst) < CALLS / 4


def test_it_returns_what_the_work_does() -> None:
    assert with_room(lambda: 5) == 5
