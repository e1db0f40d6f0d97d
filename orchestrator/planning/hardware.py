"""What accelerators can do: published figures of some, and a second's measurement of this machine's cores."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from orchestrator.planning.memory import GIB

MEASURED_S = 0.25
"""Seconds of each of the two measurements, at least."""
_MATRIX = 768
_STREAM_BYTES = 256 * 2**20
"""Far beyond any cache."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """One accelerator, or the cores of one process.

    Attributes:
        half, single: dense multiply-add rate in bfloat16 and float32, FLOP/s.
        bandwidth: of its memory, bytes/s.
        memory: bytes.
        measured: here, and not published by its maker.
    """

    name: str
    half: float
    single: float
    bandwidth: float
    memory: int
    measured: bool = False

    def flops(self, number: int) -> float:
        """FLOP/s with numbers of so many bytes."""
        return self.half if number == 2 else self.single


def _published(name: str, half: float, single: float, bandwidth: float, memory: float) -> Hardware:
    """TFLOP/s without sparsity, GB/s, GiB."""
    return Hardware(name, half * 1e12, single * 1e12, bandwidth * 1e9, int(memory * GIB))


PUBLISHED = {
    hardware.name: hardware
    for hardware in (
        _published("a10", 125, 31.2, 600, 24),
        _published("a100-40", 312, 19.5, 1555, 40),
        _published("a100-80", 312, 19.5, 2039, 80),
        _published("b200", 2250, 80, 8000, 180),
        _published("h100", 989, 67, 3350, 80),
        _published("h200", 989, 67, 4800, 141),
        _published("l4", 121, 30.3, 300, 24),
        _published("l40s", 362, 91.6, 864, 48),
        _published("rtx4090", 165, 82.6, 1008, 24),
    )
}
"""From the makers' data sheets: dense bfloat16 with float32 sums on the matrix units, and plain float32."""


def nearest(memory: int) -> Hardware:
    """A published accelerator of about so many bytes, the slowest of those: for where nobody says which one it is."""
    return min(PUBLISHED.values(), key=lambda known: (abs(known.memory - memory), known.half))


def called(name: str) -> Hardware | None:
    """The published accelerator that a driver calls so, such as ``NVIDIA H100 80GB HBM3``."""
    plain = name.lower().replace(" ", "")
    found = [known for known in PUBLISHED.values() if known.name.partition("-")[0] in plain]
    sized = [known for known in found if "-" in known.name and known.name.partition("-")[2] in plain]
    return next(iter(sized or found), None)


def measure_cores(threads: int, memory: int) -> Hardware:
    """The rates of this many cores, in about a second. The process's thread count is put back."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return Hardware(
            f"{threads} core{'s' if threads > 1 else ''}",
            half=_product_rate(torch.bfloat16),
            single=_product_rate(torch.float32),
            bandwidth=_read_rate(),
            memory=memory,
            measured=True,
        )
    finally:
        torch.set_num_threads(before)


def _product_rate(dtype: torch.dtype) -> float:
    left = torch.ones(_MATRIX, _MATRIX, dtype=dtype)
    return 2.0 * _MATRIX**3 * _per_second(lambda: left @ left)


def _read_rate() -> float:
    """Of a matrix and a vector, as decoding reads weights."""
    width = 4096
    rows = torch.ones(_STREAM_BYTES // (4 * width), width)
    vector = torch.ones(width)
    return _STREAM_BYTES * _per_second(lambda: rows @ vector)


def _per_second(work: Callable[[], object]) -> float:
    work()
    started, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - started) < MEASURED_S:
        work()
        count += 1
    return count / spent
