from dataclasses import replace

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from learners.drafters.errors import DrafterError
from learners.drafters.fingerprint import PairingFingerprint, TargetIdentity, hash_tokenizer, identify, mismatch
from tests.learners.drafters.builders import tied_target
from tests.learners.tiny import VOCABULARY, tiny_model, tokenizer

TARGET = TargetIdentity("words", "line", hidden_size=32, vocabulary=40, layers=3)
DRAFTER = PairingFingerprint.of("eagle3", (0, 1, 2), TARGET)


def test_a_pair_that_was_made_for_each_other_fits() -> None:
    assert mismatch(DRAFTER, TARGET) is None
    assert mismatch(PairingFingerprint.of("eagle", (-1,), TARGET), TARGET) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tokenizer": "other"}, "another tokenizer"),
        ({"lineage": "other"}, "another lineage"),
        ({"hidden_size": 64}, "another hidden size"),
        ({"vocabulary": 41}, "another vocabulary"),
        ({"layers": 2}, "layer 2, the target has 2 layers"),
    ],
)
def test_a_pair_that_was_not_gets_the_reason_in_one_line(change: dict[str, object], reason: str) -> None:
    found = mismatch(DRAFTER, replace(TARGET, **change))  # type: ignore[arg-type]
    assert found is not None
    assert reason in found
    assert "\n" not in found


def test_json_round_trip_and_broken_ones() -> None:
    assert PairingFingerprint.from_json(DRAFTER.to_json()) == DRAFTER
    for name in DRAFTER.to_json():
        with pytest.raises(DrafterError, match="lacks a field"):
            PairingFingerprint.from_json({key: value for key, value in DRAFTER.to_json().items() if key != name})


def test_the_lineage_is_that_of_the_first_checkpoint() -> None:
    model = tied_target()
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    first = identify(model.config, shapes, tokenizer())
    model.config.dtype = "bfloat16"  # How a checkpoint was written does not make another model.
    assert identify(model.config, shapes, tokenizer()) == first
    wider = tiny_model(hidden_size=64)
    theirs = {name: tuple(value.shape) for name, value in wider.state_dict().items()}
    assert identify(wider.config, theirs, tokenizer()).lineage != first.lineage
    renamed = {f"x.{name}": shape for name, shape in shapes.items()}
    assert identify(model.config, renamed, tokenizer()).lineage != first.lineage
    assert identify(model.config, renamed, tokenizer(), lineage=first.lineage) == first


def test_tokenizers_are_told_apart_by_their_words_and_not_by_their_padding() -> None:
    plain = hash_tokenizer(tokenizer())
    padded = tokenizer()
    padded.backend_tokenizer.enable_padding(length=8)
    assert hash_tokenizer(padded) == plain
    words = {f"v{index}": index for index in range(VOCABULARY)}
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="v0")))
    assert hash_tokenizer(other) != plain
