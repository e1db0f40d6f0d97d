import pytest
import torch

from learners.aggregation import AGGREGATIONS, BatchCounts

# Lengths 1 and 3, losses 1 and 0: by tokens 1/4, by sequences 1/2.
LOSS = torch.tensor([1.0, 0.0, 0.0, 0.0])
SEQUENCE = torch.tensor([0, 1, 1, 1])


def test_token_mean() -> None:
    assert AGGREGATIONS["token"](LOSS, SEQUENCE, BatchCounts(4, 2)).item() == 0.25


def test_sequence_mean() -> None:
    assert AGGREGATIONS["sequence"](LOSS, SEQUENCE, BatchCounts(4, 2)).item() == 0.5


@pytest.mark.parametrize("name", ["token", "sequence"])
def test_parts_add_up_to_the_whole_however_it_is_cut(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    loss = torch.randn(20, generator=generator, dtype=torch.float64)
    sequence = torch.tensor([0] * 5 + [1] * 1 + [2] * 8 + [3] * 6)
    counts = BatchCounts(20, 4)
    aggregate = AGGREGATIONS[name]  # type: ignore[index]
    whole = aggregate(loss, sequence, counts)
    parts = aggregate(loss[:6], sequence[:6], counts) + aggregate(loss[6:], sequence[6:] - 2, counts)
    assert parts.item() == pytest.approx(whole.item(), rel=1e-12)


@pytest.mark.parametrize("name", ["token", "sequence"])
def test_an_empty_part_is_zero(name: str) -> None:
    empty = torch.zeros(0, requires_grad=True)
    share = AGGREGATIONS[name](empty, torch.zeros(0, dtype=torch.int64), BatchCounts(3, 1))  # type: ignore[index]
    assert share.item() == 0.0
    share.backward()
