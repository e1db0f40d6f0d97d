"""What a recipe may say of models; a key that somebody put into it is repeated by no error."""

import pytest

from orchestrator.errors import SettingError
from orchestrator.model_addresses import endpoint_addresses
from orchestrator.recipe import load_reward
from rewards.settings import RewardSettings

KEY = "sk-abc-123"
URL = "http://localhost:8000/v1"


def reward(**model: object) -> RewardSettings:
    return RewardSettings.model_validate({"terms": ["judge"], "models": {"judge": {"model": "m", **model}}})


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        (f"reward.models.judge.api_key_env={KEY}", "name the variable that holds the key, not the key"),
        (f"reward.models.judge.url=https://user:{KEY}@host/v1", "must hold no user, password or query"),
        (f"reward.models.judge.url=https://host/v1?key={KEY}", "must hold no user, password or query"),
        ("reward.models.judge.url=localhost:8000", "is no http"),
        (f"reward.models.judge.api_key={KEY}", "did you mean api_key_env"),
        ("reward.models.judge.timeout_s=10", "timeout_s=10 is not below deadline_s=10"),
        ("reward.models.judge.concurrency=0", "greater than or equal to 1"),
    ],
)
def test_a_fault_is_one_line_without_the_key(override: str, complaint: str) -> None:
    with pytest.raises(SettingError) as fault:
        load_reward("judge", ["reward.models.judge.model=m", f"reward.models.judge.url={URL}", override])
    assert complaint in str(fault.value)
    assert KEY not in str(fault.value)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        ({"api_key_env": "KEY"}, "api_key_env is for an endpoint"),
        ({"task": "classify", "engine": "vllm"}, "classify needs engine=torch"),
    ],
)
def test_parts_of_a_model_fit_each_other(model: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        reward(**model)


def test_a_call_takes_less_than_an_answer_by_itself() -> None:
    assert reward(url=URL).call_timeout_s("judge") == 8.0
    assert reward(url=URL, timeout_s=3).call_timeout_s("judge") == 3.0
    assert reward().models["judge"].served
    assert not reward(url=f"{URL}/").models["judge"].served
    assert reward(url=f"{URL}/").models["judge"].url == URL


def test_a_key_comes_from_the_environment_and_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = reward(url=URL, api_key_env="A_KEY")
    monkeypatch.delenv("A_KEY", raising=False)
    with pytest.raises(SettingError, match=r"reward\.models\.judge\.api_key_env: no environment variable"):
        endpoint_addresses(settings)
    monkeypatch.setenv("A_KEY", KEY)
    found = endpoint_addresses(settings)
    assert found["judge"].key == KEY
    assert KEY not in repr(found) + settings.model_dump_json()
    assert endpoint_addresses(reward()) == {}
