"""Which CUDA graphs to capture, and what they cost in memory.

Pure: a planner and an account; who captures is the engine. A graph serves one shape, so an engine that may draft k
tokens for any batch size wants a graph for every pair, and every graph keeps memory. TLT's rule (arXiv 2511.16665)
keeps most of the use for a third of the memory: a strategy is captured only for the batch sizes of its bucket, target
and drafter are captured apart, and a graph that two strategies would share is captured once.

Invariants of a plan: its bytes are within the budget; every graph is there once; what was left out is worth no more per
byte than anything that is in and was wanted for its value (required graphs come first whatever their value).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Part = Literal["target", "draft"]


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way to speculate, as far as graphs are concerned.

    Attributes:
        verify: tokens that the target reads per request: k + 1 for a chain of k drafts, 1 without drafts.
        shape: what the drafter's graph depends on beside the batch size: its kind, the width of its tree. Two
            strategies with equal shapes share the drafter's graphs. Empty: no drafter runs.
        draft: tokens that the drafter reads per request in one pass.
    """

    name: str
    verify: int
    shape: str = ""
    draft: int = 1

    def __post_init__(self) -> None:
        if self.verify < 1 or self.draft < 1:
            raise ValueError(f"strategy {self.name}: verify and draft must be at least 1")


@dataclass(frozen=True, slots=True)
class Graph:
    """One captured graph: of the target or of a drafter, for `batch` requests of `tokens` tokens each."""

    part: Part
    batch: int
    tokens: int
    shape: str = ""


@dataclass(frozen=True, slots=True)
class GraphBytes:
    """Memory of one graph: a part that every graph costs, and one that grows with the tokens it reads.

    Attributes:
        fixed: of a graph of the target.
        per_token: likewise.
        draft_share: a drafter's graph against the target's: about one over the target's layers for one layer.
    """

    fixed: float
    per_token: float
    draft_share: float

    def __call__(self, graph: Graph) -> float:
        whole = self.fixed + self.per_token * graph.batch * graph.tokens
        return whole if graph.part == "target" else self.draft_share * whole


@dataclass(frozen=True, slots=True)
class GraphPlan:
    """Attributes:
    graphs: to capture, the largest first, so that the smaller ones can use memory that it set aside.
    bytes: their memory together.
    left_out: wanted, but beyond the budget.
    """

    graphs: tuple[Graph, ...]
    bytes: float
    left_out: tuple[Graph, ...] = ()


def wanted(strategies: Mapping[Strategy, Callable[[int], bool]], sizes: Iterable[int]) -> tuple[Graph, ...]:
    """The graphs of all strategies, each once.

    Args:
        strategies: for each, whether it may run at a batch size (its bucket). Capturing every strategy for every size
            is the rule that is always true.
        sizes: batch sizes to capture; a batch between two is padded to the larger.
    """
    graphs: dict[Graph, None] = {}
    for size in sorted(set(sizes), reverse=True):
        for strategy, runs_at in strategies.items():
            if runs_at(size):
                graphs[Graph("target", size, strategy.verify)] = None
                if strategy.shape:
                    graphs[Graph("draft", size, strategy.draft, strategy.shape)] = None
    return tuple(graphs)


def plan(
    graphs: Sequence[Graph],
    size_of: Callable[[Graph], float],
    budget: float,
    *,
    value: Callable[[Graph], float] = lambda _: 1.0,
    required: Callable[[Graph], bool] = lambda graph: graph.part == "target" and graph.tokens == 1,
) -> GraphPlan:
    """The graphs to capture within a budget: the required ones, then by value per byte.

    Args:
        budget: bytes.
        value: how much is expected to be saved by the graph, in any unit.
        required: graphs that must be there; by default, those of decoding without drafts.

    Raises:
        ValueError: the required graphs alone are beyond the budget.
    """
    must = [graph for graph in graphs if required(graph)]
    spent = sum(map(size_of, must))
    if spent > budget:
        raise ValueError(f"the required graphs take {spent:.3g} bytes, and the budget is {budget:.3g}")
    chosen = list(must)
    left_out: list[Graph] = []
    others = [graph for graph in graphs if not required(graph)]
    for graph in sorted(others, key=lambda graph: value(graph) / size_of(graph), reverse=True):
        # Once one does not fit, a smaller one of less value per byte may not take its place.
        if left_out or spent + size_of(graph) > budget:
            left_out.append(graph)
            continue
        chosen.append(graph)
        spent += size_of(graph)
    order = {graph: index for index, graph in enumerate(graphs)}
    return GraphPlan(tuple(sorted(chosen, key=order.__getitem__)), spent, tuple(left_out))


class GraphPool:
    """Account of captured graphs under a byte budget: what to give up for a new one.

    The graphs used least go first: a use counts for 1 and loses half of that with every `half_life` uses of any graph.
    """

    def __init__(self, size_of: Callable[[Graph], float], budget: float, half_life: int = 1000) -> None:
        if budget < 0 or half_life < 1:
            raise ValueError(f"budget must be at least 0 and half_life 1, not {budget:g} and {half_life}")
        self._size_of, self._budget = size_of, budget
        self._keep = 0.5 ** (1 / half_life)
        self._uses = 0
        self._value: dict[Graph, tuple[float, int]] = {}
        self.bytes = 0.0

    @property
    def graphs(self) -> frozenset[Graph]:
        return frozenset(self._value)

    def use(self, graph: Graph) -> bool:
        """A step wants this graph. Returns whether it is there; a miss runs without a graph."""
        self._uses += 1
        if graph not in self._value:
            return False
        self._value[graph] = (self.value(graph) + 1, self._uses)
        return True

    def value(self, graph: Graph) -> float:
        """Uses of a captured graph, the older ones weighing less."""
        value, at = self._value[graph]
        return value * self._keep ** (self._uses - at)

    def add(self, graph: Graph, *, value: float = 1.0) -> tuple[Graph, ...] | None:
        """Make room for a graph and enter it.

        Args:
            value: uses that are expected of it, to be compared with those of the others.

        Returns:
            The graphs to free for it; None if it is not worth what would have to go, and then nothing changes.
        """
        if graph in self._value:
            return ()
        size, gone, freed, lost = self._size_of(graph), [], 0.0, 0.0
        for other in sorted(self._value, key=lambda other: self.value(other) / self._size_of(other)):
            if self.bytes - freed + size <= self._budget:
                break
            gone.append(other)
            freed += self._size_of(other)
            lost += self.value(other)
        if self.bytes - freed + size > self._budget or (lost >= value and gone):
            return None
        for other in gone:
            del self._value[other]
        self._value[graph] = (value, self._uses)
        self.bytes += size - freed
        return tuple(gone)
