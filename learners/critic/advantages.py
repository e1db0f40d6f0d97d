"""Advantages of tokens, from what a critic expected of the states between them: generalised advantage estimation.

Pure functions on the trained tokens of whole answers, chosen by name (`VALUE_ADVANTAGES`). A state is all that stands
before a token. A token that takes no loss (the output of a tool) is no action: it belongs to the way from one state to
the next. An answer's reward comes with its last trained token; what a token was given for itself, with that token.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from learners.needs import needs
from learners.registry import Registry


@dataclass(frozen=True, slots=True, eq=False)
class ValuedTokens:
    """N trained tokens of S whole answers; each has at least one, and those of an answer stand together, in order.

    Attributes:
        values: [N] float, V of the state before each token.
        sequence: [N] int64, index of each token's answer, ascending.
        rewards: [S] float, of each answer.
        values_after: [S] float, V of the state after each answer's last token.
        truncated: [S] bool, whether the answer was cut before its end.
        token_rewards: [N] float, of each token for itself; None where no token has one.
    """

    values: Tensor
    sequence: Tensor
    rewards: Tensor
    values_after: Tensor
    truncated: Tensor
    token_rewards: Tensor | None = None

    @property
    def last(self) -> Tensor:
        """[S] place of each answer's last token."""
        return self.sequence.bincount().cumsum(0) - 1


@dataclass(frozen=True, slots=True, eq=False)
class TokenCredit:
    """[N] each.

    Attributes:
        advantages: float32, for the policy.
        returns: float32, what the critic should have expected: its regression target.
        teaches: bool, whether the critic learns from the token.
    """

    advantages: Tensor
    returns: Tensor
    teaches: Tensor


VALUE_ADVANTAGES: Registry[Callable[..., TokenCredit]] = Registry("algorithm.advantage")
"""From `ValuedTokens`, and options by keyword, to `TokenCredit`. A recipe that names one of them has a critic."""


def asks_critic(advantage: str) -> bool:
    """Whether the advantage of this name is made of a critic's values."""
    return advantage in VALUE_ADVANTAGES.names()


@VALUE_ADVANTAGES.register("gae")
@needs("token_rewards")
def gae(given: ValuedTokens, *, gamma: float = 1.0, lam: float = 0.95, critic_lam: float | None = None) -> TokenCredit:
    """A_t = sum_l (gamma lam)^l delta_(t+l), delta_t = r_t + gamma V_(t+1) - V_t: GAE (arXiv 1506.02438), PPO's.

    The sum ends with the answer, after which V is 0, also where the answer was cut. With lam = 1 an advantage is what
    came minus what was expected; with lam = 0 a token is judged by the value of the very next state.

    Args:
        gamma: discount of a reward per trained token.
        lam: how far an advantage looks ahead before it believes the critic, in [0, 1].
        critic_lam: the same for the critic's targets R_t = V_t + A_t; None is `lam`. With 1 they are what really came
            (VC-PPO, arXiv 2503.01491).

    Raises:
        ValueError: gamma or a lam outside [0, 1].
    """
    teaches = torch.ones_like(given.sequence, dtype=torch.bool)
    return _credit(given, torch.zeros_like(given.values_after), teaches, gamma, lam, critic_lam)


@VALUE_ADVANTAGES.register("extended_gae")
@needs("token_rewards")
def extended_gae(
    given: ValuedTokens,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    critic_lam: float | None = 1.0,
    critic_learns_from: Literal["finished", "all"] = "finished",
) -> TokenCredit:
    """`gae`, but at a cut delta_(l-1) = gamma V_l - V_(l-1): T-PPO's extended GAE (arXiv 2506.15050).

    So an answer that was cut counts as one that goes on as the critic expects. V_l is read where the answer ends; the
    paper takes V_(l-1) for it. The reward comes with an answer's end alone: what a cut answer was given is left out,
    or V_l would count it a second time, and targets made of both would grow without a bound. What tokens were given
    for themselves came on the way, and stays.

    Args:
        gamma, lam: see `gae`.
        critic_lam: see `gae`; the paper's critic learns from what really came.
        critic_learns_from: `finished`: tokens of answers that came to their end, as in the paper; `all`: of cut ones
            too, whose targets lean on the critic's own word.

    Raises:
        ValueError: gamma or a lam outside [0, 1].
    """
    after = given.values_after.where(given.truncated, 0.0)
    teaches = torch.ones_like(given.sequence, dtype=torch.bool)
    if critic_learns_from == "finished":
        teaches = ~given.truncated[given.sequence]
    so_far = replace(given, rewards=given.rewards.where(~given.truncated, 0.0))
    return _credit(so_far, after, teaches, gamma, lam, critic_lam)


def _credit(
    given: ValuedTokens, after: Tensor, teaches: Tensor, gamma: float, lam: float, critic_lam: float | None
) -> TokenCredit:
    """Args: after: [S] V of the state after each answer."""
    critic_lam = lam if critic_lam is None else critic_lam
    if not all(0 <= share <= 1 for share in (gamma, lam, critic_lam)):
        raise ValueError(f"gamma={gamma}, lam={lam} and critic_lam={critic_lam} must be in [0, 1]")
    values, last = given.values.double(), given.last
    next_values = values.roll(-1)
    next_values[last] = after.double()
    deltas = gamma * next_values - values
    deltas[last] += given.rewards.double()
    if given.token_rewards is not None:
        deltas += given.token_rewards.double()

    def summed(share: float) -> Tensor:
        keeps = torch.full_like(values, gamma * share)
        keeps[last] = 0.0
        return _from_behind(deltas, keeps)

    advantages = summed(lam)
    targets = advantages if critic_lam == lam else summed(critic_lam)
    return TokenCredit(advantages.float(), (values + targets).float(), teaches)


def _from_behind(deltas: Tensor, keeps: Tensor) -> Tensor:
    """[N] x_t = delta_t + keep_t x_(t+1)."""
    sums: list[float] = []
    following = 0.0
    for delta, keep in zip(reversed(deltas.tolist()), reversed(keeps.tolist()), strict=True):
        following = delta + keep * following
        sums.append(following)
    return torch.tensor(sums[::-1], dtype=deltas.dtype)
