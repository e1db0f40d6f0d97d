"""How a set of weights lies in the buffers that travel: pure layout, the same on both sides.

Invariants:
- both sides derive the layout from the manifest alone, so it is never sent;
- each tensor starts at a multiple of `ALIGNMENT`, so it can be viewed in its own dtype without a copy;
- no buffer exceeds `limit` bytes unless one tensor alone does.
"""

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from learners.weights import TensorSpec, WeightManifest

ALIGNMENT = 64
BUFFER_BYTES = 256 * 2**20
"""Few large transfers are as fast as one, and bound the extra memory of either side."""


@dataclass(frozen=True, slots=True)
class WireBuffer:
    """One transfer: the tensors in it, where each starts, and the size of the whole in bytes."""

    specs: tuple[TensorSpec, ...]
    offsets: tuple[int, ...]
    nbytes: int


def plan_buffers(manifest: WeightManifest, limit: int = BUFFER_BYTES) -> tuple[WireBuffer, ...]:
    """Cut the manifest, in its order, into buffers of at most `limit` bytes."""
    buffers: list[WireBuffer] = []
    specs: list[TensorSpec] = []
    offsets: list[int] = []
    end = 0
    for spec in manifest.tensors:
        start = -(-end // ALIGNMENT) * ALIGNMENT
        if specs and start + spec.nbytes > limit:
            buffers.append(WireBuffer(tuple(specs), tuple(offsets), end))
            specs, offsets, start = [], [], 0
        specs.append(spec)
        offsets.append(start)
        end = start + spec.nbytes
    if specs:
        buffers.append(WireBuffer(tuple(specs), tuple(offsets), end))
    return tuple(buffers)


def pack(buffer: WireBuffer, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """[buffer.nbytes] uint8 on the CPU, with the bytes of each tensor at its place.

    Raises:
        ValueError: a tensor is missing, or its dtype or shape is not what the manifest says.
    """
    packed = torch.zeros(buffer.nbytes, dtype=torch.uint8)
    for spec, offset in zip(buffer.specs, buffer.offsets, strict=True):
        check_tensor(spec, tensors.get(spec.name))
        _view(packed, spec, offset).copy_(tensors[spec.name].detach())
    return packed


def unpack(buffer: WireBuffer, packed: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """The named tensors in a received buffer, as views of it."""
    for spec, offset in zip(buffer.specs, buffer.offsets, strict=True):
        yield spec.name, _view(packed, spec, offset)


def check_tensor(spec: TensorSpec, tensor: torch.Tensor | None) -> None:
    """Refuse a tensor that is not what the manifest announces (`ValueError`)."""
    if tensor is None:
        raise ValueError(f"the manifest announces {spec.name}, but no such tensor was given")
    if tensor.dtype != getattr(torch, spec.dtype) or tuple(tensor.shape) != spec.shape:
        raise ValueError(
            f"{spec.name}: the manifest announces {spec.dtype} {spec.shape}, "
            f"the tensor is {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
        )


def describe(manifest: WeightManifest) -> str:
    """One line that is equal on both sides exactly if they agree on what is about to travel."""
    layout = repr([(spec.name, spec.dtype, spec.shape) for spec in manifest.tensors])
    return (
        f"version {manifest.version}, {len(manifest.tensors)} tensors, {manifest.nbytes} bytes, "
        f"layout {zlib.crc32(layout.encode()):08x}"
    )


def _view(packed: torch.Tensor, spec: TensorSpec, offset: int) -> torch.Tensor:
    return packed[offset : offset + spec.nbytes].view(getattr(torch, spec.dtype)).view(spec.shape)
