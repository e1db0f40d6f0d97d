import math

import pytest
import torch

from learners.options import options_of
from learners.surrogates import SURROGATES, SurrogateInput
from learners.surrogates.gates import cispo, dppo_kl, dppo_tv, gppo, sapo
from learners.surrogates.likelihood import nft
from learners.surrogates.ppo import dual_clip, ppo_clip, reinforce
from learners.surrogates.sequence import gmpo, gspo
from learners.surrogates.surrogate import Surrogate


def case_of(
    ratios: list[float],
    advantages: list[float],
    *,
    old: float = -1.0,
    weight: float = 1.0,
    sequence: list[int] | None = None,
    rewards: list[float] | None = None,
    share: float = 0.5,
    low: float = 0.2,
    high: float = 0.28,
) -> SurrogateInput:
    """Tokens with these ratios."""
    count = len(ratios)
    before = torch.full((count,), old)
    return SurrogateInput(
        (before + torch.tensor(ratios).log()).requires_grad_(),
        before,
        torch.tensor(advantages),
        torch.full((count,), weight),
        torch.tensor(sequence or [0] * count),
        torch.tensor(rewards or [0.0] * count),
        torch.full((count,), share),
        low,
        high,
    )


def given(
    ratio: float, advantage: float, *, weight: float = 1.0, low: float = 0.2, high: float = 0.28
) -> SurrogateInput:
    return case_of([ratio], [advantage], weight=weight, low=low, high=high)


def slopes(surrogate: Surrogate, case: SurrogateInput, **options: float) -> list[float]:
    """The weight on A grad logp of each token, times A: minus the gradient of the summed loss."""
    surrogate(case, **options)[0].sum().backward()
    assert case.logprobs.grad is not None
    return [-slope for slope in case.logprobs.grad.tolist()]


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope", "clipped"),
    [
        # Inside the region: loss -rho A, d/dlogp = -rho A.
        (1.1, 1.0, -1.1, -1.1, (0, 0)),
        (0.9, -2.0, 1.8, 1.8, (0, 0)),
        # Outside on the side that the advantage pushes to: the bound, no gradient.
        (1.5, 1.0, -1.28, 0.0, (0, 1)),
        (0.5, -1.0, 0.8, 0.0, (1, 0)),
        # Outside on the other side: the pessimistic term keeps its gradient.
        (1.5, -1.0, 1.5, 1.5, (0, 0)),
        (0.5, 1.0, -0.5, -0.5, (0, 0)),
    ],
)
def test_ppo_clip_by_hand(ratio: float, advantage: float, loss: float, slope: float, clipped: tuple[int, int]) -> None:
    case = given(ratio, advantage)
    value, seen = ppo_clip(case)
    assert value.item() == pytest.approx(loss, rel=1e-5)
    value.sum().backward()
    assert case.logprobs.grad is not None
    assert case.logprobs.grad.item() == pytest.approx(slope, rel=1e-5)
    assert (seen["clipped_low"].item(), seen["clipped_high"].item()) == clipped
    assert seen["ratio"].item() == pytest.approx(ratio, rel=1e-5)
    assert not seen["ratio"].requires_grad


def test_clip_higher_lets_the_gradient_pass_where_the_even_clip_stops_it() -> None:
    for high, slope in ((0.28, -1.25), (0.2, 0.0)):
        case = given(1.25, 1.0, high=high)
        ppo_clip(case)[0].sum().backward()
        assert case.logprobs.grad is not None
        assert case.logprobs.grad.item() == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("name", SURROGATES.names())
def test_the_correction_weight_scales_loss_and_gradient(name: str) -> None:
    cases = [case_of([1.1, 0.9], [1.5, -0.5], weight=w, rewards=[1.0, 0.0]) for w in (1.0, 0.3)]
    losses = [SURROGATES[name](case)[0].tolist() for case in cases]
    plain, weighted = (slopes(SURROGATES[name], case) for case in cases)
    assert losses[1] == pytest.approx([0.3 * loss for loss in losses[0]], rel=1e-5)
    assert weighted == pytest.approx([0.3 * slope for slope in plain], rel=1e-5)


@pytest.mark.parametrize("name", [name for name in SURROGATES.names() if name != "nft"])
def test_on_policy_every_surrogate_has_the_policy_gradient(name: str) -> None:
    """At a ratio of 1 the loss's gradient is -A grad logp; of the two with one ratio per answer, the answer's mean."""
    case = case_of([1.0] * 4, [2.0, 2.0, -1.0, -1.0], sequence=[0, 0, 1, 1])
    assert slopes(SURROGATES[name], case) == pytest.approx([2.0, 2.0, -1.0, -1.0], rel=1e-5)


