"""What is done to a batch's advantages after each group has been compared with itself: `algorithm.advantage_norm`.

A norm sees whole groups, knows its own past alone, and gives back advantages in the same order. Its state is plain
numbers by name, so that a checkpoint can hold it; the same batches in the same order give the same state.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Protocol

from learners.registry import Registry


@dataclass(frozen=True, slots=True)
class GroupAdvantages:
    """Of one group: its rewards and advantages in order of sampling, and the task that its prompt belongs to."""

    rewards: tuple[float, ...]
    advantages: tuple[float, ...]
    task: str


Advantages = list[tuple[float, ...]]


class AdvantageNorm(Protocol):
    """Attributes: whole_batch: it must see all groups of a training step at once, so that none can be streamed."""

    whole_batch: bool

    def __call__(self, groups: Sequence[GroupAdvantages]) -> Advantages:
        """The advantages of each group, as they shall be trained on."""

    def state(self) -> dict[str, list[float]]:
        """What it remembers."""

    def restore(self, state: Mapping[str, Sequence[float]]) -> None:
        """Go on from a remembered state."""


NORMS: Registry[Callable[..., AdvantageNorm]] = Registry("algorithm.advantage_norm")


class _Stateless:
    whole_batch = True

    def state(self) -> dict[str, list[float]]:
        return {}

    def restore(self, state: Mapping[str, Sequence[float]]) -> None:
        pass


@NORMS.register("none")
class AsTheyAre(_Stateless):
    """A' = A."""

    whole_batch = False

    def __call__(self, groups: Sequence[GroupAdvantages]) -> Advantages:
        return [group.advantages for group in groups]


class MomentNorm(_Stateless):
    """A norm that needs mean and deviation alone, and so norms advantages of tokens like those of answers: where each
    token has its own (`VALUE_ADVANTAGES`), read "all trained tokens" for "all answers"."""

    def __init__(self, *, eps: float = 1e-6) -> None:
        self._eps = eps

    def __call__(self, groups: Sequence[GroupAdvantages]) -> Advantages:
        return _scaled(groups, *self.centre_and_scale(_mean(groups), _spread(groups)))

    def centre_and_scale(self, mean: float, spread: float) -> tuple[float, float]:
        """c and s of A' = (A - c) / s.

        Args:
            spread: population standard deviation about the mean.
        """
        raise NotImplementedError


@NORMS.register("batch_std")
class BatchStd(MomentNorm):
    """A' = A / (std over all answers of the batch + eps): REINFORCE++ with a group baseline (arXiv 2501.03262)."""

    def centre_and_scale(self, mean: float, spread: float) -> tuple[float, float]:
        return 0.0, spread + self._eps


@NORMS.register("batch_whiten")
class BatchWhiten(MomentNorm):
    """A' = (A - mean over the batch) / (std over the batch + eps): REINFORCE++ (arXiv 2501.03262)."""

    def centre_and_scale(self, mean: float, spread: float) -> tuple[float, float]:
        return mean, spread + self._eps


@NORMS.register("task_std")
class TaskStd:
    """A' = A / max(sigma of the task's rewards, floor): EMA-GRPO (OneThinker, arXiv 2512.03043).

    sigma comes from moving averages of the first two moments, without the bias of their start (as in Adam). Tasks with
    rewards of other sizes weigh alike, and a prompt's own difficulty stays: use with `algorithm.advantage=dr_grpo`.

    Args:
        decay: of the averages, per group of the task.
        floor: smallest sigma, above 0.
    """

    whole_batch = False

    def __init__(self, *, decay: float = 0.99, floor: float = 1e-3) -> None:
        if not (0 <= decay < 1 and floor > 0):
            raise ValueError(f"decay={decay} must be in [0, 1) and floor={floor} above 0")
        self._decay, self._floor = decay, floor
        self._moments: dict[str, tuple[float, float, float]] = {}
        """Of each task: moving sums of 1, r and r^2, each group's weight the same."""

    def __call__(self, groups: Sequence[GroupAdvantages]) -> Advantages:
        for group in groups:
            new = (1.0, fmean(group.rewards), fmean(reward * reward for reward in group.rewards))
            old = self._moments.get(group.task, (0.0, 0.0, 0.0))
            keep = self._decay
            self._moments[group.task] = (
                keep * old[0] + (1 - keep) * new[0],
                keep * old[1] + (1 - keep) * new[1],
                keep * old[2] + (1 - keep) * new[2],
            )
        return [tuple(a / self._sigma(group.task) for a in group.advantages) for group in groups]

    def state(self) -> dict[str, list[float]]:
        return {task: list(moments) for task, moments in self._moments.items()}

    def restore(self, state: Mapping[str, Sequence[float]]) -> None:
        self._moments = {task: (moments[0], moments[1], moments[2]) for task, moments in state.items()}

    def _sigma(self, task: str) -> float:
        weight, first, second = self._moments[task]
        mean = first / weight
        return max(math.sqrt(max(second / weight - mean * mean, 0.0)), self._floor)


@NORMS.register("task_baseline")
class TaskBaseline:
    """A' = A - b of the task, b <- decay b + (1 - decay) mean(A): role-conditioned advantages (SPIRAL, arXiv
    2506.24119), whose task is a game and a role.

    Use with `algorithm.advantage=raw`: the baseline stands where a group has its mean. It moves after it was used, so
    that no reward is compared with itself; the first group of a task is compared with 0.
    """

    whole_batch = False

    def __init__(self, *, decay: float = 0.95) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay} must be in [0, 1)")
        self._decay = decay
        self._baselines: dict[str, float] = {}

    def __call__(self, groups: Sequence[GroupAdvantages]) -> Advantages:
        moved: Advantages = []
        for group in groups:
            baseline = self._baselines.get(group.task, 0.0)
            moved.append(tuple(a - baseline for a in group.advantages))
            self._baselines[group.task] = self._decay * baseline + (1 - self._decay) * fmean(group.advantages)
        return moved

    def state(self) -> dict[str, list[float]]:
        return {task: [baseline] for task, baseline in self._baselines.items()}

    def restore(self, state: Mapping[str, Sequence[float]]) -> None:
        self._baselines = {task: values[0] for task, values in state.items()}


def _mean(groups: Sequence[GroupAdvantages]) -> float:
    return fmean(a for group in groups for a in group.advantages)


def _spread(groups: Sequence[GroupAdvantages]) -> float:
    """Population standard deviation over all answers, about their own mean."""
    mean = _mean(groups)
    return math.sqrt(fmean((a - mean) ** 2 for group in groups for a in group.advantages))


def _scaled(groups: Sequence[GroupAdvantages], centre: float, scale: float) -> Advantages:
    return [tuple((a - centre) / scale if a != centre else 0.0 for a in group.advantages) for group in groups]
