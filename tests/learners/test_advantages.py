import math

import pytest

from learners.advantages import ADVANTAGES, GroupRewards
from learners.advantages.baselines import dr_grpo, grpo, ngrpo, raw, remax, rloo
from learners.advantages.likelihoods import best_of_group, max_rl, paft, tsallis
from learners.advantages.subgroups import dagrpo, hbpo
from learners.needs import needs_of
from learners.options import options_of

ONE_OF_FOUR = GroupRewards((1.0, 0.0, 0.0, 0.0))


def test_grpo_divides_by_the_groups_own_deviation() -> None:
    # mean 1/4, population variance 3/16: 0.75 / 0.4330 = sqrt(3)
    assert grpo(ONE_OF_FOUR, eps=0.0) == pytest.approx((math.sqrt(3), *(-1 / math.sqrt(3),) * 3))
    assert grpo(ONE_OF_FOUR)[0] == pytest.approx(math.sqrt(3), abs=1e-5)


def test_grpo_with_the_sample_deviation() -> None:
    # sample variance 1/4: 0.75 / 0.5
    assert grpo(ONE_OF_FOUR, std="sample", eps=0.0) == pytest.approx((1.5, -0.5, -0.5, -0.5))


def test_dr_grpo_subtracts_the_mean_alone() -> None:
    assert dr_grpo(ONE_OF_FOUR) == pytest.approx((0.75, -0.25, -0.25, -0.25))


def test_rloo_compares_with_the_others() -> None:
    assert rloo(ONE_OF_FOUR) == pytest.approx((1.0, -1 / 3, -1 / 3, -1 / 3))
    assert rloo(GroupRewards((1.0, 3.0, 8.0))) == pytest.approx((1 - 5.5, 3 - 4.5, 8 - 2.0))


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo", "max_rl", "tsallis"])
@pytest.mark.parametrize("rewards", [(0.1,) * 7, (5.0,), (0.0, 0.0)])
def test_no_variance_no_signal(name: str, rewards: tuple[float, ...]) -> None:
    # 7 x 0.1 does not sum to 0.7: the mean alone would leave a residue for grpo to divide.
    assert ADVANTAGES[name](GroupRewards(rewards)) == (0.0,) * len(rewards)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo"])
def test_centred_and_blind_to_a_shift(name: str) -> None:
    plain = ADVANTAGES[name](GroupRewards((0.2, 0.9, 0.4)))
    shifted = ADVANTAGES[name](GroupRewards((10.2, 10.9, 10.4)))
    assert sum(plain) == pytest.approx(0.0, abs=1e-12)
    assert shifted == pytest.approx(plain)


@pytest.mark.parametrize("rewards", [(), (1.0, math.nan), (math.inf,)])
def test_bad_rewards(rewards: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="finite"):
        GroupRewards(rewards)


@pytest.mark.parametrize("name", ADVANTAGES.names())
def test_every_estimator_names_its_paper_and_its_options(name: str) -> None:
    doc = ADVANTAGES[name].__doc__ or ""
    assert "arXiv" in doc or "Williams 1992" in doc or "GARL" in doc or "PAFT" in doc
    assert all(option in doc for option in options_of(ADVANTAGES[name]))


def test_raw_rewards_are_their_own_advantages() -> None:
    assert raw(ONE_OF_FOUR) == (1.0, 0.0, 0.0, 0.0)


def test_ngrpos_virtual_answer_lets_an_all_wrong_group_push_down() -> None:
    for size in (1, 4, 8):
        assert ngrpo(GroupRewards((0.0,) * size)) == pytest.approx((-1 / math.sqrt(size),) * size, abs=1e-5)
    assert ngrpo(GroupRewards((1.0,) * 8)) == (0.0,) * 8
    # Rewards 1, 0, 0, 0 and 1: mean 0.4, standard deviation sqrt(0.24).
    assert ngrpo(ONE_OF_FOUR) == pytest.approx((0.6 / 0.24**0.5, *(-0.4 / 0.24**0.5,) * 3), abs=1e-5)
    with pytest.raises(ValueError, match=r"r_max=1\.0 is below"):
        ngrpo(GroupRewards((2.0, 0.0)))


