"""What a further term of the loss is given, and the registry of all of them.

A term adds weight x loss to a token's loss; `algorithm.terms` names any number of them. One that compares with another
policy says so when it registers, and only then is such a policy loaded.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from learners.registry import Registry


@dataclass(frozen=True, slots=True, eq=False)
class TermInput:
    """All tensors [N], N the trained tokens of a micro-batch.

    Attributes:
        logprobs: of the sampled tokens under the weights being trained, with gradient.
        entropy: of each token's distribution, in nats, with gradient.
        advantages: of each token.
        sequence: int64, index of each token's answer within the micro-batch; tokens of an answer are in order.
        other_logprobs: under the policy that the term compares with; None where it compares with none.
    """

    logprobs: Tensor
    entropy: Tensor
    advantages: Tensor
    sequence: Tensor
    other_logprobs: Tensor | None = None

    @property
    def log_ratio(self) -> Tensor:
        """[N] d = logp - logp_other, with gradient."""
        assert self.other_logprobs is not None, "the learner loads a policy for every term that compares with one"
        return self.logprobs - self.other_logprobs


@dataclass(frozen=True, slots=True)
class Term:
    """Attributes:
    loss: from a `TermInput`, and options by keyword, to [N].
    compares: whether it needs `other_logprobs`.
    """

    loss: Callable[..., Tensor]
    compares: bool


TERMS: Registry[Term] = Registry("algorithm.terms")


def term(name: str, *, compares: bool = False) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Decorator that registers a term's loss under a name. Raises: ValueError: the name is taken."""

    def add(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
        TERMS.register(name)(Term(loss, compares))
        return loss

    return add
