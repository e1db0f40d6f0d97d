"""Checkpoints of a run: whole or absent, one at a time, kept as asked, refused in one line where they cannot serve."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from learners.weights import TensorSpec, WeightManifest, WeightTruth
from orchestrator.checkpoints import Checkpoint, Checkpoints, find_checkpoint
from orchestrator.config import Recipe
from orchestrator.drafting.meter import DraftCounts
from orchestrator.errors import RunError, SettingError
from orchestrator.policies.dispatch import DispatchState
from orchestrator.policies.gap_alarm import GapState
from orchestrator.policies.ledger import End
from orchestrator.policies.length_bias import LengthBias
from orchestrator.recipe import dump_recipe, load_recipe
from orchestrator.resume import check_weights, find_resumption
from orchestrator.run_directory import LogMarks
from orchestrator.run_log import LogState
from orchestrator.run_state import RunState, Spent
from orchestrator.storage.mirror import NoMirror
from orchestrator.summary import Tally
from rewards.history import PromptHistory
from rewards.response import Fact


def state(step: int) -> RunState:
    bias = LengthBias()
    bias.submitted(12, cut=False)
    bias.trained(12)
    history = PromptHistory()
    history.note("chain_sum/7", [Fact("shortest", 12.0, "least")])
    history.turn()
    history.note("chain_sum/8", [Fact("shortest", 3.0, "least")])
    return RunState(
        step,
        {"model.embed_tokens.weight": 2**63 + step},
        DispatchState(9, {"cursor": 11, "data": "abc"}, {End.TRAINED: 2 * step}, {7: {"cursor": 8, "data": "abc"}}),
        {"chain_sum": [0.1, 1 / 3, 2.0**-40]},
        history.state(),
        GapState((0.01, 0.02), 1, False),
        LogState(Tally(rewards=[0.1, 0.7], evals={"held_out": [0.25]}), bias, DraftCounts(drafts=3)),
        LogMarks(100, 2000),
        Spent(1.5, 0.5, 99),
        {"chain_sum/7": 2},
    )


class Disk:
    """Learners that write their folder as fast as they are told to, or not at all."""

    def __init__(self) -> None:
        self.copied: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: str | None = None
        self._folder = self._export = Path()

    async def begin_checkpoint(self, folder: Path, export: Path, version: int) -> None:
        self.copied.append(version)
        self._folder, self._export = folder, export

    async def finish_checkpoint(self) -> None:
        folder, export = self._folder, self._export
        await self.gate.wait()
        folder.mkdir()
        (folder / ".metadata").write_bytes(b"names")
        if self.failure:
            raise RunError(self.failure, "free some space")
        (folder / "__0_0.distcp").write_bytes(b"x" * 64)
        export.mkdir()
        (export / "config.json").write_text("{}")


def recipe(**trainer: object) -> Recipe:
    settings = {"steps": 40, "keep_checkpoints": 2, **trainer}
    return load_recipe("quickstart", [f"trainer.{name}={value}" for name, value in settings.items()])


def play(work: Callable[[Checkpoints, Disk], Coroutine[None, None, None]], folder: Path, **trainer: object) -> None:
    async def run() -> None:
        disk = Disk()
        await work(Checkpoints(folder, recipe(**trainer), disk), disk)

    asyncio.run(run())


async def write_some(checkpoints: Checkpoints, disk: Disk) -> None:
    for step in (10, 20, 30):
        await checkpoints.write(state(step))
    await checkpoints.settle()


async def told_at_a_step(checkpoints: Checkpoints) -> None:
    for _ in range(200):
        checkpoints.check()
        await asyncio.sleep(0.01)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_read_is_what_was_written_to_the_last_bit(tmp_path: Path) -> None:
    play(write_some, tmp_path)
    found = find_checkpoint(tmp_path, RunState)
    assert found.state == state(30)
    assert found.recipe == recipe().model_dump(mode="json")
    assert (found.learner / ".metadata").is_file()
    assert find_checkpoint(tmp_path, RunState, 20).state == state(20)


def test_of_older_checkpoints_the_model_alone_stays(tmp_path: Path) -> None:
    play(write_some, tmp_path)
    assert names(tmp_path) == ["step-000010", "step-000020", "step-000030"]
    assert names(tmp_path / "step-000010") == ["model"]
    assert names(tmp_path / "step-000020") == ["learner", "model", "run.json"]
    with pytest.raises(SettingError, match=r"no checkpoint of step 10; there are: 20, 30"):
        find_checkpoint(tmp_path, RunState, 10)


def test_nothing_is_a_checkpoint_until_all_of_it_is_written_and_one_is_written_at_a_time(tmp_path: Path) -> None:
    async def work(checkpoints: Checkpoints, disk: Disk) -> None:
        disk.gate.clear()
        await checkpoints.write(state(10))
        checkpoints.check()
        with pytest.raises(SettingError, match="no checkpoint"):
            find_checkpoint(tmp_path, RunState)
        second = asyncio.create_task(checkpoints.write(state(20)))
        await asyncio.sleep(0.05)
        assert disk.copied == [10], "the second waits: the host holds one copy"
        disk.gate.set()
        await second
        assert find_checkpoint(tmp_path, RunState, 10).state.step == 10
        await checkpoints.settle()
        assert find_checkpoint(tmp_path, RunState).state.step == 20

    play(work, tmp_path)


class FullShelf(NoMirror):
    """A copy elsewhere that has room for another checkpoint when the gate is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.told: list[object] = []

    async def room(self) -> None:
        await asyncio.wait_for(self.gate.wait(), 10)

    def published(self, checkpoint: Path, keep: int) -> None:
        self.told.append((checkpoint.name, keep, (checkpoint / "run.json").is_file()))

    def forget_after(self, checkpoints: Path, step: int) -> None:
        self.told.append((checkpoints, step))


