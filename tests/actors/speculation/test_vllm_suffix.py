"""The suffix proposer: how it knows answers again in vLLM's rows, and that real vLLM emits the same with it."""

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from actors.engine import Completion, EngineSettings, GenerationRequest, Sampling
from actors.speculation.drafter import prompt_key
from actors.speculation.prompt_trees import Answer, PromptTrees
from actors.speculation.settings import SpeculationSettings
from actors.speculation.vllm_suffix import SuffixProposer
from tests.actors.oracle import fresh_kv_logits, gaps, kept_kv_logits
from tests.actors.speculation.nucleus import assert_follows, nucleus_law
from tests.actors.subject import MAX_RUNNING, WAIT_S, Subject, greedy
from tests.actors.tiny_model import model_of

if TYPE_CHECKING:
    from actors.vllm_worker import WeightWorker

TOLERANCE = 2e-4
CONTEXT = 400
PROMPT = tuple(range(40, 60))
LONGEST = 7
Call = tuple[GenerationRequest, "Future[Completion]"]


@dataclass(frozen=True, slots=True)
class _Speculative:
    num_speculative_tokens: int = LONGEST


@dataclass(frozen=True, slots=True)
class _Model:
    max_model_len: int = CONTEXT


@dataclass(frozen=True, slots=True)
class _Config:
    """The two values of vLLM's settings that the proposer reads."""

    speculative_config: _Speculative = field(default_factory=_Speculative)
    model_config: _Model = field(default_factory=_Model)


class Rows:
    """vLLM's batch as a proposer sees it."""

    def __init__(self, proposer: SuffixProposer, rows: int = 8) -> None:
        self.proposer = proposer
        self.tokens = np.random.default_rng(0).integers(0, 9999, (rows, CONTEXT), dtype=np.int32)
        self.lengths = np.zeros(rows, dtype=np.int32)

    def put(self, row: int, sequence: tuple[int, ...]) -> None:
        self.tokens[row, : len(sequence)] = sequence
        self.lengths[row] = len(sequence)

    def move(self, source: int, target: int) -> None:
        self.tokens[target], self.lengths[target] = self.tokens[source], self.lengths[source]

    def step(self, sampled: list[list[int]]) -> list[list[int]]:
        for row, new in enumerate(sampled):
            self.tokens[row, self.lengths[row] : self.lengths[row] + len(new)] = new
            self.lengths[row] += len(new)
        return self.proposer.propose(sampled, self.lengths, self.tokens, slot_mappings=None)


def running(proposer: SuffixProposer) -> dict[bytes, int]:
    """Answers in progress by group, as the trees count them."""
    return {group: prompt.running for group, prompt in proposer._trees._prompts.items() if prompt.running}


def test_a_group_shares_what_its_answers_say_and_others_do_not() -> None:
    rows = Rows(SuffixProposer(_Config()))
    rows.put(0, PROMPT)
    rows.put(1, PROMPT)
    rows.put(2, PROMPT[:-1])
    assert rows.step([[1], [1], [1]])[2] == []
    rows.step([[2, 3, 4, 5, 6], [7], [7]])
    assert rows.step([[7], [1, 2], [1, 2]]) == [[], [3, 4], []]
    assert running(rows.proposer) == {prompt_key(PROMPT): 2, prompt_key(PROMPT[:-1]): 1}


def test_answers_are_known_again_when_rows_move_and_others_end() -> None:
    rng = random.Random(0)
    rows = Rows(SuffixProposer(_Config()))
    prompts = [tuple(rng.randrange(500) for _ in range(10 + i)) for i in range(4)]
    for i, prompt in enumerate(prompts):
        rows.put(i, prompt)
    for _ in range(5):
        rows.step([[rng.randrange(500) for _ in range(rng.randint(1, 4))] for _ in range(4)])
    assert running(rows.proposer) == {prompt_key(prompt): 1 for prompt in prompts}
    size = rows.proposer._trees.size
    rows.move(3, 0)  # The first ended, the last takes its row.
    rows.step([[1], [2], [3]])
    assert running(rows.proposer) == {prompt_key(prompt): 1 for prompt in prompts[1:]}
    assert rows.proposer._trees.size < size + 3 * 30, "nothing was read again"


