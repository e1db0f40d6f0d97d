"""Masks: which tokens they keep, by hand, by derivation and by count."""

import math
from dataclasses import replace

import pytest
import torch

from learners.logprobs import Moments, chunked_logprobs
from learners.masks import MASKS, MaskInput
from learners.masks.attention import attention_entropy
from learners.masks.curvature import curvature, predict
from learners.masks.entropy import clip_cov, high_entropy, random_tokens
from learners.masks.probability import unlikely_tokens
from learners.options import options_of


def given(
    logprobs: list[float], advantages: list[float] | None = None, *, entropies: list[float] | None = None
) -> MaskInput:
    values, nothing = torch.tensor(logprobs), torch.zeros(len(logprobs))
    return MaskInput(
        values,
        values,
        torch.tensor(entropies or [1.0] * len(logprobs)),
        torch.tensor(advantages or [0.0] * len(logprobs)),
        Moments(nothing, nothing, nothing, nothing),
        nothing,
    )


@pytest.mark.parametrize("name", MASKS.names())
def test_every_mask_takes_no_token_and_says_where_it_is_from(name: str) -> None:
    assert MASKS[name](given([])).shape == (0,)
    doc = MASKS[name].__doc__ or ""
    assert "arXiv" in doc or "title" in doc
    assert all(option in doc for option in options_of(MASKS[name]))


def test_clip_cov_drops_a_share_of_all_from_the_band_alone() -> None:
    # Means -2.5 and 0: covariances 4, -4, 4 and 2, -2, -2, 2 ... as below.
    case = given([-0.5, -4.5, -4.5, -0.5] * 25, [2.0, 2.0, -2.0, -2.0] * 25)
    inside = torch.tensor([True, False, True, False] * 25)
    weight = clip_cov(case, share=0.1, low=3.0, high=5.0)
    assert (weight == 0).sum() == 10
    assert (weight[~inside] == 1).all()
    assert clip_cov(case, share=0.9, low=3.0, high=5.0).tolist() == (~inside).float().tolist()
    assert clip_cov(case, low=5.0, high=6.0).all()
    assert torch.equal(weight, clip_cov(case, share=0.1, low=3.0, high=5.0))
    assert not torch.equal(weight, clip_cov(case, share=0.1, low=3.0, high=5.0, seed=1))
    with pytest.raises(ValueError, match="low=2"):
        clip_cov(case, low=2.0, high=1.0)


def test_attention_entropy_favours_those_that_look_at_little_and_keeps_the_mean() -> None:
    case = replace(given([-1.0] * 3), attention=torch.tensor([0.0, math.log(2), math.log(4)]))
    # exp(-h) is 1, 1/2 and 1/4, of mean 7/12.
    assert attention_entropy(case).tolist() == pytest.approx([12 / 7, 6 / 7, 3 / 7])
    assert attention_entropy(case, strength=-1.0).tolist() == pytest.approx([3 / 7, 6 / 7, 12 / 7])
    assert attention_entropy(case, strength=0.0).tolist() == [1, 1, 1]


def test_high_entropy_keeps_the_share_that_is_least_certain() -> None:
    case = given([-1.0] * 5, entropies=[0.1, 2.0, 0.3, 1.0, 0.2])
    assert high_entropy(case, share=0.4).tolist() == [0, 1, 0, 1, 0]
    assert high_entropy(case, share=0.01).tolist() == [0, 1, 0, 0, 0]
    with pytest.raises(ValueError, match="share=0"):
        high_entropy(case, share=0)


def test_a_random_share_has_the_whole_on_average() -> None:
    case = given([-1.0, -2.0])
    drawn = torch.stack([random_tokens(case, share=0.25, seed=seed) for seed in range(4000)])
    assert set(drawn.unique().tolist()) == {0.0, 4.0}
    assert drawn.mean(0).tolist() == pytest.approx([1.0, 1.0], abs=0.1)
    assert random_tokens(case, share=1.0).tolist() == [1.0, 1.0]


def test_likely_tokens_decide_nothing() -> None:
    case = given([math.log(0.89), math.log(0.91), 0.0])
    assert unlikely_tokens(case).tolist() == [1.0, 0.0, 0.0]
    assert unlikely_tokens(case, below=1.0).tolist() == [1.0, 1.0, 0.0]
    with pytest.raises(ValueError, match="below=0"):
        unlikely_tokens(case, below=0)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_prediction_is_the_second_order_of_a_step_on_the_head(temperature: float) -> None:
    """Against the head stepped for real, in float64, and against the objective's own derivatives."""
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(6, 5, generator=generator)
    head = torch.randn(9, 5, generator=generator)
    targets = torch.randint(0, 9, (6,), generator=generator)
    advantages = torch.tensor([1.0, -1.0, 0.5, 2.0, -2.0, 0.0])
    seen = chunked_logprobs(hidden, head, None, targets, temperature=temperature, moments=True, chunk_elements=18)
    assert seen.moments is not None
    step = 1e-2
    predicted = predict(seen.logprobs, advantages, seen.moments, step)
    for place in range(6):
        weight, h = head.double(), hidden[place].double() / temperature
        target, advantage = targets[place], advantages[place].double()

        def objective(
            w: torch.Tensor,
            h: torch.Tensor = h,
            target: torch.Tensor = target,
            advantage: torch.Tensor = advantage,
        ) -> torch.Tensor:
            return advantage * (w @ h).log_softmax(-1)[target]

        gradient = torch.autograd.functional.jacobian(objective, weight)
        move = step * gradient
        _, curved = torch.autograd.functional.hvp(objective, weight, move)
        gain = (gradient * move).sum() + (move * curved).sum() / 2
        assert predicted.gain[place].item() == pytest.approx(gain.item(), rel=1e-4, abs=1e-9)
        # The shift by KL itself, which second order meets up to a small third.
        before, after = (weight @ h).log_softmax(-1), ((weight + move) @ h).log_softmax(-1)
        kl = (before.exp() * (before - after)).sum()
        assert predicted.shift[place].item() == pytest.approx(kl.item(), rel=0.15, abs=1e-9)


def test_curvature_masks_what_is_predicted_unstable() -> None:
    # Two words of chance 1/2: |v|^2 = 1/2, v'Fv = 1/4. A = 1, |h|^2 = 1, so s = step: the shift is step^2 / 8, the gain
    # step / 2 - step^2 / 8, which turns negative at 4.
    half = torch.full((2,), 0.5)
    case = MaskInput(
        half.log(),
        half.log(),
        half,
        torch.tensor([1.0, -1.0]),
        Moments(half.log(), half, half / 2, torch.ones(2)),
    )
    assert curvature(case, step=0.8).tolist() == [1.0, 1.0]
    assert curvature(case, step=1.0).tolist() == [0.0, 0.0]  # a shift of 0.125
    assert curvature(case, step=1.0, most_shift=0.2).tolist() == [1.0, 1.0]
    # A wrong token pushed down gains faster the further it goes; the right one overshoots.
    far = curvature(case, step=5.0, most_shift=math.inf)
    assert far.tolist() == [0.0, 1.0]
    everything = curvature(case, step=1e6, most_shift=math.inf, least_gain=-math.inf)
    assert everything.tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="step=0"):
        curvature(case, step=0)
