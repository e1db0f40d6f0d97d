"""Shadow evaluation: how much of a drafter's drafts its target would accept, from recorded windows alone.

Tokens x of a window were sampled from the target. With p_k, q_k the target's and the drafter's distributions at draft
position k behind the true tokens before it:
- drafting by sampling: P(first k accepted) = E_x[ prod_(j<k) min(1, q_j(x_j) / p_j(x_j)) * sum_x min(p_k, q_k) ];
- drafting the likeliest token d: P(first k accepted) = E_x[ prod_(j<k) 1[x_j = d_j] * p_k(d_k) ].
Both are exact for tokens sampled at the same temperature from the same weights, since a drafter's state depends on the
tokens alone; they follow from the acceptance rule of Leviathan et al. (arXiv 2211.17192), written as an expectation
over the target's tokens. Tokens of an older version make them approximate.

Every place of a window counts alike. In use a draft begins where the one before ended, so that few begin in a stretch
that is easy to draft: where difficulty is uneven, live drafts are accepted less often than the score says. The score
compares drafters on the same windows; the speed to expect is measured, not read off it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from learners.drafters.comparison import Comparison
from learners.drafters.drafter import Drafter
from learners.drafters.losses import LossInput, acceptance
from learners.drafters.target import FINAL
from learners.drafters.windows import Window, pack_windows, plan_rows


@dataclass(frozen=True, slots=True)
class ChainScore:
    """Of drafts of K tokens, averaged over windows.

    Attributes:
        survival: [K] chance that the first k tokens are all accepted.
        accepted: expected accepted tokens of one draft, the sum of `survival`.
        standard_error: of `accepted`, over windows; 0 with one window.
        by_window: accepted share of the K tokens, of each window; the same windows come in the same order.
    """

    survival: tuple[float, ...]
    accepted: float
    standard_error: float
    by_window: tuple[float, ...]

    @property
    def by_position(self) -> tuple[float, ...]:
        """[K] chance that token k is accepted where the tokens before it were."""
        before = (1.0, *self.survival[:-1])
        return tuple(now / then if then > 0 else 0.0 for now, then in zip(self.survival, before, strict=True))


@dataclass(frozen=True, slots=True)
class ShadowScore:
    """Attributes:
    sampled: where drafts are drawn from the drafter's distribution.
    greedy: where they are its likeliest tokens, verified as one-hot drafts.
    windows, anchors: windows judged, and places within them from which drafts were judged.
    """

    sampled: ChainScore
    greedy: ChainScore
    windows: int
    anchors: int


@torch.no_grad()
def evaluate(
    drafter: Drafter,
    windows: Sequence[Window],
    *,
    positions: int,
    temperature: float,
    token_budget: int,
    device: torch.device,
) -> ShadowScore:
    """Score `positions` draft positions from every place of every window that has room for them.

    Args:
        token_budget: tokens of one packed row.

    Raises:
        ValueError: no window is longer than `positions`.
    """
    usable = [window for window in windows if len(window) > positions]
    if not usable:
        raise ValueError(f"none of {len(windows)} windows is longer than {positions} tokens: nothing to evaluate")
    per_window = torch.cat(
        [
            _row(drafter, row, positions=positions, temperature=temperature, device=device)
            for row in plan_rows(usable, token_budget)
        ]
    )
    return ShadowScore(
        sampled=_chain(per_window[:, 0]),
        greedy=_chain(per_window[:, 1]),
        windows=len(usable),
        anchors=sum(len(window) - positions for window in usable),
    )


def _row(
    drafter: Drafter, row: Sequence[Window], *, positions: int, temperature: float, device: torch.device
) -> Tensor:
    """[windows, 2, K] float64 survival by window, sampled and greedy."""
    packed = pack_windows(row, sorted({*drafter.reads, FINAL}), device)
    anchors = (packed.room >= positions).nonzero().squeeze(1)

    def look(rows: LossInput, behind: Tensor) -> Tensor:
        """[n, 4] chance of acceptance, and by how much the true token stays on the draft's path; each both ways."""
        # The last place of a window has no next token, and nothing asks for it.
        token = packed.packed.input_ids[(behind + 1).clamp(max=len(packed.room) - 1), None]
        likeliest = rows.draft_logprobs.argmax(-1, keepdim=True)
        ratio = (rows.draft_logprobs - rows.target_logprobs).gather(-1, token).clamp(max=0).exp()
        greedy = rows.target_logprobs.gather(-1, likeliest).exp()
        sampled = acceptance(rows.target_logprobs, rows.draft_logprobs)[:, None]
        return torch.cat([sampled, greedy, ratio, (token == likeliest).float()], -1).double()

    reached = torch.ones(len(anchors), 2, dtype=torch.float64, device=device)
    survival = []
    for seen in Comparison.of(drafter, packed, temperature).positions(positions, anchors, look):
        survival.append(reached * seen[:, :2])
        reached = reached * seen[:, 2:]
    owner = torch.bucketize(anchors, packed.packed.cu_seqlens[1:].to(device), right=True)
    stacked = torch.stack(survival, -1)
    sums = torch.zeros(len(row), 2, positions, dtype=torch.float64, device=device).index_add_(0, owner, stacked)
    counts = torch.bincount(owner, minlength=len(row)).double()
    return (sums / counts[:, None, None]).cpu()


def _chain(survival: Tensor) -> ChainScore:
    """[windows, K]."""
    lengths = survival.sum(-1)
    count = len(lengths)
    error = float(lengths.std()) / math.sqrt(count) if count > 1 else 0.0
    shares = tuple((lengths / survival.shape[-1]).tolist())
    return ChainScore(tuple(survival.mean(0).tolist()), float(lengths.mean()), error, shares)
