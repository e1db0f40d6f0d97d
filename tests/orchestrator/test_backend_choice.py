"""The learner's library is checked before anything starts, each fault in one line."""

from importlib.machinery import ModuleSpec

import pytest

from orchestrator import preflight
from orchestrator.errors import SettingError
from orchestrator.recipe import load_recipe


def test_a_stage_without_deepspeed_is_refused() -> None:
    with pytest.raises(SettingError, match=r"trainer.*backend=fsdp2 is set.*leave out zero_stage") as caught:
        load_recipe("quickstart", ["trainer.zero_stage=2"])
    assert "\n" not in str(caught.value)
    assert load_recipe("quickstart", ["trainer.zero_stage=2", "trainer.backend=deepspeed"]).trainer.zero_stage == 2


def test_a_library_that_is_not_installed_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    installed: set[str] = set()

    def find(name: str) -> ModuleSpec | None:
        return ModuleSpec(name, None) if name in installed else None

    monkeypatch.setattr(preflight, "find_spec", find)
    preflight.check_backend(load_recipe("quickstart"))
    chosen = load_recipe("quickstart", ["trainer.backend=deepspeed"])
    with pytest.raises(SettingError, match=r"trainer\.backend: .*paceline\[deepspeed\].*trainer\.backend=fsdp2"):
        preflight.check_backend(chosen)
    installed.add("deepspeed")
    preflight.check_backend(chosen)
