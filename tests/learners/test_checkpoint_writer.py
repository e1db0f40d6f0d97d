"""Checkpoints beside training: what is written is the moment of the call, and failures end nothing but themselves."""

import json
import os
import subprocess
import threading
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from learners import checkpoint_writer
from learners.checkpoint import save_sharded
from learners.errors import CheckpointError
from learners.file_checksums import SUMS
from learners.learner import Learner
from tests.learners.ranks import run_ranks
from tests.learners.tiny import make_learner, random_batch, tiny_model

Outcome = dict[str, object]


def make(model: str, rank: int = 0, world_size: int = 1, **algorithm: object) -> Learner:
    return make_learner(model, algorithm, rank, world_size)


def test_training_goes_on_while_a_slow_disk_writes_the_moment_of_the_call(
    group: None, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = threading.Event()

    def slowly(state: Mapping[str, torch.Tensor], folder: Path, group: dist.ProcessGroup) -> None:
        assert disk.wait(60)
        save_sharded(state, folder, group)

    monkeypatch.setattr(checkpoint_writer, "save_sharded", slowly)
    learner = make(model)
    learner.step(random_batch(seed=0))
    then = learner.snapshot(0)[1]
    learner.begin_checkpoint(tmp_path / "run" / "one")
    for seed in (1, 2, 3):
        learner.step(random_batch(seed=seed))
    assert not (tmp_path / "run" / "one").exists()
    disk.set()
    learner.finish_checkpoint()
    other = make(model)
    other.load_checkpoint(tmp_path / "run" / "one")
    assert other.steps == 1
    found = other.snapshot(0)[1]
    assert all(torch.equal(found[name], value) for name, value in then.items())


def test_a_write_that_fails_is_told_by_the_next_call_and_the_one_after_succeeds(
    group: None, model: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    learner = make(model)
    learner.begin_checkpoint(tmp_path / "file" / "one")
    learner.step(random_batch())
    with pytest.raises(CheckpointError, match="Not a directory") as told:
        learner.begin_checkpoint(tmp_path / "two")
    assert "\n" not in str(told.value)
    learner.finish_checkpoint()
    learner.save_checkpoint(tmp_path / "two")
    assert (tmp_path / "two" / ".metadata").is_file()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_one_line_and_leaves_nothing(group: None, model: str, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=False, timeout=10)
    if mounted.returncode != 0:
        pytest.skip("this system does not let root mount a tmpfs")
    try:
        learner = make(model)
        learner.begin_checkpoint(small / "one")
        learner.step(random_batch())
        with pytest.raises(CheckpointError, match="cannot write the checkpoint") as told:
            learner.finish_checkpoint()
        assert "\n" not in str(told.value)
        assert list(small.iterdir()) == []
        learner.step(random_batch(seed=1))
    finally:
        subprocess.run(["umount", str(small)], check=False, timeout=10)


def write_beside_steps(rank: int, world_size: int, model: str, folder: Path) -> Outcome:
    learner = make(model, rank, world_size)
    learner.step(random_batch(seed=0))
    for number in range(3):
        # The write's collectives run beside those of the step.
        learner.begin_checkpoint(folder / f"step_{number + 1}")
        learner.step(random_batch(seed=number + 1))
    learner.finish_checkpoint()
    return {"tensors": learner.snapshot(0)[1]}


def go_on(rank: int, world_size: int, model: str, folder: Path) -> Outcome:
    learner = make(model, rank, world_size)
    learner.load_checkpoint(folder / "step_2")
    learner.step(random_batch(seed=2))
    learner.save_checkpoint(folder / f"again_{world_size}")
    learner.step(random_batch(seed=3))
    return {"tensors": learner.snapshot(0)[1], "steps": learner.steps}


def test_written_beside_steps_on_two_ranks_it_goes_on_on_two_and_on_one_and_back(tmp_path: Path, model: str) -> None:
    folder = tmp_path / "run"
    straight = run_ranks(2, write_beside_steps, model, folder, folder=tmp_path / "a")[0]
    alone = run_ranks(1, go_on, model, folder, folder=tmp_path / "b")[0]
    (folder / "step_2").rename(folder / "of_two")
    (folder / "again_1").rename(folder / "step_2")  # written by one rank, at step 3
    together = run_ranks(2, back_on_two, model, folder, folder=tmp_path / "c")[0]
    assert (alone["steps"], together["steps"]) == (4, 4)
    for name, value in straight["tensors"].items():
        torch.testing.assert_close(alone["tensors"][name], value, atol=2e-5, rtol=0)
        torch.testing.assert_close(together["tensors"][name], value, atol=2e-5, rtol=0)
        assert torch.equal(together["same"][name], value), "the same ranks repeat to the bit"


def back_on_two(rank: int, world_size: int, model: str, folder: Path) -> Outcome:
    learner = make(model, rank, world_size)
    learner.load_checkpoint(folder / "step_2")
    learner.step(random_batch(seed=3))
    steps, tensors = learner.steps, learner.snapshot(0)[1]
    same = make(model, rank, world_size)
    same.load_checkpoint(folder / "of_two")
    for seed in (2, 3):
        same.step(random_batch(seed=seed))
    return {"tensors": tensors, "steps": steps, "same": same.snapshot(0)[1]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_hidden_layers": 3}, "it lacks model.model.layers.2"),
        ({"num_hidden_layers": 1}, "it has model.model.layers.1"),
        ({"intermediate_size": 64}, r"gate_proj.weight is \[48, 32\], and \[64, 32\] is needed"),
    ],
)
def test_a_checkpoint_of_another_architecture_is_refused_in_one_line(
    group: None, model: str, tmp_path: Path, changes: dict[str, int], words: str
) -> None:
    make(model).save_checkpoint(tmp_path / "one")
    tiny_model(**changes).save_pretrained(tmp_path / "other")
    learner = make(str(tmp_path / "other"))
    before = learner.snapshot(0)[1]
    with pytest.raises(CheckpointError, match=words) as error:
        learner.load_checkpoint(tmp_path / "one")
    assert "\n" not in str(error.value)
    after = learner.snapshot(0)[1]
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_recipe_that_now_needs_a_reference_cannot_take_a_checkpoint_without_one(
    group: None, model: str, tmp_path: Path
) -> None:
    make(model).save_checkpoint(tmp_path / "one")
    needs = {"terms": [{"name": "kl_k3", "weight": 0.1}], "reference": {"kind": "moving"}}
    with pytest.raises(CheckpointError, match="it lacks reference"):
        make(model, **needs).load_checkpoint(tmp_path / "one")


@pytest.mark.parametrize("content", [b"", b"no pickle", b"\x80\x04\x95"])
def test_a_checkpoint_whose_names_are_damaged_is_one_line(
    group: None, model: str, tmp_path: Path, content: bytes
) -> None:
    learner = make(model)
    learner.save_checkpoint(tmp_path / "one")
    (tmp_path / "one" / ".metadata").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is damaged: .metadata has other bytes") as error:
        learner.load_checkpoint(tmp_path / "one")
    assert "\n" not in str(error.value)
    # Written so by a machine that was not at fault: another version of torch, perhaps.
    (tmp_path / "one" / SUMS).write_text(json.dumps({".metadata": zlib.crc32(content)}))
    with pytest.raises(CheckpointError, match=r"is damaged: its .metadata cannot be read") as error:
        learner.load_checkpoint(tmp_path / "one")
    assert "\n" not in str(error.value)


def cut_off(content: bytes) -> bytes:
    return content[:1000]


def turn_some(content: bytes) -> bytes:
    """Bits in the middle of a tensor that nobody would miss."""
    middle = len(content) // 2
    return content[:middle] + bytes(byte ^ 1 for byte in content[middle : middle + 200]) + content[middle + 200 :]


@pytest.mark.parametrize("harm", [cut_off, turn_some])
def test_a_checkpoint_whose_tensors_are_damaged_is_one_line(
    group: None, model: str, tmp_path: Path, harm: Callable[[bytes], bytes]
) -> None:
    learner = make(model)
    learner.save_checkpoint(tmp_path / "one")
    shard = next((tmp_path / "one").glob("*.distcp"))
    shard.write_bytes(harm(shard.read_bytes()))
    learner.step(random_batch())
    before = learner.snapshot(0)[1]
    with pytest.raises(CheckpointError, match=f"is damaged: {shard.name} has other bytes") as error:
        learner.load_checkpoint(tmp_path / "one")
    assert "\n" not in str(error.value)
    shard.unlink()
    with pytest.raises(CheckpointError, match=r"is damaged: .*No such file"):
        learner.load_checkpoint(tmp_path / "one")
    after = learner.snapshot(0)[1]
    assert learner.steps == 1
    assert all(torch.equal(before[name], after[name]) for name in before)
