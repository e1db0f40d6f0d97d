import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from learners.logprobs import chunked_logprobs


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(11, 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(9, 6, generator=generator, dtype=torch.float64)
    bias = torch.randn(9, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 9, (11,), generator=generator)
    return hidden.float(), weight.float(), bias.float(), targets


@pytest.mark.parametrize("chunk_elements", [1, 9 * 4, 10_000])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_equals_the_plain_softmax_in_value_gradient_and_entropy(chunk_elements: int, temperature: float) -> None:
    hidden, weight, bias, targets = (t.requires_grad_() if t.is_floating_point() else t for t in inputs())
    upstream = torch.linspace(-1, 1, 11)
    table = ((hidden @ weight.T + bias) / temperature).log_softmax(-1)
    plain = table.gather(-1, targets[:, None]).squeeze(-1)
    expected = torch.autograd.grad((plain * upstream).sum(), (hidden, weight, bias))
    got = chunked_logprobs(hidden, weight, bias, targets, temperature=temperature, chunk_elements=chunk_elements)
    torch.testing.assert_close(got.logprobs, plain)
    torch.testing.assert_close(got.entropy, -(table.exp() * table).sum(-1))
    actual = torch.autograd.grad((got.logprobs * upstream).sum(), (hidden, weight, bias))
    for mine, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk_elements", [1, 9 * 4, 10_000])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("with_logprobs", [True, False])
def test_the_entropys_gradient_is_that_of_the_plain_softmax(
    chunk_elements: int, temperature: float, with_logprobs: bool
) -> None:
    hidden, weight, bias, targets = (t.requires_grad_() if t.is_floating_point() else t for t in inputs())
    upstream = torch.linspace(-1, 1, 11)
    table = ((hidden @ weight.T + bias) / temperature).log_softmax(-1)
    plain, entropy = table.gather(-1, targets[:, None]).squeeze(-1), -(table.exp() * table).sum(-1)
    expected = torch.autograd.grad(
        (entropy * upstream).sum() + with_logprobs * plain.sum(), (hidden, weight, bias), retain_graph=True
    )
    got = chunked_logprobs(hidden, weight, bias, targets, temperature=temperature, chunk_elements=chunk_elements)
    loss = (got.entropy * upstream).sum()
    actual = torch.autograd.grad(loss + got.logprobs.sum() if with_logprobs else loss, (hidden, weight, bias))
    for mine, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=3e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk_elements", [1, 9 * 4, 10_000])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_moments_are_those_of_the_plain_softmax_and_cost_no_gradient(chunk_elements: int, temperature: float) -> None:
    hidden, weight, bias, targets = (t.requires_grad_() if t.is_floating_point() else t for t in inputs())
    table = ((hidden @ weight.T + bias) / temperature).log_softmax(-1)
    got = chunked_logprobs(
        hidden, weight, bias, targets, temperature=temperature, moments=True, chunk_elements=chunk_elements
    )
    assert got.moments is not None
    torch.testing.assert_close(got.moments.mean_logprob, table.mean(-1))
    torch.testing.assert_close(got.moments.square, table.exp().square().sum(-1))
    torch.testing.assert_close(got.moments.cube, table.exp().pow(3).sum(-1))
    torch.testing.assert_close(got.moments.feature, hidden.square().sum(-1) / temperature**2)
    assert not any(values.requires_grad for values in got.moments)
    expected = torch.autograd.grad(table.gather(-1, targets[:, None]).sum(), (hidden, weight, bias))
    for mine, theirs in zip(torch.autograd.grad(got.logprobs.sum(), (hidden, weight, bias)), expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    assert chunked_logprobs(hidden, weight, bias, targets).moments is None


def test_two_words_by_hand() -> None:
    # Logits (ln 3, 0): probabilities 3/4 and 1/4.
    hidden = torch.tensor([[3.0]]).log().requires_grad_()
    weight = torch.tensor([[1.0], [0.0]])
    got = chunked_logprobs(hidden, weight, None, torch.tensor([0]))
    assert got.logprobs.item() == pytest.approx(-0.2876820724)
    assert got.entropy.item() == pytest.approx(0.5623351446)
    got.logprobs.backward()
    # d log p0 / d hidden = w0 - (3/4 w0 + 1/4 w1) = 1/4
    assert hidden.grad is not None
    assert hidden.grad.item() == pytest.approx(0.25)


def test_no_token_still_takes_part_in_backward() -> None:
    hidden, weight, _, _ = inputs()
    hidden.requires_grad_()
    weight.requires_grad_()
    chunked_logprobs(hidden[:0], weight, None, torch.zeros(0, dtype=torch.int64)).logprobs.sum().backward()
    assert weight.grad is not None
    assert not weight.grad.any()


class LargestTensor(TorchDispatchMode):
    """Entries of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.entries = max(self.entries, tensor.numel())
        return made


@pytest.mark.parametrize("with_entropy", [False, True])
def test_all_logits_are_never_held_at_once(with_entropy: bool) -> None:
    tokens, vocabulary, width, chunk = 300, 500, 8, 7
    hidden = torch.randn(tokens, width, requires_grad=True)
    weight = torch.randn(vocabulary, width, requires_grad=True)
    with LargestTensor() as seen:
        got = chunked_logprobs(
            hidden, weight, None, torch.arange(tokens), chunk_elements=chunk * vocabulary + vocabulary - 1
        )
        (got.logprobs.sum() + with_entropy * got.entropy.sum()).backward()
    assert hidden.grad is not None
    assert seen.entries == max(chunk * vocabulary, vocabulary * width, tokens * width) == 4000
    with LargestTensor() as seen:
        chunked_logprobs(hidden, weight, None, torch.arange(tokens)).logprobs.sum().backward()
    assert seen.entries == tokens * vocabulary, "the watch sees a whole table where one chunk holds all"


@pytest.mark.parametrize("with_entropy", [False, True])
def test_a_second_backward_pass_gives_the_same_gradient(with_entropy: bool) -> None:
    """The first one used up what was kept of the forward pass."""
    hidden, weight, bias, targets = (t.requires_grad_() if t.is_floating_point() else t for t in inputs())
    got = chunked_logprobs(hidden, weight, bias, targets, chunk_elements=9 * 4)
    loss = got.logprobs.sum() + with_entropy * got.entropy.square().sum()
    first, second = (torch.autograd.grad(loss, (hidden, weight, bias), retain_graph=True) for _ in range(2))
    for mine, theirs in zip(first, second, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("with_entropy", [False, True])
def test_impossible_tokens_leave_no_nan(with_entropy: bool) -> None:
    """Probabilities that are 0 in float32, whose logarithm is not."""
    hidden = torch.tensor([[300.0], [-300.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [0.0], [-1.0]], requires_grad=True)
    got = chunked_logprobs(hidden, weight, None, torch.tensor([0, 1]), chunk_elements=3)
    assert got.logprobs.tolist() == [0.0, -300.0]
    assert got.entropy.tolist() == [0.0, 0.0]
    (got.logprobs.sum() + with_entropy * got.entropy.sum()).backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    # Second token: d logp / d hidden = w1 - w2 = 1.
    assert hidden.grad.tolist() == [[0.0], [1.0]]
    assert weight.grad.tolist() == [[0.0], [-300.0], [300.0]]


def test_after_the_product_everything_is_float32() -> None:
    """In bfloat16 itself a logprob of -9 could not be told from one of -9.02."""
    hidden, weight, _, targets = (t.bfloat16() if t.is_floating_point() else t for t in inputs())
    got = chunked_logprobs(hidden, weight, None, targets)
    exact = torch.nn.functional.linear(hidden, weight).double().log_softmax(-1)
    assert got.logprobs.dtype == got.entropy.dtype == torch.float32
    torch.testing.assert_close(got.logprobs.double(), exact.gather(-1, targets[:, None]).squeeze(-1), atol=1e-6, rtol=0)
    torch.testing.assert_close(got.entropy.double(), -(exact.exp() * exact).sum(-1), atol=1e-6, rtol=0)


def test_a_frozen_head_gets_no_gradient_and_the_others_are_the_same() -> None:
    hidden, weight, bias, targets = inputs()
    slopes = []
    for frozen in (False, True):
        own = hidden.clone().requires_grad_()
        table, offset = (part.clone().requires_grad_(not frozen) for part in (weight, bias))
        got = chunked_logprobs(own, table, offset, targets, chunk_elements=9 * 4)
        (got.logprobs.sum() + got.entropy.sum()).backward()
        assert (table.grad is None) is frozen
        assert (offset.grad is None) is frozen
        slopes.append(own.grad)
    assert torch.equal(slopes[0], slopes[1])


def test_greedy_temperature_is_refused() -> None:
    hidden, weight, _, targets = inputs()
    with pytest.raises(ValueError, match="temperature 0"):
        chunked_logprobs(hidden, weight, None, targets, temperature=0.0)
