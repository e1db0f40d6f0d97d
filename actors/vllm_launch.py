"""Starts vLLM: the engine's settings translated into vLLM's arguments and environment.

vLLM reads much of its set-up from the environment, at import and when it spawns the engine's process. Both steps set
that environment and put it back, so that it reaches this engine and no other child of the process.

On the CPU:
- worker and scheduler share one process (the uni-processor executor). vLLM's default there is one process each,
  joined by a busy-waiting queue: a second import of everything at start, and a core that spins while it waits. Its
  reason is that thread binding is set up for a spawned worker alone; here the binding is made before the spawn.
- a prefill is never split. A seeded request whose prefill is split makes vLLM 0.32 rewind its random generator,
  which CPU generators cannot do: the engine dies. So one pass has room for the longest sequence, which may be an
  answer that is read anew, beside a token of every other request.
- the size of the KV cache is given, so that vLLM skips the profiling run by which it would guess it;
- nothing is compiled: an update replaces packed weights, which compiled code may hold on to.

With speculation, vLLM gets our own scheduler and the longest draft length; every length that the governor may choose is
declared, which is what vLLM captures graphs by. Learned drafters read one and the same KV blocks as the target.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from actors.engine import EngineSettings
from actors.speculation.settings import SpeculationSettings

if TYPE_CHECKING:
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

WORKER_EXTENSION = "actors.vllm_worker.WeightWorker"
"""What vLLM imports in its worker process."""
TIED_HEAD_REMEDY = "paceline_tied_head_remedy"
"""Key in vLLM's `additional_config`: whether the worker repacks a tied head after an update."""
SPECULATION = "paceline_speculation"
"""Key in vLLM's `additional_config`: the `SpeculationSettings` as plain data, for the scheduler."""
DRAFTS_OF_ANSWER = "paceline_drafts"
"""Key in `kv_transfer_params` of an answer's last output: what `take_answer` of our scheduler says of it. vLLM hands
the field through; a question of its own would keep the answer, and the place that it held, for another step."""
SUFFIX_PROPOSER = "actors.speculation.vllm_suffix.SuffixProposer"
"""What vLLM makes in its worker to draft from suffixes."""
_VLLM = "0.32."
"""Versions of vLLM whose scheduler and model runner the speculation here is written for."""
_MAX_BATCHED_TOKENS = 8192
"""Tokens of one forward pass, over all requests."""


def import_vllm(settings: EngineSettings) -> None:
    """Import vLLM under the environment that it reads on import; takes seconds.

    A call of its own, apart from `launch`: modules keep exceptions of their import, these keep the thread's frames,
    and those would keep what the thread returned, so that the engine was never let go.
    """
    with _environment(_variables(settings)):
        import vllm.v1.engine.async_llm  # noqa: F401


def launch(settings: EngineSettings) -> "AsyncLLM":
    """Start vLLM with this model; blocks until it is ready to generate.

    Raises:
        ValueError: speculation cannot be had as asked for.
        Whatever vLLM raises on a model that it cannot load; nothing is left running.
    """
    with _environment(_variables(settings)), _bound_to(settings.cpu_cores):
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM

        on_cpu = current_platform.is_cpu()
        with _environment(_CPU_VARIABLES if on_cpu else {}):
            return AsyncLLM.from_engine_args(_arguments(settings, on_cpu=on_cpu))


def _arguments(settings: EngineSettings, *, on_cpu: bool) -> "AsyncEngineArgs":
    from vllm import AsyncEngineArgs
    from vllm.config import WeightTransferConfig

    arguments = AsyncEngineArgs(
        model=settings.model,
        # Token ids in, token ids out: no tokenizer is loaded.
        skip_tokenizer_init=True,
        # What a checkpoint's generation_config.json says about sampling is not for us: every request says it.
        generation_config="vllm",
        dtype=settings.dtype,
        seed=settings.seed,
        max_model_len=settings.context_length,
        max_num_seqs=settings.max_running,
        max_num_batched_tokens=max(_MAX_BATCHED_TOKENS, settings.context_length + _decoded_at_once(settings)),
        tensor_parallel_size=settings.tensor_parallel,
        # Whether a prompt is found in the cache depends on what ran before, and a part of it rounds otherwise.
        enable_prefix_caching=not settings.batch_invariant,
        logprobs_mode="processed_logprobs",
        worker_extension_cls=WORKER_EXTENSION,
        weight_transfer_config=WeightTransferConfig(backend=f"paceline_{settings.transfer}"),
        additional_config={TIED_HEAD_REMEDY: settings.tied_head_remedy},
        disable_log_stats=True,
        use_tqdm_on_load=False,
    )
    if settings.speculation is not None:
        _speculate(arguments, settings.speculation, on_cpu=on_cpu)
    if on_cpu:
        arguments.enforce_eager = True
        arguments.enable_chunked_prefill = False
        if settings.batch_invariant:  # its kernels for the CPU sum otherwise in another batch
            arguments.max_num_seqs = 1
        arguments.kv_cache_memory_bytes = int(settings.kv_cache_gib * 2**30)
        arguments.distributed_executor_backend = "uni" if settings.tensor_parallel == 1 else "mp"
    else:
        arguments.gpu_memory_utilization = settings.gpu_memory_utilization
    return arguments


