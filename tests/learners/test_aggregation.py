import pytest
import torch

from learners.aggregation import AGGREGATIONS, BatchCounts

# Lengths 1 and 3, losses 1 and 0: by tokens 1/4, by sequences 1/2.
LOSS = torch.tensor([1.0, 0.0, 0.0, 0.0])
SEQUENCE = torch.tensor([0, 1, 1, 1])


@pytest.mark.parametrize(("name", "mean"), [("token", 0.25), ("sequence", 0.5)])
def test_the_total_over_the_divisor_is_the_mean_of_tokens_or_of_sequences(name: str, mean: float) -> None:
    aggregation = AGGREGATIONS[name]  # type: ignore[index]
    assert aggregation.total(LOSS, SEQUENCE).item() / aggregation.divisor(BatchCounts(4, 2)) == mean


def test_counts_add_up() -> None:
    assert BatchCounts(4, 2) + BatchCounts(3, 1) + BatchCounts() == BatchCounts(7, 3)


@pytest.mark.parametrize("name", ["token", "sequence"])
def test_parts_add_up_to_the_whole_however_it_is_cut(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    loss = torch.randn(20, generator=generator, dtype=torch.float64)
    sequence = torch.tensor([0] * 5 + [1] * 1 + [2] * 8 + [3] * 6)
    total = AGGREGATIONS[name].total  # type: ignore[index]
    whole = total(loss, sequence)
    parts = total(loss[:6], sequence[:6]) + total(loss[6:], sequence[6:] - 2)
    assert parts.item() == pytest.approx(whole.item(), rel=1e-12)


@pytest.mark.parametrize("name", ["token", "sequence"])
def test_an_empty_part_is_zero(name: str) -> None:
    empty = torch.zeros(0, requires_grad=True)
    share = AGGREGATIONS[name].total(empty, torch.zeros(0, dtype=torch.int64))  # type: ignore[index]
    assert share.item() == 0.0
    share.backward()
