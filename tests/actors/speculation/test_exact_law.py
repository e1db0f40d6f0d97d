"""The law of what speculation emits, exactly: every draft and every outcome of its verification is played out.

A tiny target (three tokens, answers of three) with random logits for every context. The law over whole answers with
drafts must be the law without, up to rounding, for every kind of draft and sampling.
"""

from collections.abc import Callable
from itertools import product

import pytest
import torch

from actors.engine import Sampling
from actors.speculation.drafter import NO_DRAFT, Draft
from actors.speculation.verification import verify
from actors.token_sampling import Chance, draw
from tests.actors.speculation.enumeration import Enumerated, law, total_variation

VOCABULARY, HORIZON = 3, 3
ROUNDING = 1e-6
Context = tuple[int, ...]
Logits = dict[Context, torch.Tensor]
Drafting = Callable[[Context, int, Sampling, Chance], Draft]
"""Context, draft length, sampling."""
SAMPLINGS = [
    Sampling(HORIZON),
    Sampling(HORIZON, temperature=0.6),
    Sampling(HORIZON, temperature=1.7, top_k=2),
    Sampling(HORIZON, top_p=0.7),
    Sampling(HORIZON, temperature=0.8, top_k=2, top_p=0.9),
    Sampling(HORIZON, temperature=0),
]


def table(seed: int) -> Logits:
    """Logits for every context that an answer can have, drafts beyond its end included."""
    generator = torch.Generator().manual_seed(seed)
    contexts = [c for n in range(2 * HORIZON) for c in product(range(VOCABULARY), repeat=n)]
    return {context: 1.5 * torch.randn(VOCABULARY, generator=generator) for context in contexts}


TARGET, OTHER = table(0), table(1)


def one_hot(context: Context, length: int, _: Sampling, __: Chance) -> Draft:
    """Its only guess: another model's likeliest tokens."""
    guessed: Context = ()
    for _ in range(length):
        guessed += (int(OTHER[context + guessed].argmax()),)
    return Draft(guessed)


def drawn_from(source: Logits) -> Drafting:
    def drafting(context: Context, length: int, sampling: Sampling, chance: Chance) -> Draft:
        drawn: Context = ()
        rows = []
        for _ in range(length):
            rows.append(source[context + drawn].softmax(-1))
            drawn += (chance.pick(rows[-1]),)
        return Draft(drawn, torch.stack(rows)) if rows else NO_DRAFT

    return drafting


def answer(drafting: Drafting, lengths: Callable[[Context], int], sampling: Sampling) -> Callable[[Chance], Context]:
    """An engine's loop: draft, verify, until the answer is whole."""

    def run(chance: Chance) -> Context:
        context: Context = ()
        while len(context) < HORIZON:
            length = min(lengths(context), HORIZON - len(context) - 1)
            draft = drafting(context, length, sampling, chance)
            logits = [TARGET[context + draft.token_ids[:i]] for i in range(len(draft.token_ids) + 1)]
            context += verify(torch.stack(logits), draft, sampling, chance).token_ids
        assert len(context) == HORIZON
        return context

    return run


def plain(sampling: Sampling) -> dict[Context, float]:
    """Token by token, without anything of speculation."""

    def run(chance: Chance) -> Context:
        context: Context = ()
        while len(context) < HORIZON:
            context += (draw(TARGET[context], sampling, chance)[0],)
        return context

    return law(run)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize(
    "drafting",
    [one_hot, drawn_from(OTHER), drawn_from(TARGET)],
    ids=["one_hot", "probabilistic", "probabilistic_like_the_target"],
)
@pytest.mark.parametrize("lengths", [(2, 2, 2), (0, 1, 0), (1, 0, 2)], ids=str)
def test_the_law_with_drafts_is_the_law_without(
    drafting: Drafting, sampling: Sampling, lengths: tuple[int, int, int]
) -> None:
    with_drafts = law(answer(drafting, lambda context: lengths[len(context)], sampling))
    assert sum(with_drafts.values()) == pytest.approx(1, abs=ROUNDING)
    assert total_variation(with_drafts, plain(sampling)) < ROUNDING


def test_enumeration_sees_a_law_that_is_wrong() -> None:
    """Drafts accepted as they come: what the tests above would miss if they could not fail."""

    def credulous(chance: Chance) -> Context:
        return drawn_from(OTHER)((), HORIZON, SAMPLINGS[0], chance).token_ids

    assert total_variation(law(credulous), plain(SAMPLINGS[0])) > 0.05


def test_a_length_that_depends_on_the_draws_biases_what_is_sampled_unless_nothing_is_drawn() -> None:
    """The stopping rule of `actors.speculation.drafter`: draws are cut where they are 0, and the law is off."""

    def cut(inner: Drafting) -> Drafting:
        def drafting(context: Context, length: int, sampling: Sampling, chance: Chance) -> Draft:
            draft = inner(context, length, sampling, chance)
            kept = draft.token_ids.index(0) if 0 in draft.token_ids else len(draft.token_ids)
            rows = None if draft.probabilities is None else draft.probabilities[:kept]
            return Draft(draft.token_ids[:kept], rows)

        return drafting

    def distance(drafting: Drafting) -> float:
        return total_variation(law(answer(cut(drafting), lambda _: 2, SAMPLINGS[0])), plain(SAMPLINGS[0]))

    assert distance(one_hot) < ROUNDING
    assert distance(drawn_from(OTHER)) > 0.01


def test_drafts_that_are_no_draws_leave_every_draw_as_it_is() -> None:
    """The same choices give the same answer, whatever is drafted: so a seed does."""
    sampling = Sampling(HORIZON, temperature=0.9)
    for choices in product(range(VOCABULARY), repeat=HORIZON):
        answers = {
            answer(one_hot, lambda _, length=length: length, sampling)(Enumerated(choices)) for length in range(3)
        }
        assert len(answers) == 1


def test_the_logprob_of_an_accepted_or_redrawn_token_is_the_targets() -> None:
    sampling = Sampling(1, temperature=0.7)
    draft = drawn_from(OTHER)((), 1, sampling, Enumerated((0,)))
    logits = torch.stack([TARGET[()], TARGET[(0,)]])
    truth = (logits / 0.7).log_softmax(-1)
    for choices in ((1, 2), (0, 1), (0, 2)):
        if choices[0] == 0 and not (truth[0].exp() - draft.probabilities[0] > 0)[choices[1]]:
            continue
        verified = verify(logits, draft, sampling, Enumerated(choices))
        assert verified.accepted == choices[0]
        for i, (token, logprob) in enumerate(zip(verified.token_ids, verified.logprobs, strict=True)):
            assert logprob == pytest.approx(float(truth[i, token]), abs=ROUNDING)
