"""When the drafter studies: at first while it gets better, later when acceptance has fallen."""

from orchestrator.drafting.decay import DecayRules
from orchestrator.drafting.study import PATIENCE, Study

RULES = DecayRules(delta=0.1, memory=100, least_gap_s=5.0)


def observe(study: Study, acceptance: float, drafts: int = 1000) -> None:
    for _ in range(drafts // 10):
        study.observe(10, round(10 * acceptance))


def test_a_new_drafter_studies_before_anybody_drafts_with_it() -> None:
    assert Study("decay", RULES, fresh=True).judge(0.0).train
    assert not Study("decay", RULES, fresh=False).judge(0.0).train
    assert not Study("never", RULES, fresh=True).judge(0.0).train


def test_it_goes_on_while_sessions_bring_publications_and_no_faster_than_the_gap() -> None:
    study = Study("decay", RULES, fresh=True)
    study.began(100.0)
    study.ended(published=True)
    assert not study.judge(104.0).train
    assert study.judge(105.0).train
    for now in range(200, 200 + 10 * PATIENCE, 10):
        assert study.judge(now).train
        study.began(now)
        study.ended(published=False)
    assert not study.judge(1000.0).train


def test_it_studies_again_when_acceptance_has_fallen_and_on_while_that_helps() -> None:
    study = Study("decay", RULES, fresh=False)
    observe(study, 0.8)
    assert not study.judge(10.0).train
    observe(study, 0.5)
    assert study.judge(10.0).train
    study.began(10.0)
    study.ended(published=True)
    assert study.judge(20.0).train, "what helped is tried again"
    for now in range(20, 20 + 10 * PATIENCE, 10):
        study.began(now)
        study.ended(published=False)
    assert not study.judge(1000.0).train, "the new drafter shows no decay yet"


def test_always_means_after_every_gap() -> None:
    study = Study("always", RULES, fresh=False)
    study.began(0.0)
    study.ended(published=False)
    assert not study.judge(4.0).train
    assert study.judge(5.0).train
