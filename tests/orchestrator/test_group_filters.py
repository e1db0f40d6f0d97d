"""Group filters, by hand, and what the dispatcher makes of what they leave."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from actors.engine import Completion, FinishReason, Segment
from actors.trajectory import Leg, Trajectory
from learners.options import options_of
from learners.settings import AlgorithmSettings
from orchestrator.errors import RunError
from orchestrator.policies.admission import Continuous
from orchestrator.policies.dispatch import Dispatcher
from orchestrator.policies.group_filters import (
    GROUP_FILTERS,
    GroupOutcome,
    filters_of,
    length_outliers,
    passed,
    solve_rate,
    truncated,
)
from orchestrator.policies.groups import ScoredGroup
from orchestrator.policies.late import LateRule
from orchestrator.policies.staleness import StalenessRule
from rewards.response import Score
from tests.orchestrator.builders import CountingSource, prompt


def outcome(
    rewards: Sequence[float], lengths: Sequence[int] | None = None, cut: Sequence[bool] | None = None
) -> GroupOutcome:
    count = len(rewards)
    return GroupOutcome(tuple(rewards), tuple(lengths or [1] * count), tuple(cut or [False] * count))


def answer(length: int, finish: FinishReason = "stop") -> Trajectory:
    segment = Segment(0, (5,) * length, (-0.5,) * length)
    return Trajectory(Completion("0/0#1", (segment,), finish), (Leg("rollout-0", 10.0, 12.0, length),))


def scored(rewards: Sequence[float], answers: Sequence[Trajectory], greedy: int | None = None) -> ScoredGroup:
    scores = [Score(reward, {"math": reward}) for reward in rewards]
    return ScoredGroup(0, prompt(0), (1, 2), 0, answers, scores, greedy=greedy)


def named(*names: str, **options: float) -> AlgorithmSettings:
    filters = [{"name": name, "options": options} for name in names]
    return AlgorithmSettings.model_validate({"group_filters": filters})


@pytest.mark.parametrize(
    ("rewards", "stays"), [((0, 0), False), ((1, 1), False), ((1, 0), True), ((0.5, 0.5), True), ((1, 1, 1, 0), True)]
)
def test_solve_rate_keeps_what_is_neither_all_right_nor_all_wrong(rewards: tuple[float, ...], stays: bool) -> None:
    assert (solve_rate(outcome(rewards)) is not None) == stays


def test_a_band_of_solve_rates_leaves_out_its_own_ends() -> None:
    for rewards, stays in (((1, 0, 0, 0), False), ((1, 1, 0, 0), True), ((1, 1, 1, 0), False)):
        assert (solve_rate(outcome(rewards), low=0.25, high=0.75) is not None) == stays
    with pytest.raises(ValueError, match=r"low=0\.5 must be below high=0\.5"):
        solve_rate(outcome((1, 0)), low=0.5, high=0.5)


def test_truncated_answers_count_and_take_no_loss() -> None:
    found = truncated(outcome((1, 0, 0), cut=(False, True, False)))
    assert found == GroupOutcome((1, 0, 0), (1, 1, 1), (False, True, False), frozenset({1}))
    assert truncated(outcome((0, 0), cut=(True, True))) is None


def test_outliers_among_right_answers_lose_their_reward() -> None:
    # Seven of 10 tokens and one of 50: mean 15, population deviation sqrt(7) * 5 = 13.2; 50 lies sqrt(7) = 2.65 beyond.
    lengths = (10,) * 7 + (50,)
    found = length_outliers(outcome((1.0,) * 8, lengths))
    assert found is not None
    assert found.rewards == (1.0,) * 7 + (0.0,)
    assert found.lengths == lengths
    for options in ({"deviations": 2.7}, {"min_gap": 36}):
        assert length_outliers(outcome((1.0,) * 8, lengths), **options) == outcome((1.0,) * 8, lengths)
    assert length_outliers(outcome((1.0,) * 8, lengths), min_gap=34, reward=0.5) is not None


def test_nothing_is_an_outlier_where_one_answer_is_wrong_or_all_are_as_long() -> None:
    wrong = outcome((1.0,) * 6 + (0.0, 1.0), (10,) * 7 + (500,))
    assert length_outliers(wrong) == wrong
    alike = outcome((1.0,) * 3, (7, 7, 7))
    assert length_outliers(alike) == alike
    with pytest.raises(ValueError, match="deviations=0"):
        length_outliers(alike, deviations=0)
    with pytest.raises(ValueError, match=r"reward=1\.0 below correct_at=1\.0"):
        length_outliers(alike, reward=1.0)


@pytest.mark.parametrize("name", GROUP_FILTERS.names())
def test_every_filter_names_its_paper_and_its_options(name: str) -> None:
    doc = GROUP_FILTERS[name].__doc__ or ""
    assert "arXiv" in doc
    assert all(option in doc for option in options_of(GROUP_FILTERS[name]))


def test_filters_follow_each_other_and_leave_the_greedy_answer_alone() -> None:
    answers = [answer(2), answer(2), answer(2), answer(9, "length"), answer(90, "length")]
    group = scored((1.0,) * 5, answers, greedy=4)
    steps = filters_of(named("length_outliers", deviations=1.5)) + filters_of(named("truncated", "solve_rate"))
    found = passed(group, steps)
    assert found is not None
    assert [score.total for score in found.scores] == [1.0, 1.0, 1.0, 0.0, 1.0]
    assert [score.terms["math"] for score in found.scores] == [1.0] * 5
    assert found.masked == {3}
    assert found.has_signal
    assert passed(group, filters_of(named("solve_rate"))) is None
    assert passed(group, ()) is group


def dispatcher(algorithm: AlgorithmSettings, *, drop: bool = True, most: int | None = None) -> Dispatcher:
    rule = StalenessRule(batch=2, max_staleness=0)
    return Dispatcher(
        source=CountingSource(),
        encode=lambda p: (p.index,),
        rule=rule,
        admission=Continuous(rule, 100, group_size=4),
        late=LateRule("wait", 0, 8),
        group_size=4,
        drop_zero_variance=drop,
        wanted=100,
        filters=filters_of(algorithm),
        most_filtered=most,
    )


def finish(d: Dispatcher, index: int, rewards: Sequence[float], answers: Sequence[Trajectory] | None = None) -> None:
    d.finish(index, answers or [answer(3)] * 4, [Score(reward, {}) for reward in rewards])


def test_a_group_that_a_filter_leaves_out_is_refilled() -> None:
    d = dispatcher(named("solve_rate", low=0.3))
    d.admit(0)
    finish(d, 0, (1, 0, 0, 0))
    assert d.ledger.counts()["filtered"] == 1
    assert [group.index for group in d.admit(0)] == [2]
    finish(d, 1, (1, 1, 0, 0))
    assert len(d.buffer) == 1


def test_an_outlier_gives_an_all_right_group_its_signal_before_it_is_judged_by_it() -> None:
    d = dispatcher(named("length_outliers", deviations=1.5))
    d.admit(0)
    finish(d, 0, (1, 1, 1, 1), [answer(3), answer(3), answer(3), answer(30)])
    finish(d, 1, (1, 1, 1, 1))
    assert d.ledger.counts()["filtered"] == 1
    assert [score.total for score in d.buffer.clear()[0].scores] == [1, 1, 1, 0]


def test_what_a_filter_masks_stays_masked_when_it_is_taken() -> None:
    d = dispatcher(named("truncated"))
    d.admit(0)
    for index in (0, 1):
        finish(d, index, (1, 0, 0, 0), [answer(3), answer(9, "length"), answer(3), answer(3)])
    groups = d.take(0).groups
    assert groups is not None
    assert [group.masked for group in groups] == [frozenset({1})] * 2


def test_a_group_of_late_and_masked_answers_alone_is_dropped() -> None:
    d = dispatcher(named("truncated"))
    d._late = LateRule("baseline_only", 0, 8)
    d.admit(0)
    old, new = answer(3, "length"), answer(3)
    fresh = replace(new, completion=replace(new.completion, segments=(replace(new.completion.segments[0], version=1),)))
    cut = replace(old, completion=replace(fresh.completion, finish_reason="length"))
    finish(d, 0, (1, 0, 0, 0), [new, cut, cut, cut])
    finish(d, 1, (1, 0, 0, 0), [new, cut, cut, fresh])
    taken = d.take(1, least=1, most=2)
    assert [(group.index, reason) for group, reason in taken.dropped] == [
        (0, "each of its answers is late or masked by a filter")
    ]


def test_filters_that_let_nothing_through_end_the_run_with_a_reason() -> None:
    d = dispatcher(AlgorithmSettings(), most=2)
    for index in (group.index for group in d.admit(0)):
        finish(d, index, (1, 1, 1, 1))
    assert [group.index for group in d.admit(0)] == [2, 3]
    finish(d, 2, (1, 0, 0, 0))  # one that passes begins the count anew
    finish(d, 3, (0, 0, 0, 0))
    finish(d, d.admit(0)[0].index, (0, 0, 0, 0))
    with pytest.raises(RunError, match=r"3 groups in a row were filtered.*algorithm\.refill_limit"):
        finish(d, d.admit(0)[0].index, (0, 0, 0, 0))


def test_groups_that_are_filtered_because_a_reward_fails_say_so() -> None:
    d = dispatcher(AlgorithmSettings(), most=0)
    failed = [Score(0.0, {}, error="overlong: KeyError: 'budget'")] * 4
    with pytest.raises(RunError, match=r"rewards fail, the last with: overlong: KeyError.*mend the reward"):
        d.finish(d.admit(0)[0].index, [answer(3)] * 4, failed)
