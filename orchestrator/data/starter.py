"""The starter model: a small Qwen3 model that can do a little, for where no checkpoint can be downloaded.

A fresh model is warmed up by supervised steps on worked solutions of chain sums in several styles. It first learns all
styles, then mostly to guess: it can work a problem out, but seldom does. What is left for reinforcement learning is
real: to find out that writing the work down pays, and to make fewer errors on the way.

Invariants: a starter folder appears whole or not at all; its name holds a fingerprint of everything that the weights
depend on, so that another way of making it never meets an old folder.
"""

import hashlib
import inspect
import json
import os
import random
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import reasoning_gym
import torch
from pydantic import Field
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from learners import supervised
from learners.attention import PACKED
from learners.errors import PolicyError
from learners.policy import save_policy
from learners.settings import Section
from learners.supervised import Example, StepReport, SupervisedSettings, supervised_train
from orchestrator.data import starter_tokenizer, worked_solutions
from orchestrator.data.starter_shape import StarterShape
from orchestrator.data.starter_tokenizer import train_tokenizer
from orchestrator.data.worked_solutions import Style, parse_chain_sum, solve
from orchestrator.errors import RunError


class StyleShares(Section):
    """How often each style is shown; relative weights."""

    guess: float = Field(ge=0)
    running: float = Field(ge=0)
    rewrite: float = Field(ge=0)


class StarterSettings(Section):
    """How the starter is made. The defaults are the quickstart's."""

    seed: int = 0
    min_terms: int = 3
    max_terms: int = 12
    shape: StarterShape = StarterShape()
    learning: StyleShares = StyleShares(guess=0.3, running=0.55, rewrite=0.15)
    """Shares while the styles are learned: the long ones teach."""
    settling: StyleShares = StyleShares(guess=0.75, running=0.17, rewrite=0.08)
    """Shares in the last part: how often the model will use each."""
    settling_fraction: float = Field(0.2, ge=0, le=1)
    """That last part's share of the steps."""
    training: SupervisedSettings = SupervisedSettings(
        steps=300,
        batch_size=64,
        optimizer="muon",
        learning_rate=3e-3,
        muon_learning_rate=0.02,
        warmup_steps=10,
        decay_fraction=0.4,
        # On a CPU so small a model gains nothing from bfloat16.
        dtype="float32",
    )


def ensure_starter(
    cache_dir: Path | None = None,
    on_progress: Callable[[StepReport], None] = lambda _: None,
    settings: StarterSettings | None = None,
) -> Path:
    """The folder of the starter's Hugging Face checkpoint; made now where it is not there yet.

    Args:
        cache_dir: where starters are kept; None takes `default_cache()`.
        on_progress: hears of each supervised step; not called where the starter is there.

    Raises:
        RunError: the folder cannot be written, or holds something that is no starter.
    """
    settings = settings or StarterSettings()
    folder = (cache_dir or default_cache()) / f"starter-{fingerprint(settings)}"
    if folder.exists():
        return _checked(folder)
    draft = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        model, tokenizer, last = make_starter(settings, on_progress)
        save_policy(model, None, tokenizer, draft)
        _describe(draft, settings, last)
        try:
            os.rename(draft, folder)
        except OSError:
            # Another process made the same starter meanwhile: a folder that is there is whole.
            if not folder.exists():
                raise
    except (OSError, PolicyError) as error:
        raise RunError(
            f"the starter model cannot be written to {folder} ({error})", "make room there or set PACELINE_CACHE"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return _checked(folder)


def default_cache() -> Path:
    """``$PACELINE_CACHE/models``, or ``~/.cache/paceline/models``."""
    given = os.environ.get("PACELINE_CACHE")
    return (Path(given).expanduser() if given else Path.home() / ".cache" / "paceline") / "models"


def fingerprint(settings: StarterSettings) -> str:
    """12 hexadecimal digits of the settings and of the code that turns them into weights."""
    parts = (supervised, starter_tokenizer, worked_solutions, StarterShape, make_starter, examples)
    code = "".join(inspect.getsource(part) for part in parts)
    return hashlib.sha256((settings.model_dump_json() + code).encode()).hexdigest()[:12]


def make_starter(
    settings: StarterSettings, on_progress: Callable[[StepReport], None] = lambda _: None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, StepReport]:
    """Train tokenizer and model; returns them with the last step's report. Torch's global generator is left alone."""
    shape = settings.shape
    tokenizer = train_tokenizer(tokenizer_texts(settings), shape.vocab_size, shape.context)
    config = Qwen3Config(
        **shape.architecture(),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation=PACKED,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = Qwen3ForCausalLM(config).float()
    reports: list[StepReport] = []

    def keep(report: StepReport) -> None:
        reports[:] = [report]
        on_progress(report)

    supervised_train(model, examples(settings, tokenizer), settings.training, keep)
    return model, tokenizer, reports[0]


def examples(settings: StarterSettings, tokenizer: PreTrainedTokenizerBase) -> Iterator[Example]:
    """The problems of all supervised steps with worked solutions, seeded; each problem is shown once."""
    count = settings.training.steps * settings.training.batch_size
    settles_at = count * (1 - settings.settling_fraction)
    problems = _chain_sums(settings, count)
    rng = random.Random(settings.seed)
    for index in range(count):
        item = problems[index]
        shares = (settings.learning if index < settles_at else settings.settling).model_dump()
        (style,) = rng.choices([Style(name) for name in shares], list(shares.values()))
        solution = solve(parse_chain_sum(item["metadata"]["expression"]), style)
        yield Example(
            prompt_ids=tokenizer.encode(f"{item['question']}\n"),
            response_ids=[*tokenizer.encode(solution), tokenizer.eos_token_id],
        )


def tokenizer_texts(settings: StarterSettings) -> Iterator[str]:
    """What the tokenizer learns its merges from: the starter's own task, and English word problems."""
    problems = _chain_sums(settings, _TOKENIZER_PROBLEMS)
    words = reasoning_gym.create_dataset("gsm_symbolic", seed=settings.seed, size=_TOKENIZER_PROBLEMS)
    for index in range(_TOKENIZER_PROBLEMS):
        yield f"{problems[index]['question']}\n"
        for style in Style:
            yield solve(parse_chain_sum(problems[index]["metadata"]["expression"]), style)
        yield words[index]["question"]


_TOKENIZER_PROBLEMS = 1000


def _chain_sums(settings: StarterSettings, count: int) -> reasoning_gym.dataset.ProceduralDataset:
    return reasoning_gym.create_dataset(
        "chain_sum",
        min_terms=settings.min_terms,
        max_terms=settings.max_terms,
        min_digits=1,
        max_digits=1,
        seed=_PROBLEM_SEED + settings.seed,
        size=count,
    )


_PROBLEM_SEED = 1 << 40
"""reasoning-gym seeds item i with seed + i: far from any seed that a recipe is likely to draw its prompts with."""


def _describe(folder: Path, settings: StarterSettings, last: StepReport) -> None:
    made = {"settings": settings.model_dump(mode="json"), "steps": last.step, "final_loss": round(last.loss, 4)}
    (folder / "starter.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(
        f"# Paceline's starter model\n\nA small Qwen3 model made on this machine by `orchestrator/data/starter.py`: "
        f"{last.total} supervised steps on worked chain sums,\nfrom nothing. How exactly, and its last loss, is in "
        f"`starter.json`. It is a cache: delete the folder and the next\nrun makes it again.\n",
        encoding="utf-8",
    )


def _checked(folder: Path) -> Path:
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (folder / name).is_file():
            raise RunError(f"the starter model in {folder} has lost its {name}", "delete that folder and run again")
    return folder
