import pytest
import torch

from learners.weights import TensorSpec, WeightManifest, checksum


def test_by_hand() -> None:
    # Words 1, 2, 3 at weights 1, 2, 3: sums 6 and 14.
    assert checksum(torch.tensor([1, 2, 3], dtype=torch.int16)) == 6 << 32 | 14


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_sees_one_bit_and_one_swap(dtype: torch.dtype) -> None:
    tensor = torch.randn(300, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    original = checksum(tensor)
    assert checksum(tensor.clone()) == original
    assert checksum(tensor.T.contiguous().T) == original, "layout in memory does not count, values do"
    flipped = tensor.clone()
    flipped.view(torch.uint8)[123, 4] ^= 1
    assert checksum(flipped) != original
    swapped = tensor.clone()
    swapped[[0, 1]] = swapped[[1, 0]]
    assert checksum(swapped) != original


def test_odd_number_of_bytes() -> None:
    assert checksum(torch.tensor([1, 2, 3], dtype=torch.uint8)) == 6 << 32 | 14


def test_manifest_counts_bytes() -> None:
    specs = (TensorSpec("a", "bfloat16", (3, 5)), TensorSpec("b", "float32", (2,)))
    assert WeightManifest(1, specs).nbytes == 30 + 8
