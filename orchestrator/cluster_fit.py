"""Whether a cluster has room for a run's bundles, and on which nodes; pure, and found before anything is started.

A bundle lies on one node, so the sums may suffice and a bundle fit nowhere. Placing bundles on nodes is bin packing in
several resources. Bundles of a run are of few kinds, and nodes with the same room are alike, so that an exact search is
short; where it is not, the answer is left to Ray, which then waits for room. A share of a GPU is one of a single GPU:
two GPUs hold no three shares of 0.6. Amounts are compared in ten-thousandths, as Ray counts them.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

Amounts = Mapping[str, float]
_Size = tuple[int, tuple[int, ...]]
"""Of a bundle: units of a GPU, and of each other resource."""
_Room = tuple[tuple[int, ...], tuple[int, ...]]
"""Of a node: units that each of its GPUs has left, in order, and units of each other resource."""
UNIT = 10_000
"""Ray's smallest share of a resource is one of so many."""
MOST_TRIALS = 20_000
"""Placements that the search looks at before it leaves the answer open: under a second."""
MOST_BUNDLES = 600
"""Beyond this the search is not begun: it goes one call deeper for each."""
WORDS = {"CPU": "core", "GPU": "GPU"}
ORDER = ("GPU", "CPU", "memory")
"""In which resources are named: the scarcest first."""


class Wanted(Protocol):
    """`orchestrator.placement.Bundle`."""

    @property
    def actors(self) -> tuple[str, ...]: ...

    def resources(self) -> dict[str, float]:
        """As Ray names them."""


@dataclass(frozen=True, slots=True)
class Shortfall:
    """Attributes:
    missing: what the cluster lacks.
    setting: the section of the topology that asks for it.
    """

    missing: str
    setting: str


def shortfall(bundles: Sequence[Wanted], nodes: Mapping[str, Amounts]) -> Shortfall | None:
    """What these nodes lack for these bundles; None where all have room, or where that takes too long to find out.

    Args:
        nodes: by name, what each has.
    """
    asked = [bundle.resources() for bundle in bundles]
    for bundle, amounts in zip(bundles, asked, strict=True):
        if not any(_fits(amounts, node) for node in nodes.values()):
            return Shortfall(_nowhere(bundle, amounts, nodes), _setting(bundle))
    for name in _named(asked):
        wanted, there = sum(one.get(name, 0) for one in asked), sum(node.get(name, 0) for node in nodes.values())
        if _units(wanted) > _units(there):
            most = max(bundles, key=lambda bundle: bundle.resources().get(name, 0))
            missing = f"{_said(name, wanted)} in all are wanted, and it has {_said(name, there)}"
            return Shortfall(missing, _setting(most))
    left_over = _unplaced(asked, list(nodes.values()))
    if left_over is None:
        return None
    rest = bundles[left_over]
    reason = f"no way of placing all {len(bundles)} bundles leaves room for {_whose(rest)}, which must lie on one node"
    return Shortfall(f"{reason}: {_together(asked[left_over])}", _setting(rest))


def placing(bundles: Sequence[Wanted], nodes: Mapping[str, Amounts]) -> list[str] | None:
    """A node for each bundle, such that all have room; None where there is no way, or none that is found soon.

    Args:
        nodes: by name, what each has left.
    """
    search = _searched([bundle.resources() for bundle in bundles], list(nodes.values()))
    if search is None or not search.succeeded:
        return None
    left = dict(zip(nodes, search.rooms, strict=True))
    places = [""] * len(bundles)
    for bundle, (before, after) in zip(search.order, search.path(), strict=True):
        places[bundle] = next(node for node, room in left.items() if room == before)
        left[places[bundle]] = after
    return places


def _unplaced(asked: Sequence[Amounts], nodes: Sequence[Amounts]) -> int | None:
    """A bundle that has no place once the larger ones have theirs; None where all have one, or nobody knows."""
    search = _searched(asked, nodes)
    if search is None or search.succeeded or search.trials > MOST_TRIALS:
        return None
    return search.order[search.deepest]


def _searched(asked: Sequence[Amounts], nodes: Sequence[Amounts]) -> "_Search | None":
    """The search for places, ended; None where there are too many bundles to begin it."""
    if len(asked) > MOST_BUNDLES:
        return None
    names = [name for name in _named(asked) if name != "GPU"]
    return _Search([_size(one, names) for one in asked], [_room(node, names) for node in nodes])


def _size(asked: Amounts, names: Sequence[str]) -> _Size:
    return _units(asked.get("GPU", 0)), tuple(_units(asked.get(name, 0)) for name in names)


