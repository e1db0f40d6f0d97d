"""Terms for models that may think or not: `autothink` and `adaptthink`."""

import math
from statistics import fmean, pstdev

from rewards.group import Group
from rewards.registry import Example, RefusedOptionError, group_term, term
from rewards.response import Fact, Response
from rewards.verdict import Verdict


def thinks(text: str, opening: str = "<think>", closing: str = "</think>") -> bool:
    """Whether anything but white space and dots stands before the end of thinking; without that end, all of it is
    thinking where it was opened, and none of it otherwise."""
    before, ended, _ = text.partition(closing)
    if not ended and opening not in text:
        return False
    return bool(before.replace(opening, "").strip(" \t\r\n.…"))


_THINKING = Response("e/0", "", r"<think>2 and 2</think>\boxed{4}", "4", response_tokens=10)
_DIRECT = Response("e/1", "", r"<think></think>\boxed{4}", "4", response_tokens=10)


@term("adaptthink", example=Example(_DIRECT, 0.05))
def adaptthink_reward(response: Response, *, delta: float = 0.05, column: str | None = None) -> float:
    """delta 1[the answer does not think] - R_ref: beside a correctness term of weight 1 the advantage of AdaptThink
    (arXiv 2505.13417), with `algorithm.advantage=raw`.

    Args:
        delta: what not thinking is worth.
        column: of the data, with the mean reward R_ref of a reference policy on the prompt; None takes 0, which a
            group's baseline would cancel anyway.

    Raises: ValueError where the data have no such column, or no number in it.
    """
    reference = 0.0
    if column is not None:
        found = response.metadata.get(column)
        if not isinstance(found, int | float):
            raise ValueError(f"the data have no column {column!r} with the reference policy's mean reward")
        reference = float(found)
    return delta * (not thinks(response.text)) - reference


@group_term(
    "autothink",
    example=Example(Group((_THINKING, _DIRECT), ({"math": 1.0}, {"math": 1.0})), (1.0, 2.0), {"stage": 2}),
)
def autothink_reward(
    group: Group,
    *,
    stage: int,
    gamma: float = 0.5,
    slope: float = 2.0,
    alpha: float = 0.05,
    beta: float = 0.05,
    of: str | None = None,
    correct_at: float = 1.0,
) -> list[Verdict]:
    """Thinking 1 right and 0 wrong, not thinking 2 right and -1 wrong, shaped by stage: AutoThink (arXiv 2505.10832).
    It is the whole reward: give the correctness term the weight 0.

    Stage 1 keeps both modes alive: a mode that more than the share gamma of the run's answers take loses
    slope (share - gamma). Stage 2 is the table alone. Stage 3 shortens: with y the length standardised in the group,
    a right answer gets exp(-alpha y) - 1 more and a wrong one 1 - exp(-beta y). The shape of stages 1 and 3 is this
    project's reading. The share is a moving average of the steps before.

    Args:
        stage: 1, 2 or 3; a run goes through them as three runs.
        gamma: in (0, 1).
        of, correct_at: see `rlcr`.
    """
    if stage not in (1, 2, 3) or not 0 < gamma < 1 or min(slope, alpha, beta) < 0:
        raise RefusedOptionError(f"stage={stage} must be 1, 2 or 3, gamma in (0, 1), slope, alpha and beta at least 0")
    modes = [thinks(response.text) for response in group.responses]
    share = group.shared.get("autothink/thinks", 0.5)
    right = group.correct(of, correct_at)
    lengths = _standardised(group.lengths) if stage == 3 else [0.0] * len(modes)
    verdicts = []
    for thinking, hit, length in zip(modes, right, lengths, strict=True):
        value = (1.0 if hit else 0.0) if thinking else (2.0 if hit else -1.0)
        if stage == 1:
            value -= slope * max(0.0, (share if thinking else 1 - share) - gamma)
        value += math.exp(-alpha * length) - 1 if hit else 1 - math.exp(-beta * length)
        verdicts.append(Verdict(value, facts=(Fact("autothink/thinks", float(thinking), "average", shared=True),)))
    return verdicts


def _standardised(lengths: tuple[int, ...]) -> list[float]:
    mean, spread = fmean(lengths), pstdev(lengths)
    return [(length - mean) / spread if spread > 0 else 0.0 for length in lengths]
