"""This package's generators as tasks of reasoning-gym: `random_calculation`, `saturn` and `g1_graph`.

Once this module is imported they stand in `data.tasks` beside reasoning-gym's own, with their difficulty as options,
and the `reasoning_gym` term scores them by the checkers of this package. Item i of a data set depends on its options,
its seed and i alone.
"""

import random
from dataclasses import dataclass, field

from reasoning_gym.dataset import ProceduralDataset
from reasoning_gym.factory import DATASETS, register_dataset

from rewards.puzzles.arithmetic import check_operators, nearness, random_expression
from rewards.puzzles.expression import value_of
from rewards.puzzles.graphs import QUESTIONS, judge, random_graph, solution
from rewards.puzzles.sat import clauses_of, difficulty, random_instance, satisfies
from rewards.response import Json

Item = dict[str, Json]


@dataclass
class RandomCalculationConfig:
    """`steps` operations over numbers of [low, high]."""

    seed: int | None = None
    size: int = 500
    min_steps: int = 2
    max_steps: int = 6
    low: int = 0
    high: int = 100
    operators: str = "+-*"

    def validate(self) -> None:
        """Raises: ValueError."""
        check_operators(self.operators)
        if not 1 <= self.min_steps <= self.max_steps <= 60:
            raise ValueError("1 <= min_steps <= max_steps <= 60 must hold")
        if self.low > self.high or (self.low == self.high == 0 and self.operators == "/"):
            raise ValueError("low must be at most high, and divisors other than 0 must be possible")


class RandomCalculation(ProceduralDataset):
    """Expressions that nobody has seen before, with exact values (RandomCalculation, arXiv 2507.10532)."""

    def __init__(self, config: RandomCalculationConfig) -> None:
        super().__init__(config=config, seed=config.seed, size=config.size)

    def __getitem__(self, idx: int) -> Item:
        draw, config = _draw(self.seed, idx), self.config
        steps = draw.randint(config.min_steps, config.max_steps)
        text, value = random_expression(draw, steps, config.low, config.high, config.operators)
        question = f"Calculate {text[1:-1]}. Answer with the exact number; write a fraction as a/b."
        return _item(question, str(value), "random_calculation", idx, {"steps": steps})

    def score_answer(self, answer: str | None, entry: Item) -> float:
        return nearness(answer or "", value_of(str(entry["answer"]))[0])


@dataclass
class SaturnConfig:
    """`clauses` of `width` literals over `variables`; the difficulty is n, l and k of SATURN."""

    seed: int | None = None
    size: int = 500
    width: int = 3
    variables: int = 5
    clauses: int = 10

    def validate(self) -> None:
        """Raises: ValueError."""
        random_instance(random.Random(0), self.width, self.variables, self.clauses)


class Saturn(ProceduralDataset):
    """Satisfiable instances; any satisfying assignment is right (SATURN, arXiv 2505.16368)."""

    def __init__(self, config: SaturnConfig) -> None:
        super().__init__(config=config, seed=config.seed, size=config.size)

    def __getitem__(self, idx: int) -> Item:
        config = self.config
        clauses, planted = random_instance(_draw(self.seed, idx), config.width, config.variables, config.clauses)
        lines = " and ".join("(" + " or ".join(map(_literal, clause)) + ")" for clause in clauses)
        question = (
            f"Find truth values for x1 to x{config.variables} that make this true: {lines}. Answer with the number of "
            "each variable, a minus before it where it is false, for example 1 -2 3."
        )
        level = difficulty(config.width, config.variables, config.clauses)
        facts: dict[str, Json] = {
            "clauses": [list(clause) for clause in clauses],
            "variables": config.variables,
            "difficulty": {"width": config.width, "clauses": config.clauses, "estimate": level},
        }
        return _item(question, " ".join(map(str, planted)), "saturn", idx, facts)

    def score_answer(self, answer: str | None, entry: Item) -> float:
        facts = entry["metadata"]
        assert isinstance(facts, dict)
        return float(satisfies(answer or "", clauses_of(facts["clauses"]), int(str(facts["variables"]))))


@dataclass
class GraphConfig:
    """Questions of `rewards.puzzles.graphs.QUESTIONS` about random graphs."""

    seed: int | None = None
    size: int = 500
    ask: tuple[str, ...] = field(default_factory=lambda: tuple(QUESTIONS))
    min_nodes: int = 5
    max_nodes: int = 9
    density: float = 0.35

    def validate(self) -> None:
        """Raises: ValueError."""
        unknown = [name for name in self.ask if name not in QUESTIONS]
        if unknown or not self.ask:
            raise ValueError(f"ask names {unknown or 'nothing'}; the questions are {', '.join(QUESTIONS)}")
        if not 2 <= self.min_nodes <= self.max_nodes or not 0 <= self.density <= 1:
            raise ValueError("2 <= min_nodes <= max_nodes and 0 <= density <= 1 must hold")


class Graphs(ProceduralDataset):
    """Small graphs in words (G1, arXiv 2505.18499)."""

    def __init__(self, config: GraphConfig) -> None:
        super().__init__(config=config, seed=config.seed, size=config.size)

    def __getitem__(self, idx: int) -> Item:
        draw, config = _draw(self.seed, idx), self.config
        ask, nodes = draw.choice(list(config.ask)), draw.randint(config.min_nodes, config.max_nodes)
        edges = random_graph(draw, nodes, config.density)
        a, b = draw.sample(range(nodes), 2)
        listed = ", ".join(f"({u}, {v})" for u, v in edges) or "none"
        question = f"A graph has the nodes 0 to {nodes - 1} and the edges {listed}. " + QUESTIONS[ask].format(a=a, b=b)
        facts: dict[str, Json] = {"ask": ask, "nodes": nodes, "edges": [[u, v] for u, v in edges], "a": a, "b": b}
        return _item(question, solution(ask, nodes, edges, (a, b)), "g1_graph", idx, facts)

    def score_answer(self, answer: str | None, entry: Item) -> float:
        facts = entry["metadata"]
        assert isinstance(facts, dict)
        edges = facts["edges"]
        assert isinstance(edges, list)
        pairs = [(int(str(u)), int(str(v))) for u, v in (edge for edge in edges if isinstance(edge, list | tuple))]
        about = (int(str(facts["a"])), int(str(facts["b"])))
        return judge(str(facts["ask"]), answer or "", int(str(facts["nodes"])), pairs, about)


def _draw(seed: int, index: int) -> random.Random:
    return random.Random(f"{seed}/{index}")


def _item(question: str, answer: str, name: str, index: int, facts: dict[str, Json]) -> Item:
    return {
        "question": question,
        "answer": answer,
        "metadata": {"source_dataset": name, "source_index": index, **facts},
    }


def _literal(literal: int) -> str:
    return f"x{literal}" if literal > 0 else f"not x{-literal}"


OURS = ("random_calculation", "saturn", "g1_graph")
if OURS[0] not in DATASETS:
    register_dataset("random_calculation", RandomCalculation, RandomCalculationConfig)
    register_dataset("saturn", Saturn, SaturnConfig)
    register_dataset("g1_graph", Graphs, GraphConfig)
