import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from learners.short_attention import short_attention


def inputs(batch: int, length: int, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (batch, length, 4)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for _ in range(3)]


def test_gradient_against_finite_differences() -> None:
    query, key, value = inputs(2, 5, torch.float64)
    assert torch.autograd.gradcheck(lambda q, k, v: short_attention(q, k, v, 0.7), (query, key, value))


@pytest.mark.parametrize("batch", [1, 16, 37])
@pytest.mark.parametrize("length", [1, 9])
def test_equals_sdpa_over_any_number_of_blocks(batch: int, length: int) -> None:
    parts = inputs(batch, length, torch.float32)
    upstream = torch.linspace(-1, 1, batch * length * 4).view(batch, length, 4)
    expected = scaled_dot_product_attention(*parts, is_causal=True, scale=0.7)
    got = short_attention(*parts, 0.7)
    torch.testing.assert_close(got, expected)
    for mine, theirs in zip(
        torch.autograd.grad(got, parts, upstream), torch.autograd.grad(expected, parts, upstream), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_half_precision_gradients_stay_near_the_exact_ones() -> None:
    exact = inputs(8, 30, torch.float64)
    narrow = [part.detach().bfloat16().requires_grad_() for part in exact]
    flash = [part.detach().clone().requires_grad_() for part in narrow]
    upstream = torch.randn(8, 30, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    truth = torch.autograd.grad(short_attention(*exact, 0.7), exact, upstream)
    mine = torch.autograd.grad(short_attention(*narrow, 0.7), narrow, upstream.bfloat16())
    theirs = torch.autograd.grad(
        scaled_dot_product_attention(*flash, is_causal=True, scale=0.7), flash, upstream.bfloat16()
    )
    for want, got, other in zip(truth, mine, theirs, strict=True):
        assert (got - want).abs().mean() < 2 * (other - want).abs().mean()
