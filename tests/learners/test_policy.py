import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from learners.errors import PolicyError
from learners.policy import load_policy, save_policy
from tests.learners.tiny import VOCABULARY, tiny_model, tokenizer, write_model


def test_masters_are_float32_whatever_the_checkpoint(tmp_path: Path) -> None:
    tiny_model().to(torch.bfloat16).save_pretrained(tmp_path)
    policy = load_policy(str(tmp_path))
    assert {value.dtype for value in policy.parameters()} == {torch.float32}
    assert policy.training


@pytest.mark.parametrize("tied", [True, False])
def test_save_and_load(tmp_path: Path, tied: bool) -> None:
    model = tiny_model(tied=tied)
    save_policy(model, None, tokenizer(), tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(loaded(input_ids=ids).logits, model(input_ids=ids).logits)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == VOCABULARY
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["dtype"] == "float32"
    # The name of an attention that only this system registers must not reach other readers.
    assert "paceline" not in json.dumps(config)


def test_the_checkpoint_declares_the_dtype_of_its_tensors(tmp_path: Path) -> None:
    model = load_policy(write_model(tmp_path / "model"))
    state = {name: value.detach().bfloat16() for name, value in model.named_parameters()}
    save_policy(model, state, tokenizer(), tmp_path / "out")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16
    assert model.config.dtype != torch.bfloat16, "the live model's configuration is not touched"


def test_an_existing_checkpoint_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    save_policy(tiny_model(), None, tokenizer(), out)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    with pytest.raises(PolicyError, match="exists"):
        save_policy(tiny_model(seed=1), None, tokenizer(), out)
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def write_with_little_room(out: str) -> None:
    """Run in a process of its own: no file may grow beyond 16 KiB, as on a disk that fills up half-way."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 * 1024, 16 * 1024))
    try:
        save_policy(tiny_model(), None, tokenizer(), Path(out))
    except PolicyError as error:
        print(f"refused: {error}")


def test_a_disk_that_fills_up_leaves_nothing_and_says_so_in_one_line(tmp_path: Path) -> None:
    code = f"from tests.learners.test_policy import *; write_with_little_room({str(tmp_path / 'out')!r})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    lines = [line for line in run.stdout.splitlines() if line.startswith("refused: ")]
    assert len(lines) == 1, run.stderr
    assert "cannot write the checkpoint" in lines[0]
    assert str(tmp_path / "out") in lines[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, "", "not json"])
def test_no_checkpoint_there(tmp_path: Path, content: str | None) -> None:
    folder = tmp_path / "model"
    if content is not None:
        folder.mkdir()
        (folder / "config.json").write_text(content)
    with pytest.raises(PolicyError, match=f"model={folder}: no loadable checkpoint") as caught:
        load_policy(str(folder))
    assert "\n" not in str(caught.value)


def test_a_truncated_weight_file(tmp_path: Path) -> None:
    write_model(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(PolicyError, match="no loadable checkpoint"):
        load_policy(str(tmp_path))


def test_a_model_that_changes_its_logits_is_refused(tmp_path: Path) -> None:
    model = tiny_model()
    model.config.final_logit_softcapping = 30.0
    model.save_pretrained(tmp_path)
    with pytest.raises(PolicyError, match="final_logit_softcapping"):
        load_policy(str(tmp_path))


def test_an_attention_that_cannot_pack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="sdpa"):
        load_policy(write_model(tmp_path), attention="sdpa")
