"""What one role of a recipe really takes: a process of its own that runs it, and says how far its memory grew.

Growth is counted from the process with its imports alone, as the peak of the resident set, which Linux is asked to
forget where a measurement begins. The learner loads, makes two training steps of full micro-batches and publishes; an
engine loads, fills its slots with answers of full length and takes an update.

    python -m tests.benchmarks.role_memory learner recipe.yaml --rank 0 --port 29500
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import yaml
from transformers import Qwen3Config

from orchestrator.config import Recipe
from orchestrator.placement import Placement
from orchestrator.planning.configs import Configs
from orchestrator.planning.learner_role import cpu_rank_need
from orchestrator.planning.rollout_role import engine_need

MIB = 2**20
DEADLINE_S = 420.0
_SLOTS: dict[str, object] = {"max_running": 16, "max_prompt_tokens": 384, "max_response_tokens": 128}
LAYERS, WIDTH, HEADS, KV_HEADS, INNER, VOCABULARY = 8, 1024, 16, 8, 3072, 16_384


def config_of(*, layers: int = LAYERS, tied: bool = False, vocabulary: int = VOCABULARY) -> Qwen3Config:
    """A model whose weights are far larger than what an interpreter takes: 134 M parameters."""
    return Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=WIDTH // HEADS,
        max_position_embeddings=4096,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )


def write_recipe(folder: Path, *, layers: int = LAYERS, tied: bool = False, **sections: object) -> Path:
    """A recipe for a model of this shape, which is written beside it; full micro-batches, two of them a step."""
    model = folder / f"model-{layers}-{tied}"
    if not model.exists():
        write_model(model, config_of(layers=layers, tied=tied))
    usual: dict[str, dict[str, object]] = {
        "rollout": {"group_size": 4, "max_prompt_tokens": 24, "max_response_tokens": 232, "dtype": "float32"},
        "trainer": {"prompts_per_step": 1, "token_budget": 512, "dtype": "float32"},
    }
    tree: dict[str, object] = {
        "name": "measured",
        "model": str(model),
        "device": "cpu",
        "data": {"tasks": [{"name": "chain_sum"}]},
        "reward": {"terms": [{"name": "reasoning_gym"}]},
    }
    for name, section in {**usual, **sections}.items():
        assert isinstance(section, dict)
        tree[name] = {**usual.get(name, {}), **section}
    file = folder / f"{abs(hash(str(tree)))}.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file


def write_model(folder: Path, config: Qwen3Config) -> str:
    """A checkpoint with random weights."""
    import torch
    from transformers import Qwen3ForCausalLM

    torch.manual_seed(0)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return str(folder)


@dataclass(frozen=True, slots=True)
class Measured:
    """Bytes above the process with its imports alone: at the peak, and by stage. `base`: that process itself."""

    peak: int
    stages: dict[str, int]
    base: int


CASES: dict[str, tuple[Literal["learner", "engine"], dict[str, dict[str, object]]]] = {
    "learner": ("learner", {}),
    "learner, one pass a step": ("learner", {"trainer": {"token_budget": 1024}}),
    "learner, checkpointing": ("learner", {"trainer": {"activation_checkpointing": True}}),
    "learner, bfloat16": ("learner", {"trainer": {"dtype": "bfloat16"}}),
    "learner, two ranks": ("learner", {"topology": {"learner": {"ranks": 2}}}),
    "learner, two ranks, checkpointing": (
        "learner",
        {"topology": {"learner": {"ranks": 2}}, "trainer": {"activation_checkpointing": True}},
    ),
    "learner, LoRA": ("learner", {"trainer": {"lora": {}}}),
    "learner, critic": ("learner", {"algorithm": {"advantage": "gae"}}),
    "learner, reference": ("learner", {"algorithm": {"terms": [{"name": "kl_k3", "weight": 0.1}]}}),
    "torch engine": ("engine", {"rollout": {"engine": "torch", **_SLOTS}}),
    "vLLM engine": ("engine", {"rollout": {"engine": "vllm", "kv_cache_gib": 0.375, **_SLOTS}}),
}
"""What is measured: the role, and what its recipe says beyond the usual. The engines' KV caches are filled."""


def foreseen(role: Literal["learner", "engine"], recipe: Recipe) -> int:
    """Bytes that the plan expects of what `measure` runs: no engine takes an update here."""
    configs = Configs()
    if role == "learner":
        return cpu_rank_need(recipe, configs).total
    placement = Placement("cpu", 0, 0, "gloo", recipe.rollout.gpu_memory_utilization)
    need = engine_need(recipe, configs(recipe.model), placement, 0).need
    return sum(need.stays.values()) + next(moment.total for moment in need.moments if moment.name == "a step")


