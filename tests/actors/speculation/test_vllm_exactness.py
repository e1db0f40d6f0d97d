"""Speculation inside vLLM changes no token and no logprob, whatever happens to KV, weights and drafter meanwhile.

One engine with an EAGLE-3 drafter, whose draft length is drawn anew at every step and whose KV cache is too small for
all requests that run; all in float32, against plain transformers without any drafter.
"""

import time
from collections.abc import Iterator
from typing import Literal

import pytest
import torch
from transformers import Qwen3ForCausalLM

from actors.engine import Completion, KvPolicy, Sampling
from actors.speculation.settings import SpeculationSettings
from actors.token_sampling import processed_logprobs
from actors.vllm_worker import WeightWorker
from tests.actors.oracle import kept_kv_logits
from tests.actors.speculation.eagle_checkpoint import drafter_weights, predictable, write_drafter, write_target
from tests.actors.speculation.vllm_subject import SCRIPTED, SpeculatingSubject
from tests.actors.subject import MAX_RUNNING, WAIT_S, answer_logprobs, checksums, greedy, manifest_of, weights

pytestmark = pytest.mark.slow
TOLERANCE = 2e-4
PROMPT = tuple(range(40, 60))
LONG_PROMPT = tuple(1 + 7 * i % 250 for i in range(300))
"""Longer than two blocks of vLLM's prefix cache on the CPU (128 tokens)."""
LONG = 400
GREEDY = Sampling(LONG, temperature=0)


@pytest.fixture(scope="module")
def target() -> Qwen3ForCausalLM:
    return predictable(0, tied=False)


@pytest.fixture(scope="module")
def drafter(target: Qwen3ForCausalLM) -> dict[str, torch.Tensor]:
    """With a head of its own that begins as a copy of the target's, as a fresh EAGLE-3 drafter has it."""
    return drafter_weights(1, head=target.lm_head.weight)


@pytest.fixture(scope="module")
def subject(
    tmp_path_factory: pytest.TempPathFactory, target: Qwen3ForCausalLM, drafter: dict[str, torch.Tensor]
) -> Iterator[SpeculatingSubject]:
    folder = tmp_path_factory.mktemp("speculating")
    write_target(folder / "target", target, tied=False)
    write_drafter(folder / "drafter", target, drafter)
    speculation = SpeculationSettings(
        "eagle3",
        str(folder / "drafter"),
        lengths=(0, 1, 3),
        governor=SCRIPTED,
        governor_options={"seed": 3, "attached": 0.1},
    )
    # Fourteen blocks of 128 tokens, of three layers: the answers of the first test need twice as many.
    room = 14 * 128 * 768 / 2**30
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")  # to break the drafter from within
        running = SpeculatingSubject(folder / "target", target, speculation, tied=False, kv_cache_gib=room)
        yield running
        running.close()


@pytest.fixture(autouse=True)
def as_it_began(
    subject: SpeculatingSubject, target: Qwen3ForCausalLM, drafter: dict[str, torch.Tensor]
) -> Iterator[None]:
    yield
    if subject.reference is not target:
        subject.update(target)
        subject.send_drafter(drafter)


