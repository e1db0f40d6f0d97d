import math

import pytest
import torch

from learners.by_sequence import sequence_sum
from learners.logprobs import Moments
from learners.options import options_of
from learners.surrogates import SURROGATES, SurrogateInput
from learners.surrogates.gates import cispo, dppo_kl, dppo_tv, gppo, sapo
from learners.surrogates.likelihood import nft
from learners.surrogates.ppo import dual_clip, ppo_clip, reinforce
from learners.surrogates.preference import trpa
from learners.surrogates.sequence import gmpo, gspo
from learners.surrogates.surrogate import Surrogate
from learners.surrogates.valuation import rover


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
    group: list[int] | None = None,
    uniform: list[float] | None = None,
) -> SurrogateInput:
    """Tokens with these ratios; `uniform` is how far the mean logprob over the vocabulary has moved at each."""
    count = len(ratios)
    before = torch.full((count,), old)
    zeros = torch.zeros(count)
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
        torch.tensor(group or [0] * count),
        Moments(torch.tensor(uniform or [0.0] * count) - 3, zeros, zeros, zeros),
        Moments(zeros - 3, zeros, zeros, zeros),
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
    cases = [case_of([1.1, 0.9], [1.5, -0.5], weight=w, rewards=[1.0, 0.0], sequence=[0, 1]) for w in (1.0, 0.3)]
    losses = [SURROGATES[name](case)[0].tolist() for case in cases]
    plain, weighted = (slopes(SURROGATES[name], case) for case in cases)
    assert losses[1] == pytest.approx([0.3 * loss for loss in losses[0]], rel=1e-5)
    assert weighted == pytest.approx([0.3 * slope for slope in plain], rel=1e-5)


@pytest.mark.parametrize("name", [name for name in SURROGATES.names() if name not in ("nft", "rover", "trpa")])
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
    """Of those whose gradient is the value's own; the others pass it around a bound, or stop a factor, by design.
    (ROVER's target has no gradient because it is made of moments, which carry none.)"""
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

    group, now = sequence // 2, Moments(*torch.rand(4, 20, generator=generator, dtype=torch.float64))

    def loss(logprobs: torch.Tensor) -> torch.Tensor:
        case = SurrogateInput(
            logprobs, old, advantages, weights, sequence, rewards, share, 0.2, 0.28, group, now, Moments(*4 * [old])
        )
        return SURROGATES[name](case)[0]

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


def test_rover_by_hand() -> None:
    # Q = log ratio; targets: A + what the uniform mean moved by at the next token, and A alone at an answer's end.
    case = case_of([math.e, 1.0, 1.0], [0.75, 0.75, -0.25], sequence=[0, 0, 1], uniform=[0.5, -0.2, 0.9])
    expected = [(1 - (0.75 - 0.2)) ** 2, 0.75**2, 0.25**2]
    assert rover(case)[0].tolist() == pytest.approx(expected, rel=1e-5)
    assert slopes(rover, case) == pytest.approx([-2 * (1 - 0.55), 2 * 0.75, -2 * 0.25], rel=1e-5)
    # tau scales Q on both sides, and so the state's value.
    twice = rover(case, tau=2.0)[0].tolist()
    assert twice[0] == pytest.approx((2 - (0.75 - 0.4)) ** 2, rel=1e-5)
    with pytest.raises(ValueError, match="tau=0"):
        rover(case, tau=0)


def test_rover_at_the_old_policy_is_a_policy_gradient() -> None:
    case = case_of([1.0] * 3, [0.75, 0.75, -0.25], sequence=[0, 0, 1])
    assert rover(case, tau=0.5)[0].tolist() == pytest.approx([0.75**2, 0.75**2, 0.25**2])
    assert slopes(rover, case, tau=0.5) == pytest.approx([0.75, 0.75, -0.25])