def test_the_next_is_not_begun_before_the_copy_elsewhere_has_room(tmp_path: Path) -> None:
    async def work() -> None:
        disk, shelf = Disk(), FullShelf()
        checkpoints = Checkpoints(tmp_path, recipe(), disk, mirror=shelf)
        await checkpoints.write(state(10))
        await checkpoints.settle()
        assert shelf.told == [("step-000010", 2, True)]
        shelf.gate.clear()
        second = asyncio.create_task(checkpoints.write(state(20)))
        await asyncio.sleep(0.05)
        assert disk.copied == [10]
        shelf.gate.set()
        await second
        await checkpoints.settle()
        checkpoints.forget_after(10)
        assert shelf.told[1:] == [("step-000020", 2, True), (tmp_path, 10)]

    asyncio.run(work())


def test_the_state_is_that_of_the_call_whatever_happens_while_it_waits(tmp_path: Path) -> None:
    async def work(checkpoints: Checkpoints, disk: Disk) -> None:
        disk.gate.clear()
        await checkpoints.write(state(10))
        later = state(20)
        writing = asyncio.create_task(checkpoints.write(later))
        await asyncio.sleep(0)
        later.log.tally.rewards.append(9.0)
        disk.gate.set()
        await writing
        await checkpoints.settle()
        assert find_checkpoint(tmp_path, RunState).state == state(20)

    play(work, tmp_path)


def test_a_write_that_fails_is_told_at_the_next_step_and_leaves_the_one_before(tmp_path: Path) -> None:
    async def work(checkpoints: Checkpoints, disk: Disk) -> None:
        await checkpoints.write(state(10))
        await checkpoints.settle()
        disk.failure = "cannot write the checkpoint: No space left on device"
        await checkpoints.write(state(20))
        with pytest.raises(RunError, match="No space left") as failure:
            await told_at_a_step(checkpoints)
        assert "\n" not in str(failure.value)
        checkpoints.check()

    play(work, tmp_path)
    assert names(tmp_path) == ["step-000010"]
    assert find_checkpoint(tmp_path, RunState).state.step == 10