def test_max_rl_divides_by_the_success_rate() -> None:
    assert max_rl(ONE_OF_FOUR) == pytest.approx((3.0, -1.0, -1.0, -1.0))
    with pytest.raises(ValueError, match="0 or more"):
        max_rl(GroupRewards((-1.0, 1.0)))


def test_tsallis_lies_between_the_mean_and_the_likelihood() -> None:
    assert tsallis(ONE_OF_FOUR, q=0.0) == dr_grpo(ONE_OF_FOUR)
    assert tsallis(ONE_OF_FOUR, q=0.5) == pytest.approx([2 * a for a in dr_grpo(ONE_OF_FOUR)])
    assert tsallis(ONE_OF_FOUR, q=1.0, floor=0.5) == pytest.approx([2 * a for a in dr_grpo(ONE_OF_FOUR)])
    with pytest.raises(ValueError, match="must be in"):
        tsallis(ONE_OF_FOUR, q=2.0)


@pytest.mark.parametrize("q", [0.0, 0.5, 1.0])
def test_tsallis_climbs_log_q_of_the_success_rate(q: float) -> None:
    """Two answers to choose from, the policy a logistic p of one parameter: over all groups of G answers, the expected
    update is d log_q p = p^(1 - q) (1 - p), up to the error of estimating p from G answers, which falls as 1 / G."""
    p, errors = 0.3, []
    for size in (4, 16, 64):
        update = 0.0
        for right in range(size + 1):
            chance = math.comb(size, right) * p**right * (1 - p) ** (size - right)
            advantages = tsallis(GroupRewards((1.0,) * right + (0.0,) * (size - right)), q=q)
            # d log pi of a right answer is 1 - p, of a wrong one -p; the group's mean, with Dr. GRPO's factor.
            gradients = [1 - p] * right + [-p] * (size - right)
            mean = sum(a * g for a, g in zip(advantages, gradients, strict=True)) / size
            update += chance * mean * size / (size - 1)
        errors.append(abs(update - p ** (1 - q) * (1 - p)))
    assert errors[-1] < 0.02
    assert errors[0] < 1e-12 or errors[-1] < errors[0] / 4


def test_best_of_group_trains_on_the_best_alone() -> None:
    assert best_of_group(GroupRewards((0.2, 0.9, 0.9))) == (0.0, 1.0, 1.0)
    assert best_of_group(GroupRewards((0.0, 0.0))) == (0.0, 0.0)
    assert best_of_group(GroupRewards((0.2, 0.4)), threshold=0.5) == (0.0, 0.0)


def test_remax_compares_with_the_greedy_answer() -> None:
    assert needs_of(remax) == {"greedy_answer"}
    assert remax(GroupRewards((1.0, 0.0, 0.5), greedy=0.5)) == (0.5, -0.5, 0.0)
    assert remax(GroupRewards((1.0,), greedy=0.0)) == (1.0,)


@pytest.mark.parametrize("q", [0.0, 0.5, 0.75, 1.0])
def test_paft_is_supervised_training_on_the_posterior(q: float) -> None:
    """Four traces with chances under the policy, and of the right answer behind each: with every trace as often as its
    chance says, the mean update is p^(1 - q) times the posterior's, sum_z P(z | right) grad log P(z)."""
    counts, right = (5, 3, 1, 1), (0.1, 0.2, 0.9, 0.0)
    advantages = paft(GroupRewards(tuple(r for count, r in zip(counts, right, strict=True) for _ in range(count))), q=q)
    p = sum(count / 10 * r for count, r in zip(counts, right, strict=True))
    of_trace, place = [], 0
    for count in counts:
        of_trace.append(sum(advantages[place : place + count]) / 10)
        place += count
    posterior = [count / 10 * r / p for count, r in zip(counts, right, strict=True)]
    assert of_trace == pytest.approx([p ** (1 - q) * chance for chance in posterior])


