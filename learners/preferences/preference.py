"""What a preference loss is given, what it returns, and the registry of all of them.

A loss is either of pairs, a chosen and a rejected answer to one prompt, or of groups, any number of answers to one
prompt, each good or bad. One that compares with another policy says so when it registers, and only then is such a
policy asked.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from learners.registry import Registry


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """All tensors [P], float32, P pairs; only `chosen` and `rejected` carry gradient.

    Attributes:
        chosen, rejected: logprob of the whole answer, summed over its trained tokens, under the trained policy.
        chosen_tokens, rejected_tokens: how many tokens that were, at least 1.
        reference_chosen, reference_rejected: under the policy compared with; None where the loss compares with none.
    """

    chosen: Tensor
    rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    reference_chosen: Tensor | None = None
    reference_rejected: Tensor | None = None

    @property
    def chosen_gain(self) -> Tensor:
        """[P] log pi / pi_ref of the chosen answer, with gradient."""
        assert self.reference_chosen is not None, "the learner asks a reference for every loss that compares"
        return self.chosen - self.reference_chosen

    @property
    def rejected_gain(self) -> Tensor:
        """[P] log pi / pi_ref of the rejected answer, with gradient."""
        assert self.reference_rejected is not None, "the learner asks a reference for every loss that compares"
        return self.rejected - self.reference_rejected

    @property
    def margin(self) -> Tensor:
        """[P] h = log pi / pi_ref (chosen) - log pi / pi_ref (rejected), with gradient."""
        return self.chosen_gain - self.rejected_gain

    @property
    def chosen_mean(self) -> Tensor:
        """[P] logprob per token of the chosen answer, with gradient."""
        return self.chosen / self.chosen_tokens

    @property
    def rejected_mean(self) -> Tensor:
        """[P] logprob per token of the rejected answer, with gradient."""
        return self.rejected / self.rejected_tokens


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Answers to U prompts, [S] tensors, float32 but for `good` and `unit`; only `logprobs` carries gradient.

    Attributes:
        logprobs: of the whole answer, summed over its trained tokens, under the trained policy.
        tokens: how many tokens that were, at least 1.
        good: bool, whether the answer is wanted.
        unit: int64, index of the prompt that it answers, 0 to U - 1, each with at least one answer.
        reference: under the policy compared with; None where the loss compares with none.
    """

    logprobs: Tensor
    tokens: Tensor
    good: Tensor
    unit: Tensor
    reference: Tensor | None = None

    @property
    def units(self) -> int:
        """U, the number of prompts."""
        return int(self.unit.max()) + 1 if self.unit.numel() else 0

    @property
    def gain(self) -> Tensor:
        """[S] log pi / pi_ref of each answer, with gradient."""
        assert self.reference is not None, "the learner asks a reference for every loss that compares"
        return self.logprobs - self.reference

    def unit_sum(self, values: Tensor) -> Tensor:
        """[U] sum of [S] values over each prompt's answers."""
        return values.new_zeros(self.units).index_add(0, self.unit, values)

    def unit_mean(self, values: Tensor) -> Tensor:
        """[U] mean of [S] values over each prompt's answers."""
        return self.unit_sum(values) / torch.bincount(self.unit, minlength=self.units)


Loss = Callable[..., tuple[Tensor, Mapping[str, Tensor]]]
"""From `Pairs` or `Groups`, and options by keyword, to each unit's loss, [P] or [U], and what happened, by name."""

Registered = TypeVar("Registered", bound=Loss)


@dataclass(frozen=True, slots=True)
class Preference:
    """Attributes:
    loss: the function.
    of: what it is given.
    compares: whether it needs a reference's likelihoods.
    """

    loss: Loss
    of: Literal["pairs", "groups"]
    compares: bool


PREFERENCES: Registry[Preference] = Registry("algorithm.preference.name")


def preference(name: str, *, of: Literal["pairs", "groups"], compares: bool) -> Callable[[Registered], Registered]:
    """Decorator that registers a loss under a name. Raises: ValueError: the name is taken."""

    def add(loss: Registered) -> Registered:
        PREFERENCES.register(name)(Preference(loss, of, compares))
        return loss

    return add