def _room(node: Amounts, names: Sequence[str]) -> _Room:
    whole, rest = divmod(_units(node.get("GPU", 0)), UNIT)
    gpus = tuple(sorted([UNIT] * whole + [rest] * bool(rest)))
    return gpus, tuple(_units(node.get(name, 0)) for name in names)


class _Search:
    """Depth first, the largest bundle first; what led nowhere is not tried again.

    Attributes:
        order: the bundles, the largest first.
        rooms: of the nodes, before anything lies on them.
        deepest: place in `order` of the first bundle that never had a place.
    """

    def __init__(self, sizes: Sequence[_Size], rooms: Sequence[_Room]) -> None:
        self.order = sorted(range(len(sizes)), key=lambda bundle: sizes[bundle], reverse=True)
        self.rooms = rooms
        self._sizes = [sizes[bundle] for bundle in self.order]
        self._nowhere: set[tuple[int, tuple[_Room, ...]]] = set()
        self._taken: list[tuple[_Room, _Room]] = []
        self.trials = self.deepest = 0
        self.succeeded = self._places(0, tuple(sorted(rooms)))

    def _places(self, number: int, rooms: tuple[_Room, ...]) -> bool:
        """Whether the bundles from this one on have places in these rooms, which are sorted."""
        if number == len(self._sizes):
            return True
        self.deepest = max(self.deepest, number)
        self.trials += 1
        if self.trials > MOST_TRIALS or (number, rooms) in self._nowhere:
            return False
        for room in dict.fromkeys(rooms):
            for left in _after(room, self._sizes[number]):
                others = list(rooms)
                others.remove(room)
                if self._places(number + 1, tuple(sorted([*others, left]))):
                    self._taken.append((room, left))
                    return True
        self._nowhere.add((number, rooms))
        return False

    def path(self) -> list[tuple[_Room, _Room]]:
        """After a search that succeeded, for each bundle the room that it took a place in, before and after."""
        return self._taken[::-1]


def _after(room: _Room, size: _Size) -> Iterator[_Room]:
    """What a node may have left once a bundle lies on it: a share of a GPU is one of a single GPU."""
    (gpus, others), (wanted, amounts) = room, size
    left = tuple(has - takes for has, takes in zip(others, amounts, strict=True))
    if min(left, default=0) < 0:
        return
    if wanted >= UNIT:
        whole = math.ceil(wanted / UNIT)
        if gpus.count(UNIT) >= whole:
            yield gpus[: len(gpus) - whole], left
        return
    for free in dict.fromkeys(gpus if wanted else ()):
        if free >= wanted:
            shared = list(gpus)
            shared.remove(free)
            yield tuple(sorted([*shared, free - wanted])), left
    if not wanted:
        yield gpus, left


def _fits(asked: Amounts, node: Amounts) -> bool:
    return all(_units(amount) <= _units(node.get(name, 0)) for name, amount in asked.items())


def _nowhere(bundle: Wanted, asked: Amounts, nodes: Mapping[str, Amounts]) -> str:
    """One bundle that is too large for every node."""
    if not nodes:
        return f"{_whose(bundle)} takes {_together(asked)} on one node, and it has no node"
    lacking = [
        _said(name, best)
        for name, amount in asked.items()
        if _units(amount) > _units(best := max(node.get(name, 0) for node in nodes.values()))
    ]
    most = f"no node has more than {' or '.join(lacking)}" if lacking else "no node has all of that"
    return f"{_whose(bundle)} takes {_together(asked)} on one node, and {most}"


def _whose(bundle: Wanted) -> str:
    return " with ".join(bundle.actors)


def _setting(bundle: Wanted) -> str:
    """The section of the topology by which an actor is sized."""
    role = bundle.actors[0].partition("-")[0]
    return "topology." + {"model": "judges"}.get(role, role)


def _named(asked: Sequence[Amounts]) -> list[str]:
    names = {name for one in asked for name in one}
    return [*[name for name in ORDER if name in names], *sorted(names.difference(ORDER))]


def _together(asked: Amounts) -> str:
    return " and ".join(_said(name, asked[name]) for name in _named([asked])) or "nothing"


def _said(name: str, amount: float) -> str:
    if name == "memory":
        return f"{amount / 2**30:.1f} GiB of memory"
    if name not in WORDS:
        return f"{amount:g} of the resource {name}"
    return f"{amount:g} {WORDS[name]}{'' if amount == 1 else 's'}"


def _units(amount: float) -> int:
    return round(amount * UNIT)