def test_paft_and_garl_differ_by_a_baseline() -> None:
    group = GroupRewards((0.2, 0.9, 0.4))
    gaps = [a - b for a, b in zip(paft(group, q=0.5), tsallis(group, q=0.5), strict=True)]
    assert gaps == pytest.approx([0.5**0.5] * 3)
    assert paft(GroupRewards((0.0, 0.0))) == (0.0, 0.0)
    with pytest.raises(ValueError, match="0 or more"):
        paft(GroupRewards((-1.0, 1.0)))


def test_dagrpo_leaves_out_pairs_that_score_alike() -> None:
    # Rewards 1, 0.95, 0: the first two do not tell apart. Differences kept: 1, 0.95 | 0.95 | -1, -0.95; over 3 answers.
    rewards = (1.0, 0.95, 0.0)
    spread = math.sqrt(sum((r - 0.65) ** 2 for r in rewards) / 3)
    assert dagrpo(GroupRewards(rewards), eps=0.0) == pytest.approx([x / 3 / spread for x in (1.0, 0.95, -1.95)])
    assert dagrpo(GroupRewards(rewards), tau=0.0, eps=0.0) == pytest.approx(grpo(GroupRewards(rewards), eps=0.0))
    assert dagrpo(GroupRewards((0.5, 0.45, 0.41))) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="tau=-1"):
        dagrpo(GroupRewards(rewards), tau=-1)


def test_dagrpo_may_score_more_finely_than_the_reward() -> None:
    # Right, right, wrong, wrong; the last two steps scores 0.9, 0.2, 0.85, 0.1: pairs (0, 2) and (1, 3) are alike.
    terms = tuple({"steps": score} for score in (0.9, 0.2, 0.85, 0.1))
    group = GroupRewards((1.0, 1.0, 0.0, 0.0), terms=terms)
    assert dagrpo(group, tau=0.2, score="steps", eps=0.0) == pytest.approx([0.5, 0.5, -0.5, -0.5])
    assert dagrpo(group, score="", eps=0.0) == pytest.approx([1.0, 1.0, -1.0, -1.0])
    with pytest.raises(ValueError, match="score=step: no such reward term was scored, there are steps"):
        dagrpo(group, score="step")


def test_hbpo_compares_within_a_budget_and_budgets_with_each_other() -> None:
    assert needs_of(hbpo) == {"budgets"}
    # Budgets 0 and 1 with means 0.5 and 1.0: 0.25 below and above the whole's.
    group = GroupRewards((1.0, 0.0, 1.5, 0.5), parts=(0, 0, 1, 1))
    assert hbpo(group, std=False) == pytest.approx((0.25, -0.75, 0.75, -0.25))
    assert hbpo(group, std=False) == pytest.approx(dr_grpo(group))
    assert hbpo(group, std=False, inter=0.0) == pytest.approx((0.5, -0.5, 0.5, -0.5))
    assert hbpo(group, inter=0.0) == pytest.approx((1.0, -1.0, 1.0, -1.0))
    assert hbpo(group) == pytest.approx((0.0, -2.0, 2.0, 0.0))
    assert hbpo(GroupRewards((1.0,) * 4, parts=(0, 0, 1, 1))) == (0.0,) * 4
    # What a budget's answers have within it sums to 0, also where budgets have unequal numbers of answers.
    uneven = hbpo(GroupRewards((1.0, 0.2, 0.6, 0.1), parts=(0, 0, 0, 1)), inter=0.0)
    assert sum(uneven[:3]) == pytest.approx(0.0, abs=1e-12)
    assert uneven[3] == 0.0
