"""Plays out every outcome of a random computation with its exact probability."""

from collections import defaultdict
from collections.abc import Callable, Hashable
from typing import TypeVar

import torch

_Outcome = TypeVar("_Outcome", bound=Hashable)


class Enumerated:
    """A `Chance` that follows one branch: the choices are given, and beyond them the first possible ones are made."""

    def __init__(self, choices: tuple[int, ...]) -> None:
        self._choices = choices
        self.made: list[tuple[int, list[float]]] = []
        """Each choice with the probabilities of all its alternatives."""

    @property
    def probability(self) -> float:
        product = 1.0
        for choice, probabilities in self.made:
            product *= probabilities[choice]
        return product

    def pick(self, probabilities: torch.Tensor) -> int:
        weights = probabilities.double()
        return self._choose((weights / weights.sum()).tolist())

    def happens(self, probability: float) -> bool:
        certain = min(1.0, probability)
        return bool(self._choose([1 - certain, certain]))

    def _choose(self, probabilities: list[float]) -> int:
        step = len(self.made)
        first = next(i for i, p in enumerate(probabilities) if p > 0)
        choice = self._choices[step] if step < len(self._choices) else first
        self.made.append((choice, probabilities))
        return choice


def law(run: Callable[[Enumerated], _Outcome]) -> dict[_Outcome, float]:
    """The distribution of what `run` gives, by running it once for each branch of positive probability."""
    found: defaultdict[_Outcome, float] = defaultdict(float)
    open_branches: list[tuple[int, ...]] = [()]
    while open_branches:
        choices = open_branches.pop()
        chance = Enumerated(choices)
        outcome = run(chance)
        found[outcome] += chance.probability
        path = [choice for choice, _ in chance.made]
        for step in range(len(choices), len(path)):
            probabilities = chance.made[step][1]
            open_branches += [
                (*path[:step], other) for other in range(path[step] + 1, len(probabilities)) if probabilities[other] > 0
            ]
    return dict(found)


def total_variation(a: dict[_Outcome, float], b: dict[_Outcome, float]) -> float:
    return sum(abs(a.get(outcome, 0.0) - b.get(outcome, 0.0)) for outcome in a.keys() | b.keys()) / 2
