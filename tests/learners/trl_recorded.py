"""TRL's GRPOTrainer on recorded answers, for the comparison of updates. Importing it takes seconds, as TRL does."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor
from transformers import Qwen3ForCausalLM, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOConfig, GRPOTrainer

from tests.learners.tiny import VOCABULARY, tokenizer

STEPS, PROMPTS, GROUP, LONGEST = 4, 4, 4, 30
SETTINGS = {"learning_rate": 1e-3, "weight_decay": 0.1, "max_grad_norm": 0.05}
BETAS = (0.9, 0.95)


@dataclass(frozen=True, slots=True)
class Answer:
    prompt: tuple[int, ...]
    response: tuple[int, ...]
    reward: float


def recorded(seed: int) -> list[Answer]:
    """The answers of a step, those of a prompt side by side; groups of equal rewards are rare and allowed."""
    draw = random.Random(seed)
    answers = []
    for _ in range(PROMPTS):
        prompt = tuple(draw.randrange(VOCABULARY) for _ in range(draw.randint(1, 9)))
        for _ in range(GROUP):
            response = tuple(draw.randrange(VOCABULARY) for _ in range(draw.randint(1, LONGEST)))
            answers.append(Answer(prompt, response, float(draw.randrange(3))))
    return answers


class Recorded(GRPOTrainer):  # type: ignore[misc]
    """TRL's trainer, given the recorded answers where it would sample some."""

    steps = 0

    def _generate_and_score_completions(self, inputs: object) -> dict[str, Tensor]:
        answers = recorded(self.steps)
        self.steps += 1
        rewards = torch.tensor([answer.reward for answer in answers]).view(PROMPTS, GROUP)
        scaled = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
        prompts, prompt_mask = padded([answer.prompt for answer in answers], left=True)
        responses, mask = padded([answer.response for answer in answers], left=False)
        return {
            "prompt_ids": prompts,
            "prompt_mask": prompt_mask,
            "completion_ids": responses,
            "completion_mask": mask,
            "advantages": scaled.flatten(),
            "num_items_in_batch": mask.sum(),
        }


class WeightsOfSteps(TrainerCallback):
    def __init__(self) -> None:
        self.found: list[dict[str, Tensor]] = []

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Qwen3ForCausalLM,
        **_: object,
    ) -> None:
        self.found.append({name: value.detach().clone() for name, value in model.named_parameters()})


def padded(rows: Sequence[Sequence[int]], *, left: bool) -> tuple[Tensor, Tensor]:
    """[rows, longest] ids, and 1 where one stands."""
    longest = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), longest, dtype=torch.long), torch.zeros(len(rows), longest, dtype=torch.long)
    for index, row in enumerate(rows):
        place = slice(longest - len(row), None) if left else slice(len(row))
        ids[index, place], mask[index, place] = torch.tensor(row), 1
    return ids, mask


def weights_of_trl(model: str, folder: Path) -> list[dict[str, Tensor]]:
    """After each step."""
    weights = WeightsOfSteps()
    config = GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        model_init_kwargs={"dtype": "float32"},
        per_device_train_batch_size=PROMPTS * GROUP,
        num_generations=GROUP,
        max_completion_length=LONGEST,
        max_steps=STEPS,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        lr_scheduler_type="constant",
        beta=0.0,
        loss_type="dapo",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **SETTINGS,
    )
    words = tokenizer()
    words.pad_token, words.eos_token = "w0", "w1"
    trainer = Recorded(
        model=model,
        reward_funcs=lambda **_: [0.0] * PROMPTS * GROUP,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": "w2"}] * (PROMPTS * STEPS)),
        processing_class=words,
        callbacks=[weights],
    )
    trainer.train()
    return weights.found
