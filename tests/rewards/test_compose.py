from collections.abc import Sequence

import pytest
from pydantic import ValidationError

from rewards.compose import Reward, RewardSetupError
from rewards.group import Group
from rewards.registry import of_group
from rewards.response import Fact, Failure, Response, Score, SpanReward
from rewards.settings import RewardSettings
from rewards.verdict import Verdict


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


HERE = "tests.rewards.test_compose"
LENGTH = {"name": f"{HERE}:length"}


def length(response: Response) -> float:
    return float(len(response.text))


async def slow_length(response: Response) -> dict[str, float]:
    return {"characters": float(len(response.text))}


def marked(response: Response) -> Verdict:
    return Verdict(1.0, (SpanReward(0, 2, 4.0, "last"),), (Fact("seen", 3.0, "least"),))


@of_group
def above_mean(group: Group, *, of: str | None = None) -> list[float]:
    lengths = [len(response.text) for response in group.responses]
    return [
        float(own > sum(lengths) / len(lengths)) + hit + group.history.get("bonus", 0.0)
        for own, hit in zip(lengths, group.correct(of, 4.0), strict=True)
    ]


@of_group
def one_too_many(group: Group) -> Sequence[float]:
    return [1.0] * (len(group.responses) + 1)


def total(text: str, *terms: dict[str, object]) -> float:
    return reward(*terms).score(Response("s", "q", text)).total


def test_terms_multiply_what_stands_above_them() -> None:
    half = {"name": "format", "options": {"pattern": "a+"}, "weight": 0.5}
    assert total("aaa", LENGTH, {**half, "combine": "multiply"}) == 1.5
    assert total("abc", LENGTH, {**half, "combine": "multiply"}) == 0.0
    assert total("aaa", {**half, "label": "base"}, {**LENGTH, "combine": "multiply"}, {**half, "label": "bonus"}) == 2.0


@pytest.mark.parametrize(("text", "value", "names"), [("aaa", 4.0, ["length", "format"]), ("aa", 2.0, ["length"])])
def test_a_term_counts_only_where_another_is_high_enough(text: str, value: float, names: list[str]) -> None:
    bonus = {"name": "format", "options": {"pattern": "a+"}, "when": {"term": "length", "at_least": 3}}
    score = reward(LENGTH, bonus).score(Response("s", "q", text))
    assert score.total == value
    assert list(score.terms) == names


def test_a_condition_may_name_one_of_several_values_and_an_unmet_one_does_not_run_the_term() -> None:
    several = {"name": "tests.rewards.misbehaving:several"}
    gated = {**OBEY, "when": {"term": "several/length", "at_least": 6}}
    assert reward(several, gated).score(Response("s", "q", "raise")).error is None
    assert reward(several, gated).score(Response("s", "q", "raise!")).total == 12.0


@pytest.mark.parametrize(
    ("terms", "complaint"),
    [
        ([{"name": "math", "combine": "multiply"}], "multiplies and stands first"),
        ([{"name": "math", "when": {"term": "format"}}, "one_box"], "waits for 'format', which is no term before it"),
        ([{"name": "math", "label": "a/b"}], "string should match pattern"),
    ],
)
def test_a_composition_that_cannot_work_is_refused(terms: list[object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=f"(?i){complaint}"):
        RewardSettings.model_validate({"terms": terms})


def test_a_name_alone_is_a_term_and_a_reward() -> None:
    assert RewardSettings.model_validate("math") == RewardSettings.model_validate({"terms": ["math"]})
    assert RewardSettings.model_validate("my_module:score").terms[0].logged_as == "score"


def test_a_coroutine_is_awaited() -> None:
    score = reward({"name": f"{HERE}:slow_length"}).score(Response("s", "q", "abcd"))
    assert (score.total, score.terms) == (4.0, {"slow_length/characters": 4.0})


def test_rewards_of_spans_are_weighted_and_facts_are_not() -> None:
    score = reward({"name": f"{HERE}:marked", "weight": -0.5}).score(Response("s", "q", "abcd"))
    assert score.total == -0.5
    assert score.spans == (SpanReward(0, 2, -2.0, "last"),)
    assert score.facts == (Fact("seen", 3.0, "least"),)


def test_a_failure_is_counted_by_its_term() -> None:
    assert reward(LENGTH, OBEY).score(Response("s", "q", "raise")).failure == Failure("raised", "obey")


ANSWERS = [Response(f"s/{number}", "q", text) for number, text in enumerate(["aaaaaa", "aa", "raise", "aaaa"])]


def both_passes(whole: Reward, history: dict[str, float] | None = None) -> list[Score]:
    return whole.score_group(ANSWERS, [whole.score(response) for response in ANSWERS], history or {}, {})


def test_a_group_term_sees_the_scored_answers_what_was_found_and_what_is_remembered() -> None:
    group = {"name": f"{HERE}:above_mean", "weight": 10.0}
    whole = reward(OBEY, group, {**LENGTH, "weight": 0.0}, fallback=-1.0)
    assert whole.sees_groups
    scores = both_passes(whole, {"bonus": 0.5})
    # The mean of the three that were scored is 4: one is above it, and two have at least 4 characters.
    assert [score.terms.get("above_mean") for score in scores] == [2.5, 0.5, None, 1.5]
    assert [score.total for score in scores] == [31.0, 7.0, -1.0, 19.0]
    assert list(scores[0].terms) == ["obey", "above_mean", "length"], "in the order of the recipe"
    assert scores[2].failure == Failure("raised", "obey")


def test_a_group_term_may_wait_for_another_term_but_not_the_other_way_round() -> None:
    waiting = {"name": f"{HERE}:above_mean", "when": {"term": "obey", "at_least": 4}}
    assert [score.total for score in both_passes(reward(OBEY, waiting))] == [8.0, 2.0, 0.0, 5.0]
    with pytest.raises(RewardSetupError, match="above_mean sees the whole group and comes after length"):
        reward(OBEY, {"name": f"{HERE}:above_mean"}, {**LENGTH, "when": {"term": "above_mean"}})


@pytest.mark.parametrize(
    ("term", "complaint"),
    [
        ({"name": f"{HERE}:one_too_many"}, "one_too_many: ValueError: 4 values for 3 responses"),
        ({"name": f"{HERE}:above_mean", "options": {"of": "maths"}}, "no term before this one is logged as 'maths'"),
    ],
)
def test_a_group_term_that_fails_costs_its_group_the_reward_and_no_more(
    term: dict[str, object], complaint: str
) -> None:
    scores = both_passes(reward(OBEY, term, fallback=-1.0))
    assert [score.total for score in scores] == [-1.0] * 4
    assert complaint in str(scores[0].error)
    assert scores[0].terms == {"obey": 6.0}


def test_an_option_that_can_never_work_is_refused_at_warm_up() -> None:
    with pytest.raises(RewardSetupError, match=r"reward.terms\[format\].options: pattern '\(' is not"):
        reward({"name": "format", "options": {"pattern": "("}}).warm_up()
    # What the example lacks is no fault of the options.
    reward(LENGTH, {"name": "hapo", "options": {"of": "length"}}, {"name": "adaptthink", "options": {"column": "ref"}})
    reward({"name": "adaptthink", "options": {"column": "ref"}}).warm_up()
