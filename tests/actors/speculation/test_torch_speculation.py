"""The gates of exact speculation on the torch engine, for every drafter: what is emitted is what the target says.

All in float32, draft lengths change at random with every step, 0 among them. The oracle is plain transformers.
"""

import random
import threading
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import Future
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import Qwen3ForCausalLM

from actors.engine import Completion, EngineError, EngineSettings, GenerationRequest, Sampling
from actors.speculation.drafter import Draft, DraftRequest, FixedLength, Observation, Speculation
from actors.speculation.step_record import StepRecord
from actors.torch_engine import TorchEngine
from actors.weight_rendezvous import WeightTransferError
from tests.actors.oracle import fresh_kv_logits, gaps, kept_kv_logits
from tests.actors.speculation.drafters import DRAFTERS, Entry, Guessing
from tests.actors.speculation.nucleus import assert_follows, nucleus_law
from tests.actors.subject import MAX_RUNNING, WAIT_S, Subject, answer_logprobs, greedy, manifest_of
from tests.actors.tiny_model import CONTEXT_LENGTH, model_of

pytestmark = pytest.mark.slow
TOLERANCE = 2e-4
"""As in the tests of in-flight updates without speculation."""
LONGEST = 5
STEPS = 4
ANSWER = 130
"""Longer than what a test lets an answer grow to before it lets the engine go: at most 4 times `STEPS + 1` steps, of
1 + LONGEST tokens at most, and the lengths' seed makes it fewer."""
PROMPT = tuple(range(40, 60))
LONG_PROMPT = tuple(1 + 7 * i % 250 for i in range(300))
CHECKPOINT = model_of(0, tied=False)
"""What every engine here starts from."""
Call = tuple[GenerationRequest, "Future[Completion]"]
spoken = cache(greedy)
"""The same for all drafters: transformers takes longer for it than the engine."""


class RandomLengths:
    """Another draft length each step, and what came of all. Holds the engine where a test wants it held."""

    def __init__(self) -> None:
        self._random = random.Random(0)
        self._permits: threading.Semaphore | None = None
        self.steps: list[StepRecord] = []

    def reseed(self) -> None:
        self._random.seed(5)

    def hold(self) -> None:
        """From now on the engine takes only the steps that it is allowed."""
        self._permits = threading.Semaphore(0)

    def allow(self, steps: int) -> None:
        assert self._permits is not None
        self._permits.release(steps)

    def let_go(self) -> None:
        held, self._permits = self._permits, None
        assert held is not None
        held.release()

    @property
    def trouble(self) -> None:
        return None

    def choose(self, running: int) -> int:
        assert running > 0
        permits = self._permits
        assert permits is None or permits.acquire(timeout=WAIT_S)
        return self._random.randint(0, LONGEST)

    def record(self, step: StepRecord) -> None:
        self.steps.append(step)


class Speculating(Subject):
    """The torch engine with this drafter."""

    def __init__(self, entry: Entry, folder: Path) -> None:
        self.entry = entry
        self.drafter = entry.make()
        self.lengths = RandomLengths()
        super().__init__("torch", folder, tied=False, make=self._engine)
        self.reference = CHECKPOINT

    def _engine(self, settings: EngineSettings) -> TorchEngine:
        return TorchEngine(settings, Speculation(self.drafter, self.lengths))

    def begin_held(self, requests: list[GenerationRequest]) -> list[Call]:
        """All of them take their first steps together, and stay in the middle of their answers until `let_go`."""
        self.lengths.hold()
        calls = begin(self, requests)
        self.until(lambda: self.engine.load().running + self.engine.load().waiting == len(requests))
        self.lengths.allow(1)
        return calls

    def grow(self) -> None:
        """A few steps of every answer that runs."""
        before = len(self.lengths.steps)
        self.lengths.allow(STEPS)
        self.until(lambda: len(self.lengths.steps) >= before + STEPS)

    def while_held(self, call: Coroutine[None, None, None]) -> None:
        """What waits for the step in progress: that step is allowed, and at most one more."""
        waiting = self.begin(call)
        self.lengths.allow(1)
        waiting.result(WAIT_S)

    def update_drafter(self, version: int, tensors: dict[str, torch.Tensor]) -> None:
        manifest = manifest_of(version, tensors)
        sender = self._sender or self.open_channel()
        receiving = self.begin(self.engine.receive_weights(manifest, "drafter"))
        sender.send(manifest, tensors)
        receiving.result(WAIT_S)


