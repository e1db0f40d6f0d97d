"""Leaves verification out of steps in which nothing was drafted, on the CPU.

With a drafter loaded, vLLM 0.32 prepares every step for verification and sends it through its rejection sampler: some
percent of a small model's step where nothing was drafted, and with top-k the end of the engine, which asks an empty
tensor for its maximum. Such a step is prepared here as it is without a drafter.

Models with recurrent layers are left as they are: vLLM reads their state at an offset that counts drafts, also none.
"""

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.worker.cpu_model_runner import CPUModelRunner
from vllm.v1.worker.gpu_model_runner import GPUModelRunner


def verify_drafts_alone() -> None:
    """For a worker process whose model runs on the CPU; idempotent."""
    CPUModelRunner._prepare_inputs = _prepare_inputs


def _prepare_inputs(runner: CPUModelRunner, scheduler_output: SchedulerOutput, *arguments: object) -> object:
    """vLLM's own, which goes by whether there is a drafter and not by whether there are drafts."""
    speculative_config = runner.speculative_config
    if speculative_config is None or scheduler_output.scheduled_spec_decode_tokens or runner.model_config.is_hybrid:
        return GPUModelRunner._prepare_inputs(runner, scheduler_output, *arguments)
    runner.speculative_config = None
    try:
        return GPUModelRunner._prepare_inputs(runner, scheduler_output, *arguments)
    finally:
        runner.speculative_config = speculative_config
