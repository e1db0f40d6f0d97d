"""Drafters for a target: one that learned from the target's own answers, and the same before it learned.

The windows come from one forward pass over sampled answers, as in a run; one in ten is held out to judge the drafter
by. Both folders are cached beside the target, under a name that holds what they were made with.
"""

import asyncio
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer

from actors.engine import EngineSettings, GenerationRequest, Sampling
from actors.speculation.settings import SpeculationSettings
from actors.vllm_engine import VllmEngine
from learners.attention import PACKED
from learners.drafters.capture import HiddenCapture
from learners.drafters.drafter_files import DrafterCard, save_drafter
from learners.drafters.drafter_training import DrafterTrainer
from learners.drafters.fingerprint import PairingFingerprint, identify
from learners.drafters.kinds import DRAFTERS
from learners.drafters.settings import CaptureSettings, DrafterSettings, DrafterTrainingSettings
from learners.drafters.target import DraftTarget
from learners.drafters.windows import Window, plan_rows
from learners.packing import pack
from learners.policy import Policy, load_policy
from tests.benchmarks.deep_target import LONGEST, LONGEST_PROMPT, end_of_text, questions

KIND = "eagle"
WINDOW, ROW = 128, 2048
ANSWERS, ANSWERS_AT_ONCE = 1000, 64
UPDATES = 500
POSITIONS = 4
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Task:
    """What a target is asked.

    Attributes:
        questions: from the target, a count and a seed to prompts as token ids.
        longest: tokens of the longest answer.
        dtype: of target and drafter.
    """

    questions: Callable[[Path, int, int], Sequence[tuple[int, ...]]]
    longest: int
    dtype: str


DEEP = Task(questions, LONGEST, "bfloat16")


@dataclass(frozen=True, slots=True)
class DeepDrafter:
    """Folders of the drafter before and after its training."""

    untrained: Path
    trained: Path


def deep_drafter(target: Path, task: Task = DEEP, *, answers: int = ANSWERS, updates: int = UPDATES) -> DeepDrafter:
    """The cached drafters of this target; making them takes minutes."""
    folder = target.parent / f"{target.name}-{KIND}-{answers}-{updates}"
    if not folder.exists():
        sequences = asyncio.run(sampled_sequences(target, task, answers))
        draft = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(draft, ignore_errors=True)
        train_drafter(target, windows_of(target, sequences), draft, task.dtype, updates=updates)
        draft.rename(folder)
    return DeepDrafter(folder / "untrained", folder / "trained")


async def started(target: Path, speculation: SpeculationSettings | None = None, task: Task = DEEP) -> VllmEngine:
    """An engine that serves the target on one core."""
    engine = VllmEngine(
        EngineSettings(
            str(target),
            task.dtype,
            LONGEST_PROMPT + task.longest,
            max_running=ANSWERS_AT_ONCE,
            threads=1,  # the other core is for the process that asks: two spinning threads would wait for it
            kv_cache_gib=0.3,
            speculation=speculation,
        )
    )
    await engine.start()
    return engine


async def sampled_sequences(target: Path, task: Task, count: int) -> list[tuple[int, ...]]:
    """Prompts with the target's answers, sampled at temperature 1."""
    engine, end = await started(target, task=task), end_of_text(target)
    places = asyncio.Semaphore(ANSWERS_AT_ONCE)

    async def answered(index: int, prompt: tuple[int, ...]) -> tuple[int, ...]:
        async with places:
            sampling = Sampling(task.longest, seed=index, stop_token_ids=(end,))
            return prompt + (await engine.generate(GenerationRequest(f"study/{index}", prompt, sampling))).token_ids

    try:
        prompts = task.questions(target, count, 1)
        return list(await asyncio.gather(*(answered(index, prompt) for index, prompt in enumerate(prompts))))
    finally:
        await engine.shutdown()


def windows_of(target: Path, sequences: Sequence[tuple[int, ...]]) -> list[Window]:
    """Windows of sequences (prompt and answer), each read once by the target."""
    policy = Policy(load_policy(str(target), attention=PACKED)).eval()
    settings = CaptureSettings(tokens_per_pass=ROW, window_length=WINDOW, dtype="float32")
    capture = HiddenCapture(policy.model, [], settings)
    rows: list[list[int]] = [[]]
    for index, sequence in enumerate(sequences):
        if sum(len(sequences[i]) for i in rows[-1]) + len(sequence) > ROW:
            rows.append([])
        rows[-1].append(index)
    windows: list[Window] = []
    for row in filter(None, rows):
        packed = pack([sequences[index] for index in row])
        with torch.no_grad(), capture.watch(packed, [str(index) for index in row], 0) as seen:
            policy(packed, packed.next_token_positions(), 1.0)
        windows += seen
    return windows


def train_drafter(target: Path, windows: Sequence[Window], folder: Path, dtype: str, *, updates: int) -> None:
    """Write the drafter to `folder`, ``untrained`` and ``trained``, and print how well it does on held-out windows."""
    source = DraftTarget.of_folder(target)
    tables = source.tables(torch.float32, CPU)
    drafter = DRAFTERS[KIND].build(source, DrafterSettings(kind=KIND), tables)
    shapes = {name: tuple(tensor.shape) for name, tensor in source.tensors.items()}
    identity = identify(source.config, shapes, AutoTokenizer.from_pretrained(target))
    card = DrafterCard(PairingFingerprint.of(KIND, drafter.reads, identity), 0)
    save_drafter(drafter, card, folder / "untrained", getattr(torch, dtype))
    trainer = DrafterTrainer(
        drafter, DrafterTrainingSettings.model_validate({"learning_rate": 1e-3, "dtype": dtype}), CPU
    )
    chance = random.Random(0)
    held_out, studied = list(windows[::10]), [w for n, w in enumerate(windows) if n % 10]
    done = 0
    while done < updates:
        chance.shuffle(studied)
        for row in plan_rows(studied, ROW)[: updates - done]:
            metrics = trainer.micro_step(row)
            done += 1
            if done % 50 == 0:
                print(f"\r{KIND}: {done} updates, acceptance {metrics['acceptance']:.3f}", end="", flush=True)
    save_drafter(drafter, card, folder / "trained", getattr(torch, dtype))
    score = trainer.evaluate(held_out, POSITIONS).greedy
    shares = ", ".join(f"{share:.0%}" for share in score.by_position)
    print(f"\ndrafter: {score.accepted:.2f} of {POSITIONS} tokens stay on held-out windows ({shares} by position)")