@pytest.fixture(scope="module", params=DRAFTERS)
def subject(request: pytest.FixtureRequest, untied_checkpoint: Path) -> Iterator[Speculating]:
    running = Speculating(DRAFTERS[request.param], untied_checkpoint)
    yield running
    running.close()


@pytest.fixture(scope="module")
def plain(untied_checkpoint: Path) -> Iterator[Subject]:
    """The same engine without speculation."""
    running = Subject("torch", untied_checkpoint, tied=False)
    yield running
    running.close()


def begin(subject: Subject, requests: list[GenerationRequest]) -> list[Call]:
    return [(request, subject.begin(subject.engine.generate(request))) for request in requests]


def finished(calls: list[Call]) -> list[tuple[GenerationRequest, Completion]]:
    return [(request, call.result(WAIT_S)) for request, call in calls]


def assert_greedy(model: Qwen3ForCausalLM, prompt: tuple[int, ...], answer: Completion, tokens: int) -> None:
    """Each token is the likeliest after those before it, which makes the answer the greedy one."""
    assert len(answer.token_ids) == tokens
    assert answer.token_ids == tuple(answer_logprobs(model, prompt, answer.token_ids).argmax(-1).tolist())


def assert_consistent(answer: Completion) -> None:
    counts = answer.speculated
    assert 0 <= counts.accepted <= min(counts.drafted, len(answer.token_ids))
    assert bool(counts.drafted) == bool(counts.drafter_versions)


