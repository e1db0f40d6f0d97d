"""What cannot end in time is refused before anything starts, in runs and in grading."""

import pytest

from orchestrator.errors import SettingError
from orchestrator.recipe import load_recipe, load_reward
from orchestrator.reward_rules import check_reward
from rewards.settings import RewardSettings


def reward(deadline_s: float, *terms: object) -> RewardSettings:
    return RewardSettings.model_validate({"terms": list(terms), "deadline_s": deadline_s})


def test_a_sandbox_that_fits_its_deadline_is_fine() -> None:
    check_reward(reward(10.0, "python_stdio"))
    check_reward(reward(9.0, "verilog"))
    check_reward(reward(3.0, {"name": "prolog", "options": {"job_s": 2}}))
    check_reward(reward(0.5, "math", "my_module:runs_programs"))


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        (reward(5.0, "python_functions"), "9"),
        (reward(8.5, "verilog"), "9"),
        (reward(10.0, "math", {"name": "prolog", "options": {"job_s": 12.5}}), "13.5"),
        (reward(10.0, "python_stdio", "verilog"), "17"),
    ],
)
def test_one_that_does_not_is_refused_with_what_it_takes(settings: RewardSettings, needed: str) -> None:
    with pytest.raises(SettingError) as refused:
        check_reward(settings)
    assert refused.value.setting == "reward.deadline_s"
    assert f"set it to {needed} or more" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_runs_and_grading_ask() -> None:
    with pytest.raises(SettingError, match=r"8 s of python_stdio"):
        load_recipe("quickstart", ["reward.terms=[python_stdio]", "reward.deadline_s=4"])
    with pytest.raises(SettingError, match=r"8 s of verilog"):
        load_reward("verilog", ["reward.deadline_s=4"])
