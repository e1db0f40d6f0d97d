"""Token advantages from values: worked examples, the definition as a double sum, and what must not matter."""

import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from learners.critic.advantages import VALUE_ADVANTAGES, TokenCredit, ValuedTokens, extended_gae, gae
from learners.options import options_of


def one_answer(
    values: list[float], reward: float = 0.0, *, after: float = 9.0, truncated: bool = False
) -> ValuedTokens:
    """An answer with these values; 9 is what nothing but a cut may read."""
    return ValuedTokens(
        torch.tensor(values),
        torch.zeros(len(values), dtype=torch.int64),
        torch.tensor([reward]),
        torch.tensor([after]),
        torch.tensor([truncated]),
    )


def random_answers(seed: int, lengths: tuple[int, ...] = (7, 1, 12, 3, 30)) -> list[ValuedTokens]:
    draw = random.Random(seed)
    return [
        one_answer(
            [draw.gauss(0, 1) for _ in range(length)],
            draw.choice((0.0, 1.0, -0.5)),
            after=draw.gauss(0, 1),
            truncated=draw.random() < 0.5,
        )
        for length in lengths
    ]


def packed(answers: list[ValuedTokens]) -> ValuedTokens:
    return ValuedTokens(
        torch.cat([answer.values for answer in answers]),
        torch.cat([answer.sequence + place for place, answer in enumerate(answers)]),
        torch.cat([answer.rewards for answer in answers]),
        torch.cat([answer.values_after for answer in answers]),
        torch.cat([answer.truncated for answer in answers]),
    )


def by_definition(answer: ValuedTokens, gamma: float, lam: float, *, bootstrap: bool) -> list[float]:
    """A_t = sum over l of (gamma lam)^l delta_(t+l), each delta written out."""
    values = answer.values.tolist()
    goes_on = bootstrap and answer.truncated.item()
    states = [*values, answer.values_after.item() if goes_on else 0.0]
    rewards = [0.0] * (len(values) - 1) + [0.0 if goes_on else answer.rewards.item()]
    deltas = [rewards[t] + gamma * states[t + 1] - states[t] for t in range(len(values))]
    return [
        sum((gamma * lam) ** (later - t) * deltas[later] for later in range(t, len(values))) for t in range(len(values))
    ]


def close(one: Tensor, other: list[float] | Tensor) -> None:
    torch.testing.assert_close(one, torch.as_tensor(other), atol=1e-5, rtol=0)


def test_an_example_worked_by_hand() -> None:
    # delta = 0.5 - 0.2, 0.4 - 0.5, 1 - 0.4 = 0.3, -0.1, 0.6; A_1 = -0.1 + 0.95 x 0.6, A_0 = 0.3 + 0.95 x 0.47
    credit = gae(one_answer([0.2, 0.5, 0.4], reward=1.0), gamma=1.0, lam=0.95)
    close(credit.advantages, [0.7465, 0.47, 0.6])
    close(credit.returns, [0.9465, 0.97, 1.0])
    assert credit.teaches.tolist() == [True] * 3


def test_a_token_is_paid_when_it_comes() -> None:
    given = replace(one_answer([0.2, 0.5, 0.4], reward=1.0), token_rewards=torch.tensor([0.0, -0.5, 0.1]))
    # delta = 0.3, -0.1 - 0.5, 0.6 + 0.1; A_1 = -0.6 + 0.95 x 0.7, A_0 = 0.3 + 0.95 x 0.065
    credit = gae(given, gamma=1.0, lam=0.95)
    close(credit.advantages, [0.36175, 0.065, 0.7])
    close(credit.returns, [0.56175, 0.565, 1.1])
    nothing = replace(given, token_rewards=torch.zeros(3))
    assert torch.equal(gae(nothing).advantages, gae(replace(given, token_rewards=None)).advantages)


def test_what_tokens_of_a_cut_answer_were_given_has_come() -> None:
    cut = one_answer([0.2, 0.5], reward=-1.0, after=0.25, truncated=True)
    paid = replace(cut, token_rewards=torch.tensor([0.5, -0.25]))
    close(extended_gae(paid, gamma=1.0, lam=0.0).advantages, [0.5 + 0.3, -0.25 - 0.25])


