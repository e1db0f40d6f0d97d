import pytest

from rewards.compose import Reward, RewardSetupError
from rewards.response import Response
from rewards.settings import RewardSettings


def reward(*terms: dict[str, object], fallback: float = 0.0) -> Reward:
    return Reward(RewardSettings.model_validate({"terms": terms, "fallback": fallback}))


OBEY = {"name": "tests.rewards.misbehaving:obey"}


def test_the_total_is_the_weighted_sum_and_each_term_is_logged_in_order() -> None:
    scored = reward(
        {"name": "math", "weight": 2.0}, {"name": "format", "weight": -0.5, "options": {"pattern": "####.*"}}
    ).score(Response("s", "q", "#### 5", reference="5"))
    assert scored.total == 1.5
    assert list(scored.terms.items()) == [("math", 1.0), ("format", 1.0)]
    assert scored.error is None
    assert scored.seconds > 0


def test_a_users_function_gets_its_options_and_may_answer_several_values() -> None:
    scored = reward(
        {"name": "tests.rewards.misbehaving:several", "weight": 0.5, "label": "shape"},
        {"name": "tests.rewards.misbehaving:scaled", "options": {"factor": 10}},
    ).score(Response("s", "q", "abcd", truncated=True))
    assert scored.terms == {"shape/length": 4.0, "shape/truncated": 1.0, "scaled": 40.0}
    assert scored.total == 0.5 * 5.0 + 40.0


def test_an_exception_becomes_one_line_and_the_fallback() -> None:
    scored = reward({"name": "format", "options": {"pattern": ".*"}}, OBEY, fallback=-1.0).score(
        Response("s", "q", "raise")
    )
    assert scored.total == -1.0
    assert scored.terms == {"format": 1.0}
    assert scored.error is not None
    assert scored.error.startswith("obey: KeyError:")
    assert "\n" not in scored.error


@pytest.mark.parametrize(
    ("terms", "text", "complaint"),
    [
        ((OBEY,), "nan", "obey is nan, not a finite number"),
        (({"name": "tests.rewards.misbehaving:slow_to_load_failure"},), "", "not a finite number"),
        (({"name": "math"},), "5", "data.answer_column"),
        (({"name": "reasoning_gym"},), "5", "data.tasks"),
    ],
)
def test_a_value_that_is_none_is_an_error(terms: tuple[dict[str, object], ...], text: str, complaint: str) -> None:
    error = reward(*terms).score(Response("s", "q", text)).error
    assert error is not None
    assert complaint in error


def test_an_error_has_a_bounded_length_and_no_broken_characters() -> None:
    text = Response("s", "q", "x", metadata={"task": "nothing \ud800" * 100_000, "entry": {}})
    error = reward({"name": "reasoning_gym"}).score(text).error
    assert error is not None
    assert len(error) <= 300
    error.encode("utf-8")


def test_memory_is_the_processs_business() -> None:
    class Full:
        def strip(self) -> str:
            raise MemoryError

    with pytest.raises(MemoryError):
        reward({"name": "format", "options": {"pattern": "a"}}).score(Response("s", "q", Full()))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("term", "complaint"),
    [
        ({"name": "format"}, "missing a required argument: 'pattern'; it takes: pattern"),
        ({"name": "format", "options": {"patern": "a"}}, "it takes: pattern"),
        ({"name": "math", "options": {"tolerance": 1}}, "it takes: none"),
        ({"name": "tests.rewards.misbehaving:nothing"}, "no function 'nothing'"),
        ({"name": "no_such_module_anywhere:f"}, "ModuleNotFoundError"),
    ],
)
def test_a_term_that_cannot_work_is_refused_at_once_in_one_line(term: dict[str, object], complaint: str) -> None:
    with pytest.raises(RewardSetupError) as refusal:
        reward(term)
    line = str(refusal.value)
    assert line.startswith(f"reward.terms[{term['name']}]")
    assert complaint in line
    assert "\n" not in line
