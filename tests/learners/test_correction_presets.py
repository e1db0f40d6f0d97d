"""Each published correction against its formula, written out by hand in fractions."""

import math
from fractions import Fraction as F
from typing import get_args

import pytest
import torch
from pydantic import ValidationError

from learners.aggregation import AGGREGATIONS, BatchCounts
from learners.correction import CorrectionInput, correction_weights
from learners.correction_presets import PRESETS, PresetName
from learners.objective import ObjectiveInput, objective
from learners.settings import AlgorithmSettings, CorrectionSettings

# Ratios proximal / behaviour of four answers, and their products 36/25, 3/4, 63/32 and 5/2.
RATIOS = (F(3), F(3, 5), F(4, 5)), (F(6), F(1, 8)), (F(1, 4), F(7, 4), F(9, 2)), (F(5, 2),)
FLAT = [ratio for answer in RATIOS for ratio in answer]
SEQUENCE = torch.tensor([index for index, answer in enumerate(RATIOS) for _ in answer])
ZERO = F(0)
WEIGHTS = {
    # min(r, 2)
    "tis": [F(2), F(3, 5), F(4, 5), F(2), F(1, 8), F(1, 4), F(7, 4), F(2), F(2)],
    # min(prod r, 2)
    "seq_tis": [F(36, 25)] * 3 + [F(3, 4)] * 2 + [F(63, 32)] * 3 + [F(2)],
    # r inside [1/2, 5]
    "icepop": [F(3), F(3, 5), F(4, 5), ZERO, ZERO, ZERO, F(7, 4), F(9, 2), F(5, 2)],
    # prod r up to 2
    "mis": [F(36, 25)] * 3 + [F(3, 4)] * 2 + [F(63, 32)] * 3 + [ZERO],
    # r up to 2
    "token_mis": [ZERO, F(3, 5), F(4, 5), ZERO, F(1, 8), F(1, 4), F(7, 4), ZERO, ZERO],
    # r up to 5
    "decoupled_ppo": [F(3), F(3, 5), F(4, 5), ZERO, F(1, 8), F(1, 4), F(7, 4), F(9, 2), F(5, 2)],
}
# Of each token: ratio theta / proximal, advantage, min(rho A, clip(rho, 4/5, 32/25) A) and its slope by log theta,
# which is rho A where the first of the two is the smaller and 0 where the bound is.
TRUST = [
    (F(1), F(1), F(1), F(1)),
    (F(6, 5), F(2), F(12, 5), F(12, 5)),
    (F(3, 2), F(1), F(32, 25), ZERO),
    (F(9, 10), F(-1), F(-9, 10), F(-9, 10)),
    (F(1, 2), F(-1), F(-4, 5), ZERO),
    (F(3, 2), F(-2), F(-3), F(-3)),
    (F(1, 2), F(1), F(1, 2), F(1, 2)),
    (F(11, 10), F(-3), F(-33, 10), F(-33, 10)),
    (F(1), F(-1), F(-1), F(-1)),
]


def logs(values: list[F]) -> torch.Tensor:
    return torch.tensor([math.log(value) for value in values], dtype=torch.float64)


def test_every_name_has_a_case_here() -> None:
    assert set(WEIGHTS) == set(PRESETS) == set(get_args(PresetName))


def objective_input(
    theta: torch.Tensor, proximal: torch.Tensor, behaviour: torch.Tensor, advantages: torch.Tensor, seq: torch.Tensor
) -> ObjectiveInput:
    """Without rewards, terms and companions, which no correction reads."""
    zeros = torch.zeros_like(advantages)
    return ObjectiveInput(theta, zeros, proximal, behaviour, advantages, seq, zeros, zeros, {})


@pytest.mark.parametrize("name", list(PRESETS))
def test_weights_are_those_of_the_formula(name: PresetName) -> None:
    settings = CorrectionSettings(preset=name)
    given = CorrectionInput(logs(FLAT) - 3, torch.full((9,), -3.0).double(), SEQUENCE, settings.low, settings.high)
    weights, _ = correction_weights(given, settings.level, settings.mode)
    assert weights.tolist() == pytest.approx([float(weight) for weight in WEIGHTS[name]], rel=1e-12)


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
@pytest.mark.parametrize("name", list(PRESETS))
def test_loss_and_gradient_are_those_of_the_formula(name: PresetName, aggregation: str) -> None:
    algorithm = AlgorithmSettings.model_validate({"aggregation": aggregation, "correction": {"preset": name}})
    proximal = logs(FLAT) - 3
    behaviour = torch.full((9,), -3.0, dtype=torch.float64, requires_grad=True)
    theta = (proximal + logs([rho for rho, *_ in TRUST])).requires_grad_()
    advantages = torch.tensor([float(advantage) for _, advantage, *_ in TRUST], dtype=torch.float64)
    total, _ = objective(objective_input(theta, proximal, behaviour, advantages, SEQUENCE), algorithm)
    way = AGGREGATIONS[algorithm.aggregation]
    loss = total / way.divisor(BatchCounts(tokens=9, sequences=4))
    loss.backward()
    # 1 / 9 of each token, or 1 / (4 x its answer's length).
    shares = [F(1, 9)] * 9 if aggregation == "token" else [F(1, 4 * len(answer)) for answer in RATIOS for _ in answer]
    terms = list(zip(shares, WEIGHTS[name], TRUST, strict=True))
    assert loss.item() == pytest.approx(float(-sum(s * w * gain for s, w, (_, _, gain, _) in terms)), rel=1e-12)
    slopes = [float(-s * w * slope) for s, w, (_, _, _, slope) in terms]
    assert theta.grad is not None
    assert theta.grad.tolist() == pytest.approx(slopes, rel=1e-12)
    assert behaviour.grad is None


