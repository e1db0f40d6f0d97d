"""What an engine refuses before it starts, and what it takes for granted of vLLM's own settings."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.engine import EngineSettings
from actors.speculation.drafter_check import check_drafter
from actors.speculation.settings import SpeculationSettings
from actors.vllm_engine import VllmEngine
from actors.vllm_launch import speculative_config
from tests.actors.speculation.eagle_checkpoint import drafter_weights, predictable, write_drafter, write_target


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_target(tmp_path_factory.mktemp("checked") / "target", predictable(0, tied=False), tied=False)


@pytest.fixture
def drafter(tmp_path: Path) -> Path:
    return write_drafter(tmp_path / "drafter", predictable(0, tied=False), drafter_weights(1))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"lengths": (1, 3)}, "begin with 0"),
        ({"lengths": (0,)}, "begin with 0"),
        ({"lengths": (0, 3, 1)}, "ascending"),
        ({"acceptance": "fly"}, "would not have sampled"),
        ({"acceptance": "synthetic"}, "benchmarks"),
        ({"acceptance": "block"}, "only 'standard'"),
        ({"drafter": None}, "needs a checkpoint"),
        ({"kind": "suffix"}, "has no checkpoint"),
    ],
)
def test_settings_that_are_not_exact_or_make_no_sense_are_refused(given: dict[str, object], reason: str) -> None:
    valid: dict[str, object] = {"kind": "eagle3", "drafter": "somewhere"}
    SpeculationSettings(**valid)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"speculation.*{reason}"):
        SpeculationSettings(**valid | given)  # type: ignore[arg-type]


def test_vllm_verifies_exactly_and_knows_every_length() -> None:
    config = speculative_config(SpeculationSettings("eagle3", "somewhere", lengths=(0, 2, 5)))
    assert config["rejection_sample_method"] == "standard"
    assert config["num_speculative_tokens"] == 5
    table = config["num_speculative_tokens_per_batch_size"]
    assert isinstance(table, list)
    assert table[0][0] == 1
    assert [length for _, _, length in table] == [0, 2, 5]


def _cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:200])


def _without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _set(name: str, value: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))

    return change


def _not_a_number(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["norm.weight"][3] = float("inf")
    save_file(tensors, folder / "model.safetensors")


def _narrow(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"fc.weight": torch.zeros(64, 128)}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_cut, "model.safetensors cannot be read"),
        (_without_config, "config.json cannot be read"),
        (_without_weights, "no safetensors file"),
        (_set("vocab_size", 300), "vocab_size is 300"),
        (_set("hidden_size", 32), "hidden_size is 32"),
        (_not_a_number, "norm.weight holds values that are not finite"),
        (_narrow, r"fc.weight is \(64, 128\), and must be \(64, 192\)"),
    ],
)
def test_a_drafter_that_cannot_draft_for_the_target_is_refused_in_one_line(
    target: Path, drafter: Path, damage: Callable[[Path], None], reason: str
) -> None:
    speculation = SpeculationSettings("eagle3", str(drafter))
    check_drafter(str(target), speculation)
    damage(drafter)
    with pytest.raises(ValueError, match=reason) as refusal:
        check_drafter(str(target), speculation)
    assert str(refusal.value).startswith(f"speculation.drafter={drafter}")
    assert "\n" not in str(refusal.value)


def test_a_drafter_that_is_not_required_is_left_out_and_the_reason_given(target: Path, drafter: Path) -> None:
    _not_a_number(drafter)

    def engine(required: bool) -> VllmEngine:
        speculation = SpeculationSettings("eagle3", str(drafter), required=required)
        return VllmEngine(EngineSettings(str(target), "float32", 512, 8, speculation=speculation))

    with pytest.raises(ValueError, match="not finite"):
        engine(required=True)._check_drafter()
    without = engine(required=False)
    without._check_drafter()
    stats = asyncio.run(without.speculation_stats())
    assert stats.trouble is not None
    assert "not finite" in stats.trouble
    assert stats.steps == ()
