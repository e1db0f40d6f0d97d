"""Peak memory of a training step, in a process of its own; used by the benchmark `learner`.

Prints one line of JSON. What counts is the growth above what lies there between steps (weights, optimizer): on a CPU
the peak of the resident set, which Linux is asked to forget before the measured step; on a GPU the allocator's peak.
"""

import argparse
import json
from pathlib import Path

import torch

from tests.benchmarks.learner_load import make_batch, open_learner, size_for
from tests.learners.ranks import CPU, single_rank

MIB = 2**20


class PeakMemory:
    """Growth of memory since it was made, in bytes, at its highest."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)
        else:
            Path("/proc/self/clear_refs").write_text("5")
            self._before = _status("VmRSS")

    def growth(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) - self._before
        return _status("VmHWM") - self._before


def _status(name: str) -> int:
    """A figure of this process from the kernel, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("dtype")
    parser.add_argument("--checkpointing", action="store_true")
    arguments = parser.parse_args()
    device = torch.device("cuda", 0) if torch.cuda.is_available() else CPU
    size = size_for(device)
    with single_rank(device):
        learner = open_learner(
            arguments.model, size, arguments.dtype, device, activation_checkpointing=arguments.checkpointing
        )
        # What stays for ever (gradient buffers, thread pools) is there before the measured step.
        learner.step(make_batch([64], size.vocabulary, seed=1))
        memory = PeakMemory(device)
        learner.step(make_batch([size.longest] * (size.token_budget // size.longest), size.vocabulary, seed=0))
        print(json.dumps({"peak_growth_mib": round(memory.growth() / MIB, 1), "tokens": size.token_budget}))


if __name__ == "__main__":
    main()
