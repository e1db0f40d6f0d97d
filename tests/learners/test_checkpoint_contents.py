"""A checkpoint is data: whatever somebody has put into one, nothing in it is run."""

import ast
import json
import pickle
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata

from learners.checkpoint import load_sharded, save_sharded
from learners.errors import CheckpointError, PolicyError
from learners.file_checksums import SUMS
from learners.policy import load_policy
from tests.learners.tiny import tiny_model

ROOT = Path(__file__).parents[2]


class Bomb:
    """Leaves a sign where it is unpickled."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.write_text, (self.sign, "I was run")


@pytest.fixture
def sign(tmp_path: Path) -> Path:
    """Where the bomb leaves it."""
    sign = tmp_path / "sign"
    pickle.loads(pickle.dumps(Bomb(sign)))
    assert sign.is_file(), "the bomb is one"
    sign.unlink()
    return sign


@pytest.fixture
def checkpoint(group: None, tmp_path: Path) -> Path:
    save_sharded({"model.weight": torch.arange(6.0), "steps": torch.tensor(3)}, tmp_path / "one")
    return tmp_path / "one"


def table_of(checkpoint: Path) -> Metadata:
    table: Metadata = pickle.loads((checkpoint / ".metadata").read_bytes())
    return table


def refusal(checkpoint: Path, table: object) -> str:
    """What is said to a checkpoint with this table of contents, whose checksums are right: who wrote one wrote all."""
    (checkpoint / ".metadata").write_bytes(pickle.dumps(table))
    sums = {file.name: zlib.crc32(file.read_bytes()) for file in checkpoint.iterdir() if file.name != SUMS}
    (checkpoint / SUMS).write_text(json.dumps(sums))
    state = {"model.weight": torch.zeros(6), "steps": torch.tensor(0)}
    with pytest.raises(CheckpointError) as error:
        load_sharded(state, checkpoint)
    assert torch.equal(state["model.weight"], torch.zeros(6)), "nothing was loaded"
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_was_written_is_read(checkpoint: Path) -> None:
    state = {"model.weight": torch.zeros(6), "steps": torch.tensor(0)}
    load_sharded(state, checkpoint)
    assert torch.equal(state["model.weight"], torch.arange(6.0))
    assert int(state["steps"]) == 3


def test_a_program_in_the_place_of_the_table_of_contents_is_refused_unrun(checkpoint: Path, sign: Path) -> None:
    said = refusal(checkpoint, Bomb(sign))
    assert "Path.write_text" in said
    assert "refused unrun" in said
    assert not sign.exists()


def test_a_program_hidden_in_the_table_of_contents_is_refused_unrun(checkpoint: Path, sign: Path) -> None:
    assert "refused unrun" in refusal(checkpoint, replace(table_of(checkpoint), planner_data={"x": Bomb(sign)}))
    assert not sign.exists()


def test_a_tensor_that_is_declared_to_be_no_tensor_is_refused_unrun(checkpoint: Path, sign: Path) -> None:
    """torch would read it by `torch.load(weights_only=False)`."""
    table = table_of(checkpoint)
    table.state_dict_metadata["steps"] = BytesStorageMetadata()
    assert "BytesStorageMetadata" in refusal(checkpoint, _with_bomb(table, checkpoint, sign))
    assert not sign.exists()


def test_a_program_in_a_shard_is_refused_unrun(checkpoint: Path, sign: Path) -> None:
    assert "cannot read the checkpoint" in refusal(checkpoint, _with_bomb(table_of(checkpoint), checkpoint, sign))
    assert not sign.exists()


def _with_bomb(table: Metadata, checkpoint: Path, sign: Path) -> Metadata:
    """Let all tensors of the table lie in a file that torch's reader would unpickle."""
    torch.save(Bomb(sign), checkpoint / "bomb.distcp")
    size = (checkpoint / "bomb.distcp").stat().st_size
    for info in table.storage_data.values():
        info.relative_path, info.offset, info.length = "bomb.distcp", 0, size
    return table


def test_a_program_in_a_model_s_pytorch_bin_is_refused_unrun(tmp_path: Path, sign: Path) -> None:
    model = tiny_model()
    model.config.save_pretrained(tmp_path / "model")
    torch.save({**model.state_dict(), "extra": Bomb(sign)}, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(PolicyError, match="refused unrun"):
        load_policy(str(tmp_path / "model"))
    assert not sign.exists()


def test_no_package_reads_a_pickle_of_a_checkpoint_by_torch_load() -> None:
    """`torch.load` runs what it reads where `weights_only` is false; none of ours calls it at all."""
    calls = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for package in ("orchestrator", "actors", "learners", "rewards", "deploy")
        for path in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and (
            ast.unparse(node.func) == "torch.load"
            or any(word.arg in ("weights_only", "trust_remote_code") for word in node.keywords)
        )
    ]
    assert calls == []
