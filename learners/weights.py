"""A published set of weights: its manifest, its checksums, and the pure functions that attest it.

A checksum depends on every byte of a tensor and on its place, is exact (integer arithmetic modulo 2**64), and is the
same on any device, so that the sender's and the receiver's can be compared as equals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name (as in the Hugging Face checkpoint), wire dtype (``"bfloat16"``) and full shape of one tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count * getattr(torch, self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class WeightManifest:
    """What a weight update will carry, in order of transfer."""

    version: int
    tensors: tuple[TensorSpec, ...]

    @property
    def nbytes(self) -> int:
        return sum(spec.nbytes for spec in self.tensors)


@dataclass(frozen=True, slots=True)
class WeightTruth:
    """What the learner knows of a version, for attestation.

    Attributes:
        manifest: what is sent.
        checksums: checksum of each tensor, by name.
        probe_logprobs: [len(probe) - 1] the learner's own logprob of each probe token after the first.
    """

    manifest: WeightManifest
    checksums: Mapping[str, int]
    probe_logprobs: Sequence[float]


def checksum(tensor: torch.Tensor) -> int:
    """Position-dependent checksum of a tensor's bytes, equal on every device.

    The bytes are read as 16-bit words w_i (8-bit where the size is odd); the result joins sum(w_i) and
    sum(w_i * (i mod 65521 + 1)), each modulo 2**32.
    """
    flat = tensor.detach().contiguous().flatten()
    words = flat.view(torch.int16) if (flat.numel() * flat.element_size()) % 2 == 0 else flat.view(torch.uint8)
    plain = weighted = 0
    for start in range(0, words.numel(), _CHUNK):
        chunk = words[start : start + _CHUNK].to(torch.int64)
        place = torch.arange(start, start + chunk.numel(), device=chunk.device) % 65521 + 1
        plain += int(chunk.sum())
        weighted += int((chunk * place).sum())
    return (plain % 2**32) << 32 | weighted % 2**32


_CHUNK = 1 << 24
"""Words summed at once: bounds the int64 copy to 128 MiB, and keeps every partial sum far below 2**63."""
