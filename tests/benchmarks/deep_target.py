"""A target deep enough that drafting can pay on a CPU, really trained, and drafters trained for it.

The target is the quickstart's model made deeper and wider by the same supervised steps on the same task; it is cached
like the starter. Its drafters learn from windows of its own sampled answers, captured in its own forward pass.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import reasoning_gym
import torch
from transformers import AutoTokenizer

from learners.attention import PACKED
from learners.drafters.capture import HiddenCapture
from learners.drafters.drafter_files import DrafterCard, save_drafter
from learners.drafters.drafter_training import DrafterTrainer
from learners.drafters.fingerprint import PairingFingerprint, identify
from learners.drafters.kinds import DRAFTERS
from learners.drafters.settings import CaptureSettings, DrafterSettings, DrafterTrainingSettings
from learners.drafters.shadow import ShadowScore
from learners.drafters.target import DraftTarget
from learners.drafters.windows import Window, plan_rows
from learners.packing import pack
from learners.policy import Policy, load_policy
from learners.supervised import StepReport, SupervisedSettings
from orchestrator.data.starter import StarterSettings, StarterShape, ensure_starter

SHAPE = StarterShape(hidden_size=256, layers=12, heads=8, kv_heads=4, head_dim=32, intermediate_size=512)
WINDOW, ROW = 128, 2048
QUESTIONS_SEED = 7_000_000
CPU = torch.device("cpu")


def deep_target(steps: int) -> Path:
    """The cached target's folder; making it takes minutes."""
    training = SupervisedSettings(
        steps=steps,
        batch_size=64,
        optimizer="muon",
        learning_rate=2e-3,
        muon_learning_rate=0.02,
        warmup_steps=10,
        decay_fraction=0.4,
        dtype="bfloat16",
    )

    def report(step: StepReport) -> None:
        print(f"\rtarget: step {step.step} of {step.total}, loss {step.loss:.3f}", end="", flush=True)

    return ensure_starter(None, report, StarterSettings(shape=SHAPE, training=training))


def questions(target: Path, count: int, seed: int = 0) -> list[tuple[int, ...]]:
    """Prompts of the quickstart's task as token ids."""
    tokenizer = AutoTokenizer.from_pretrained(target)
    items = reasoning_gym.create_dataset(
        "chain_sum", min_terms=3, max_terms=12, min_digits=1, max_digits=1, seed=QUESTIONS_SEED + seed, size=count
    )
    return [tuple(tokenizer.encode(f"{items[n]['question']}\n")) for n in range(count)]


def end_of_text(target: Path) -> int:
    """The token that ends an answer."""
    return int(AutoTokenizer.from_pretrained(target).eos_token_id)


@dataclass(frozen=True, slots=True)
class TrainedDrafter:
    """Folders of a drafter before and after its training, and what the shadow evaluation says of it."""

    untrained: Path
    trained: Path
    score: ShadowScore


def windows_of(target: Path, sequences: Sequence[tuple[int, ...]], layers: Sequence[int]) -> list[Window]:
    """Windows of sequences (prompt and answer), each read once by the target."""
    policy = Policy(load_policy(str(target), attention=PACKED)).eval()
    settings = CaptureSettings(tokens_per_pass=ROW, window_length=WINDOW, dtype="float32")
    capture = HiddenCapture(policy.model, layers, settings)
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


def train_drafter(
    kind: str, target: Path, windows: Sequence[Window], folder: Path, *, updates: int, dtype: torch.dtype
) -> TrainedDrafter:
    """A drafter of this kind for the target, trained on these windows; one in ten is held out to judge it by."""
    source = DraftTarget.of_folder(target)
    tables = source.tables(torch.float32, CPU)
    drafter = DRAFTERS[kind].build(source, DrafterSettings(kind=kind), tables)
    shapes = {name: tuple(tensor.shape) for name, tensor in source.tensors.items()}
    identity = identify(source.config, shapes, AutoTokenizer.from_pretrained(target))
    card = DrafterCard(PairingFingerprint.of(kind, drafter.reads, identity), 0)
    save_drafter(drafter, card, folder / f"{kind}-untrained", dtype)
    settings = DrafterTrainingSettings(learning_rate=1e-3, dtype="bfloat16")
    trainer = DrafterTrainer(drafter, settings, CPU)
    chance = random.Random(0)
    held_out, studied = list(windows[::10]), [w for n, w in enumerate(windows) if n % 10]
    done = 0
    while done < updates:
        chance.shuffle(studied)
        for row in plan_rows(studied, ROW)[: updates - done]:
            metrics = trainer.micro_step(row)
            done += 1
            if done % 50 == 0:
                print(f"\r{kind}: {done} updates, acceptance {metrics['acceptance']:.3f}", end="", flush=True)
    print()
    save_drafter(drafter, card, folder / f"{kind}-trained", dtype)
    return TrainedDrafter(folder / f"{kind}-untrained", folder / f"{kind}-trained", trainer.evaluate(held_out, 4))
