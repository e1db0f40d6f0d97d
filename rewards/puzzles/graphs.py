"""The `g1_graph` term and its generator: questions about small graphs that reasoning-gym does not ask (G1, arXiv
2505.18499).

Three kinds of answer: a number, which must be equal; a set of nodes, which counts by the Jaccard overlap; and a path or
an order, of which any valid one is right.
"""

import random
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations, pairwise

from rewards.extraction import by_marker
from rewards.puzzles.facts import facts_of
from rewards.registry import Example, term
from rewards.response import Json, Response

Edges = Sequence[tuple[int, int]]
Neighbours = Mapping[int, frozenset[int]]
_NUMBER = re.compile(r"(?<!\d)-?\d+")
_LONGEST = 2000
"""Characters of an answer."""

QUESTIONS: Mapping[str, str] = {
    "degree": "How many neighbours does node {a} have? Answer with a number.",
    "common_neighbours": "Which nodes are neighbours of both node {a} and node {b}? List them, or write none.",
    "components": "How many connected components does the graph have? Answer with a number.",
    "triangles": "How many triangles does the graph have? Answer with a number.",
    "diameter": "What is the greatest distance between two nodes that are connected? Answer with a number.",
    "bipartite": "Is the graph bipartite? Answer with 1 for yes or 0 for no.",
    "shortest_path": "Give a shortest path from node {a} to node {b} as a list of nodes, or write none.",
    "topological_order": "Read each edge (u, v) as an arrow from u to v. Give a topological order of all nodes.",
}
"""What may be asked, by the name of the question."""

_PATH: dict[str, Json] = {"ask": "shortest_path", "nodes": 4, "edges": [[0, 1], [1, 3], [0, 2], [2, 3]], "a": 0, "b": 3}


@term("g1_graph", example=Example(Response("e", "", "<answer>0, 2, 3</answer>", metadata=_PATH), 1.0))
def graph_reward(response: Response, *, marker: str = "<answer></answer>") -> float:
    """1.0 for the right number or a valid path or order, and the Jaccard overlap |a & b| / |a | b| of a set of nodes
    with the right one (1.0 where both are empty), else 0.0: G1 (arXiv 2505.18499).

    Raises: ValueError where the data do not hold ``ask``, ``nodes``, ``edges`` and the nodes asked about.
    """
    facts = facts_of(response)
    ask, nodes, edges = facts.get("ask"), facts.get("nodes"), facts.get("edges")
    if not isinstance(ask, str) or ask not in QUESTIONS or type(nodes) is not int or not isinstance(edges, list):
        raise ValueError("the data have no question of g1_graph: ask, nodes and edges")
    pairs = [(int(str(edge[0])), int(str(edge[1]))) for edge in edges if isinstance(edge, list | tuple)]
    about = [int(str(facts[name])) for name in ("a", "b") if name in facts]
    marked = by_marker(response.text, marker)
    return judge(ask, response.text if marked is None else marked, nodes, pairs, about)


def judge(ask: str, answer: str, nodes: int, edges: Edges, about: Sequence[int]) -> float:
    """The value of an answer to a question of `QUESTIONS`."""
    numbers = [int(number) for number in _NUMBER.findall(answer)] if len(answer) <= _LONGEST else [-1]
    if not numbers and "none" not in answer.casefold():
        return 0.0
    near = neighbours(nodes, edges)
    if ask == "topological_order":
        return float(_is_order(numbers, nodes, edges))
    if ask == "shortest_path":
        return float(_is_shortest(numbers, near, about[0], about[1]))
    if ask == "common_neighbours":
        return jaccard(set(numbers), near[about[0]] & near[about[1]])
    return float(numbers == [COUNTS[ask](near, about)])


def jaccard(given: Iterable[int], right: Iterable[int]) -> float:
    """|a & b| / |a | b|, 1 where both are empty."""
    a, b = set(given), set(right)
    return len(a & b) / len(a | b) if a | b else 1.0


def neighbours(nodes: int, edges: Edges) -> dict[int, frozenset[int]]:
    """Of each node, edges read both ways."""
    near: dict[int, set[int]] = {node: set() for node in range(nodes)}
    for u, v in edges:
        near[u].add(v)
        near[v].add(u)
    return {node: frozenset(others) for node, others in near.items()}


def distances(near: Neighbours, start: int) -> dict[int, int]:
    """From one node to all that it is connected with."""
    found, queue = {start: 0}, deque([start])
    while queue:
        node = queue.popleft()
        for other in sorted(near[node] - found.keys()):
            found[other] = found[node] + 1
            queue.append(other)
    return found


def _components(near: Neighbours, about: Sequence[int]) -> int:
    left, count = set(near), 0
    while left:
        left -= distances(near, min(left)).keys()
        count += 1
    return count


def _triangles(near: Neighbours, about: Sequence[int]) -> int:
    return sum(len(near[u] & near[v]) for u in near for v in near[u] if u < v) // 3


def _diameter(near: Neighbours, about: Sequence[int]) -> int:
    return max(max(distances(near, node).values()) for node in near)


def _bipartite(near: Neighbours, about: Sequence[int]) -> int:
    """1 where no edge joins two nodes at equal parity of distance from their component's first node."""
    parity: dict[int, int] = {}
    for node in near:
        if node not in parity:
            parity.update({other: steps % 2 for other, steps in distances(near, node).items()})
    return int(all(parity[u] != parity[v] for u in near for v in near[u]))


COUNTS: Mapping[str, Callable[[Neighbours, Sequence[int]], int]] = {
    "degree": lambda near, about: len(near[about[0]]),
    "components": _components,
    "triangles": _triangles,
    "diameter": _diameter,
    "bipartite": _bipartite,
}


def _is_shortest(path: Sequence[int], near: Neighbours, start: int, end: int) -> bool:
    steps = distances(near, start).get(end)
    if steps is None:
        return not path
    joined = all(v in near.get(u, frozenset()) for u, v in pairwise(path))
    return len(path) == steps + 1 and path[0] == start and path[-1] == end and joined


def _is_order(order: Sequence[int], nodes: int, edges: Edges) -> bool:
    place = {node: number for number, node in enumerate(order)}
    if len(order) != nodes or place.keys() != set(range(nodes)):
        return False
    return all(place[u] < place[v] for u, v in edges)


def random_graph(draw: random.Random, nodes: int, density: float) -> list[tuple[int, int]]:
    """Each pair u < v is an edge with this probability; in this direction the graph has no cycle."""
    return [pair for pair in combinations(range(nodes), 2) if draw.random() < density]


def solution(ask: str, nodes: int, edges: Edges, about: Sequence[int]) -> str:
    """One right answer."""
    near = neighbours(nodes, edges)
    if ask == "topological_order":
        return " ".join(map(str, _order(nodes, edges)))
    if ask == "common_neighbours":
        return " ".join(map(str, sorted(near[about[0]] & near[about[1]]))) or "none"
    if ask == "shortest_path":
        return " ".join(map(str, _path(near, about[0], about[1]))) or "none"
    return str(COUNTS[ask](near, about))


def _path(near: Neighbours, start: int, end: int) -> list[int]:
    to_end = distances(near, end)
    if start not in to_end:
        return []
    path = [start]
    while path[-1] != end:
        path.append(min(node for node in near[path[-1]] if to_end[node] == to_end[path[-1]] - 1))
    return path


def _order(nodes: int, edges: Edges) -> list[int]:
    left, order = set(range(nodes)), []
    while left:
        first = min(node for node in left if not any(v == node and u in left for u, v in edges))
        left.remove(first)
        order.append(first)
    return order
