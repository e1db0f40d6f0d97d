"""The same answers, the same update: GRPO here beside TRL's GRPOTrainer, an implementation that nobody here wrote.

Both train the same model on the same recorded answers and rewards, by the same settings, over several steps of AdamW
with weight decay and a clipped gradient. What differs between whole runs of the two is then what they sample.
"""

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import Qwen3ForCausalLM

from learners.advantages.baselines import grpo
from learners.advantages.estimator import GroupRewards
from learners.batch import TrainBatch, TrainSequence
from learners.learner import Learner
from tests.learners.ranks import single_rank
from tests.learners.tiny import make_learner


@pytest.fixture
def environment() -> Iterator[None]:
    """As it was, afterwards: TRL's trainer leaves variables behind."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def test_the_update_is_trls(environment: None, model: str, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    from tests.learners.trl_recorded import BETAS, GROUP, SETTINGS, STEPS, recorded, weights_of_trl

    theirs = weights_of_trl(model, tmp_path)
    start = dict(Qwen3ForCausalLM.from_pretrained(model).named_parameters())
    with single_rank():
        learner = make_learner(model, {"advantage": "grpo"}, betas=BETAS, warmup_steps=0, **SETTINGS)
        for step in range(STEPS):
            answers = recorded(step)
            groups = [answers[begin : begin + GROUP] for begin in range(0, len(answers), GROUP)]
            rewards = [GroupRewards(tuple(answer.reward for answer in group)) for group in groups]
            # As TRL makes them: the deviation of a sample, and an eps of 1e-4.
            advantages = [advantage for group in rewards for advantage in grpo(group, std="sample", eps=1e-4)]
            metrics = learner.step(
                TrainBatch(
                    step,
                    tuple(
                        sampled_now(learner, index, step, answer.prompt, answer.response, advantage)
                        for index, (answer, advantage) in enumerate(zip(answers, advantages, strict=True))
                    ),
                )
            )
            assert metrics["grad_norm"] > SETTINGS["max_grad_norm"], "the clip shall act"
            ours = learner.snapshot(step)[1]
            apart, moved = distance(ours, theirs[step]), distance(theirs[step], start)
            assert moved > 1e-3
            assert apart < 1e-3 * moved, f"step {step}: {apart:.2e} apart after {moved:.2e}"


def sampled_now(
    learner: Learner, index: int, version: int, prompt: tuple[int, ...], response: tuple[int, ...], advantage: float
) -> TrainSequence:
    """An answer as if the learner's present weights had sampled it."""
    count = len(response)
    logprobs = learner.probe_logprobs(prompt + response)[-count:]
    return TrainSequence(
        sequence_id=str(index),
        prompt_ids=prompt,
        response_ids=response,
        behaviour_logprobs=tuple(logprobs),
        versions=(version,) * count,
        advantages=(advantage,) * count,
        loss_mask=(True,) * count,
    )


def distance(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    """Euclidean, over all parameters of `left`."""
    with torch.no_grad():
        return math.sqrt(sum(float((value - right[name]).pow(2).sum()) for name, value in left.items()))
