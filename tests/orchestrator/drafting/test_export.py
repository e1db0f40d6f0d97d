"""A run's drafter in the speculators format."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from learners.drafters.drafter_files import WEIGHTS, DrafterCard, save_drafter
from learners.drafters.fingerprint import PairingFingerprint, identify
from learners.drafters.target import DraftTarget
from orchestrator.cli import app
from orchestrator.drafting.export import export_drafter
from orchestrator.errors import SettingError
from tests.learners.drafters.builders import new_drafter, target_model
from tests.learners.tiny import tokenizer


def finished_run(folder: Path, kind: str) -> Path:
    """As far as an export reads it."""
    model = target_model()
    model.save_pretrained(folder / "model")
    drafter = new_drafter(kind, model)
    target = DraftTarget.of_folder(folder / "model")
    shapes = {name: tuple(tensor.shape) for name, tensor in target.tensors.items()}
    identity = identify(target.config, shapes, tokenizer())
    card = DrafterCard(PairingFingerprint.of(kind, drafter.reads, identity), 3)
    save_drafter(drafter, card, folder / "drafter" / "trained", torch.float32)
    return folder


def test_it_names_the_runs_own_model_and_what_to_draft(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", "eagle3")
    done = CliRunner().invoke(app, ["export-drafter", str(run), str(tmp_path / "out"), "--draft-tokens", "4"])
    assert done.exit_code == 0, done.output
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["speculators_config"]["verifier"]["name_or_path"] == str(run / "model")
    assert config["speculators_config"]["proposal_methods"][0]["speculative_tokens"] == 4
    assert (tmp_path / "out" / WEIGHTS).is_file()
    assert str(run / "model") in done.output


def test_another_target_can_be_named(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", "eagle3")
    assert export_drafter(run, tmp_path / "out", target="org/served", draft_tokens=2) == "org/served"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["speculators_config"]["verifier"]["name_or_path"] == "org/served"


def test_what_cannot_be_exported_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="is not there"):
        export_drafter(tmp_path / "nowhere", tmp_path / "out", target=None, draft_tokens=2)
    run = finished_run(tmp_path / "run", "eagle")
    with pytest.raises(SettingError, match="no eagle drafter in the speculators format") as refusal:
        export_drafter(run, tmp_path / "out", target=None, draft_tokens=2)
    assert "\n" not in str(refusal.value)
    (tmp_path / "taken").mkdir()
    with pytest.raises(SettingError):
        export_drafter(finished_run(tmp_path / "other", "eagle3"), tmp_path / "taken", target=None, draft_tokens=2)
