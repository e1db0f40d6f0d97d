"""Drafters for the deep target: one that learned from the target's own answers, and the same before it learned.

The windows come from one forward pass over sampled answers, as in a run; one in ten is held out to judge the drafter
by. Both folders are cached beside the target, under a name that holds what they were made with.
"""

import asyncio
import random
import shutil
from collections.abc import Sequence
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
class DeepDrafter:
    """Folders of the drafter before and after its training."""

    untrained: Path
    trained: Path


def deep_drafter(target: Path, *, answers: int = ANSWERS, updates: int = UPDATES) -> DeepDrafter:
    """The cached drafters of this target; making them takes minutes."""
    folder = target.parent / f"{target.name}-{KIND}-{answers}-{updates}"
    if not folder.exists():
        sequences = asyncio.run(sampled_sequences(target, answers))
        draft = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(draft, ignore_errors=True)
        train_drafter(target, windows_of(target, sequences), draft, updates=updates)
        draft.rename(folder)
    return DeepDrafter(folder / "untrained", folder / "trained")


async def started(target: Path, speculation: SpeculationSettings | None = None) -> VllmEngine:
    """An engine that serves the target in bfloat16 on one core."""
    engine = VllmEngine(
        EngineSettings(
            str(target),
            "bfloat16",
            LONGEST_PROMPT + LONGEST,
            max_running=ANSWERS_AT_ONCE,
            threads=1,  # the other core is for the process that asks: two spinning threads would wait for it
            kv_cache_gib=0.3,
            speculation=speculation,
        )
    )
    await engine.start()
    return engine


async def sample(
    engine: VllmEngine, prompts: Sequence[tuple[int, ...]], *, running: int, name: str, end: int, seed: int = 0
) -> list[tuple[int, ...]]:
    """An answer to each prompt at temperature 1, `running` at a time, up to the token `end`."""
    places = asyncio.Semaphore(running)

    async def one(index: int, prompt: tuple[int, ...]) -> tuple[int, ...]:
        async with places:
            sampling = Sampling(LONGEST, seed=seed + index, stop_token_ids=(end,))
            return (await engine.generate(GenerationRequest(f"{name}/{index}", prompt, sampling))).token_ids

    return list(await asyncio.gather(*(one(index, prompt) for index, prompt in enumerate(prompts))))


async def sampled_sequences(target: Path, count: int) -> list[tuple[int, ...]]:
    """Prompts with the target's answers."""
    engine = await started(target)
    try:
        prompts = questions(target, count, seed=1)
        answers = await sample(engine, prompts, running=ANSWERS_AT_ONCE, name="study", end=end_of_text(target))
    finally:
        await engine.shutdown()
    return [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]


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


def train_drafter(target: Path, windows: Sequence[Window], folder: Path, *, updates: int) -> None:
    """Write the drafter to `folder`, ``untrained`` and ``trained``, and print how well it does on held-out windows."""
    source = DraftTarget.of_folder(target)
    tables = source.tables(torch.float32, CPU)
    drafter = DRAFTERS[KIND].build(source, DrafterSettings(kind=KIND), tables)
    shapes = {name: tuple(tensor.shape) for name, tensor in source.tensors.items()}
    identity = identify(source.config, shapes, AutoTokenizer.from_pretrained(target))
    card = DrafterCard(PairingFingerprint.of(KIND, drafter.reads, identity), 0)
    save_drafter(drafter, card, folder / "untrained", torch.bfloat16)
    trainer = DrafterTrainer(drafter, DrafterTrainingSettings(learning_rate=1e-3, dtype="bfloat16"), CPU)
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
    save_drafter(drafter, card, folder / "trained", torch.bfloat16)
    score = trainer.evaluate(held_out, POSITIONS).greedy
    shares = ", ".join(f"{share:.0%}" for share in score.by_position)
    print(f"\ndrafter: {score.accepted:.2f} of {POSITIONS} tokens stay on held-out windows ({shares} by position)")
