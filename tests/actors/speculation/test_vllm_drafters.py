"""Learned drafters inside vLLM: what they share with the target, and the law of what is sampled with drawn drafts."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import Qwen3ForCausalLM

from actors.engine import Sampling
from actors.speculation.settings import SpeculationSettings
from actors.token_sampling import processed_logprobs
from tests.actors.speculation.eagle_checkpoint import drafter_weights, predictable, write_drafter, write_target
from tests.actors.speculation.vllm_subject import SCRIPTED, SpeculatingSubject
from tests.actors.subject import answer_logprobs, checksums, greedy, weights

pytestmark = pytest.mark.slow
PROMPT = tuple(range(40, 60))
OTHERS = tuple(range(100, 113))
TAIL = tuple(range(120, 140))


def three_tokens(model: Qwen3ForCausalLM, prompt: tuple[int, ...], sampling: Sampling) -> dict[tuple[int, ...], float]:
    """The probability of each answer of three tokens."""
    chances: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(3):
        longer = {}
        for start, chance in chances.items():
            shares = processed_logprobs(answer_logprobs(model, prompt, (*start, 0))[-1], sampling).exp()
            for token in shares.nonzero()[:, 0].tolist():
                longer[*start, token] = chance * float(shares[token])
        chances = longer
    return chances


def test_what_a_drafter_shares_with_a_tied_target_follows_the_targets_updates(tmp_path: Path) -> None:
    """Embedding and head, with the packed copy that the CPU backend keeps of it: the drafter brings neither, and after
    an update of the target it guesses the new target as well as it guessed the old one."""
    target = predictable(0, tied=True)
    write_target(tmp_path / "target", target, tied=True)
    write_drafter(tmp_path / "drafter", target, drafter_weights(1))
    speculation = SpeculationSettings("eagle3", str(tmp_path / "drafter"), governor="fixed", governor_options={"1": 3})
    subject = SpeculatingSubject(tmp_path / "target", target, speculation, tied=True)
    try:
        accepted = []
        for model in (target, predictable(5, tied=True), predictable(6, tied=True)):
            if model is not target:
                assert subject.update(model) == checksums(weights(model))
            answer = subject.generate(PROMPT, Sampling(200, temperature=0))
            assert answer.token_ids == greedy(model, PROMPT, 200)
            accepted.append(answer.speculated.accepted)
        assert min(accepted) > 60
        # An update of the drafter does not touch what it shares.
        sent = drafter_weights(2)
        assert subject.send_drafter(sent) == checksums(sent)
        answer = subject.generate(OTHERS, Sampling(200, temperature=0))
        assert answer.token_ids == greedy(subject.reference, OTHERS, 200)
        assert answer.speculated.accepted > 60
    finally:
        subject.close()


def test_drafts_drawn_by_a_draft_model_leave_the_law_of_the_samples(tmp_path: Path) -> None:
    """900 answers of three tokens among the three likeliest each, by Pearson's chi-square over all 27. Greedy tokens
    are as they were, and the draft model makes up for what it missed as the other drafters do."""
    target, other = predictable(0, tied=False), predictable(0, tied=False)
    with torch.no_grad():
        noise = torch.Generator().manual_seed(1)
        for parameter in other.parameters():
            parameter.mul_(1 + 0.1 * torch.randn(parameter.shape, generator=noise))
    write_target(tmp_path / "target", target, tied=False)
    write_target(tmp_path / "drafter", other, tied=False)
    speculation = SpeculationSettings(
        "draft_model",
        str(tmp_path / "drafter"),
        lengths=(0, 2, 3),
        governor=SCRIPTED,
        draft_sampling="probabilistic",
    )
    subject = SpeculatingSubject(tmp_path / "target", target, speculation, tied=False)
    try:
        deferred = subject.alone(PROMPT, 300)
        subject.read_along(True)
        always = subject.alone(PROMPT, 300)
        subject.read_along(False)
        assert deferred[0].token_ids == always[0].token_ids == greedy(target, PROMPT, 300)
        assert deferred[1] == always[1]
        assert deferred[1].accepted > 100

        draws, sampling = 900, Sampling(3, temperature=0.5, top_k=3)
        expected = three_tokens(target, TAIL, sampling)
        answers = subject.generate_all([TAIL] * draws, [replace(sampling, seed=seed) for seed in range(draws)])
        assert sum(answer.speculated.accepted for answer in answers) > 150
        counts = Counter(answer.token_ids for answer in answers)
        assert set(counts) <= set(expected)
        rare = {ids for ids, chance in expected.items() if chance * draws < 5}
        cells = [(counts[ids], chance * draws) for ids, chance in expected.items() if ids not in rare]
        cells.append((sum(counts[ids] for ids in rare), sum(expected[ids] for ids in rare) * draws))
        statistic = sum((seen - mean) ** 2 / mean for seen, mean in cells if mean > 0)
        freedom = len(cells) - 1
        # The 0.999 quantile of chi-square (Wilson and Hilferty, 1931).
        assert statistic < freedom * (1 - 2 / (9 * freedom) + 3.09 * math.sqrt(2 / (9 * freedom))) ** 3
    finally:
        subject.close()