def test_rover_finds_the_rewarded_leaf_of_a_tree() -> None:
    """Depth 3, two actions, one rewarded leaf of eight, each seen once a round; the old policy is that of the round
    before. Every token of an answer gets its centred reward, as the paper has it."""
    table = torch.zeros(7, 2, requires_grad=True)  # logits of the inner nodes; 2n + 1 and 2n + 2 are below n
    optimizer = torch.optim.Adam([table], lr=0.05)
    leaves = [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1], [1, 0, 0], [1, 0, 1], [1, 1, 0], [1, 1, 1]]
    nodes = [2**depth - 1 + int("0" + "".join(map(str, leaf[:depth])), 2) for leaf in leaves for depth in range(3)]
    places, taken = torch.tensor(nodes), torch.tensor(leaves).flatten()
    sequence, nothing = torch.arange(8).repeat_interleave(3), torch.zeros(24)
    centred = torch.where(sequence == leaves.index([1, 0, 1]), 7 / 8, -1 / 8)

    def moments(logprobs: torch.Tensor) -> Moments:
        return Moments(logprobs.mean(-1)[places], nothing, nothing, nothing)

    for _ in range(10):
        old = table.detach().log_softmax(-1)
        for _ in range(5):
            now = table.log_softmax(-1)
            case = SurrogateInput(
                now[places, taken],
                old[places, taken],
                centred,
                nothing + 1,
                sequence,
                nothing,
                nothing,
                moments=moments(now.detach()),
                old_moments=moments(old),
            )
            optimizer.zero_grad()
            rover(case)[0].mean().backward()
            optimizer.step()
    path = [table[node] for node in (0, 2, 5)]
    assert [int(node.argmax()) for node in path] == [1, 0, 1]
    assert all(node.softmax(-1).max() > 0.6 for node in path)


def test_trpa_at_the_old_policy_is_log_2_and_points_to_the_chosen() -> None:
    # Two groups: rewards 1, 0 and 2, 1, 0; answers of one or two tokens.
    case = case_of(
        [1.0] * 7,
        [0.0] * 7,
        sequence=[0, 0, 1, 2, 3, 3, 4],
        rewards=[1.0, 1.0, 0.0, 2.0, 1.0, 1.0, 0.0],
        group=[0, 0, 0, 1, 1, 1, 1],
    )
    loss, _ = trpa(case, beta_chosen=0.2, beta_rejected=0.2)
    per_answer = [loss[place].item() for place in (0, 2, 3, 4, 6)]
    # Group 0: G / P = 2 / 1, half the pair's loss each. Group 1: 3 pairs, 3 answers, each in two pairs.
    assert per_answer == pytest.approx([math.log(2)] * 5)
    assert loss[0] == loss[1]
    # Aggregated by sequence the mean is that of the groups' mean pair losses, here log 2; and its gradient: the chosen
    # up, the rejected down, by sigmoid(0) beta = 0.1 for each pair, the middle answer of three not at all.
    total = (loss / torch.bincount(case.sequence)[case.sequence]).sum()
    total.backward()
    assert case.logprobs.grad is not None
    assert total.item() / 5 == pytest.approx(math.log(2))
    assert case.logprobs.grad.tolist() == pytest.approx([-0.2, -0.2, 0.2, -0.2, 0.0, 0.0, 0.2], abs=1e-6)


def test_trpa_compares_drifts_of_whole_answers() -> None:
    case = case_of([math.e, math.e, 1.0, math.exp(-1)], [0.0] * 4, sequence=[0, 0, 1, 1], rewards=[1.0, 1.0, 0.0, 0.0])
    # D = 2 and -1: -log sigmoid(0.3 * 2 + 0.1 * 1)
    expected = math.log(1 + math.exp(-0.7))
    assert trpa(case, beta_chosen=0.3, beta_rejected=0.1)[0].tolist() == pytest.approx([expected] * 4)
    assert sequence_sum(case.log_ratio, case.sequence).tolist() == pytest.approx([2.0, 2.0, -1.0, -1.0])


def test_trpa_has_no_pair_within_a_level_or_across_groups() -> None:
    alike = case_of([2.0, 0.5], [0.0] * 2, sequence=[0, 1], rewards=[1.0, 1.0])
    across = case_of([2.0, 0.5], [0.0] * 2, sequence=[0, 1], rewards=[1.0, 0.0], group=[0, 1])
    near = case_of([2.0, 0.5], [0.0] * 2, sequence=[0, 1], rewards=[1.0, 0.9])
    assert slopes(trpa, alike) == slopes(trpa, across) == slopes(trpa, near, gap=0.2) == [0.0, 0.0]
    assert slopes(trpa, near)[0] > 0
    with pytest.raises(ValueError, match="must be above 0"):
        trpa(alike, beta_rejected=0)