def test_what_a_run_wrote_beyond_the_step_it_goes_on_from_did_not_happen(tmp_path: Path) -> None:
    play(write_some, tmp_path)
    (tmp_path / ".step-000040.partial" / "learner").mkdir(parents=True)

    async def work(checkpoints: Checkpoints, disk: Disk) -> None:
        checkpoints.forget_after(20)

    play(work, tmp_path)
    assert names(tmp_path) == ["step-000010", "step-000020"]


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda path: (path / "learner" / "__0_0.distcp").write_bytes(b"x" * 63), "has 63 bytes of 64"),
        (lambda path: (path / "learner" / "__0_0.distcp").unlink(), "is missing"),
        (lambda path: (path / "run.json").write_text('{"format": 1, "rec'), "run.json cannot be read"),
        (lambda path: (path / "run.json").write_text('{"format": 1}'), "run.json cannot be read"),
        (
            lambda path: (path / "run.json").write_text(
                json.dumps({**json.loads((path / "run.json").read_text()), "format": 2})
            ),
            "has format 2, this version reads 1",
        ),
    ],
)
def test_a_damaged_checkpoint_is_one_line(tmp_path: Path, harm: Callable[[Path], object], words: str) -> None:
    play(write_some, tmp_path)
    harm(tmp_path / "step-000030")
    with pytest.raises(SettingError, match="resume from an older one with --step") as error:
        find_checkpoint(tmp_path, RunState)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert find_checkpoint(tmp_path, RunState, 20).state.step == 20


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run with checkpoints of the steps 10, 20 and 30."""
    (tmp_path / "config.yaml").write_text(dump_recipe(recipe()))
    play(write_some, tmp_path / "checkpoints")
    return tmp_path


def test_a_run_goes_on_with_settings_that_do_not_contradict_what_was_trained(run: Path) -> None:
    found = find_resumption(run, ["trainer.steps=60", "trainer.learning_rate=1e-7", "topology.rollout.workers=2"])
    assert (found.step, found.recipe.trainer.steps, found.recipe.topology.rollout.workers) == (30, 60, 2)
    assert find_resumption(run, [], 20).step == 20


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed=7", "seed: it cannot change when a run is resumed"),
        ("trainer.prompts_per_step=64", "trainer.prompts_per_step: it cannot change"),
        ("data.eval_size=3", "data: it cannot change"),
        ("algorithm.advantage_norm=task_std", "algorithm.advantage_norm: it cannot change"),
        ("trainer.steps=29", "the checkpoint has made 30 steps already, and 29 are wanted"),
        ("trainer.stepz=29", "trainer.stepz: unknown key"),
    ],
)
def test_a_change_that_would_make_it_another_run_is_refused(run: Path, override: str, words: str) -> None:
    with pytest.raises(SettingError) as error:
        find_resumption(run, [override])
    assert words in str(error.value)


def test_a_folder_without_a_run_or_without_a_checkpoint_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="holds no run"):
        find_resumption(tmp_path)
    (tmp_path / "config.yaml").write_text(dump_recipe(recipe()))
    with pytest.raises(SettingError, match="holds no checkpoint to resume from"):
        find_resumption(tmp_path)


def test_a_run_that_is_complete_goes_on_only_for_more_steps(run: Path) -> None:
    assert find_resumption(run, ["trainer.steps=30"]).step == 30, "it broke off before its model was written"
    (run / "model").mkdir()
    assert find_resumption(run, ["trainer.steps=30"]).step == 30, "it broke off before its summary was written"
    (run / "summary.json").write_text('{"status": "completed"}')
    with pytest.raises(SettingError, match=r"all of its 30 steps are made; raise trainer.steps"):
        find_resumption(run, ["trainer.steps=30"])
    assert find_resumption(run, ["trainer.steps=31"]).recipe.trainer.steps == 31


def test_weights_that_are_not_those_that_were_published_are_refused(tmp_path: Path) -> None:
    name = "model.embed_tokens.weight"
    manifest = WeightManifest(30, (TensorSpec(name, "float32", (4, 2)),))
    checkpoint = Checkpoint(tmp_path, {}, state(30))
    check_weights(checkpoint, WeightTruth(manifest, {name: 2**63 + 30}, ()))
    for sums in ({name: 1}, {}, {name: 2**63 + 30, "lm_head.weight": 5}):
        with pytest.raises(RunError, match="are damaged"):
            check_weights(checkpoint, WeightTruth(manifest, sums, ()))


def test_the_last_state_of_a_run_is_written_unless_it_was(tmp_path: Path) -> None:
    async def stop_behind(checkpoints: Checkpoints, disk: Disk) -> None:
        await checkpoints.write(state(10))
        await checkpoints.write_last(state(10))
        assert disk.copied == [10]
        await checkpoints.write_last(state(13))
        assert disk.copied == [10, 13]

    play(stop_behind, tmp_path)
    assert find_checkpoint(tmp_path, RunState).state == state(13)

    async def stop_before_the_first_step(checkpoints: Checkpoints, disk: Disk) -> None:
        checkpoints.forget_after(13)
        await checkpoints.write_last(state(13))
        assert disk.copied == []

    play(stop_before_the_first_step, tmp_path)