def test_decoupled_ppo_on_three_tokens_by_hand() -> None:
    """Clip on pi_theta / pi_prox, weight pi_prox / pi_behave without gradient."""
    behave, prox = [F(1, 2), F(1, 4), F(1, 20)], [F(1, 4), F(3, 8), F(2, 5)]
    theta = logs([F(3, 10), F(9, 16), F(1, 2)]).requires_grad_()
    algorithm = AlgorithmSettings(correction=CorrectionSettings(preset="decoupled_ppo"))
    given = objective_input(
        theta, logs(prox), logs(behave), torch.tensor([2.0, -1.0, 1.0], dtype=torch.float64), torch.tensor([0, 0, 0])
    )
    loss, _ = objective(given, algorithm)
    loss.backward()
    # w = 1/2, 3/2, 8 > 5: masked; rho = 6/5, 3/2, 5/4; gains 12/5 and min(-3/2, -32/25) = -3/2.
    assert loss.item() == pytest.approx(float(-(F(1, 2) * F(12, 5) + F(3, 2) * F(-3, 2))), rel=1e-12)
    assert theta.grad is not None
    assert theta.grad.tolist() == pytest.approx([-1.2, 2.25, 0.0], rel=1e-12)


def test_decoupled_ppo_truncates_where_it_is_told_to() -> None:
    settings = CorrectionSettings(preset="decoupled_ppo", mode="truncate")
    assert (settings.level, settings.mode, settings.high) == ("token", "truncate", 5.0)


def test_a_preset_resolves_to_plain_knobs() -> None:
    shown = CorrectionSettings.model_validate({"preset": "icepop"}).model_dump()
    assert shown == {"preset": "icepop", "level": "token", "mode": "mask", "low": 0.5, "high": 5.0}
    # What a run writes down can be read again.
    assert CorrectionSettings.model_validate(shown).model_dump() == shown


def test_the_bounds_are_parameters_of_a_preset() -> None:
    settings = CorrectionSettings(preset="tis", high=4.0)
    assert (settings.mode, settings.high) == ("truncate", 4.0)


def test_without_a_preset_nothing_changes() -> None:
    assert CorrectionSettings().model_dump() == {
        "preset": None,
        "level": "token",
        "mode": "truncate",
        "low": 0.5,
        "high": 2.0,
    }


@pytest.mark.parametrize(
    ("given", "both"),
    [
        ({"correction": {"preset": "icepop", "mode": "truncate"}}, ("preset=icepop", "mode=truncate")),
        ({"correction": {"preset": "mis", "level": "token"}}, ("preset=mis", "level=token")),
        ({"correction": {"preset": "decoupled_ppo", "mode": "off"}}, ("preset=decoupled_ppo", "mode=off")),
        ({"correction": {"preset": "tis"}, "old_logprobs": "behaviour"}, ("preset=tis", "old_logprobs=behaviour")),
        (
            {"correction": {"preset": "decoupled_ppo"}, "surrogate": "reinforce"},
            ("preset=decoupled_ppo", "surrogate=reinforce"),
        ),
    ],
)
def test_a_preset_beside_a_setting_that_contradicts_it_is_one_line_that_names_both(
    given: dict[str, object], both: tuple[str, str]
) -> None:
    with pytest.raises(ValidationError) as caught:
        AlgorithmSettings.model_validate(given)
    (fault,) = caught.value.errors()
    assert "\n" not in fault["msg"]
    for name in both:
        assert name in fault["msg"]


@pytest.mark.parametrize("name", ["icepopp", 3, ["tis"]])
def test_a_name_that_does_not_exist_is_refused_with_those_that_do(name: object) -> None:
    with pytest.raises(ValidationError, match="'decoupled_ppo'"):
        CorrectionSettings.model_validate({"preset": name})