def assert_greedy(answer: Completion, prompt: tuple[int, ...], model: Qwen3ForCausalLM) -> None:
    assert answer.token_ids == greedy(model, prompt, len(answer.token_ids))
    expected = answer_logprobs(model, prompt, answer.token_ids)
    expected = expected.gather(1, torch.tensor(answer.token_ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(answer.logprobs), expected, atol=TOLERANCE, rtol=0)


def test_greedy_tokens_and_logprobs_under_preemption_and_prefix_hits(subject: SpeculatingSubject) -> None:
    prompts = [PROMPT[i:] for i in range(MAX_RUNNING - 2)] + [LONG_PROMPT] * 2
    samplings = [Sampling(250, temperature=0)] * (MAX_RUNNING - 2) + [Sampling(150, temperature=0)] * 2
    subject.run(subject.engine.speculation_stats())
    answers = subject.generate_all(prompts, samplings)
    for prompt, sampling, answer in zip(prompts, samplings, answers, strict=True):
        assert len(answer.token_ids) == sampling.max_tokens
        assert_greedy(answer, prompt, subject.reference)
        assert 0 < answer.speculated.accepted < answer.speculated.drafted
    stats = subject.run(subject.engine.speculation_stats())
    assert stats.trouble is None
    assert {step.k for step in stats.steps} == {0, 1, 3}
    assert sum(step.accepted for step in stats.steps) == sum(a.speculated.accepted for a in answers)
    assert sum(step.drafted for step in stats.steps) == sum(a.speculated.drafted for a in answers)
    all_run = [step.running for step in stats.steps].index(MAX_RUNNING)
    assert any(step.prefill > 0 for step in stats.steps[all_run + 1 :]), "nothing was preempted"
    assert any(step.catch_up_s > 0 for step in stats.steps)


def test_sampled_logprobs_are_those_of_a_plain_forward(subject: SpeculatingSubject) -> None:
    samplings = [
        Sampling(100, temperature=1.0 if seed % 2 else 0.5, top_p=1.0 if seed < 2 else 0.9, seed=seed)
        for seed in range(4)
    ] + [Sampling(100, temperature=0.7, top_k=20, seed=seed) for seed in (4, 5)]
    answers = subject.generate_all([PROMPT] * 6, samplings)
    for sampling, answer in zip(samplings, answers, strict=True):
        assert answer.speculated.accepted > 0
        logits = answer_logprobs(subject.reference, PROMPT, answer.token_ids)
        expected = torch.stack([processed_logprobs(row, sampling) for row in logits])
        expected = expected.gather(1, torch.tensor(answer.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(answer.logprobs), expected, atol=TOLERANCE, rtol=0)
    assert len({answer.token_ids for answer in answers}) == 6


def test_the_counts_come_with_the_last_token(subject: SpeculatingSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question of its own would keep the answer, and the place that it held, for another step."""

    async def asked(question: str, *arguments: object) -> object:
        raise AssertionError(f"{question} was asked of the scheduler")

    with monkeypatch.context() as patch:
        patch.setattr(subject.vllm, "_ask_scheduler", asked)
        answer = subject.generate(PROMPT, Sampling(40, temperature=0))
    assert answer.speculated.drafted > answer.speculated.accepted > 0


def test_a_pause_under_the_same_weights_changes_no_token(subject: SpeculatingSubject) -> None:
    calls = [subject.begin(subject.engine.generate(subject.request(PROMPT[i:], GREEDY))) for i in range(4)]
    policies: tuple[KvPolicy, ...] = ("keep", "recompute", "keep", "recompute")
    for kv in policies:
        subject.until_running(4)
        time.sleep(0.1)
        subject.run(subject.engine.pause(kv))
        subject.run(subject.engine.resume())
    for i, call in enumerate(calls):
        assert_greedy(call.result(WAIT_S), PROMPT[i:], subject.reference)


def test_an_aborted_answer_goes_on_where_it_was(subject: SpeculatingSubject) -> None:
    requests = [subject.request(PROMPT[i:], GREEDY) for i in range(4)]
    calls = [subject.begin(subject.engine.generate(request)) for request in requests]
    subject.until_running(4)
    time.sleep(0.2)
    subject.run(subject.engine.abort([request.request_id for request in requests]))
    partial = [call.result(WAIT_S) for call in calls]
    assert all(0 < len(answer.token_ids) < LONG for answer in partial)
    assert any(answer.speculated.drafted for answer in partial)
    resumed = [
        subject.begin(subject.engine.generate(subject.request(r.prompt_ids, r.sampling, answer.segments)))
        for r, answer in zip(requests, partial, strict=True)
    ]
    for i, call in enumerate(resumed):
        answer = call.result(WAIT_S)
        assert len(answer.token_ids) == LONG
        assert_greedy(answer, PROMPT[i:], subject.reference)


@pytest.mark.parametrize("stream", ["target", "drafter"])
def test_an_update_in_the_middle_of_an_answer(
    subject: SpeculatingSubject, target: Qwen3ForCausalLM, stream: Literal["target", "drafter"]
) -> None:
    call = subject.begin(subject.engine.generate(subject.request(PROMPT, GREEDY)))
    subject.until_running(1)
    time.sleep(0.2)
    before = subject.version
    if stream == "drafter":
        sent = drafter_weights(7, head=target.lm_head.weight * 1.5)
        assert subject.send_drafter(sent) == checksums(sent)
        answer = call.result(WAIT_S)
        assert [segment.version for segment in answer.segments] == [before]
        assert_greedy(answer, PROMPT, target)
        assert answer.speculated.drafter_versions == (subject.drafter_version - 1, subject.drafter_version)
        return
    new = predictable(5, tied=False)
    subject.update(new)
    answer = call.result(WAIT_S)
    assert [segment.version for segment in answer.segments] == [before, subject.version]
    first, second = answer.segments
    assert first.token_ids == greedy(target, PROMPT, len(first.token_ids))
    _, expected = kept_kv_logits({before: target, subject.version: new}, PROMPT, answer.segments)
    assert second.token_ids == tuple(expected.argmax(-1).tolist())
    expected = expected.log_softmax(-1).gather(1, torch.tensor(second.token_ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(second.logprobs), expected, atol=TOLERANCE, rtol=0)


def test_what_the_drafter_missed_is_made_up_for(subject: SpeculatingSubject, drafter: dict[str, torch.Tensor]) -> None:
    """Drafts are accepted exactly as often as when the drafter reads along in every step, as vLLM has it."""
    subject.send_drafter(drafter)
    answer, deferred = subject.alone(PROMPT, LONG)
    subject.read_along(True)
    try:
        same, always = subject.alone(PROMPT, LONG)
    finally:
        subject.read_along(False)
    assert deferred == always
    assert deferred.accepted > 40
    assert answer.token_ids == same.token_ids


def test_sending_the_drafter_again_changes_nothing_and_earlier_weights_take_an_update_back(
    subject: SpeculatingSubject, target: Qwen3ForCausalLM, drafter: dict[str, torch.Tensor]
) -> None:
    assert subject.send_drafter(drafter) == checksums(drafter)
    _, before = subject.alone(PROMPT, LONG)
    subject.send_drafter(drafter)
    assert subject.alone(PROMPT, LONG)[1] == before
    blind = drafter | {"lm_head.weight": drafter["lm_head.weight"].flip(0)}
    subject.send_drafter(blind)
    answer, worse = subject.alone(PROMPT, LONG)
    assert worse.accepted < before.accepted / 4
    assert_greedy(answer, PROMPT, target)
    subject.send_drafter(drafter)
    assert subject.alone(PROMPT, LONG)[1] == before


def break_drafter(worker: WeightWorker) -> None:
    """Runs in the engine's process."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("its memory is torn")

    assert worker.drafting is not None
    worker.drafting._propose_as_vllm = fail


def mend_drafter(worker: WeightWorker) -> None:
    """As it was made."""
    assert worker.drafting is not None
    runner = worker.model_runner
    worker.drafting._propose_as_vllm = type(runner).propose_draft_token_ids.__get__(runner)


def test_a_drafter_that_raises_costs_drafts_and_no_answer(
    subject: SpeculatingSubject, drafter: dict[str, torch.Tensor]
) -> None:
    subject.run(subject.vllm._alive.collective_rpc(break_drafter))
    for i in range(4):
        answer = subject.generate(PROMPT[i:], Sampling(20, temperature=0))
        assert_greedy(answer, PROMPT[i:], subject.reference)
    stats = subject.run(subject.engine.speculation_stats())
    assert stats.trouble is not None
    assert "RuntimeError: its memory is torn" in stats.trouble
    assert subject.generate(PROMPT, Sampling(20, temperature=0)).speculated.drafted == 0
    subject.run(subject.vllm._alive.collective_rpc(mend_drafter))
    subject.send_drafter(drafter)
    assert subject.run(subject.engine.speculation_stats()).trouble is None
    assert subject.alone(PROMPT, LONG)[1].drafted > 0


def test_a_drafter_that_breaks_in_the_middle_of_a_run_only_stops_drafting(
    subject: SpeculatingSubject, drafter: dict[str, torch.Tensor]
) -> None:
    _, before = subject.alone(PROMPT, LONG)
    calls = [subject.begin(subject.engine.generate(subject.request(PROMPT[i:], GREEDY))) for i in range(4)]
    subject.until_running(4)
    broken = {name: tensor.clone() for name, tensor in drafter.items()}
    broken["midlayer.mlp.down_proj.weight"][3, 5] = float("nan")
    subject.send_drafter(broken)
    for i, call in enumerate(calls):
        assert_greedy(call.result(WAIT_S), PROMPT[i:], subject.reference)
    stats = subject.run(subject.engine.speculation_stats())
    assert stats.trouble is not None
    assert "not finite" in stats.trouble
    assert subject.generate(PROMPT, Sampling(20, temperature=0)).speculated.drafted == 0
    subject.send_drafter(drafter)
    assert subject.run(subject.engine.speculation_stats()).trouble is None
    assert subject.alone(LONG_PROMPT, 100)[1].accepted > 0
    assert subject.alone(PROMPT[::-1], LONG)[1].accepted > before.accepted / 4


def test_only_what_the_drafter_loads_is_taken(
    subject: SpeculatingSubject, target: Qwen3ForCausalLM, drafter: dict[str, torch.Tensor]
) -> None:
    subject.run(subject.engine.pause())
    foreign = drafter | {"embed_tokens.weight": torch.zeros(257, 64)}
    partly = {name: tensor for name, tensor in drafter.items() if name != "fc.weight"}
    narrow = drafter | {"fc.weight": torch.zeros(64, 64)}
    for wrong, name in ((foreign, "embed_tokens"), (partly, "fc.weight"), (narrow, "fc.weight"), (weights(target), "")):
        with pytest.raises(ValueError, match=f"not what the drafter loads.*{name}"):
            subject.run(subject.engine.receive_weights(manifest_of(1000, wrong), "drafter"))
    subject.run(subject.engine.resume())
    assert_greedy(subject.generate(PROMPT, GREEDY), PROMPT, target)
