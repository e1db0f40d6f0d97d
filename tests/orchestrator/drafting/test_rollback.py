"""A published drafter goes back when it is worse in use, and is not blamed for another batch or a moving target."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.drafting.rollback import Rollback, RollbackRules

TAIL, CROWD = ("1", 5), ("33-64", 1)


def _serve(rollback: Rollback, version: int, levels: dict[tuple[str, int], tuple[float, int]], seed: int = 0) -> None:
    """Drafts of a version: by stratum, acceptance and number."""
    source = random.Random(seed)
    for stratum, (share, drafts) in levels.items():
        rollback.observe(version, stratum, drafts, sum(source.random() < share for _ in range(drafts)))


def test_a_worse_version_goes_back_once() -> None:
    rollback = Rollback(1)
    _serve(rollback, 1, {TAIL: (0.7, 2000)})
    rollback.published(2)
    _serve(rollback, 2, {TAIL: (0.6, 400)})
    assert rollback.judge() is None, "too few drafts"
    _serve(rollback, 2, {TAIL: (0.6, 400)}, 1)
    verdict = rollback.judge()
    assert verdict is not None
    assert (verdict.version, verdict.to) == (2, 1)
    assert "back to version 1" in verdict.reason
    assert rollback.version == 1
    _serve(rollback, 2, {TAIL: (0.1, 5000)})
    _serve(rollback, 1, {TAIL: (0.1, 5000)})
    assert rollback.judge() is None, "once per version, and late drafts of it are ignored"


def test_after_a_rollback_the_next_version_is_compared_with_the_one_that_serves() -> None:
    rollback = Rollback(1)
    _serve(rollback, 1, {TAIL: (0.7, 2000)})
    rollback.published(2)
    _serve(rollback, 2, {TAIL: (0.3, 2000)})
    assert rollback.judge() is not None
    rollback.published(3)
    _serve(rollback, 3, {TAIL: (0.5, 2000)})
    verdict = rollback.judge()
    assert verdict is not None
    assert (verdict.version, verdict.to) == (3, 1)


def test_another_mix_of_batches_is_no_fall() -> None:
    rollback = Rollback(1)
    _serve(rollback, 1, {TAIL: (0.8, 5000), CROWD: (0.4, 500)})
    rollback.published(2)
    _serve(rollback, 2, {TAIL: (0.82, 500), CROWD: (0.42, 5000)})
    assert rollback.judge() is None, "overall it fell from 0.76 to 0.46"


def test_a_fall_hidden_by_the_mix_is_seen() -> None:
    rollback = Rollback(1)
    _serve(rollback, 1, {TAIL: (0.8, 500), CROWD: (0.4, 5000)})
    rollback.published(2)
    _serve(rollback, 2, {TAIL: (0.7, 5000), CROWD: (0.3, 500)})
    assert rollback.judge() is not None, "overall it rose from 0.44 to 0.66"


def test_strata_that_only_one_version_saw_are_left_out() -> None:
    rollback = Rollback(1)
    _serve(rollback, 1, {TAIL: (0.8, 5000)})
    rollback.published(2)
    _serve(rollback, 2, {CROWD: (0.2, 5000)})
    assert rollback.judge() is None


def test_a_settled_version_is_not_blamed_for_what_comes_later() -> None:
    rollback = Rollback(1, RollbackRules(settled_drafts=2000))
    _serve(rollback, 1, {TAIL: (0.7, 5000)})
    rollback.published(2)
    _serve(rollback, 2, {TAIL: (0.72, 2500)})
    assert rollback.judge() is None
    _serve(rollback, 2, {TAIL: (0.1, 20_000)})
    assert rollback.judge() is None


def test_an_equal_version_hardly_ever_goes_back() -> None:
    back = 0
    for seed in range(200):
        rollback = Rollback(1, RollbackRules(margin=0.0))
        _serve(rollback, 1, {TAIL: (0.6, 1000), CROWD: (0.4, 1000)}, seed)
        rollback.published(2)
        _serve(rollback, 2, {TAIL: (0.6, 1000), CROWD: (0.4, 1000)}, seed + 1000)
        back += rollback.judge() is not None
    assert back <= 12, "about 2 in 100, and chance"


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 800), st.floats(0, 1), st.booleans()), max_size=50
    )
)
def test_versions_go_back_at_most_once_and_only_to_the_one_before(
    events: list[tuple[bool, int, int, float, bool]],
) -> None:
    rollback, newest, gone, lineage = Rollback(0), 0, set[int](), {0: -1}
    for publish, stratum, drafts, share, current in events:
        if publish:
            newest += 1
            lineage[newest] = rollback.version
            rollback.published(newest)
        version = rollback.version if current else newest
        rollback.observe(version, stratum, drafts, round(share * drafts))
        verdict = rollback.judge()
        if verdict is not None:
            assert verdict.version not in gone
            assert verdict.to == lineage[verdict.version] == rollback.version
            gone.add(verdict.version)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="not newer"):
        Rollback(3).published(3)
    with pytest.raises(ValueError, match="settled_drafts"):
        RollbackRules(settled_drafts=1)
