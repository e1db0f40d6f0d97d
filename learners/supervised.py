"""Supervised steps: next-token cross-entropy on given responses, over packed rows.

Prompt tokens are read and take no loss. The loss of a step is the mean over all response tokens of its batch,
however the batch is cut into micro-batches.

Two optimizers: AdamW, and Muon (momentum orthogonalised by Newton-Schulz, Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon) on the matrices of the hidden layers beside AdamW on embeddings, head
and norms, which learns from several times fewer tokens where a model starts from nothing.

Invariants: parameters are trained in float32, `dtype` is the compute type alone; the learning rate is a pure function
of the step, so that the same examples and settings repeat a run; torch's thread count is given back as it was.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from learners.packing import pack, plan_micro_batches
from learners.policy import Policy
from learners.settings import Section


class SupervisedSettings(Section):
    steps: int = Field(100, ge=1)
    batch_size: int = Field(64, ge=1)
    """Examples of one optimizer step."""
    token_budget: int = Field(8192, ge=1)
    """Tokens in one packed micro-batch."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = Field(1e-5, gt=0)
    """AdamW's."""
    muon_learning_rate: float = Field(0.02, gt=0)
    """Of the hidden layers' matrices under `muon`; has the size of a relative change, about 0.02 from nothing."""
    warmup_steps: int = Field(0, ge=0)
    """Linear rise to the full learning rate."""
    decay_fraction: float = Field(0.0, ge=0, le=1)
    """Share of the steps, at the end, over which the learning rate falls linearly towards 0."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    threads: int | None = Field(None, ge=1)
    """CPU threads; None leaves torch's own choice."""


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of a prompt and of the response to learn, its end-of-text token included."""

    prompt_ids: Sequence[int]
    response_ids: Sequence[int]

    def __post_init__(self) -> None:
        if not self.prompt_ids or not self.response_ids:
            raise ValueError("an example needs at least one prompt token and one response token")

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


@dataclass(frozen=True, slots=True)
class StepReport:
    """One optimizer step.

    Attributes:
        step: counted from 1, of `total`.
        loss: mean over the batch's response tokens before the step, nats.
        grad_norm: before clipping.
        learning_rate: AdamW's, of this step.
        tokens: all tokens read; `loss_tokens` of them took loss.
    """

    step: int
    total: int
    loss: float
    grad_norm: float
    learning_rate: float
    tokens: int
    loss_tokens: int


def supervised_train(
    model: PreTrainedModel,
    examples: Iterable[Example],
    settings: SupervisedSettings,
    on_step: Callable[[StepReport], None] = lambda _: None,
) -> None:
    """Train the model in place, `settings.batch_size` examples a step, in the order given.

    Args:
        model: with float32 parameters, loaded for packed rows (`learners.policy.load_policy`).

    Raises:
        ValueError: the examples ran out before the last step, or one is longer than the token budget.
        FloatingPointError: the loss is not finite.
    """
    optimizers = _make_optimizers(model, settings)
    stream = iter(examples)
    model.train()
    with _thread_count(settings.threads):
        for step in range(1, settings.steps + 1):
            batch = list(itertools.islice(stream, settings.batch_size))
            if len(batch) < settings.batch_size:
                raise ValueError(
                    f"the examples ran out at step {step} of {settings.steps}: "
                    f"{settings.steps * settings.batch_size} are needed"
                )
            scale = rate_scale(step, settings)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["initial_lr"] * scale
            loss, grad_norm = supervised_step(model, batch, optimizers, settings)
            on_step(
                StepReport(
                    step=step,
                    total=settings.steps,
                    loss=loss,
                    grad_norm=grad_norm,
                    learning_rate=settings.learning_rate * scale,
                    tokens=sum(map(len, batch)),
                    loss_tokens=sum(len(example.response_ids) for example in batch),
                )
            )


def supervised_step(
    model: PreTrainedModel,
    batch: Sequence[Example],
    optimizers: Sequence[torch.optim.Optimizer],
    settings: SupervisedSettings,
) -> tuple[float, float]:
    """One optimizer step; returns the batch's loss before it and the gradient's norm before clipping.

    Raises:
        FloatingPointError: the loss is not finite; no parameter was changed.
    """
    loss_tokens = sum(len(example.response_ids) for example in batch)
    total = 0.0
    (micro_batches,) = plan_micro_batches([len(example) for example in batch], settings.token_budget)
    for indices in micro_batches:
        summed = cross_entropy_sum(model, [batch[index] for index in indices], settings.dtype)
        (summed / loss_tokens).backward()
        total += summed.item()
    loss = total / loss_tokens
    if not math.isfinite(loss):
        raise FloatingPointError(f"the supervised loss is {loss}: lower the learning rate")
    grad_norm = float(nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm))
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss, grad_norm


def cross_entropy_sum(
    model: PreTrainedModel, examples: Sequence[Example], dtype: Literal["bfloat16", "float32"]
) -> Tensor:
    """Sum over all response tokens of -log p(token | what stands before it), nats; a differentiable scalar."""
    packed = pack([[*example.prompt_ids, *example.response_ids] for example in examples])
    positions = [
        place
        for start, example in zip(packed.cu_seqlens.tolist(), examples, strict=False)
        for place in range(start + len(example.prompt_ids) - 1, start + len(example) - 1)
    ]
    policy = Policy(model)
    # Cast anew in each pass: gradients flow through the cast into the float32 masters.
    cast = {} if dtype == "float32" else {name: p.to(torch.bfloat16) for name, p in policy.named_parameters()}
    logprobs: Tensor = functional_call(policy, cast, (packed, torch.tensor(positions))).logprobs
    return -logprobs.sum()


def rate_scale(step: int, settings: SupervisedSettings) -> float:
    """Share of the full learning rate at a step counted from 1: linear rise, plateau, linear fall to above 0."""
    rise = min(1.0, step / settings.warmup_steps) if settings.warmup_steps else 1.0
    falling = settings.decay_fraction * settings.steps
    left = settings.steps - step + 1
    return min(rise, left / (falling + 1) if left <= falling else 1.0)


def _make_optimizers(model: PreTrainedModel, settings: SupervisedSettings) -> list[torch.optim.Optimizer]:
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    outer = {id(p) for end in (model.get_input_embeddings(), model.get_output_embeddings()) for p in end.parameters()}
    hidden = [p for p in trained.values() if p.ndim == 2 and id(p) not in outer]
    others = [p for p in trained.values() if p.ndim != 2 or id(p) in outer]
    decay = settings.weight_decay
    adamw = settings.learning_rate
    made: list[torch.optim.Optimizer]
    if settings.optimizer == "muon" and hidden:
        made = [
            torch.optim.Muon(hidden, lr=settings.muon_learning_rate, weight_decay=decay),
            torch.optim.AdamW(others, lr=adamw, betas=settings.betas, weight_decay=decay),
        ]
    else:
        made = [torch.optim.AdamW(trained.values(), lr=adamw, betas=settings.betas, weight_decay=decay)]
    for optimizer in made:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return made


@contextlib.contextmanager
def _thread_count(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
