"""What is done to the advantages of a batch."""

import math

import pytest

from learners.advantages import ADVANTAGES, NORMS, GroupAdvantages, GroupRewards
from learners.advantages.norms import AsTheyAre, BatchStd, BatchWhiten, TaskBaseline, TaskStd


def group(*rewards: float, task: str = "sums", advantage: str = "dr_grpo") -> GroupAdvantages:
    return GroupAdvantages(rewards, ADVANTAGES[advantage](GroupRewards(rewards)), task)


def test_none_leaves_them_as_they_are() -> None:
    groups = [group(1.0, 0.0), group(3.0, 0.0, 0.0)]
    assert AsTheyAre()(groups) == [group.advantages for group in groups]


def test_the_batchs_deviation_is_that_of_all_answers() -> None:
    # Advantages 1, -1, 2, -2: variance 10 / 4.
    scaled = BatchStd(eps=0.0)([group(2.0, 0.0), group(4.0, 0.0)])
    assert scaled[0] == pytest.approx((1 / math.sqrt(2.5), -1 / math.sqrt(2.5)))
    assert scaled[1] == pytest.approx((2 / math.sqrt(2.5), -2 / math.sqrt(2.5)))


def test_whitened_rewards_have_mean_0_and_deviation_1() -> None:
    raw = [group(1.0, 0.0, advantage="raw"), group(0.0, 0.0, 0.0, advantage="raw")]
    flat = [a for advantages in BatchWhiten(eps=0.0)(raw) for a in advantages]
    # Rewards 1, 0, 0, 0, 0: mean 0.2, variance 0.16.
    assert flat == pytest.approx([2.0, -0.5, -0.5, -0.5, -0.5])


@pytest.mark.parametrize("name", NORMS.names())
def test_equal_rewards_give_nothing_and_never_nan(name: str) -> None:
    norm = NORMS[name]()
    for _ in range(3):
        assert norm([group(0.1, 0.1, 0.1), group(0.1, 0.1)]) == [(0.0,) * 3, (0.0,) * 2]


@pytest.mark.parametrize("name", NORMS.names())
def test_a_remembered_state_goes_on_as_if_there_had_been_no_break(name: str) -> None:
    batches = [
        [group(1.0, 0.0, advantage="raw"), group(5.0, 1.0, task="code", advantage="raw")],
        [group(0.0, 3.0, task="code", advantage="raw"), group(1.0, 1.0, advantage="raw")],
    ]
    whole, first, second = NORMS[name](), NORMS[name](), NORMS[name]()
    whole(batches[0])
    first(batches[0])
    second.restore(first.state())
    assert second(batches[1]) == whole(batches[1])


def test_a_tasks_deviation_makes_its_rewards_scale_disappear() -> None:
    def steady(scale: float) -> tuple[float, ...]:
        norm = TaskStd(decay=0.5)
        for _ in range(20):
            norm([group(scale, 0.0, 0.0, 0.0), group(1.0, 0.0, task="other")])
        return norm([group(scale, 0.0, 0.0, 0.0)])[0]

    assert steady(100.0) == pytest.approx(steady(1.0))
    # Rewards 1, 0, 0, 0: sigma sqrt(3 / 16), whatever the decay, since every group is the same.
    assert steady(1.0) == pytest.approx(tuple(a / math.sqrt(3 / 16) for a in (0.75, -0.25, -0.25, -0.25)))


def test_a_tasks_deviation_by_hand_over_two_groups() -> None:
    norm = TaskStd(decay=0.5)
    norm([group(1.0, 0.0)])
    scaled = norm([group(4.0, 0.0)])
    # Weights 1/4 and 1/2, that is 1/3 and 2/3: mean (0.5 + 2 * 2) / 3 = 1.5, square (0.5 + 2 * 8) / 3 = 5.5.
    assert scaled[0] == pytest.approx((2 / math.sqrt(5.5 - 2.25), -2 / math.sqrt(5.5 - 2.25)))


def test_a_moving_baseline_follows_each_role_by_itself() -> None:
    norm = TaskBaseline(decay=0.75)
    first, second = group(1.0, task="first", advantage="raw"), group(-1.0, task="second", advantage="raw")
    assert norm([first, second]) == [(1.0,), (-1.0,)]
    assert norm([first, second]) == [(0.75,), (-0.75,)]
    assert norm([first]) == [pytest.approx((1 - 0.4375,))]
    for _ in range(60):
        last = norm([first, second])
    assert last == [pytest.approx((0.0,), abs=1e-6), pytest.approx((0.0,), abs=1e-6)]


@pytest.mark.parametrize(
    ("norm", "options"), [(TaskStd, {"decay": 1.0}), (TaskStd, {"floor": 0.0}), (TaskBaseline, {"decay": -0.1})]
)
def test_options_out_of_range_are_refused(norm: type, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be in"):
        norm(**options)