@pytest.mark.parametrize("name", SURROGATES.names())
def test_every_surrogate_takes_a_micro_batch_without_tokens(name: str) -> None:
    loss, seen = SURROGATES[name](case_of([], []))
    assert loss.shape == (0,)
    assert seen["ratio"].shape == (0,)


@pytest.mark.parametrize("name", SURROGATES.names())
def test_every_surrogate_names_its_paper_and_its_options(name: str) -> None:
    doc = SURROGATES[name].__doc__ or ""
    assert "arXiv" in doc or "Williams 1992" in doc
    assert all(option in doc for option in options_of(SURROGATES[name]))


def test_reinforce_has_the_policy_gradient_whatever_the_ratio() -> None:
    case = given(3.0, 2.0)
    loss, seen = reinforce(case)
    loss.sum().backward()
    assert case.logprobs.grad is not None
    assert case.logprobs.grad.item() == -2.0
    assert seen["ratio"].item() == pytest.approx(3.0, rel=1e-5)


@pytest.mark.parametrize("name", SURROGATES.names())
def test_gradients_agree_with_finite_differences(name: str) -> None:
    """Of those whose gradient is the value's own; the others pass it around a bound, or stop a factor, by design."""
    if name in ("gppo", "cispo"):
        pytest.skip("the gradient is not that of the value")
    generator = torch.Generator().manual_seed(0)
    old = torch.rand(20, generator=generator, dtype=torch.float64) - 1.5
    start = old + 0.3 * torch.randn(20, generator=generator, dtype=torch.float64)
    advantages = torch.randn(20, generator=generator, dtype=torch.float64)
    weights = torch.rand(20, generator=generator, dtype=torch.float64)
    sequence = torch.arange(20) // 5
    rewards = (sequence % 2).double()
    share = torch.full((20,), 0.25, dtype=torch.float64)

    def loss(logprobs: torch.Tensor) -> torch.Tensor:
        return SURROGATES[name](SurrogateInput(logprobs, old, advantages, weights, sequence, rewards, share))[0]

    assert torch.autograd.gradcheck(loss, (start.clone().requires_grad_(),))


def test_dual_clip_stops_a_huge_ratio_from_pushing_down() -> None:
    # gain = max(min(rho A, clip A), 3 A) for A < 0.
    case = case_of([2.0, 5.0, 5.0], [-1.0, -1.0, 1.0])
    assert dual_clip(case)[0].tolist() == pytest.approx([2.0, 3.0, -1.28])
    assert slopes(dual_clip, case) == pytest.approx([-2.0, 0.0, 0.0])
    assert dual_clip(case)[1]["clipped_high"].tolist() == [0.0, 1.0, 1.0]
    with pytest.raises(ValueError, match=r"ceiling=1\.1 must be above"):
        dual_clip(case, ceiling=1.1)


def test_gppo_keeps_a_bounded_gradient_where_ppo_has_none() -> None:
    case = case_of([1.5, 0.5, 1.1, 1.5, 0.5], [1.0, -1.0, 1.0, -1.0, 1.0], low=0.2, high=0.2)
    assert gppo(case)[0].tolist() == pytest.approx([-1.2, 0.8, -1.1, 1.5, -0.5])
    assert gppo(case)[0].tolist() == pytest.approx(ppo_clip(case)[0].tolist())
    assert slopes(gppo, case) == pytest.approx([1.2, -0.8, 1.1, -1.5, 0.5])


def test_cispo_clips_the_weight_and_not_the_update() -> None:
    case = case_of([1.5, 0.5, 1.1], [1.0, -1.0, 2.0], low=0.2, high=0.2)
    assert slopes(cispo, case) == pytest.approx([1.2, -0.8, 2.2])


def test_sapos_gate_fades_on_both_sides() -> None:
    case = case_of([1.0, 1.2, 0.8, 2.0], [1.0] * 4)
    gates = [slope / ratio for slope, ratio in zip(slopes(sapo, case), (1.0, 1.2, 0.8, 2.0), strict=True)]
    assert gates == pytest.approx([1.0, 0.9901, 0.9901, 0.7864], abs=1e-4)
    # tau belongs to the sign of the advantage, and one token's ratio to that token alone.
    wrong = slopes(sapo, case_of([2.0, 1.0], [-1.0, -1.0]), tau_neg=2.0)
    p = 1 / (1 + math.exp(-2.0))
    assert wrong == pytest.approx([-4 * p * (1 - p) * 2.0, -1.0])


