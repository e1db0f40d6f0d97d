"""Answers in progress when the weights change, on every real engine: what their logprobs mean, and that none is lost.

The oracle is plain transformers (`tests/actors/oracle.py`). All in float32; the versions of the weights are different
random models, so that computing anything under the wrong one moves a logprob by nats.
"""

import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Literal

import pytest
import torch
from transformers import Qwen3ForCausalLM

from actors.engine import Completion, GenerationRequest, KvPolicy, Sampling
from actors.weight_rendezvous import WeightTransferError
from tests.actors.dying_sender import DyingSender, two_buffers
from tests.actors.oracle import fresh_kv_logits, gaps, kept_kv_logits
from tests.actors.subject import MAX_RUNNING, WAIT_S, Subject, checksums, greedy, weights
from tests.actors.tiny_model import model_of

pytestmark = pytest.mark.slow
TOLERANCE = 2e-4
"""Twice that of the contract: long sequences, and KV computed in other batches than the oracle's."""
VISIBLE = 0.5
"""What the wrong weights or the wrong KV move a logprob by, on average, nats; it is several nats in fact."""
SOON = 20
"""Tokens after an update in which nearly all KV is older: later the two policies grow alike."""
PROMPT = tuple(range(40, 60))
LONG_PROMPT = tuple(1 + 7 * i % 250 for i in range(300))
"""Longer than two blocks of vLLM's prefix cache on the CPU (128 tokens)."""
LONG = 400
Call = tuple[GenerationRequest, "Future[Completion]"]


@pytest.fixture(scope="module")
def torch_subject(untied_checkpoint: Path) -> Iterator[Subject]:
    running = Subject("torch", untied_checkpoint, tied=False)
    yield running
    running.close()


@pytest.fixture(scope="module")
def vllm_subject(untied_checkpoint: Path) -> Iterator[Subject]:
    running = Subject("vllm", untied_checkpoint, tied=False)
    yield running
    running.close()


@pytest.fixture(params=["torch", "vllm"])
def subject(request: pytest.FixtureRequest) -> Subject:
    running: Subject = request.getfixturevalue(f"{request.param}_subject")
    return running


@pytest.fixture
def engines(torch_subject: Subject, vllm_subject: Subject) -> dict[str, Subject]:
    """Both kinds, so that an answer can go from one to the other."""
    return {"torch": torch_subject, "vllm": vllm_subject}


def begin(subject: Subject, requests: list[GenerationRequest]) -> list[Call]:
    return [(request, subject.begin(subject.engine.generate(request))) for request in requests]


def finished(calls: list[Call]) -> list[tuple[GenerationRequest, Completion]]:
    return [(request, call.result(WAIT_S)) for request, call in calls]


def begin_at_all_stages(subject: Subject) -> list[Call]:
    """Three answers well under way, five that have their first tokens, and two that wait for a place."""
    samplings = [Sampling(LONG, temperature=0.9, seed=seed) for seed in range(MAX_RUNNING + 2)]
    prompts = [PROMPT, PROMPT, PROMPT[:3], *[PROMPT[:-1]] * 3, *[LONG_PROMPT[:100]] * 4]
    requests = [subject.request(p, s) for p, s in zip(prompts, samplings, strict=True)]
    calls = begin(subject, requests[:3])
    subject.until_running(3)
    under_way(subject)
    calls += begin(subject, requests[3:])
    subject.until_running(MAX_RUNNING)
    return calls


def under_way(subject: Subject) -> None:
    """Wait until the answers in progress have grown by several tens of tokens each.

    vLLM gives KV out in blocks of 128 tokens, the torch engine token by token.
    """
    start = subject.engine.load().kv_use
    growth = 3 if subject.kind == "torch" else 1
    subject.until(lambda: subject.engine.load().kv_use > growth * start)


def update(subject: Subject, calls: list[Call], model: Qwen3ForCausalLM, policy: str) -> list[Call]:
    """Bring the weights as the worker does; the calls that go on from here."""
    if policy != "abort_resume":
        subject.update(model, kv="recompute" if policy == "recompute" else "keep")
        return calls
    subject.run(subject.engine.pause())
    subject.run(subject.engine.abort([request.request_id for request, _ in calls]))
    partial = finished(calls)
    assert all(answer.finish_reason == "abort" for _, answer in partial)
    subject.transfer(model)
    subject.run(subject.engine.resume())
    return begin(subject, [subject.request(r.prompt_ids, r.sampling, answer.segments) for r, answer in partial])


def largest(values: list[torch.Tensor]) -> float:
    return max(float(value.max()) for value in values)


def recorded_gaps(
    kind: Literal["fresh", "kept"], models: dict[int, Qwen3ForCausalLM], request: GenerationRequest, answer: Completion
) -> list[torch.Tensor]:
    """[tokens] for each segment: how far the recorded logprobs are from this oracle's."""
    oracle = fresh_kv_logits if kind == "fresh" else kept_kv_logits
    return gaps(answer.segments, oracle(models, request.prompt_ids, answer.segments), request.sampling.temperature)


