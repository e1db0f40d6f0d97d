"""A target deep enough that drafting can pay on a CPU, really trained, on a task whose answers have a long tail.

It is the quickstart's model made deeper and wider, and its task with more terms: sums are guessed, worked out in lines,
or, rarely, written anew for every line, so that the longest answers are many times as long as most. It is cached like
the starter.
"""

from pathlib import Path

import reasoning_gym
from transformers import AutoTokenizer

from learners.supervised import StepReport, SupervisedSettings
from orchestrator.data.starter import StarterSettings, StarterShape, StyleShares, ensure_starter

SHAPE = StarterShape(hidden_size=256, layers=12, heads=8, kv_heads=4, head_dim=32, intermediate_size=512)
MIN_TERMS, MAX_TERMS = 3, 20
LONGEST = 600
"""Tokens of the longest answer that is asked for."""
LONGEST_PROMPT = 96
QUESTIONS_SEED = 7_000_000
STEPS = 140
PROMPTS, GROUP = 4, 8
"""Prompts of a training step, and answers to each."""
TASK = f"{{name: chain_sum, options: {{min_terms: {MIN_TERMS}, max_terms: {MAX_TERMS}, min_digits: 1, max_digits: 1}}}}"
"""As a recipe names it in `data.tasks`."""


def deep_target(steps: int = STEPS) -> Path:
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

    settings = StarterSettings(
        min_terms=MIN_TERMS,
        max_terms=MAX_TERMS,
        shape=SHAPE,
        learning=StyleShares(guess=0.1, running=0.6, rewrite=0.3),
        settling=StyleShares(guess=0.25, running=0.6, rewrite=0.15),
        training=training,
    )
    return ensure_starter(None, report, settings)


def run_settings(target: Path, *, steps: int, seed: int) -> list[str]:
    """Of a run that trains the target on its task, without speculation."""
    return [
        f"model={target}",
        "weight_sync.drill_scale=0.4",  # in bfloat16 the tolerance is wide, and the drill must exceed it
        f"seed={seed}",
        f"data.tasks=[{TASK}]",
        f"trainer.steps={steps}",
        f"trainer.prompts_per_step={PROMPTS}",
        "trainer.dtype=bfloat16",
        f"rollout.group_size={GROUP}",
        f"rollout.max_prompt_tokens={LONGEST_PROMPT}",
        f"rollout.max_response_tokens={LONGEST}",
        "rollout.dtype=bfloat16",
    ]


def questions(target: Path, count: int, seed: int = 0) -> list[tuple[int, ...]]:
    """Prompts of the task as token ids."""
    tokenizer = AutoTokenizer.from_pretrained(target)
    items = reasoning_gym.create_dataset(
        "chain_sum",
        min_terms=MIN_TERMS,
        max_terms=MAX_TERMS,
        min_digits=1,
        max_digits=1,
        seed=QUESTIONS_SEED + seed * 100_000,
        size=count,
    )
    return [tuple(tokenizer.encode(f"{items[n]['question']}\n")) for n in range(count)]


def end_of_text(target: Path) -> int:
    """The token that ends an answer."""
    return int(AutoTokenizer.from_pretrained(target).eos_token_id)
