"""What deterministic=true refuses: whatever lets the clock decide what is trained on."""

import pytest

from orchestrator.errors import SettingError
from orchestrator.recipe import load_recipe

ALONE = ("deterministic=true", "rollout.max_staleness=0", "speculation=off")


def test_a_synchronous_run_may_be_deterministic() -> None:
    assert load_recipe("quickstart", ALONE).deterministic


@pytest.mark.parametrize(
    ("override", "setting"),
    [
        ("rollout.max_staleness=1", "rollout.max_staleness: 1 lets what finishes first decide"),
        ("rollout.over_sampling={prompts: 1.5, leftovers: drop}", "rollout.over_sampling: "),
        ("trainer.stream=true", "trainer.stream: true"),
        ("speculation=suffix", "speculation: drafts change"),
        (
            "reward={terms: [{name: judge, options: {model: wise}}], models: {wise: {model: m, url: https://h/v1}}}",
            "reward.models.wise.url: an endpoint's answers do not repeat",
        ),
    ],
)
def test_what_depends_on_the_clock_is_refused_in_one_line(override: str, setting: str) -> None:
    with pytest.raises(SettingError) as error:
        load_recipe("quickstart", [*ALONE, override])
    assert setting in str(error.value)
    assert "deterministic=true" in str(error.value)
    assert "\n" not in str(error.value)
    load_recipe("quickstart", [*ALONE, override, "deterministic=false"])