def _decoded_at_once(settings: EngineSettings) -> int:
    """Most tokens that the running answers put into one pass: each its last one and its draft."""
    return settings.max_running * (1 + (settings.speculation.longest if settings.speculation else 0))


def _speculate(arguments: "AsyncEngineArgs", speculation: SpeculationSettings, *, on_cpu: bool) -> None:
    import vllm

    if not vllm.__version__.startswith(_VLLM):
        raise ValueError(f"speculation in vLLM is written for {_VLLM}x, and {vllm.__version__} is installed")
    if speculation.draft_sampling == "probabilistic" and not on_cpu:
        raise ValueError(
            "speculation.draft_sampling=probabilistic: on GPUs nothing keeps a drafter whose probabilities are not "
            "finite from changing what is sampled; use greedy"
        )
    scheduler = "GovernedScheduler" if on_cpu else "GovernedAsyncScheduler"
    arguments.scheduler_cls = f"actors.speculation.vllm_scheduler.{scheduler}"
    arguments.additional_config[SPECULATION] = asdict(speculation)
    arguments.speculative_config = speculative_config(speculation)


def speculative_config(speculation: SpeculationSettings) -> dict[str, object]:
    """vLLM's own settings for this; verification is always vLLM's exact one."""
    if speculation.kind == "suffix":
        return {"method": "custom_class", "model": SUFFIX_PROPOSER, "num_speculative_tokens": speculation.longest}
    return {
        "method": speculation.kind,
        "model": speculation.drafter,
        "num_speculative_tokens": speculation.longest,
        # The batch sizes stand for nothing: the scheduler asks the governor. Only the lengths count, as declarations.
        "num_speculative_tokens_per_batch_size": [
            (size, size, length) for size, length in enumerate(speculation.lengths, 1)
        ],
        "draft_sample_method": speculation.draft_sampling,
        "rejection_sample_method": "standard",
    }


def _variables(settings: EngineSettings) -> dict[str, str]:
    on_gpu = settings.transfer == "nccl"
    return {
        # vLLM's kernels that round the same in every batch; there are none for the CPU.
        **({"VLLM_BATCH_INVARIANT": "1"} if settings.batch_invariant and on_gpu else {}),
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENGINE_READY_TIMEOUT_S": str(int(settings.start_timeout_s)),
        # Without it vLLM replaces the uni-processor executor on the CPU; it changes nothing else for an AsyncLLM.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0" if settings.tensor_parallel == 1 else "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(settings.threads),
    }


_CPU_VARIABLES = {
    # vLLM compiles a few helpers of its sampler even where the model is not: seconds of a C++ compiler in the middle of
    # the first request, for nothing that could be measured.
    "TORCH_COMPILE_DISABLE": "1",
    # Deprecations and NUMA remarks of vLLM's own code.
    "PYTHONWARNINGS": "ignore",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """The environment with these variables, and afterwards as it was: vLLM adds some of its own."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def _bound_to(cores: str | None) -> Iterator[None]:
    """Bind this thread, and so the processes that it spawns, to these cores."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, parse_cores(cores))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def parse_cores(cores: str) -> set[int]:
    """``"0,2-3"`` as {0, 2, 3}.

    Raises:
        ValueError: it is not such a list.
    """
    try:
        spans = [part.split("-") for part in cores.split(",")]
        return {core for span in spans for core in range(int(span[0]), int(span[-1]) + 1)}
    except ValueError:
        raise ValueError(f"cpu_cores={cores!r} is no list of cores: write it like '0,2-3'") from None