def test_a_cut_answer_worked_by_hand() -> None:
    """T-PPO's own case: V at the cut is that of the state before the last token."""
    cut = one_answer([0.2, 0.5, 0.4], after=0.4, truncated=True)
    credit = extended_gae(cut, gamma=1.0, lam=1.0)
    close(credit.advantages, [0.2, -0.1, 0.0])
    assert credit.teaches.tolist() == [False] * 3
    assert extended_gae(cut, critic_learns_from="all").teaches.tolist() == [True] * 3
    # Without the extension the answer ends there, with nothing.
    close(gae(cut, gamma=1.0, lam=1.0).advantages, [-0.2, -0.5, -0.4])


def test_the_reward_of_a_cut_answer_has_not_come_yet() -> None:
    cut = one_answer([0.2, 0.5], reward=-1.0, after=0.25, truncated=True)
    # delta = 0.5 x 0.5 - 0.2 and 0.5 x 0.25 - 0.5, discounted by 0.5.
    close(extended_gae(cut, gamma=0.5, lam=1.0).advantages, [0.05 + 0.5 * -0.375, -0.375])
    # An ended answer of the same row keeps its own.
    both = extended_gae(packed([cut, one_answer([0.5], reward=2.0)]), gamma=0.5, lam=1.0)
    close(both.advantages, [0.05 + 0.5 * -0.375, -0.375, 1.5])


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.0])
@pytest.mark.parametrize("lam", [1.0, 0.95, 0.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_answers_in_one_row_get_the_definition_s_double_sum(gamma: float, lam: float, seed: int) -> None:
    answers = random_answers(seed)
    for estimate, bootstrap in ((gae, False), (extended_gae, True)):
        credit = estimate(packed(answers), gamma=gamma, lam=lam)
        expected = [a for answer in answers for a in by_definition(answer, gamma, lam, bootstrap=bootstrap)]
        close(credit.advantages, expected)


def test_without_a_cut_the_extension_changes_nothing() -> None:
    answers = [
        ValuedTokens(a.values, a.sequence, a.rewards, a.values_after, torch.tensor([False])) for a in random_answers(2)
    ]
    plain, extended = gae(packed(answers), critic_lam=1.0), extended_gae(packed(answers))
    for name in ("advantages", "returns", "teaches"):
        assert torch.equal(getattr(plain, name), getattr(extended, name))


def test_looking_all_the_way_ahead_is_the_reward_against_the_value() -> None:
    given = packed(random_answers(3))
    credit = gae(given, gamma=1.0, lam=1.0)
    close(credit.advantages, given.rewards[given.sequence] - given.values)
    close(credit.returns, given.rewards[given.sequence])


def test_the_critic_may_look_further_ahead_than_the_policy() -> None:
    given = packed(random_answers(4))
    decoupled = gae(given, lam=0.5, critic_lam=1.0)
    assert torch.equal(decoupled.advantages, gae(given, lam=0.5).advantages)
    assert torch.equal(decoupled.returns, gae(given, lam=1.0).returns)


def test_a_row_without_a_trained_token_has_no_advantages() -> None:
    none = torch.zeros(0)
    for name in VALUE_ADVANTAGES.names():
        credit: TokenCredit = VALUE_ADVANTAGES[name](ValuedTokens(none, none.long(), none, none, none.bool()))
        assert credit.advantages.shape == credit.returns.shape == credit.teaches.shape == (0,)


@pytest.mark.parametrize("name", VALUE_ADVANTAGES.names())
def test_every_estimator_says_what_it_computes_and_takes_shares_alone(name: str) -> None:
    estimate = VALUE_ADVANTAGES[name]
    doc = estimate.__doc__ or ""
    assert "arXiv" in doc
    assert all(option in doc for option in options_of(estimate))
    for option in ("gamma", "lam", "critic_lam"):
        for wrong in (-0.1, 1.1):
            with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
                estimate(one_answer([0.0]), **{option: wrong})
