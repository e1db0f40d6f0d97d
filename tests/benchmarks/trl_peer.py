"""TRL's GRPOTrainer on Paceline's prompts and rewards, in a process of its own; used by `peers` and `learning`.

Reads a recipe and a variant, trains, and prints one line of JSON: seconds and reward of each step. With `--save` it
leaves the model behind. The recipe's prompts
are drawn in Paceline's order, its reward terms score in this process (which costs TRL nothing for a pool), and what
the two systems both know is set alike: samples per step, lengths, temperature, learning rate and its warm-up, betas,
clip range, token-level loss, no KL term, gradient norm.
"""

import argparse
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOConfig, GRPOTrainer

from learners.optimizer import warm_up
from learners.settings import TrainerSettings
from orchestrator.config import Recipe
from orchestrator.data.prompts import open_source, prompt_text
from orchestrator.preflight import load_tokenizer
from orchestrator.recipe import load_recipe
from rewards.compose import Reward
from rewards.response import Response


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to configure TRL: dtype of the weights, autocast, samples per forward-backward."""

    dtype: str
    autocast: bool
    micro_batch: int


VARIANTS = {
    "bf16-weights": Variant("bfloat16", False, 128),
    "bf16-weights-micro32": Variant("bfloat16", False, 32),
    "bf16-autocast": Variant("float32", True, 128),
    "float32": Variant("float32", False, 128),
}
"""TRL's best configuration is not known beforehand: the benchmark tries these and compares with the fastest."""


class Peer(GRPOTrainer):
    """GRPOTrainer with Paceline's warm-up: transformers' own makes the first step at a learning rate of 0."""

    def __init__(self, trainer: TrainerSettings, **given: object) -> None:
        self._trainer = trainer
        super().__init__(**given)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        chosen = self.optimizer if optimizer is None else optimizer
        self.lr_scheduler = LambdaLR(chosen, lambda step: warm_up(step + 1, self._trainer))
        return self.lr_scheduler


class StepClock(TrainerCallback):
    """Wall time of each optimizer step, generation included."""

    def __init__(self) -> None:
        self.ends = [time.perf_counter()]

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self.ends = [time.perf_counter()]

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self.ends.append(time.perf_counter())


def train(
    recipe: Recipe, model: Path, variant: Variant, output: Path, *, steps: int, save: Path | None
) -> dict[str, object]:
    """Seconds, rewards and answer lengths by step."""
    rollout, trainer = recipe.rollout, recipe.trainer
    samples = trainer.prompts_per_step * rollout.group_size
    tokenizer = load_tokenizer(model)
    source = open_source(recipe.data, recipe.seed)
    prompts = [source.next() for _ in range(steps * trainer.prompts_per_step)]
    judge = Reward(recipe.reward)
    judge.warm_up()
    by_text = {prompt_text(prompt, recipe.data.template): prompt for prompt in prompts}

    def reward(prompts: list[str], completions: list[str], **_: object) -> list[float]:
        answers = (
            Response("peer", by_text[text].question, answer, by_text[text].reference, by_text[text].metadata)
            for text, answer in zip(prompts, completions, strict=True)
        )
        return [judge.score(answer).total for answer in answers]

    clock = StepClock()
    micro = min(variant.micro_batch, samples)
    config = GRPOConfig(
        output_dir=str(output),
        use_cpu=True,
        bf16=variant.autocast,
        gradient_checkpointing=False,
        model_init_kwargs={"dtype": variant.dtype},
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=samples // micro,
        num_generations=rollout.group_size,
        max_completion_length=rollout.max_response_tokens,
        temperature=rollout.temperature,
        max_steps=steps,
        learning_rate=trainer.learning_rate,
        adam_beta1=trainer.betas[0],
        adam_beta2=trainer.betas[1],
        weight_decay=trainer.weight_decay,
        max_grad_norm=trainer.max_grad_norm,
        beta=0.0,
        loss_type="dapo",
        epsilon=recipe.algorithm.clip_low,
        epsilon_high=recipe.algorithm.clip_high,
        shuffle_dataset=False,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=recipe.seed,
    )
    peer = Peer(
        trainer,
        model=str(model),
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": prompt_text(p, recipe.data.template)} for p in prompts]),
        processing_class=tokenizer,
        callbacks=[clock],
    )
    peer.train()
    if save is not None:
        peer.save_model(str(save))
    history = [row for row in peer.state.log_history if "reward" in row]
    return {
        "seconds": [later - earlier for earlier, later in zip(clock.ends, clock.ends[1:], strict=False)],
        "rewards": [row["reward"] for row in history],
        "lengths": [row["completions/mean_length"] for row in history],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--save", type=Path, help="folder for the trained model")
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    recipe, variant = load_recipe(str(arguments.recipe)), VARIANTS[arguments.variant]
    steps = arguments.steps or recipe.trainer.steps
    result = train(recipe, arguments.model, variant, arguments.output, steps=steps, save=arguments.save)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
