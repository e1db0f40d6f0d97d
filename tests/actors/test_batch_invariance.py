"""`batch_invariant`: an answer has the same bits whatever runs beside it, on every engine."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from actors.engine import Completion, Engine, EngineSettings, Sampling
from actors.rollout import make_engine
from tests.actors.subject import Subject

pytestmark = pytest.mark.slow
PROMPTS = [tuple(range(first, first + length)) for first, length in ((40, 20), (7, 3), (90, 61), (11, 30), (150, 9))]
SAMPLINGS = [Sampling(max_tokens=40, seed=seed) for seed in range(len(PROMPTS))]


@pytest.fixture(scope="module", params=["torch", "vllm"])
def subject(request: pytest.FixtureRequest, untied_checkpoint: Path) -> Iterator[Subject]:
    def make(settings: EngineSettings) -> Engine:
        return make_engine(request.param, replace(settings, batch_invariant=True))

    running = Subject(request.param, untied_checkpoint, tied=False, make=make)
    try:
        yield running
    finally:
        running.close()


def bits(answers: list[Completion]) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    return [(answer.token_ids, answer.logprobs) for answer in answers]


def test_company_and_order_change_no_bit(subject: Subject) -> None:
    alone = bits([subject.generate(prompt, sampling) for prompt, sampling in zip(PROMPTS, SAMPLINGS, strict=True)])
    together = bits(subject.generate_all(PROMPTS, SAMPLINGS))
    backwards = bits(subject.generate_all(PROMPTS[::-1], SAMPLINGS[::-1]))[::-1]
    assert together == alone
    assert backwards == alone


def test_a_prompt_that_was_read_before_is_read_to_the_same_bits(subject: Subject) -> None:
    long = tuple(1 + 7 * i % 250 for i in range(300))  # beyond two blocks of vLLM's prefix cache
    first, second = (subject.generate(long, SAMPLINGS[0]) for _ in range(2))
    assert bits([first]) == bits([second])


def test_without_it_company_does_change_bits(untied_checkpoint: Path) -> None:
    """What the switch is for; on the torch engine, whose batches are the same each time."""
    running = Subject("torch", untied_checkpoint, tied=False)
    try:
        alone = bits([running.generate(prompt, sampling) for prompt, sampling in zip(PROMPTS, SAMPLINGS, strict=True)])
        together = bits(running.generate_all(PROMPTS, SAMPLINGS))
    finally:
        running.close()
    assert [tokens for tokens, _ in together] == [tokens for tokens, _ in alone]
    assert together != alone