def measure(role: str, recipe: Path, ranks: int = 1) -> Measured:
    """Run the role in processes of its own; of several ranks the first one's memory.

    Raises:
        RuntimeError: a process failed; the message ends with what it said.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "tests.benchmarks.role_memory", role, str(recipe), "--port", port, "--rank"]
    processes = [
        subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in range(ranks)
    ]
    try:
        said = [process.communicate(timeout=DEADLINE_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, trouble) in zip(processes, said, strict=True):
        if process.returncode:
            raise RuntimeError(f"{role} ended with {process.returncode}: {trouble[-2000:]}")
    found = json.loads(said[0][0].strip().splitlines()[-1])
    return Measured(max(found["stages"].values()), found["stages"], found["base"])


class _Growth:
    """Of this process and its children, since it was made; `beside`: bytes of children to come, before they work."""

    def __init__(self, beside: int = 0) -> None:
        self.base = _resident(os.getpid(), "VmRSS") + beside
        self.stages: dict[str, int] = {}
        self._forget()

    def note(self, stage: str) -> None:
        """The peak since the last note."""
        pids = [os.getpid(), *_children(os.getpid())]
        self.stages[stage] = sum(_resident(pid, "VmHWM") for pid in pids) - self.base
        self._forget()

    def say(self) -> None:
        print(json.dumps({"base": self.base, "stages": self.stages}), flush=True)

    @staticmethod
    def _forget() -> None:
        for pid in (os.getpid(), *_children(os.getpid())):
            Path(f"/proc/{pid}/clear_refs").write_text("5")


def _resident(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith(name + ":")), 0)


def _children(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


VLLM_IMPORTS = "import vllm.v1.engine.core, vllm.v1.worker.cpu_worker, actors.vllm_worker"
"""What vLLM's own process imports before it loads a model."""
READ = "print(next(l.split()[1] for l in open('/proc/self/status') if l.startswith('VmRSS')))"


def idle_bytes(imports: str) -> int:
    """Resident bytes of a process that has made these imports and nothing else."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"{imports}\n{READ}"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    return 1024 * int(done.stdout.split()[-1])


def run_learner(recipe_file: Path, rank: int, port: int) -> None:
    import torch

    from learners.learner import Learner
    from learners.process_group import join_process_group, leave_process_group
    from orchestrator.planning.learner_role import longest_sequence, sequences_per_update
    from orchestrator.planning.places import places_of
    from orchestrator.recipe import load_recipe
    from tests.benchmarks.learner_load import make_batch

    recipe = load_recipe(str(recipe_file))
    places = places_of(recipe)
    join_process_group(rank, places.ranks, "127.0.0.1", port, torch.device("cpu"), timeout_s=300)
    lengths = [longest_sequence(recipe)] * (sequences_per_update(recipe) * recipe.trainer.minibatches)
    batch = make_batch(lengths, Qwen3Config.from_pretrained(recipe.model).vocab_size, seed=0)
    growth = _Growth()
    learner = Learner(
        recipe.model,
        recipe.algorithm,
        recipe.trainer,
        temperature=1.0,
        rank=rank,
        world_size=places.ranks,
        device=torch.device("cpu"),
        sequence_parallel=places.sequence_parallel,
    )
    growth.note("loading")
    learner.step(batch)
    growth.note("first step")
    published = learner.snapshot(1)
    learner.probe_logprobs(list(range(64)))
    growth.note("publishing")
    learner.step(batch)
    growth.note("second step")
    del published
    if rank == 0:
        growth.say()
    leave_process_group()


def run_engine(recipe_file: Path) -> None:
    from actors.engine import EngineSettings, GenerationRequest, Sampling
    from actors.rollout import make_engine
    from orchestrator.recipe import load_recipe

    recipe = load_recipe(str(recipe_file))
    rollout = recipe.rollout
    if rollout.engine == "vllm":
        import actors.vllm_engine
    else:
        import actors.torch_engine  # noqa: F401
    context = rollout.max_prompt_tokens + rollout.max_response_tokens
    settings = EngineSettings(
        model=recipe.model,
        dtype=rollout.dtype,
        context_length=context,
        max_running=rollout.max_running,
        threads=2,
        kv_cache_gib=rollout.kv_cache_gib,
    )

    async def live() -> None:
        engine = make_engine(rollout.engine, settings)
        # vLLM computes in a process of its own, which is not there yet.
        growth = _Growth(beside=idle_bytes(VLLM_IMPORTS) if rollout.engine == "vllm" else 0)
        await engine.start()
        growth.note("loading")
        sampling = Sampling(max_tokens=rollout.max_response_tokens, temperature=1.0)
        prompt = tuple(range(1, rollout.max_prompt_tokens + 1))
        requests = [GenerationRequest(f"r{n}", (n + 1, *prompt[1:]), sampling) for n in range(rollout.max_running)]
        await asyncio.gather(*[engine.generate(request) for request in requests])
        growth.note("answers")
        growth.say()
        await engine.shutdown()

    asyncio.run(asyncio.wait_for(live(), DEADLINE_S))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("learner", "engine"))
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.role == "learner":
        run_learner(arguments.recipe, arguments.rank, arguments.port)
    else:
        run_engine(arguments.recipe)


if __name__ == "__main__":
    main()
