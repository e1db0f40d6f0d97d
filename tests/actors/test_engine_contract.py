"""The contract of `actors.engine.Engine`, held by every real engine against transformers as the oracle.

All in float32, where a greedy token is decided by the weights and not by rounding. `TOLERANCE` is ten times the
largest gap between the engines' and transformers' logprobs that these models show.
"""

import math
import time
from collections import Counter

import pytest
import torch
from transformers import Qwen3ForCausalLM

from actors.engine import Completion, EngineError, Sampling
from actors.weight_rendezvous import WeightTransferError
from tests.actors.oracle import kept_kv_logits
from tests.actors.subject import (
    MAX_RUNNING,
    WAIT_S,
    Subject,
    answer_logprobs,
    checksums,
    greedy,
    manifest_of,
    weights,
)
from tests.actors.tiny_model import CONTEXT_LENGTH, model_of

pytestmark = pytest.mark.slow
TOLERANCE = 1e-4
PROMPT = tuple(range(40, 60))
LONG_PROMPT = tuple(1 + 7 * i % 250 for i in range(300))
"""Longer than two blocks of vLLM's prefix cache on the CPU (128 tokens)."""


def assert_logprobs(completion: Completion, prompt: tuple[int, ...], model: Qwen3ForCausalLM) -> None:
    """The recorded logprobs are those of `model`, on the tokens that were sampled."""
    expected = answer_logprobs(model, prompt, completion.token_ids)
    expected = expected.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=TOLERANCE, rtol=0)


def test_greedy_tokens_are_those_of_transformers(subject: Subject) -> None:
    prompts = [PROMPT, PROMPT[:3], LONG_PROMPT, (5,)]
    answers = subject.generate_all(prompts, [Sampling(max_tokens=40, temperature=0)] * len(prompts))
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer.token_ids == greedy(subject.reference, prompt, 40)
        assert answer.finish_reason == "length"
        assert_logprobs(answer, prompt, subject.reference)


def test_sampled_logprobs_are_those_of_transformers(subject: Subject) -> None:
    answers = subject.generate_all([PROMPT] * 6, [Sampling(max_tokens=50, seed=seed) for seed in range(6)])
    for answer in answers:
        assert set(answer.versions) == {subject.version}
        assert_logprobs(answer, PROMPT, subject.reference)
    assert len({answer.token_ids for answer in answers}) == 6


def test_a_seed_fixes_the_answer_whatever_else_runs(subject: Subject) -> None:
    sampling = Sampling(max_tokens=40, temperature=0.9, top_k=50, top_p=0.95, seed=11)
    alone = subject.generate(PROMPT, sampling)
    others = [Sampling(max_tokens=30 + i, seed=i) for i in range(5)]
    crowd = subject.generate_all([PROMPT] * 5 + [PROMPT], [*others, sampling])
    assert crowd[-1].token_ids == alone.token_ids


def test_samples_and_logprobs_follow_the_processed_distribution(subject: Subject) -> None:
    """1200 draws of one token at temperature 0.7 among the 5 likeliest, by Pearson's chi-square with 4 degrees."""
    draws, kept = 1200, 5
    logits = answer_logprobs(subject.reference, PROMPT, (0,))[0] / 0.7
    top = logits.topk(kept)
    expected = dict(zip(top.indices.tolist(), top.values.log_softmax(-1).tolist(), strict=True))
    samplings = [Sampling(max_tokens=1, temperature=0.7, top_k=kept, seed=seed) for seed in range(draws)]
    answers = subject.generate_all([PROMPT] * draws, samplings)
    counts = Counter(answer.token_ids[0] for answer in answers)
    assert set(counts) <= set(expected)
    for answer in answers:
        assert answer.logprobs[0] == pytest.approx(expected[answer.token_ids[0]], abs=TOLERANCE)
    share = {token: math.exp(logprob) * draws for token, logprob in expected.items()}
    statistic = sum((counts[token] - share[token]) ** 2 / share[token] for token in expected)
    assert statistic < 18.47, "beyond the 0.999 quantile"


def test_nucleus_keeps_the_fewest_tokens_that_reach_top_p(subject: Subject) -> None:
    probabilities = answer_logprobs(subject.reference, PROMPT, (0,))[0].exp().sort(descending=True)
    kept = int((probabilities.values.cumsum(-1) < 0.5).sum()) + 1
    mass = float(probabilities.values[:kept].sum())
    expected = dict(zip(probabilities.indices[:kept].tolist(), probabilities.values[:kept].tolist(), strict=True))
    samplings = [Sampling(max_tokens=1, top_p=0.5, seed=seed) for seed in range(200)]
    for answer in subject.generate_all([PROMPT] * 200, samplings):
        token, logprob = answer.token_ids[0], answer.logprobs[0]
        assert token in expected
        assert logprob == pytest.approx(math.log(expected[token] / mass), abs=TOLERANCE)