def test_an_answer_that_was_interrupted_goes_on_in_its_group_and_is_not_counted_twice() -> None:
    rng = random.Random(0)
    rows = Rows(SuffixProposer(_Config()))
    answer = [rng.randrange(500) for _ in range(200)]
    rows.put(0, PROMPT)
    rows.put(1, (3, 1))
    for start in range(0, 200, 5):
        rows.step([answer[start : start + 5], [start]])
    rows.move(1, 0)
    rows.step([[7]])
    size = rows.proposer._trees.size
    rows.put(1, (*PROMPT, *answer))
    rows.step([[7], [9]])
    assert running(rows.proposer) == {prompt_key((3, 1)): 1, prompt_key(PROMPT): 1}
    assert rows.proposer._trees.size < size + 200


def test_a_step_in_which_nothing_was_asked_is_made_up_for() -> None:
    """vLLM skips its proposer where some sequence is near the end of the context."""
    rows = Rows(SuffixProposer(_Config()))
    rows.put(0, PROMPT)
    rows.step([[1, 2, 3]])
    rows.put(0, (*PROMPT, 1, 2, 3, 4, 5))
    assert rows.step([[6, 1, 2]]) == [[3, 4]]
    assert running(rows.proposer) == {prompt_key(PROMPT): 1}


def test_drafts_keep_to_the_budget_and_the_context() -> None:
    rows = Rows(SuffixProposer(_Config(), budget=lambda running: 5 if running == 1 else 2))
    loop = [1, 2, 3] * 10
    rows.put(0, (9, *loop))
    assert rows.step([[1]]) == [[2, 3, 1, 2, 3]]
    rows.put(1, (8, *loop))
    assert [len(draft) for draft in rows.step([[2], [1]])] == [2, 2]
    unbounded = Rows(SuffixProposer(_Config()))
    unbounded.put(0, (9, *loop))
    assert [len(draft) for draft in unbounded.step([[1]])] == [LONGEST]
    unbounded.put(0, tuple([1, 2, 3] * 200)[: CONTEXT - 4])
    assert [len(draft) for draft in unbounded.step([[1]])] == [2]
    assert unbounded.step([[2, 3]]) == [[]]
    assert unbounded.step([[]]) == [[]]


def test_an_error_of_the_drafter_costs_drafts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows(SuffixProposer(_Config()))
    rows.put(0, (9, *[1, 2, 3] * 10))
    assert rows.step([[1]]) != [[]]
    assert rows.proposer.trouble is None

    def broken(self: PromptTrees, answer: Answer, room: int) -> list[int]:
        raise LookupError("no such branch\nand more")

    monkeypatch.setattr(PromptTrees, "draft", broken)
    assert rows.step([[2]]) == [[]]
    assert rows.proposer.trouble == "the drafter failed (LookupError: no such branch): nothing is drafted"
    monkeypatch.undo()
    assert rows.step([[3]]) == [[]], "its trees may be half changed"


def test_each_drafted_token_gets_its_requests_temperature() -> None:
    pytest.importorskip("vllm")
    from actors.speculation.vllm_cpu_remedy import expand_batch_to_tokens

    drafted = torch.tensor([2, 2, 5], dtype=torch.int32)
    temperatures = torch.tensor([0.0, 0.7, 0.9])
    assert expand_batch_to_tokens(temperatures, drafted, 5, 0, 1).tolist() == pytest.approx([1, 1, 0.9, 0.9, 0.9])
    assert expand_batch_to_tokens(torch.tensor([7, 8, 9], dtype=torch.int32), drafted, 5).tolist() == [7, 7, 9, 9, 9]


def begin(subject: Subject, requests: list[GenerationRequest]) -> list[Call]:
    return [(request, subject.begin(subject.engine.generate(request))) for request in requests]


def finished(calls: list[Call]) -> list[tuple[GenerationRequest, Completion]]:
    return [(request, call.result(WAIT_S)) for request, call in calls]


def under_way(subject: Subject) -> None:
    start = subject.engine.load().kv_use
    subject.until(lambda: subject.engine.load().kv_use > 1.5 * start)


