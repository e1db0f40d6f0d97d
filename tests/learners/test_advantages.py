import math

import pytest

from learners.advantages import ADVANTAGES, GroupRewards, dr_grpo, grpo, rloo

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


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo"])
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