def test_greedy_answers_are_those_of_transformers_for_more_answers_than_places(subject: Speculating) -> None:
    prompts = [PROMPT, PROMPT[:3], LONG_PROMPT, (5,), *[PROMPT[: 4 + i] for i in range(MAX_RUNNING - 2)]]
    answers = subject.generate_all(prompts, [Sampling(30, temperature=0)] * len(prompts))
    for prompt, answer in zip(prompts, answers, strict=True):
        assert_greedy(subject.reference, prompt, answer, 30)
        assert answer.finish_reason == "length"
        expected = answer_logprobs(subject.reference, prompt, answer.token_ids)
        expected = expected.gather(1, torch.tensor(answer.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(answer.logprobs), expected, atol=TOLERANCE, rtol=0)
        assert_consistent(answer)


def test_a_step_says_what_was_drafted_and_kept(subject: Speculating) -> None:
    subject.lengths.steps.clear()
    subject.run(subject.engine.speculation_stats())
    answers = subject.generate_all([PROMPT] * 4, [Sampling(50, seed=seed) for seed in range(4)])
    steps = subject.lengths.steps
    assert subject.run(subject.engine.speculation_stats()).steps == tuple(steps)
    assert subject.run(subject.engine.speculation_stats()).steps == ()
    assert sum(step.drafted for step in steps) == sum(answer.speculated.drafted for answer in answers) > 0
    assert sum(step.accepted for step in steps) == sum(answer.speculated.accepted for answer in answers)
    assert sum(step.emitted for step in steps) == 4 * 50
    assert sum(step.prefill for step in steps) == 4 * len(PROMPT)
    for step in steps:
        assert step.accepted <= step.drafted <= step.running * step.k
        assert step.emitted == step.running + step.accepted
        assert step.accepted == sum(step.by_position)
        assert len(step.by_position) == step.k
        assert step.seconds > 0


def test_sampled_answers_have_the_logprobs_of_a_plain_forward(subject: Speculating) -> None:
    samplings = [Sampling(50, temperature=0.8, seed=seed) for seed in range(4)]
    for answer in subject.generate_all([PROMPT] * 4, samplings):
        logits = answer_logprobs(subject.reference, PROMPT, answer.token_ids)
        assert float(gaps(answer.segments, [logits], temperature=0.8)[0].max()) < TOLERANCE
        assert_consistent(answer)


def test_a_seed_gives_the_tokens_of_plain_decoding_unless_drafts_are_draws(
    subject: Speculating, plain: Subject
) -> None:
    samplings = [Sampling(50, temperature=0.9, top_k=60, top_p=0.95, seed=seed) for seed in range(4)]
    expected = [plain.generate(PROMPT, sampling).token_ids for sampling in samplings]
    assert subject.version == plain.version == 0
    answers = [answer.token_ids for answer in subject.generate_all([PROMPT] * 4, samplings)]
    assert (answers == expected) != subject.entry.draws


def test_samples_follow_the_nucleus(subject: Speculating) -> None:
    """400 answers of three tokens at top-p 0.1 against their law by plain forwards."""
    answers = subject.generate_all([PROMPT] * 400, [Sampling(3, top_p=0.1, seed=seed) for seed in range(400)])
    assert_follows(Counter(answer.token_ids for answer in answers), nucleus_law(CHECKPOINT, PROMPT, 3, 0.1))
    assert sum(answer.speculated.drafted for answer in answers) > 80


def test_stop_tokens_and_the_room_end_an_answer_in_the_middle_of_a_draft(subject: Speculating) -> None:
    free = spoken(subject.reference, PROMPT, 25)
    stops = [token for i, token in enumerate(free) if token not in free[:i]][-12:]
    samplings = [Sampling(25, temperature=0, stop_token_ids=(stop,)) for stop in stops]
    samplings += [Sampling(room, temperature=0) for room in range(1, 8)]
    for sampling, answer in zip(samplings, subject.generate_all([PROMPT] * len(samplings), samplings), strict=True):
        if sampling.stop_token_ids:
            assert answer.token_ids == free[: free.index(sampling.stop_token_ids[0]) + 1]
            assert answer.finish_reason == "stop"
        else:
            assert answer.token_ids == free[: sampling.max_tokens]
            assert answer.finish_reason == "length"
        assert_consistent(answer)
    whole = subject.generate(LONG_PROMPT, Sampling(10_000, temperature=0))
    assert len(whole.token_ids) == CONTEXT_LENGTH - len(LONG_PROMPT)
    assert_greedy(subject.reference, LONG_PROMPT, whole, len(whole.token_ids))


def test_pauses_that_keep_or_recompute_change_no_greedy_token(subject: Speculating) -> None:
    sampling = Sampling(ANSWER, temperature=0)
    calls = subject.begin_held([subject.request(PROMPT[: 5 + i], sampling) for i in range(4)])
    for kv in ("keep", "recompute", "recompute", "keep"):
        subject.grow()
        subject.while_held(subject.engine.pause(kv))
        assert not any(call.done() for _, call in calls)
        subject.run(subject.engine.resume())
    subject.lengths.let_go()
    for request, answer in finished(calls):
        assert_greedy(subject.reference, request.prompt_ids, answer, ANSWER)


def test_an_aborted_answer_goes_on_from_its_prefix(subject: Speculating) -> None:
    sampling = Sampling(ANSWER, temperature=0)
    calls = subject.begin_held([subject.request(PROMPT[: 5 + i], sampling) for i in range(4)])
    for _ in range(2):
        subject.grow()
        subject.while_held(subject.engine.abort([request.request_id for request, _ in calls]))
        partial = finished(calls)
        assert all(0 < len(answer.token_ids) < ANSWER for _, answer in partial)
        assert all(answer.finish_reason == "abort" for _, answer in partial)
        requests = [subject.request(r.prompt_ids, r.sampling, answer.segments) for r, answer in partial]
        calls = subject.begin_held(requests)
    subject.lengths.let_go()
    for request, answer in finished(calls):
        assert_greedy(subject.reference, request.prompt_ids, answer, ANSWER)
        assert_consistent(answer)


def test_the_drafters_update_in_the_middle_of_answers_changes_no_greedy_token(subject: Speculating) -> None:
    if subject.entry.learns is None:
        with pytest.raises(WeightTransferError, match="has no weights"):
            subject.update_drafter(1, {"weight": torch.zeros(3)})
        return
    before = subject.drafter.version
    calls = subject.begin_held([subject.request(PROMPT, Sampling(ANSWER, temperature=0)) for _ in range(3)])
    for version in (before + 1, before + 2):
        subject.grow()
        subject.while_held(subject.engine.pause())
        subject.update_drafter(version, subject.entry.learns(version))
        subject.run(subject.engine.resume())
    subject.lengths.let_go()
    versions: set[int] = set()
    for _, answer in finished(calls):
        assert_greedy(subject.reference, PROMPT, answer, ANSWER)
        assert set(answer.versions) == {subject.version}
        assert list(answer.speculated.drafter_versions) == sorted(set(answer.speculated.drafter_versions))
        versions |= set(answer.speculated.drafter_versions)
    # The drafts of the first steps may all have length 0.
    assert {before + 1, before + 2} <= versions <= {before, before + 1, before + 2}


def test_weight_updates_in_the_middle_of_answers_keep_their_promises(subject: Speculating) -> None:
    for kv, oracle in (("keep", kept_kv_logits), ("recompute", fresh_kv_logits)):
        models: dict[int, Qwen3ForCausalLM] = {subject.version: subject.reference}
        samplings = [Sampling(ANSWER, temperature=t, seed=seed) for seed, t in enumerate((0.0, 0.9, 0.9))]
        calls = subject.begin_held([subject.request(PROMPT, sampling) for sampling in samplings])
        for seed in (61, 62):
            subject.grow()
            subject.while_held(subject.engine.pause(kv))
            subject.update(model_of(seed, tied=False), kv=kv)
            models[subject.version] = subject.reference
        subject.lengths.let_go()
        for request, answer in finished(calls):
            assert [segment.version for segment in answer.segments] == sorted(models)
            logits = oracle(models, PROMPT, answer.segments)
            for gap in gaps(answer.segments, logits, request.sampling.temperature or 1.0):
                assert float(gap.max()) < TOLERANCE
            if request.sampling.temperature == 0:
                # The likeliest token, or one that rounding cannot tell from it: two of this model may tie.
                every = torch.cat(logits)
                chosen = every.gather(-1, torch.tensor(answer.token_ids)[:, None]).squeeze(-1)
                assert float((every.amax(-1) - chosen).max()) < TOLERANCE


def test_sending_the_same_weights_again_leaves_acceptance_as_it_was(subject: Speculating) -> None:
    """Each time the drafter starts from what it knew at first: an answer alone, with the same draft lengths."""

    def speculated() -> tuple[int, int]:
        subject.lengths.reseed()
        answer = subject.generate(PROMPT, Sampling(60, temperature=0))
        assert_greedy(subject.reference, PROMPT, answer, 60)
        return answer.speculated.drafted, answer.speculated.accepted

    for _ in range(2):
        speculated()
    before = speculated()
    subject.update(subject.reference, kv="recompute")
    assert speculated() == before


def test_drafters_that_are_good_are_accepted(subject: Speculating) -> None:
    """That drafts are used at all: a drafter that speaks like the target is believed."""
    temperature = 0.8 if subject.entry.draws else 0.0
    fresh = Speculating(subject.entry, Path(subject.engine._settings.model))
    try:
        answers = fresh.generate_all([PROMPT] * 4, [Sampling(60, temperature=temperature)] * 4)
    finally:
        fresh.close()
    drafted = sum(answer.speculated.drafted for answer in answers)
    accepted = sum(answer.speculated.accepted for answer in answers)
    expected = {"suffix": (0.2, 1), "perfect": (0.999, 1), "guessing": (0, 0.1)}
    low, high = expected.get(subject.drafter.name, (0.05, 1))
    assert drafted > 0
    assert low <= accepted / drafted <= high


class Watching(Guessing):
    """Keeps the hidden states of everything that it observes."""

    hidden_layers = (0, 1, -1)

    def __init__(self) -> None:
        super().__init__()
        self.hidden: list[tuple[torch.Tensor, ...]] = []
        self.restarts = 0

    def observe(self, observations: Sequence[Observation]) -> None:
        super().observe(observations)
        for seen in observations:
            if seen.start == 0:
                self.hidden.clear()
                self.restarts += 1
            self.hidden.append(seen.hidden)


def test_hidden_states_are_those_of_a_plain_forward(untied_checkpoint: Path) -> None:
    """Also after the KV is computed anew: then they come again, from the first token on."""
    drafter, lengths = Watching(), RandomLengths()
    subject = Subject(
        "torch", untied_checkpoint, tied=False, make=lambda s: TorchEngine(s, Speculation(drafter, lengths))
    )
    lengths.hold()
    (call,) = begin(subject, [subject.request(PROMPT, Sampling(60, temperature=0))])
    lengths.allow(5)
    subject.until(lambda: len(lengths.steps) >= 5)
    pausing = subject.begin(subject.engine.pause("recompute"))
    lengths.let_go()
    pausing.result(WAIT_S)
    subject.run(subject.engine.resume())
    ((_, answer),) = finished([call])
    subject.close()
    assert drafter.restarts == 2
    with torch.inference_mode():
        ids = torch.tensor([PROMPT + answer.token_ids[:-1]])
        truth = CHECKPOINT(input_ids=ids, output_hidden_states=True).hidden_states
    for layer, seen in zip(drafter.hidden_layers, zip(*drafter.hidden, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(seen), truth[layer][0], atol=1e-4, rtol=1e-4)


class Overlong(Guessing):
    """Gives more than it is asked for."""

    def draft(self, request: DraftRequest) -> Draft:
        return Draft((1,) * (request.length + 1))


class Broken(Guessing):
    """Raises what nobody expects."""

    def draft(self, request: DraftRequest) -> Draft:
        raise KeyError(request.request_id)


@pytest.mark.parametrize(("drafter", "said"), [(Overlong, "at most 3 were asked for"), (Broken, "decoding step")])
def test_a_drafter_that_breaks_its_contract_ends_the_engine_and_not_the_caller(
    drafter: type[Guessing], said: str, untied_checkpoint: Path
) -> None:
    def make(settings: EngineSettings) -> TorchEngine:
        return TorchEngine(settings, Speculation(drafter(), FixedLength(3)))

    subject = Subject("torch", untied_checkpoint, tied=False, make=make)
    with pytest.raises(EngineError, match=said):
        subject.generate(PROMPT, Sampling(20))
    subject.close()


def test_a_length_of_zero_asks_the_drafter_for_nothing(untied_checkpoint: Path) -> None:
    class Silent(Guessing):
        def propose(self, requests: object) -> list[Draft]:
            raise AssertionError("it was asked")

    drafter = Silent()
    subject = Subject(
        "torch",
        untied_checkpoint,
        tied=False,
        make=lambda settings: TorchEngine(settings, Speculation(drafter, FixedLength(0))),
    )
    assert_greedy(subject.reference, PROMPT, subject.generate(PROMPT, Sampling(30, temperature=0)), 30)
    subject.until(lambda: not drafter.sequences)
    subject.close()
