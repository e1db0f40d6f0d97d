"""What a part needs beyond its usual input, said where the part is written and read where a run is put together.

A run computes, samples or arranges these only where a part that it uses asks for them; the trainer knows no part by
name. A part of the user's own asks in the same way, by the decorator `needs`.
"""

from collections.abc import Callable
from typing import Literal, TypeVar, get_args

Need = Literal[
    "whole_groups", "moments", "attention", "behaviour", "greedy_answer", "budgets", "probes", "token_rewards"
]
"""`whole_groups`: all trained answers to one prompt come in one micro-batch. `moments`: of each token's distribution,
see `learners.logprobs.Moments`. `attention`: how widely each token looks back, see `learners.attention_watch`.
`behaviour`: the logprobs of whoever wrote an off-policy token. `greedy_answer`: one answer more to each prompt, decoded
greedily, which is not trained on. `budgets`: the answers to a prompt are asked for under different token budgets.
`probes`: values at cuts through an answer. `token_rewards`: what reward terms give to parts of an answer, where they
do."""
_NAME = "paceline_needs"

Part = TypeVar("Part", bound=Callable[..., object])


def needs(*wants: Need) -> Callable[[Part], Part]:
    """Decorator that says what a part needs.

    Raises:
        ValueError: there is no such need.
    """
    unknown = set(wants) - set(get_args(Need))
    if unknown:
        raise ValueError(f"a part may need {', '.join(get_args(Need))}, not {', '.join(sorted(unknown))}")

    def mark(part: Part) -> Part:
        setattr(part, _NAME, frozenset(wants))
        return part

    return mark


def needs_of(part: Callable[..., object]) -> frozenset[Need]:
    """What the part asked for; nothing where it said nothing."""
    wants: frozenset[Need] = getattr(part, _NAME, frozenset())
    return wants
