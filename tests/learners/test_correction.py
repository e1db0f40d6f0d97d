import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learners.correction import CorrectionInput, correction_weights
from learners.correction_presets import Level, Mode

# Two sequences: ratios (4, 1/2) and (1/4), interleaved with nothing.
RATIOS = torch.tensor([4.0, 0.5, 0.25])
BY_HAND = CorrectionInput(
    proximal=(RATIOS.log() - 2).requires_grad_(),
    behaviour=torch.full((3,), -2.0),
    sequence=torch.tensor([0, 0, 1]),
    low=0.4,
    high=1.6,
)
# token: as they are; sequence: 4 x 1/2; geometric: its square root.
BY_LEVEL = {"token": (4.0, 0.5, 0.25), "sequence": (2.0, 2.0, 0.25), "geometric": (2**0.5, 2**0.5, 0.25)}


@pytest.mark.parametrize(
    ("level", "mode", "weights"),
    [
        ("token", "truncate", (1.6, 0.5, 0.25)),
        ("token", "clip", (1.6, 0.5, 0.4)),
        ("token", "mask", (0.0, 0.5, 0.0)),
        ("sequence", "truncate", (1.6, 1.6, 0.25)),
        ("sequence", "clip", (1.6, 1.6, 0.4)),
        ("sequence", "mask", (0.0, 0.0, 0.0)),
        ("geometric", "truncate", (2**0.5, 2**0.5, 0.25)),
        ("geometric", "clip", (2**0.5, 2**0.5, 0.4)),
        ("geometric", "mask", (2**0.5, 2**0.5, 0.0)),
        ("token", "off", (1.0, 1.0, 1.0)),
        ("sequence", "off", (1.0, 1.0, 1.0)),
    ],
)
def test_level_and_mode_by_hand(level: Level, mode: Mode, weights: tuple[float, ...]) -> None:
    got, seen = correction_weights(BY_HAND, level, mode)
    assert got.tolist() == pytest.approx(weights, rel=1e-5)
    assert not got.requires_grad
    assert torch.equal(seen["correction_weight"], got)
    if mode != "off":
        bounded = [float(abs(w - r) > 1e-6) for w, r in zip(weights, BY_LEVEL[level], strict=True)]
        assert seen["correction_bounded"].tolist() == bounded


def test_an_overflowing_sequence_ratio_stays_bounded() -> None:
    long = CorrectionInput(torch.zeros(400), torch.full((400,), -3.0), torch.zeros(400, dtype=torch.int64))
    for mode, expected in (("truncate", 2.0), ("clip", 2.0), ("mask", 0.0)):
        assert correction_weights(long, "sequence", mode)[0].tolist() == [expected] * 400  # type: ignore[arg-type]
    assert correction_weights(long, "geometric", "clip")[0][0].item() == 2.0


@pytest.mark.parametrize("level", ["token", "sequence", "geometric"])
def test_no_tokens(level: Level) -> None:
    empty = torch.zeros(0)
    nothing = CorrectionInput(empty, empty, torch.zeros(0, dtype=torch.int64))
    assert correction_weights(nothing, level, "truncate")[0].shape == (0,)


def test_truncated_weights_make_the_sampler_unbiased_where_nothing_is_cut() -> None:
    # E_behaviour[w f] = E_proximal[f], by enumeration of a three-word vocabulary.
    behaviour = torch.tensor([0.5, 0.3, 0.2])
    proximal = torch.tensor([0.4, 0.35, 0.25])
    f = torch.tensor([1.0, -2.0, 5.0])
    weights, _ = correction_weights(
        CorrectionInput(proximal.log(), behaviour.log(), torch.arange(3)), "token", "truncate"
    )
    assert (behaviour * weights * f).sum().item() == pytest.approx((proximal * f).sum().item(), rel=1e-6)
    assert math.isclose((behaviour * weights).sum().item(), 1.0, rel_tol=1e-6)


