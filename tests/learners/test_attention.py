"""Packed == padded == one by one, in values and in gradients."""

import pytest
import torch
from transformers import PreTrainedModel

from learners import short_attention
from learners.attention import FLASH, PACKED, attention_arguments, best_attention, lay_out
from learners.packing import pack
from learners.policy import token_logprobs
from tests.learners.tiny import VOCABULARY, tiny_model

LENGTHS = (7, 30, 12, 29, 1, 18, 2, 140)


def sequences(seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, VOCABULARY, (n,), generator=generator).tolist() for n in LENGTHS]


def one_by_one(model: PreTrainedModel, items: list[list[int]]) -> torch.Tensor:
    """The plain way: one unpadded forward a sequence, eager attention."""
    model.set_attn_implementation("eager")
    parts = []
    for item in items:
        ids = torch.tensor([item])
        table = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        parts.append(table.gather(-1, ids[0, 1:, None]).squeeze(-1))
    return torch.cat(parts)


def padded(model: PreTrainedModel, items: list[list[int]]) -> torch.Tensor:
    model.set_attn_implementation("sdpa")
    longest = max(map(len, items))
    ids = torch.tensor([item + [0] * (longest - len(item)) for item in items])
    mask = torch.tensor([[1] * len(item) + [0] * (longest - len(item)) for item in items])
    table = model(input_ids=ids, attention_mask=mask).logits[:, :-1].log_softmax(-1)
    chosen = table.gather(-1, ids[:, 1:, None]).squeeze(-1)
    return torch.cat([row[: len(item) - 1] for row, item in zip(chosen, items, strict=True)])


def packed(model: PreTrainedModel, items: list[list[int]]) -> torch.Tensor:
    model.set_attn_implementation(PACKED)
    return token_logprobs(model, pack(items))


def gradients(model: PreTrainedModel, logprobs: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    # Uneven weights, so that no two tokens' gradients can stand in for each other.
    (logprobs * torch.linspace(-1, 2, logprobs.numel())).sum().backward()
    return {name: value.grad.clone() for name, value in model.named_parameters()}


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("window", [None, 5])
def test_packed_equals_padded_equals_one_by_one(kv_heads: int, window: int | None) -> None:
    sliding = {"use_sliding_window": True, "sliding_window": window, "max_window_layers": 1} if window else {}
    model = tiny_model(num_key_value_heads=kv_heads, **sliding)
    items = sequences()
    results = {way.__name__: way(model, items) for way in (one_by_one, padded, packed)}
    assert results["packed"].shape == (sum(LENGTHS) - len(LENGTHS),)
    for other in ("padded", "one_by_one"):
        torch.testing.assert_close(results["packed"], results[other], atol=2e-5, rtol=1e-5)
    grads = {name: gradients(model, value) for name, value in results.items()}
    for name, grad in grads["packed"].items():
        size = grads["one_by_one"][name].abs().max().item()
        for other in ("padded", "one_by_one"):
            torch.testing.assert_close(grad, grads[other][name], atol=2e-5 * size, rtol=1e-4)


@pytest.mark.parametrize(
    ("way", "longest"),
    [("short attention alone", {torch.float32: 1000, torch.bfloat16: 1000}), ("SDPA alone", {})],
)
@pytest.mark.parametrize("kv_heads", [1, 4])
def test_each_implementation_on_the_cpu_equals_padded(
    monkeypatch: pytest.MonkeyPatch, way: str, longest: dict[torch.dtype, int], kv_heads: int
) -> None:
    """Which one runs depends on a length (`short_attention.MAX_LENGTH`): here each runs on all of them."""
    monkeypatch.setattr(short_attention, "MAX_LENGTH", longest)
    model = tiny_model(num_key_value_heads=kv_heads)
    items = sequences()
    expected = padded(model, items)
    slopes = gradients(model, expected)
    got = packed(model, items)
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-5)
    for name, slope in gradients(model, got).items():
        size = slopes[name].abs().max().item()
        torch.testing.assert_close(slope, slopes[name], atol=2e-5 * size, rtol=1e-4)
    plain = (padded(model.to(torch.bfloat16), items) - expected).abs().mean()
    assert (packed(model, items) - expected).abs().mean() < 1.2 * plain


def test_half_precision_stays_as_close_to_float32_as_the_plain_way() -> None:
    model = tiny_model()
    items = sequences()
    exact = one_by_one(model, items)
    model.to(torch.bfloat16)
    plain = (one_by_one(model, items) - exact).abs().mean()
    assert (packed(model, items) - exact).abs().mean() < 1.2 * plain


def test_sequences_do_not_see_each_other() -> None:
    model = tiny_model()
    items = sequences()
    before = packed(model, items)
    items[1] = [(token + 1) % VOCABULARY for token in items[1]]
    after = packed(model, items)
    own = slice(LENGTHS[0] - 1, LENGTHS[0] - 1 + LENGTHS[1] - 1)
    assert not torch.allclose(before[own], after[own])
    assert torch.equal(before[: own.start], after[: own.start])
    assert torch.equal(before[own.stop :], after[own.stop :])


def test_layout_places_every_token_once_and_pads_little() -> None:
    lengths = [5, 90, 100, 3, 4, 80]
    layout = lay_out(lengths, torch.device("cpu"))
    slots = sum(count * length for count, length in layout.groups)
    assert layout.source.numel() == slots
    assert layout.slot.unique().numel() == sum(lengths)
    # Slot and source are each other's inverse on real tokens.
    assert torch.equal(layout.source[layout.slot], torch.arange(sum(lengths)))
    assert layout.groups == ((3, 100), (2, 5), (1, 3))


def test_other_attention_would_mix_the_sequences_and_is_refused() -> None:
    model = tiny_model()
    model.set_attn_implementation("sdpa")
    with pytest.raises(ValueError, match="cannot read packed rows"):
        token_logprobs(model, pack([[1, 2], [3, 4]]))


def test_a_forward_without_layout_is_refused() -> None:
    model = tiny_model()
    model.set_attn_implementation(PACKED)
    with pytest.raises(ValueError, match="packed_layout"):
        model(input_ids=torch.tensor([[1, 2, 3]]))


def test_a_padding_mask_is_refused() -> None:
    model = tiny_model()
    model.set_attn_implementation(PACKED)
    with pytest.raises(ValueError, match="without an attention mask"):
        model(input_ids=torch.tensor([[1, 2, 3]]), attention_mask=torch.tensor([[1, 1, 0]]))


def test_flash_gets_cumulative_lengths() -> None:
    row = pack([[1, 2, 3], [4]])
    given = attention_arguments(row, FLASH, torch.device("cpu"))
    assert given["cu_seq_lens_q"].tolist() == given["cu_seq_lens_k"].tolist() == [0, 3, 4]
    assert given["cu_seq_lens_q"].dtype == torch.int32
    assert given["max_length_q"] == given["max_length_k"] == 3


def test_choice_without_a_gpu() -> None:
    assert best_attention(torch.device("cpu"), torch.bfloat16) == PACKED
    assert best_attention(torch.device("cuda"), torch.float32) == PACKED
    assert best_attention(torch.device("cuda"), torch.bfloat16, shared_rows=True) == PACKED
