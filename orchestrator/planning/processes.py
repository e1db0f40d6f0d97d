"""What processes hold before they do anything: interpreter and libraries, resident bytes.

Those of driver, learner, engines, drafter's trainer and reward children were measured, by
`make bench NAME=plan ARGS=--bases` on Linux with torch 2.13, vLLM 0.32 and Ray 2.60, builds for the CPU, and are
rounded up by what Ray's worker adds. A page that several processes share counts in each, so that sums are too high by
some tens of MiB a process.
"""

from orchestrator.planning.memory import GIB, MIB

LEARNER = 400 * MIB
VLLM_ENGINE = 1150 * MIB
"""The actor and vLLM's own process, both of which import vLLM."""
TORCH_ENGINE = 400 * MIB
DRAFTER_TRAINER = 430 * MIB
REWARD_CHILD = 100 * MIB
DRIVER = 450 * MIB
RAY = 600 * MIB
"""Its daemons on one node; an estimate."""
GPU_CONTEXT = GIB
"""Of an accelerator: CUDA's context and NCCL's buffers. Not measured here; what is usual."""
GPU_SLACK = 0.05
"""Share of an accelerator that the allocator cannot use up: pieces that fit nothing. Not measured here."""