@pytest.fixture(scope="module")
def subject(untied_checkpoint: Path) -> Iterator[Subject]:
    """Real vLLM with the proposer, and a governor that changes the draft length at random."""

    def make(settings: EngineSettings) -> "VllmEngine":
        speculation = SpeculationSettings(
            "suffix",
            lengths=(0, 1, 3, LONGEST),
            governor="tests.actors.speculation.scripted_governor:scripted",
        )
        return VllmEngine(replace(settings, speculation=speculation))

    from actors.vllm_engine import VllmEngine

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")  # to break the drafter from within
        running = Subject("vllm", untied_checkpoint, tied=False, make=make)
        yield running
        running.close()


@pytest.mark.slow
def test_vllm_says_what_transformers_says_through_pauses_and_aborts(subject: Subject) -> None:
    """Twice, so that the second epoch drafts what the first said; more answers than places."""
    for epoch in range(2):
        prompts = [PROMPT[: 5 + i % 4] for i in range(MAX_RUNNING + 2)]
        calls = begin(subject, [subject.request(prompt, Sampling(150, temperature=0)) for prompt in prompts])
        for kv in ("keep", "recompute"):
            subject.until_running(MAX_RUNNING)
            subject.run(subject.engine.pause(kv))
            subject.run(subject.engine.resume())
        subject.run(subject.engine.abort([request.request_id for request, _ in calls[:2]]))
        partial = finished(calls[:2])
        calls[:2] = begin(subject, [subject.request(r.prompt_ids, r.sampling, a.segments) for r, a in partial])
        answers = finished(calls)
        for request, answer in answers:
            assert answer.token_ids == greedy(subject.reference, request.prompt_ids, 150)
            logits = fresh_kv_logits({0: subject.reference}, request.prompt_ids, answer.segments)
            assert float(gaps(answer.segments, logits)[0].max()) < TOLERANCE
        accepted = sum(answer.speculated.accepted for _, answer in answers)
        assert accepted > (100 if epoch else 0)


@pytest.mark.slow
def test_in_vllm_samples_follow_the_nucleus(subject: Subject) -> None:
    """500 answers of three tokens at top-p 0.1: what is accepted and what is drawn in place of a refused draft."""
    answers = subject.generate_all([PROMPT] * 500, [Sampling(3, top_p=0.1, seed=seed) for seed in range(500)])
    assert_follows(Counter(answer.token_ids for answer in answers), nucleus_law(subject.reference, PROMPT, 3, 0.1))
    assert sum(answer.speculated.accepted for answer in answers) > 20
    assert sum(answer.speculated.drafted - answer.speculated.accepted for answer in answers) > 100


@pytest.mark.slow
def test_in_vllm_updates_in_the_middle_of_answers_keep_their_promises(subject: Subject) -> None:
    for kv, oracle in (("keep", kept_kv_logits), ("recompute", fresh_kv_logits)):
        models = {subject.version: subject.reference}
        samplings = [Sampling(300, temperature=0), *[Sampling(300, temperature=0.9, seed=seed) for seed in range(4)]]
        calls = begin(subject, [subject.request(PROMPT, sampling) for sampling in samplings])
        subject.until_running(5)
        under_way(subject)
        subject.update(model_of(71, tied=False), kv=kv)
        models[subject.version] = subject.reference
        for request, answer in finished(calls):
            assert [segment.version for segment in answer.segments] == sorted(models)
            logits = oracle(models, PROMPT, answer.segments)
            for gap in gaps(answer.segments, logits, request.sampling.temperature or 1.0):
                assert float(gap.max()) < TOLERANCE
            if request.sampling.temperature == 0:
                assert answer.token_ids == tuple(torch.cat(logits).argmax(-1).tolist())


def fell_trees(worker: "WeightWorker") -> None:
    """Runs in the engine's process."""
    worker.model_runner.drafter._trees = None


def test_in_vllm_a_drafter_that_raises_costs_no_answer(subject: Subject) -> None:
    """The last of this engine: what broke stays broken."""
    assert subject.generate(PROMPT, Sampling(60, temperature=0)).speculated.drafted > 0
    subject.run(subject.engine._alive.collective_rpc(fell_trees))
    for i in range(4):
        answer = subject.generate(PROMPT[i:], Sampling(20, temperature=0))
        logits = fresh_kv_logits({subject.version: subject.reference}, PROMPT[i:], answer.segments)
        assert answer.token_ids == tuple(torch.cat(logits).argmax(-1).tolist())
    assert answer.speculated.drafted == 0
    stats = subject.run(subject.engine.speculation_stats())
    assert stats.trouble is not None
    assert "AttributeError" in stats.trouble