@pytest.mark.parametrize("surrogate", [dppo_tv, dppo_kl])
def test_dppo_measures_probability_and_not_ratio(surrogate: Surrogate) -> None:
    # A rare token that doubles moves the policy by 0.001; a likely one that grows by a third by 0.3.
    rare = case_of([2.0], [1.0], old=math.log(0.001))
    assert slopes(surrogate, rare) == pytest.approx([2.0], rel=1e-4)
    likely = [(4 / 3, 1.0, 0.0), (4 / 3, -1.0, -4 / 3), (2 / 3, -1.0, 0.0), (2 / 3, 1.0, 2 / 3)]
    for ratio, advantage, slope in likely:
        case = case_of([ratio], [advantage], old=math.log(0.6))
        assert slopes(surrogate, case) == pytest.approx([slope], rel=1e-4)


def test_the_binary_divergences_by_hand() -> None:
    # From 0.6 to 0.8: |0.2|, and 0.6 log(0.6 / 0.8) + 0.4 log(0.4 / 0.2) = 0.1046.
    case = case_of([0.8 / 0.6], [1.0], old=math.log(0.6))
    for surrogate, divergence in ((dppo_tv, 0.2), (dppo_kl, 0.10465)):
        for threshold, clipped in ((divergence - 1e-3, 1.0), (divergence + 1e-3, 0.0)):
            assert surrogate(case, threshold=threshold)[1]["clipped_high"].item() == clipped


def test_gspo_has_one_ratio_per_answer() -> None:
    # Answer 0: exp(mean(log 2, log 1/2)) = 1; answer 1: sqrt(1.5 * 1.5).
    case = case_of([2.0, 0.5, 1.5, 1.5], [1.0] * 4, sequence=[0, 0, 1, 1], high=1.0)
    loss, seen = gspo(case)
    assert seen["ratio"].tolist() == pytest.approx([1.0, 1.0, 1.5, 1.5])
    assert loss.tolist() == pytest.approx([-1.0, -1.0, -1.5, -1.5])
    # d/dlogp of the answer's loss, summed over its two tokens: s A / 2 from each.
    assert slopes(gspo, case) == pytest.approx([1.0, 1.0, 1.5, 1.5])
    clipped = case_of([2.0, 2.0], [1.0, 1.0])
    assert slopes(gspo, clipped) == [0.0, 0.0]
    assert slopes(gspo, case_of([1.1], [1.0])) == pytest.approx(slopes(ppo_clip, case_of([1.1], [1.0])))


def test_gmpo_is_the_geometric_mean_of_clipped_ratios() -> None:
    bound = math.exp(0.4)
    case = case_of([4.0, 1.0], [1.0, 1.0])
    loss, seen = gmpo(case)
    assert loss.tolist() == pytest.approx([-math.sqrt(bound)] * 2)
    assert seen["clipped_high"].tolist() == [1.0, 0.0]
    # The token beyond the bound gives no gradient; the other has its answer's, half from each token's loss.
    assert slopes(gmpo, case) == pytest.approx([0.0, math.sqrt(bound)])
    down = case_of([0.25, 1.0], [-1.0, -1.0])
    assert gmpo(down)[0].tolist() == pytest.approx([math.sqrt(1 / bound)] * 2)
    assert gmpo(case_of([0.25], [1.0]))[0].tolist() == pytest.approx([-0.25])


def test_nft_at_the_old_policy_weighs_as_grpo_does() -> None:
    # One right answer of four: GRPO's advantages are sqrt(3) and -1 / sqrt(3).
    case = case_of([1.0, 1.0], [0.0, 0.0], rewards=[1.0, 0.0], share=0.25, sequence=[0, 1])
    assert slopes(nft, case) == pytest.approx([math.sqrt(3), -1 / math.sqrt(3)])


def test_nft_never_takes_the_log_of_what_is_not_positive() -> None:
    # R > 1 / q: the implied opposite policy would have a negative probability; the gradient still passes.
    case = case_of([5.0], [0.0], rewards=[0.0], share=0.25)
    loss, seen = nft(case)
    assert loss.item() == pytest.approx(-math.sqrt(3) * math.log(1e-3))
    assert seen["clipped_high"].item() == 1.0
    assert slopes(nft, case)[0] == pytest.approx(-math.sqrt(3) * 0.25 * 5 / 0.75 / 1e-3)


def test_nft_without_negatives_is_fine_tuning_on_what_is_right() -> None:
    case = case_of([2.0, 2.0], [0.0, 0.0], rewards=[1.0, 0.0], share=0.5)
    assert slopes(nft, case, negatives=False) == pytest.approx([1.0, 0.0])
    for share in (0.0, 1.0):
        assert slopes(nft, case_of([2.0], [0.0], rewards=[share], share=share)) == [0.0]
