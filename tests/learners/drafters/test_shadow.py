"""Shadow evaluation against the acceptance rule itself, played out over every continuation of a tiny vocabulary."""

import pytest
import torch

from learners.drafters.drafter import Drafter
from learners.drafters.shadow import ChainScore, evaluate
from learners.drafters.target import FINAL
from learners.drafters.windows import Window
from tests.learners.drafters.builders import CPU, KINDS, new_drafter, plain_hidden, tied_target, windows_of_target
from tests.learners.tiny import VOCABULARY

PROMPT = [3, 17]


def _score(drafter: Drafter, windows: list[Window], positions: int, token_budget: int = 4096):  # type: ignore[no-untyped-def]
    return evaluate(drafter, windows, positions=positions, temperature=1.0, token_budget=token_budget, device=CPU)


def _window(tokens: list[int], name: str = "0") -> Window:
    hidden = plain_hidden(tied_target(), tokens)
    return Window(name, torch.tensor(tokens), torch.arange(len(tokens)), hidden, 0, len(tokens))


@pytest.mark.parametrize("kind", KINDS)
def test_survival_is_what_the_acceptance_rule_gives(kind: str) -> None:
    """Drafts of two tokens behind one prompt. Every first token x is recorded once and weighed by the target's p(x),
    as sampling would; the truth is the sum over drafted paths of min(p, q), from the drafter's own stepwise decoding.
    """
    drafter = new_drafter(kind, tied_target()).eval()
    recorded = [_window([*PROMPT, token]) for token in range(VOCABULARY)]
    hidden = plain_hidden(tied_target(), PROMPT)
    p_first = drafter.tables.logits(hidden[FINAL])[1].softmax(-1)
    session = drafter.session()
    session.read(torch.tensor(PROMPT), {layer: state[:1] for layer, state in hidden.items()})
    q_first, reached, both = None, torch.zeros(VOCABULARY), torch.zeros(VOCABULARY)
    hits = torch.zeros(VOCABULARY)
    for token in range(VOCABULARY):
        logits: list[torch.Tensor] = []

        def follow(given: torch.Tensor, logits: list[torch.Tensor] = logits, token: int = token) -> int:
            logits.append(given)
            return token

        session.draft(2, follow)
        q_first, q_second = logits[0].softmax(-1), logits[1].softmax(-1)
        p_second = drafter.tables.logits(recorded[token].hidden[FINAL])[2].softmax(-1)
        reached[token] = torch.minimum(p_first[token], q_first[token])
        both[token] = torch.minimum(p_second, q_second).sum()
        hits[token] = p_second[q_second.argmax()]
    assert q_first is not None
    scores = [_score(drafter, [window], positions=2) for window in recorded]
    sampled = sum(float(p) * torch.tensor(score.sampled.survival) for p, score in zip(p_first, scores, strict=True))
    greedy = sum(float(p) * torch.tensor(score.greedy.survival) for p, score in zip(p_first, scores, strict=True))
    likeliest = int(q_first.argmax())
    torch.testing.assert_close(sampled, torch.stack([reached.sum(), (reached * both).sum()]), atol=1e-5, rtol=1e-4)
    wanted = torch.stack([p_first[likeliest], p_first[likeliest] * hits[likeliest]])
    torch.testing.assert_close(greedy, wanted, atol=1e-5, rtol=1e-4)


def test_a_drafter_that_is_the_target_is_always_accepted() -> None:
    drafter = new_drafter("draft_model", tied_target()).eval()
    drafter.language_model = tied_target()  # type: ignore[assignment]
    score = _score(drafter, list(windows_of_target()), positions=4)
    assert score.sampled.survival == pytest.approx((1.0,) * 4, abs=1e-4)
    assert score.sampled.accepted == pytest.approx(4, abs=1e-3)
    assert score.sampled.standard_error < 1e-4
    assert 0 < score.greedy.accepted < 4


def test_rows_do_not_change_the_score_and_errors_are_over_windows() -> None:
    drafter = new_drafter("eagle", tied_target()).eval()
    windows = list(windows_of_target())
    whole, cut = _score(drafter, windows, 3), _score(drafter, windows, 3, token_budget=40)
    assert whole.sampled.survival == pytest.approx(cut.sampled.survival, abs=1e-5)
    assert whole.anchors == cut.anchors == sum(len(window) - 3 for window in windows if len(window) > 3)
    each = torch.tensor([_score(drafter, [window], 3).greedy.accepted for window in windows if len(window) > 3])
    assert whole.greedy.accepted == pytest.approx(float(each.mean()), abs=1e-5)
    assert whole.greedy.standard_error == pytest.approx(float(each.std()) / len(each) ** 0.5, abs=1e-5)


def test_position_scores_are_conditional_on_the_positions_before() -> None:
    assert ChainScore((0.5, 0.25, 0.0), 0.75, 0.0, (0.25,)).by_position == (0.5, 0.5, 0.0)
    assert ChainScore((0.0, 0.0), 0.0, 0.0, (0.0,)).by_position == (0.0, 0.0)


def test_windows_without_room_are_an_error() -> None:
    with pytest.raises(ValueError, match="none of 1 windows is longer than 3 tokens"):
        _score(new_drafter("eagle", tied_target()), [_window([1, 2, 3])], positions=3)
