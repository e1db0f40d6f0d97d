"""The starter model in miniature: tokenizer, cache and checkpoint."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from learners.supervised import StepReport, SupervisedSettings
from orchestrator.data.starter import (
    StarterSettings,
    StarterShape,
    default_cache,
    ensure_starter,
    examples,
    fingerprint,
    tokenizer_texts,
)
from orchestrator.data.starter_tokenizer import train_tokenizer
from orchestrator.data.worked_solutions import Style, style_of
from orchestrator.errors import RunError

MICRO = StarterSettings(
    max_terms=4,
    shape=StarterShape(hidden_size=32, layers=2, heads=2, kv_heads=1, head_dim=32, intermediate_size=32),
    training=SupervisedSettings(
        steps=6, batch_size=8, optimizer="muon", learning_rate=3e-3, dtype="float32", threads=1
    ),
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    shape = MICRO.shape
    return train_tokenizer(tokenizer_texts(MICRO), shape.vocab_size, shape.context)


@pytest.fixture(scope="module")
def starter(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[StepReport]]:
    reports: list[StepReport] = []
    return ensure_starter(tmp_path_factory.mktemp("cache"), reports.append, MICRO), reports


@given(text=st.text())
def test_any_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    "text", ["a  b \n\t c", " leading", "\x00\x7f", "é=e\u0301", "\U0001f469\u200d\U0001f467 #### -3", "1 , 2 . don 't"]
)
def test_awkward_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_digits_and_signs_are_tokens_and_the_fixed_words_are_few(tokenizer: PreTrainedTokenizerBase) -> None:
    question = "State the final answer to the following arithmetic problem: 4 - 12 + 7 =\n"
    tokens = [tokenizer.decode([token]) for token in tokenizer.encode(question)]
    assert tokens[-7:] == ["4", " - ", "1", "2", " + ", "7", " =\n"]
    assert len(tokens) <= 9
    assert [tokenizer.decode([token]) for token in tokenizer.encode("4 - 12 = -8")][-4:] == ["2", " = ", "-", "8"]
    assert len(tokenizer) == MICRO.shape.vocab_size


def test_the_tokenizer_repeats(tokenizer: PreTrainedTokenizerBase) -> None:
    again = train_tokenizer(tokenizer_texts(MICRO), MICRO.shape.vocab_size, MICRO.shape.context)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_examples_are_seeded_end_with_eos_and_follow_the_shares(tokenizer: PreTrainedTokenizerBase) -> None:
    settings = MICRO.model_copy(
        update={"training": SupervisedSettings(steps=50, batch_size=20), "settling_fraction": 0.5}
    )
    made = list(examples(settings, tokenizer))
    assert made == list(examples(settings, tokenizer))
    assert len(made) == 1000
    assert {example.response_ids[-1] for example in made} == {tokenizer.eos_token_id}
    styles = [style_of(tokenizer.decode(example.response_ids[:-1])) for example in made]
    for part, shares in ((styles[:500], settings.learning), (styles[500:], settings.settling)):
        weights = shares.model_dump()
        for style in Style:
            expected = weights[style] / sum(weights.values())
            assert part.count(style) / len(part) == pytest.approx(expected, abs=0.08)


def test_the_checkpoint_loads_and_answers_offline(starter: tuple[Path, list[StepReport]]) -> None:
    folder, reports = starter
    assert [report.step for report in reports] == [1, 2, 3, 4, 5, 6]
    assert all(report.total == 6 for report in reports)
    assert reports[-1].loss < reports[0].loss
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert tokenizer.eos_token_id == model.config.eos_token_id == model.generation_config.eos_token_id
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    assert model.config.tie_word_embeddings
    assert model.config.max_position_embeddings >= 2048
    assert model.dtype == torch.float32
    ids = tokenizer("1 + 2 =\n", return_tensors="pt")
    output = model.generate(**ids, max_new_tokens=4, do_sample=False)
    assert output.shape[1] > ids["input_ids"].shape[1]
    described = json.loads((folder / "starter.json").read_text())
    assert StarterSettings(**described["settings"]) == MICRO
    assert described["final_loss"] == pytest.approx(reports[-1].loss, abs=1e-3)


def test_a_starter_that_is_there_is_not_made_again(starter: tuple[Path, list[StepReport]]) -> None:
    folder, _ = starter
    before = (folder / "model.safetensors").stat()
    steps: list[StepReport] = []
    assert ensure_starter(folder.parent, steps.append, MICRO) == folder
    assert steps == []
    assert (folder / "model.safetensors").stat() == before


def test_another_recipe_gets_another_folder(starter: tuple[Path, list[StepReport]]) -> None:
    folder, _ = starter
    assert fingerprint(MICRO) in folder.name
    others = [MICRO.model_copy(update={"seed": 1}), MICRO.model_copy(update={"max_terms": 5}), StarterSettings()]
    assert len({fingerprint(settings) for settings in [MICRO, *others]}) == 4


def test_a_build_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    class Interrupt(Exception):
        pass

    def stop_at_three(report: StepReport) -> None:
        if report.step == 3:
            raise Interrupt

    with pytest.raises(Interrupt):
        ensure_starter(tmp_path, stop_at_three, MICRO)
    assert list(tmp_path.iterdir()) == []
    assert (ensure_starter(tmp_path, settings=MICRO) / "config.json").is_file()


def test_of_two_builders_the_first_wins(tmp_path: Path) -> None:
    """The second finishes while the first is at its last step, as two processes might."""
    finished: list[Path] = []

    def race(report: StepReport) -> None:
        if report.step == report.total and not finished:
            finished.append(tmp_path)
            finished.append(ensure_starter(tmp_path, settings=MICRO))

    first = ensure_starter(tmp_path, race, MICRO)
    assert first == finished[1]
    assert list(tmp_path.iterdir()) == [first]


def test_a_damaged_starter_is_named(tmp_path: Path) -> None:
    folder = ensure_starter(tmp_path, settings=MICRO)
    (folder / "model.safetensors").unlink()
    with pytest.raises(RunError, match=r"has lost its model\.safetensors; delete that folder"):
        ensure_starter(tmp_path, settings=MICRO)


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="PACELINE_CACHE") as error:
        ensure_starter(tmp_path / "file" / "models", settings=MICRO)
    assert "\n" not in str(error.value)


def test_the_cache_follows_its_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PACELINE_CACHE", str(tmp_path))
    assert default_cache() == tmp_path / "models"
    monkeypatch.delenv("PACELINE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache() == tmp_path / "home" / ".cache" / "paceline" / "models"