# Gaps between two policies, per answer; bounds around 1.
ANSWERS = st.lists(st.lists(st.floats(-3, 3), min_size=1, max_size=6), min_size=1, max_size=4)
LEVELS = st.sampled_from(get_args(Level))
MODES = st.sampled_from(get_args(Mode))
LOW, HIGH = st.floats(0, 1), st.floats(1, 8)


def case(answers: list[list[float]], low: float = 0.5, high: float = 2.0) -> CorrectionInput:
    gaps = torch.tensor([gap for answer in answers for gap in answer], dtype=torch.float64)
    owners = torch.tensor([index for index, answer in enumerate(answers) for _ in answer])
    return CorrectionInput(gaps, torch.zeros_like(gaps), owners, low, high)


def weigh(answers: list[list[float]], level: Level, mode: Mode, low: float = 0.5, high: float = 2.0) -> list[float]:
    weights: list[float] = correction_weights(case(answers, low, high), level, mode)[0].tolist()
    return weights


@settings(max_examples=60, deadline=None)
@given(ANSWERS, LEVELS, MODES, LOW, HIGH)
def test_a_mode_keeps_its_promise_at_every_level(
    answers: list[list[float]], level: Level, mode: Mode, low: float, high: float
) -> None:
    for weight in weigh(answers, level, mode, low, high):
        if mode == "off":
            assert weight == 1
        elif mode == "truncate":
            assert 0 < weight <= high
        elif mode == "clip":
            assert low <= weight <= high
        else:
            assert weight == 0 or low <= weight <= high


@settings(max_examples=60, deadline=None)
@given(ANSWERS, LEVELS, MODES)
def test_identical_policies_have_weight_1(answers: list[list[float]], level: Level, mode: Mode) -> None:
    same = [[0.0] * len(answer) for answer in answers]
    assert set(weigh(same, level, mode)) == {1.0}


@settings(max_examples=60, deadline=None)
@given(ANSWERS, LEVELS, MODES, LOW, HIGH)
def test_where_nothing_lies_outside_the_bounds_the_mode_does_not_matter(
    answers: list[list[float]], level: Level, mode: Mode, low: float, high: float
) -> None:
    if mode == "off":
        return
    free = weigh(answers, level, "truncate", 0, math.inf)
    bounded = weigh(answers, level, mode, low, high)
    for plain, weight in zip(free, bounded, strict=True):
        if low <= plain <= high:
            assert weight == plain


@settings(max_examples=60, deadline=None)
@given(ANSWERS, MODES)
def test_an_answer_of_one_token_has_one_weight_at_every_level(answers: list[list[float]], mode: Mode) -> None:
    single = [answer[:1] for answer in answers]
    by_token = weigh(single, "token", mode)
    assert weigh(single, "sequence", mode) == by_token
    assert weigh(single, "geometric", mode) == by_token


@settings(max_examples=60, deadline=None)
@given(ANSWERS, st.integers(2, 5))
def test_repeating_an_answers_gaps_changes_its_product_and_not_its_geometric_mean(
    answers: list[list[float]], times: int
) -> None:
    repeated = [answer * times for answer in answers]
    for level in ("geometric", "sequence"):
        once = correction_weights(case(answers, 0, math.inf), level, "clip")[0].log()
        many = correction_weights(case(repeated, 0, math.inf), level, "clip")[0].log()
        starts = [sum(map(len, answers[:index])) for index in range(len(answers))]
        power = 1 if level == "geometric" else times
        for start in starts:
            assert many[start * times].item() == pytest.approx(power * once[start].item(), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(ANSWERS, LEVELS, MODES)
def test_an_answer_does_not_feel_its_neighbours(answers: list[list[float]], level: Level, mode: Mode) -> None:
    alone = [weight for answer in answers for weight in weigh([answer], level, mode)]
    assert weigh(answers, level, mode) == pytest.approx(alone, rel=1e-12)