def test_a_stop_token_ends_the_answer_and_belongs_to_it(subject: Subject) -> None:
    free = greedy(subject.reference, PROMPT, 30)
    stop = free[9]
    answer = subject.generate(PROMPT, Sampling(max_tokens=30, temperature=0, stop_token_ids=(stop,)))
    assert answer.token_ids == free[: free.index(stop) + 1]
    assert answer.finish_reason == "stop"


def test_only_the_request_says_what_ends_an_answer(subject: Subject) -> None:
    """The checkpoint's end token is 0; a request that does not name it goes on."""
    answers = subject.generate_all([PROMPT] * 8, [Sampling(max_tokens=400, seed=s) for s in range(8)])
    assert all(len(answer.token_ids) == 400 for answer in answers)
    assert any(0 in answer.token_ids for answer in answers)


def test_the_context_ends_an_answer(subject: Subject) -> None:
    answer = subject.generate(LONG_PROMPT, Sampling(max_tokens=10_000, temperature=0))
    assert len(answer.token_ids) == CONTEXT_LENGTH - len(LONG_PROMPT)
    assert answer.finish_reason == "length"
    with pytest.raises(ValueError, match="context_length"):
        subject.generate(LONG_PROMPT + LONG_PROMPT, Sampling(max_tokens=1))


def test_an_abort_gives_the_tokens_so_far(subject: Subject) -> None:
    request = subject.request(PROMPT, Sampling(max_tokens=450, temperature=0))
    call = subject.begin(subject.engine.generate(request))
    subject.until_running(1)
    time.sleep(0.05)
    subject.run(subject.engine.abort([request.request_id, "never-heard-of"]))
    answer = call.result(WAIT_S)
    assert answer.finish_reason == "abort"
    assert 0 < len(answer.token_ids) < 450
    assert answer.token_ids == greedy(subject.reference, PROMPT, len(answer.token_ids))
    assert_logprobs(answer, PROMPT, subject.reference)
    assert subject.engine.load().running == 0


def test_an_abort_reaches_requests_that_wait(subject: Subject) -> None:
    requests = [subject.request(PROMPT, Sampling(max_tokens=450, seed=i)) for i in range(MAX_RUNNING + 3)]
    calls = [subject.begin(subject.engine.generate(request)) for request in requests]
    subject.until_running(MAX_RUNNING)
    load = subject.engine.load()
    assert (load.running, load.waiting) == (MAX_RUNNING, 3)
    assert 0 < load.kv_use < 1
    subject.run(subject.engine.abort([request.request_id for request in requests]))
    answers = [call.result(WAIT_S) for call in calls]
    assert all(answer.finish_reason == "abort" for answer in answers)
    assert [len(answer.token_ids) for answer in answers[MAX_RUNNING:]] == [0, 0, 0]


def test_no_token_is_sampled_between_pause_and_resume(subject: Subject) -> None:
    """Of two equal requests, the one submitted second and aborted late has no token more than the other."""
    requests = [subject.request(PROMPT, Sampling(max_tokens=450, temperature=0)) for _ in range(3)]
    calls = [subject.begin(subject.engine.generate(request)) for request in requests]
    subject.until_running(3)
    subject.run(subject.engine.pause())
    subject.run(subject.engine.pause())
    subject.run(subject.engine.abort([requests[0].request_id]))
    at_once = calls[0].result(WAIT_S)
    time.sleep(0.5)
    assert not calls[1].done()
    subject.run(subject.engine.abort([requests[1].request_id]))
    late = calls[1].result(WAIT_S)
    assert 0 < len(late.token_ids) <= len(at_once.token_ids)
    subject.run(subject.engine.resume())
    subject.run(subject.engine.resume())
    assert calls[2].result(WAIT_S).token_ids == greedy(subject.reference, PROMPT, 450)


