"""Supervised steps on a micro model: what takes loss, what does not, and that it learns."""

import itertools
import math

import pytest
import torch
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from learners.attention import PACKED
from learners.supervised import (
    Example,
    StepReport,
    SupervisedSettings,
    cross_entropy_sum,
    rate_scale,
    supervised_train,
)

VOCABULARY = 24


def micro_model(seed: int = 0, attention: str = PACKED, tied: bool = True) -> PreTrainedModel:
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            intermediate_size=32,
            max_position_embeddings=64,
            tie_word_embeddings=tied,
            attn_implementation=attention,
        )
    )


def some_examples(count: int, seed: int = 0) -> list[Example]:
    """The response repeats the prompt's last token: learnable, and of varied length."""
    draw = torch.Generator().manual_seed(seed)
    made = []
    for index in range(count):
        prompt = torch.randint(1, VOCABULARY, (2 + index % 5,), generator=draw).tolist()
        made.append(Example(prompt, [prompt[-1]] * (1 + index % 3) + [0]))
    return made


def train(model: PreTrainedModel, settings: SupervisedSettings, examples: list[Example]) -> list[StepReport]:
    reports: list[StepReport] = []
    supervised_train(model, itertools.cycle(examples), settings, reports.append)
    return reports


def weights_apart(one: PreTrainedModel, other: PreTrainedModel) -> float:
    return max(float((p - q).detach().abs().max()) for p, q in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loss_equals_transformers_own_on_the_response_alone(dtype: str) -> None:
    examples = some_examples(4)
    plain = micro_model(attention="sdpa")
    expected = 0.0
    for example in examples:
        ids = torch.tensor([[*example.prompt_ids, *example.response_ids]])
        labels = ids.clone()
        labels[0, : len(example.prompt_ids)] = -100
        expected += float(plain(input_ids=ids, labels=labels).loss.detach()) * len(example.response_ids)
    found = float(cross_entropy_sum(micro_model(), examples, dtype).detach())
    assert found == pytest.approx(expected, rel=1e-5 if dtype == "float32" else 2e-2)


def test_prompt_tokens_are_read_but_take_no_loss() -> None:
    """Unseen tokens stand only in the prompt: as targets they would pull at their rows of the untied head."""
    model = micro_model(tied=False)
    cross_entropy_sum(model, [Example([20, 21, 22, 1], [2, 3])], "float32").backward()
    head = model.get_output_embeddings().weight.grad
    inputs = model.get_input_embeddings().weight.grad
    assert head is not None
    assert inputs is not None
    # A target's row is pulled towards the hidden state by 1 - p, any other row pushed away by p < 0.1 alone.
    assert head[[2, 3]].norm(dim=1).min() > 5 * head[[20, 21, 22]].norm(dim=1).max()
    assert (inputs[[20, 21, 22, 1, 2]].norm(dim=1) > 0).all()
    assert inputs[3].norm() == 0, "the last token predicts nothing"


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_model_learns_to_repeat_a_token(optimizer: str) -> None:
    model = micro_model()
    reports = train(
        model,
        SupervisedSettings(
            steps=60,
            batch_size=16,
            optimizer=optimizer,
            learning_rate=5e-3,
            warmup_steps=5,
            decay_fraction=0.3,
            dtype="float32",
            threads=1,
        ),
        some_examples(400),
    )
    assert reports[0].loss == pytest.approx(math.log(VOCABULARY), rel=0.1)
    assert reports[-1].loss < 0.5 * reports[0].loss
    assert [report.step for report in reports] == list(range(1, 61))
    unseen = some_examples(20, seed=9)
    tokens = sum(len(example.response_ids) for example in unseen)
    assert float(cross_entropy_sum(model, unseen, "float32").detach()) / tokens < 0.6 * reports[0].loss


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_micro_batches_change_nothing(optimizer: str) -> None:
    whole, cut = micro_model(), micro_model()
    common = {"steps": 3, "batch_size": 12, "optimizer": optimizer, "learning_rate": 1e-3, "dtype": "float32"}
    once = train(whole, SupervisedSettings(**common, token_budget=4096), some_examples(36))
    often = train(cut, SupervisedSettings(**common, token_budget=16), some_examples(36))
    assert [r.loss for r in often] == pytest.approx([r.loss for r in once], rel=1e-4)
    assert weights_apart(whole, micro_model()) > 1e-3
    # Muon orthogonalises in bfloat16, which makes rounding of the gradient visible.
    assert weights_apart(whole, cut) < (1e-4 if optimizer == "adamw" else 1e-2)


def test_the_same_examples_train_the_same_weights() -> None:
    settings = SupervisedSettings(steps=4, batch_size=8, optimizer="muon", dtype="float32", threads=1)
    first, second = micro_model(), micro_model()
    assert train(first, settings, some_examples(32)) == train(second, settings, some_examples(32))
    assert weights_apart(first, second) == 0.0


def test_learning_rate_rises_stays_and_falls_but_never_to_nothing() -> None:
    settings = SupervisedSettings(steps=20, warmup_steps=4, decay_fraction=0.5)
    scales = [rate_scale(step, settings) for step in range(1, 21)]
    assert scales[:4] == [0.25, 0.5, 0.75, 1.0]
    assert scales[4:10] == [1.0] * 6
    assert scales[10:] == sorted(scales[10:], reverse=True)
    assert scales[10] < 1.0
    assert 0 < scales[-1] < 0.1
    assert [rate_scale(step, SupervisedSettings(steps=3)) for step in (1, 2, 3)] == [1.0] * 3


def test_examples_that_run_out_are_an_error() -> None:
    settings = SupervisedSettings(steps=3, batch_size=4)
    with pytest.raises(ValueError, match="ran out at step 2 of 3: 12 are needed"):
        supervised_train(micro_model(), iter(some_examples(7)), settings)


def test_a_loss_that_is_not_finite_stops_training_before_the_step() -> None:
    model = micro_model()
    with torch.no_grad():
        model.get_input_embeddings().weight[1].fill_(float("nan"))
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        supervised_train(model, [Example([1, 2], [3])], SupervisedSettings(steps=1, batch_size=1))
    assert all(torch.equal(p, q) for p, q in zip(before[1:], list(model.parameters())[1:], strict=True))


def test_the_thread_count_is_given_back() -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    supervised_train(
        micro_model(),
        some_examples(4),
        SupervisedSettings(steps=1, batch_size=4, threads=before + 1),
        lambda _: seen.append(torch.get_num_threads()),
    )
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("prompt", "response"), [([], [1]), ([1], [])])
def test_an_example_without_prompt_or_response_is_refused(prompt: list[int], response: list[int]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        Example(prompt, response)