@pytest.mark.parametrize("policy", ["keep", "recompute", "abort_resume"])
def test_each_token_has_the_logprob_that_the_policy_promises(
    subject: Subject, policy: Literal["keep", "recompute", "abort_resume"]
) -> None:
    models = {subject.version: subject.reference}
    calls = begin_at_all_stages(subject)
    for seed in (11, 12):
        calls = update(subject, calls, model_of(seed, tied=False), policy)
        models[subject.version] = subject.reference
        if seed == 11:
            subject.until_running(MAX_RUNNING)
            time.sleep(0.05)
    answers = finished(calls)
    first, second, third = sorted(models)
    promised: Literal["fresh", "kept"] = "kept" if policy == "keep" else "fresh"
    across = []
    for request, answer in answers:
        versions = [segment.version for segment in answer.segments]
        assert versions == sorted(set(versions))
        assert len(answer.token_ids) == LONG
        assert answer.finish_reason == "length"
        assert largest(recorded_gaps(promised, models, request, answer)) < TOLERANCE
        wrong = recorded_gaps("fresh" if policy == "keep" else "kept", models, request, answer)[1:]
        across += [segment[:SOON] for segment in wrong]
    assert any([s.version for s in answer.segments] == [first, second, third] for _, answer in answers)
    assert sum(len(answer.segments) > 1 for _, answer in answers) >= MAX_RUNNING // 2
    assert float(torch.cat(across).mean()) > VISIBLE


def test_recomputing_under_the_same_weights_changes_no_token(subject: Subject) -> None:
    """No token is lost or drawn twice, and each request's random generator goes on where it was."""
    sampling = [Sampling(LONG, seed=seed) for seed in range(4)]
    plain = subject.generate_all([PROMPT] * 4, sampling)
    calls = begin(subject, [subject.request(PROMPT, s) for s in sampling])
    policies: tuple[KvPolicy, ...] = ("recompute", "keep", "recompute", "recompute")
    for kv in policies:
        subject.until_running(4)
        time.sleep(0.05)
        subject.run(subject.engine.pause(kv))
        subject.run(subject.engine.resume())
    for before, (_, answer) in zip(plain, finished(calls), strict=True):
        assert answer.token_ids == before.token_ids
        assert answer.logprobs == pytest.approx(before.logprobs, abs=TOLERANCE)


def test_a_pause_that_recomputes_wins_over_one_that_keeps(subject: Subject) -> None:
    old, before = subject.reference, subject.version
    calls = begin(subject, [subject.request(PROMPT, Sampling(LONG, seed=5))])
    subject.until_running(1)
    subject.run(subject.engine.pause("keep"))
    subject.run(subject.engine.pause("recompute"))
    subject.run(subject.engine.pause("keep"))
    subject.transfer(model_of(13, tied=False))
    subject.run(subject.engine.resume())
    ((request, answer),) = finished(calls)
    models = {before: old, subject.version: subject.reference}
    assert len(answer.segments) == 2
    assert largest(recorded_gaps("fresh", models, request, answer)) < TOLERANCE


@pytest.mark.parametrize("way", [("torch", "vllm"), ("vllm", "torch")], ids="-to-".join)
def test_an_answer_goes_on_where_another_engine_left_it(engines: dict[str, Subject], way: tuple[str, str]) -> None:
    source, target = engines[way[0]], engines[way[1]]
    source.version = target.version = max(source.version, target.version)
    source.update(model_of(21, tied=False))
    target.version += 1
    target.update(model_of(22, tied=False))
    models = {source.version: source.reference, target.version: target.reference}
    calls = begin(source, [source.request(PROMPT, Sampling(LONG, seed=seed)) for seed in range(4)])
    source.until_running(4)
    under_way(source)
    source.run(source.engine.abort([request.request_id for request, _ in calls]))
    partial = [answer for _, answer in finished(calls)]
    assert all(0 < len(answer.token_ids) < LONG for answer in partial)
    requests = [target.request(r.prompt_ids, r.sampling, a.segments) for (r, _), a in zip(calls, partial, strict=True)]
    for part, (request, answer) in zip(partial, finished(begin(target, requests)), strict=True):
        assert answer.segments[0] == part.segments[0]
        assert [segment.version for segment in answer.segments] == [source.version, target.version]
        assert len(answer.token_ids) == LONG
        assert answer.finish_reason == "length"
        assert largest(recorded_gaps("fresh", models, request, answer)) < TOLERANCE


def test_a_continued_greedy_answer_is_the_one_that_was_never_interrupted(subject: Subject) -> None:
    """Stopped again at once, then to its stop token; what one version sampled is one segment."""
    whole = greedy(subject.reference, PROMPT, 60)
    stop = next(token for i, token in enumerate(whole) if i >= 30 and token not in whole[:i])
    sampling = Sampling(60, temperature=0, stop_token_ids=(stop,))
    begun = subject.generate(PROMPT, Sampling(10, temperature=0))
    paused = subject.request(PROMPT, sampling, begun.segments)
    subject.run(subject.engine.pause())
    calls = begin(subject, [paused])
    subject.until(lambda: subject.engine.load().waiting == 1)
    subject.run(subject.engine.abort([paused.request_id]))
    ((_, again),) = finished(calls)
    assert (again.finish_reason, again.segments) == ("abort", begun.segments)
    subject.run(subject.engine.resume())
    answer = subject.run(subject.engine.generate(subject.request(PROMPT, sampling, again.segments)))
    assert answer.token_ids == whole[: whole.index(stop) + 1]
    assert answer.finish_reason == "stop"
    assert [segment.version for segment in answer.segments] == [subject.version]