def test_score_is_the_log_probability_of_each_token(subject: Subject) -> None:
    subject.generate(LONG_PROMPT, Sampling(max_tokens=1))
    scores = subject.run(subject.engine.score(LONG_PROMPT))
    expected = answer_logprobs(subject.reference, LONG_PROMPT[:1], LONG_PROMPT[1:])
    expected = expected.gather(1, torch.tensor(LONG_PROMPT[1:])[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(scores), expected, atol=TOLERANCE, rtol=0)


def test_an_update_arrives_whole_and_is_what_generates(subject: Subject) -> None:
    new = model_of(1, tied=subject.tied)
    received = subject.update(new)
    assert received == checksums(weights(new))
    answer = subject.generate(PROMPT, Sampling(max_tokens=40, temperature=0))
    assert answer.token_ids == greedy(new, PROMPT, 40)
    assert set(answer.versions) == {subject.version}
    assert_logprobs(answer, PROMPT, new)
    test_score_is_the_log_probability_of_each_token(subject)


def test_a_flipped_bit_shows_in_its_tensors_checksum(subject: Subject) -> None:
    model = model_of(2, tied=subject.tied)
    sent = {name: tensor.clone() for name, tensor in weights(model).items()}
    damaged = "model.layers.1.mlp.up_proj.weight"
    sent[damaged].view(torch.int32)[3, 5] ^= 1
    received = subject.update(model, sent)
    truth = checksums(weights(model))
    assert {name for name in truth if received[name] != truth[name]} == {damaged}
    assert subject.update(model) == truth


def test_an_answer_in_progress_survives_an_update_and_keeps_its_kv(subject: Subject) -> None:
    old, new = subject.reference, model_of(3, tied=subject.tied)
    call = subject.begin(subject.engine.generate(subject.request(PROMPT, Sampling(max_tokens=450, temperature=0))))
    subject.until_running(1)
    before = subject.version
    subject.update(new)
    answer = call.result(WAIT_S)
    assert [segment.version for segment in answer.segments] == [before, subject.version]
    first, second = answer.segments
    assert first.token_ids == greedy(old, PROMPT, len(first.token_ids))
    _, expected = kept_kv_logits({before: old, subject.version: new}, PROMPT, answer.segments)
    assert second.token_ids == tuple(expected.argmax(-1).tolist())
    expected = expected.log_softmax(-1).gather(1, torch.tensor(second.token_ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(second.logprobs), expected, atol=TOLERANCE, rtol=0)


def test_nothing_computed_under_old_weights_reaches_a_new_request(subject: Subject) -> None:
    sampling = Sampling(max_tokens=20, temperature=0)
    subject.generate_all([LONG_PROMPT] * 2, [sampling] * 2)
    new = model_of(4, tied=subject.tied)
    subject.update(new)
    answers = subject.generate_all([LONG_PROMPT] * 2, [sampling] * 2)
    for answer in answers:
        assert answer.token_ids == greedy(new, LONG_PROMPT, 20)
        assert_logprobs(answer, LONG_PROMPT, new)


def test_requests_that_wait_during_an_update_start_under_the_new_weights(subject: Subject) -> None:
    """Those queued before the pause and those submitted between pause and resume, over a prompt cached before."""
    long = [subject.request(LONG_PROMPT, Sampling(max_tokens=200, seed=i)) for i in range(MAX_RUNNING)]
    running = [subject.begin(subject.engine.generate(request)) for request in long]
    subject.until_running(MAX_RUNNING)
    sampling = Sampling(max_tokens=20, temperature=0)
    queued = subject.begin(subject.engine.generate(subject.request(LONG_PROMPT, sampling)))
    subject.until(lambda: subject.engine.load().waiting == 1)
    subject.run(subject.engine.pause())
    submitted = subject.begin(subject.engine.generate(subject.request(LONG_PROMPT, sampling)))
    subject.until(lambda: subject.engine.load().waiting == 2)
    new = model_of(5, tied=subject.tied)
    subject.transfer(new)
    subject.run(subject.engine.resume())
    for call in (queued, submitted):
        answer = call.result(WAIT_S)
        assert set(answer.versions) == {subject.version}
        assert answer.token_ids == greedy(new, LONG_PROMPT, 20)
        assert_logprobs(answer, LONG_PROMPT, new)
    assert all(len(call.result(WAIT_S).segments) == 2 for call in running)


def test_a_transfer_that_fails_leaves_the_old_weights(subject: Subject) -> None:
    """The sender announces another version than the engine was told: both sides say so, and the engine serves on."""
    model = model_of(6, tied=subject.tied)
    tensors = weights(model)
    sender = subject.open_channel()
    subject.run(subject.engine.pause())
    receiving = subject.begin(subject.engine.receive_weights(manifest_of(1000, tensors)))
    with pytest.raises(WeightTransferError, match="version 1000"):
        sender.send(manifest_of(999, tensors), tensors)
    with pytest.raises(WeightTransferError, match="version 999"):
        receiving.result(WAIT_S)
    subject.run(subject.engine.resume())
    answer = subject.generate(PROMPT, Sampling(max_tokens=40, temperature=0))
    assert answer.token_ids == greedy(subject.reference, PROMPT, 40)
    assert set(answer.versions) == {subject.version}
    subject.open_channel()
    assert subject.update(model) == checksums(tensors)


def test_shutdown_ends_every_call_and_is_final(subject: Subject) -> None:
    """The last test of the module: it ends the engine."""
    calls = [
        subject.begin(subject.engine.generate(subject.request(PROMPT, Sampling(max_tokens=450, seed=i))))
        for i in range(MAX_RUNNING + 2)
    ]
    subject.until_running(MAX_RUNNING)
    subject.run(subject.engine.shutdown())
    for call in calls:
        with pytest.raises(EngineError):
            call.result(WAIT_S)
    with pytest.raises(EngineError):
        subject.generate(PROMPT, Sampling(max_tokens=1))
    subject.run(subject.engine.shutdown())
