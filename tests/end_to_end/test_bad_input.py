"""Bad input ends with one clear line and a non-zero exit: no traceback, nothing half-written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator import cli

WriteRecipe = Callable[..., Path]


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """Runs `paceline train` in this process and returns its one line of error."""

    def refused(recipe: Path, *overrides: str) -> str:
        monkeypatch.setattr("sys.argv", ["paceline", "train", str(recipe), *overrides])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == 2
        captured = capsys.readouterr()
        lines = captured.err.strip().splitlines()
        assert len(lines) == 1, captured.err
        assert "Traceback" not in captured.err + captured.out
        assert not (tmp_path / "run").exists(), "nothing may be written"
        return lines[0]

    return refused


def rows(path: Path, *items: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


def test_a_missing_data_file(write_recipe: WriteRecipe, refusal: Callable[..., str]) -> None:
    line = refusal(write_recipe(data={"tasks": None, "path": "nowhere.jsonl"}))
    assert "data.path" in line
    assert "nowhere.jsonl" in line


def test_a_malformed_data_file(write_recipe: WriteRecipe, refusal: Callable[..., str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"question": "1", "answer": "1"}\n{"question": oops\n', encoding="utf-8")
    line = refusal(write_recipe(data={"tasks": None, "path": str(broken)}))
    assert "data.path" in line
    assert "line 2" in line


def test_a_missing_column(write_recipe: WriteRecipe, refusal: Callable[..., str], tmp_path: Path) -> None:
    data = rows(tmp_path / "d.jsonl", {"questions": "1 + 1", "answer": "2"})
    line = refusal(write_recipe(data={"tasks": None, "path": str(data), "eval_size": 0}))
    assert "data.question_column" in line
    assert "questions" in line


def test_a_checkpoint_without_a_tokenizer(
    write_recipe: WriteRecipe, refusal: Callable[..., str], tmp_path: Path, checkpoint: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(checkpoint, bare)
    for file in bare.glob("tokenizer*"):
        file.unlink()
    line = refusal(write_recipe(model=str(bare)))
    assert line.startswith("paceline: model:")
    assert "lacks a tokenizer" in line


def test_a_model_that_is_not_there(write_recipe: WriteRecipe, refusal: Callable[..., str]) -> None:
    assert "is not a folder" in refusal(write_recipe(model="/no/such/model"))


def test_a_prompt_longer_than_allowed(write_recipe: WriteRecipe, refusal: Callable[..., str], tmp_path: Path) -> None:
    long = rows(tmp_path / "d.jsonl", *[{"question": "1" * size, "answer": "2"} for size in (5, 5, 5, 400, 5, 5, 5)])
    line = refusal(write_recipe(data={"tasks": None, "path": str(long), "eval_size": 2}))
    assert "rollout.max_prompt_tokens" in line
    assert "400 tokens" in line


def test_a_context_longer_than_the_model_s(write_recipe: WriteRecipe, refusal: Callable[..., str]) -> None:
    line = refusal(write_recipe(rollout={"max_response_tokens": 400}, trainer={"token_budget": 4096}))
    assert "exceed the model's context of 512" in line


def test_adapters_for_layers_that_the_model_lacks(write_recipe: WriteRecipe, refusal: Callable[..., str]) -> None:
    line = refusal(write_recipe(trainer={"lora": {"target_modules": ["c_attn"]}}))
    assert "trainer.lora.target_modules: no linear layer below the head is called c_attn; there are down_proj" in line


def test_more_ranks_to_a_row_than_the_heads_allow(write_recipe: WriteRecipe, refusal: Callable[..., str]) -> None:
    line = refusal(write_recipe(topology={"learner": {"ranks": 3, "sequence_parallel": 3}}))
    assert "topology.learner.sequence_parallel: 3 ranks cannot share the model's" in line


def test_an_impossible_batch_size(write_recipe: WriteRecipe, refusal: Callable[..., str]) -> None:
    assert "trainer.prompts_per_step" in refusal(write_recipe(), "trainer.prompts_per_step=0")


def test_a_gpu_recipe_without_a_gpu(
    write_recipe: WriteRecipe, refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "this machine has none" in refusal(write_recipe(device="gpu"))


def test_an_existing_run_directory(
    write_recipe: WriteRecipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious.txt").write_text("keep me")
    monkeypatch.setattr("sys.argv", ["paceline", "train", str(write_recipe())])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "never overwritten" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["precious.txt"]


def test_a_reward_that_does_not_exist(write_recipe: WriteRecipe, refusal: Callable[..., str]) -> None:
    line = refusal(write_recipe(reward={"terms": [{"name": "maths"}]}))
    assert "reward.terms.0.name" in line
    assert "math" in line