def test_a_continuation_does_not_draw_again_as_its_prefix_did(subject: Subject) -> None:
    """All 257 tokens are about equally likely; the same draws would give the same token twice."""
    flat = model_of(41, tied=False)
    with torch.no_grad():
        flat.lm_head.weight.mul_(0.001)
    subject.update(flat)
    answers = 200
    first = subject.generate_all([PROMPT] * answers, [Sampling(1, seed=seed) for seed in range(answers)])
    requests = [subject.request(PROMPT, Sampling(2, seed=seed), a.segments) for seed, a in enumerate(first)]
    second = [answer.token_ids for _, answer in finished(begin(subject, requests))]
    assert [before for before, _ in second] == [answer.token_ids[0] for answer in first]
    assert sum(before == after for before, after in second) < 8, "one is to be expected"


def test_a_prefix_counts_in_the_limits_and_in_the_load(subject: Subject) -> None:
    whole = subject.generate(PROMPT, Sampling(300, temperature=0))
    with pytest.raises(ValueError, match="prefix of 300 tokens"):
        subject.run(subject.engine.generate(subject.request(PROMPT, Sampling(300), whole.segments)))
    stop = Sampling(400, stop_token_ids=(whole.token_ids[-1],))
    with pytest.raises(ValueError, match="stop token"):
        subject.run(subject.engine.generate(subject.request(PROMPT, stop, whole.segments)))
    held = []
    for prefix in ((), whole.segments):
        calls = begin(subject, [subject.request(PROMPT, Sampling(450, seed=1), prefix)])
        subject.until_running(1)
        held.append(subject.engine.load().kv_use)
        subject.run(subject.engine.abort([request.request_id for request, _ in calls]))
        finished(calls)
    assert held[1] >= 3 * held[0]


def test_a_version_that_arrives_again_replaces_all_of_the_first(subject: Subject) -> None:
    """The first time it arrives damaged, and a prompt is read and cached under it."""
    right, damaged = model_of(31, tied=False), model_of(32, tied=False)
    sampling = Sampling(20, temperature=0)
    subject.update(right, sent=weights(damaged))
    assert subject.generate(LONG_PROMPT, sampling).token_ids == greedy(damaged, LONG_PROMPT, 20)
    for _ in range(2):
        subject.version -= 1
        assert subject.update(right) == checksums(weights(right))
        answer = subject.generate(LONG_PROMPT, sampling)
        assert answer.token_ids == greedy(right, LONG_PROMPT, 20)
        assert answer.versions == (subject.version,) * 20


def test_an_answer_across_a_version_that_arrives_twice_is_one_segment_of_it(subject: Subject) -> None:
    new = model_of(33, tied=False)
    calls = begin(subject, [subject.request(PROMPT, Sampling(LONG, seed=3))])
    subject.until_running(1)
    subject.update(new)
    subject.version -= 1
    subject.update(new)
    ((_, answer),) = finished(calls)
    assert [segment.version for segment in answer.segments] == [subject.version - 1, subject.version]
    assert len(answer.token_ids) == LONG


def test_an_update_whose_sender_is_killed_halfway_leaves_every_engine_intact(engines: dict[str, Subject]) -> None:
    """One process sends to both engines and is killed; answers in progress go on under the weights they had."""
    subjects = list(engines.values())
    timeout_s = 30.0
    calls = [begin(s, [s.request(PROMPT, Sampling(LONG, temperature=0))])[0] for s in subjects]
    for subject in subjects:
        subject.until_running(1)
        subject.run(subject.engine.pause("recompute"))
    sender = DyingSender(channels=len(subjects), timeout_s=timeout_s, version=1000)
    joining = [s.begin(s.engine.open_channel(a)) for s, a in zip(subjects, sender.addresses, strict=True)]
    for join in joining:
        join.result(WAIT_S)
    receiving = [s.begin(s.engine.receive_weights(two_buffers(1000))) for s in subjects]
    sender.kill_halfway()
    killed = time.monotonic()
    for transfer in receiving:
        with pytest.raises(WeightTransferError, match="the sender stopped"):
            transfer.result(WAIT_S)
    assert time.monotonic() - killed < timeout_s / 3
    for subject, (_, call) in zip(subjects, calls, strict=True):
        subject.run(subject.engine.resume())
        answer = call.result(WAIT_S)
        assert answer.token_ids == greedy(subject.reference, PROMPT, LONG)
        assert answer.versions == (subject.version,) * LONG
        subject.open_channel()
        model = model_of(34, tied=False)
        assert subject.update(model) == checksums(weights(model))
