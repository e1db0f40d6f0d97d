import math

import pytest
import torch

from learners.correction import CorrectionInput, Level, Mode, correction_weights

# Two sequences: ratios (4, 1/2) and (1/4), interleaved with nothing.
RATIOS = torch.tensor([4.0, 0.5, 0.25])
GIVEN = CorrectionInput(
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
    got, seen = correction_weights(GIVEN, level, mode)
    assert got.tolist() == pytest.approx(weights, rel=1e-5)
    assert not got.requires_grad
    assert torch.equal(seen["correction_weight"], got)
    if mode != "off":
        bounded = [float(abs(w - r) > 1e-6) for w, r in zip(weights, BY_LEVEL[level], strict=True)]
        assert seen["correction_bounded"].tolist() == bounded


def test_an_overflowing_sequence_ratio_stays_bounded() -> None:
    given = CorrectionInput(torch.zeros(400), torch.full((400,), -3.0), torch.zeros(400, dtype=torch.int64))
    for mode, expected in (("truncate", 2.0), ("clip", 2.0), ("mask", 0.0)):
        assert correction_weights(given, "sequence", mode)[0].tolist() == [expected] * 400  # type: ignore[arg-type]
    assert correction_weights(given, "geometric", "clip")[0][0].item() == 2.0


@pytest.mark.parametrize("level", ["token", "sequence", "geometric"])
def test_no_tokens(level: Level) -> None:
    empty = torch.zeros(0)
    given = CorrectionInput(empty, empty, torch.zeros(0, dtype=torch.int64))
    assert correction_weights(given, level, "truncate")[0].shape == (0,)


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
