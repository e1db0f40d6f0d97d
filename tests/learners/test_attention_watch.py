"""How widely tokens look: by hand, against a model's own weights, and from sequence to sequence."""

import math
from pathlib import Path

import pytest
import torch

from learners.attention_watch import AttentionWatch, attention_spread
from learners.errors import UnfitError
from learners.packing import pack
from learners.policy import Policy, load_policy
from tests.learners.ranks import CPU, single_rank
from tests.learners.tiny import make_learner, random_batch, tiny_model, write_model


def test_who_looks_at_all_alike_has_1_and_who_looks_at_one_place_0() -> None:
    length, width = 5, 4
    even = attention_spread(torch.zeros(1, 2, length, width), torch.randn(1, 1, length, width))
    assert even[0].tolist() == pytest.approx([0.0, 1.0, 1.0, 1.0, 1.0])
    places = torch.eye(length)
    sharp = attention_spread(100 * places[None, None], 100 * places[None, None])
    assert sharp[0].tolist() == pytest.approx([0.0] * length, abs=1e-6)


def test_two_positions_by_hand() -> None:
    # Scores 0 and log 3 at the second token: probabilities 1/4 and 3/4.
    query = torch.tensor([[[[0.0], [1.0]]]])
    key = torch.tensor([[[[0.0], [math.log(3)]]]])
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert attention_spread(query, key, scaling=1.0)[0].tolist() == pytest.approx([0.0, entropy / math.log(2)])


def test_a_window_bounds_what_is_in_sight() -> None:
    even = attention_spread(torch.zeros(1, 1, 6, 2), torch.randn(1, 1, 6, 2), window=2)
    assert even[0].tolist() == pytest.approx([0.0] + [1.0] * 5)


def test_blocks_of_queries_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 4, 9, 8), torch.randn(2, 2, 9, 8)
    whole = attention_spread(query, key)
    monkeypatch.setattr("learners.attention_watch.BLOCK_ELEMENTS", 40)
    assert torch.allclose(attention_spread(query, key), whole, atol=1e-6)


def test_a_layer_that_computes_again_counts_once_and_none_is_an_error() -> None:
    watch = AttentionWatch()
    with pytest.raises(RuntimeError, match="no attention was watched"):
        watch.spread()
    key = torch.randn(1, 1, 3, 2)
    for query in (torch.zeros(1, 1, 3, 2), 100 * key):
        watch.note(0, [query], [key], torch.tensor([2, 1, 0]), scaling=None, window=None)
    assert watch.spread().tolist() == pytest.approx([1.0, 1.0, 0.0])


def test_a_packed_row_is_watched_as_each_sequence_is_by_the_model_itself(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    sequences = [[5, 6, 7, 8, 9, 10, 11], [12, 13, 14], [1, 2, 3, 4, 5]]
    policy = Policy(load_policy(folder))
    packed = pack(sequences)
    found = policy(packed, attention=True)
    assert found.attention is not None
    plain = tiny_model()
    plain.load_state_dict(policy.model.state_dict())
    plain.set_attn_implementation("eager")
    wanted: list[float] = []
    for ids in sequences:
        weights = plain(torch.tensor([ids]), output_attentions=True).attentions
        probabilities = torch.stack(weights)[:, 0]  # layers, heads, L, L
        entropy = -(probabilities * probabilities.clamp(min=1e-30).log()).sum(-1).mean((0, 1))
        spread = [0.0] + [float(entropy[place]) / math.log(place + 1) for place in range(1, len(ids))]
        wanted += spread[:-1]  # the last token predicts nothing
    assert found.attention.tolist() == pytest.approx(wanted, abs=1e-4)
    assert torch.allclose(found.logprobs, policy(packed).logprobs)


@pytest.mark.parametrize("again", [False, True])
def test_a_learner_weighs_tokens_by_it_with_and_without_computing_layers_again(tmp_path: Path, again: bool) -> None:
    model = write_model(tmp_path)
    mask = {"masks": [{"name": "attention_entropy", "options": {"strength": 3.0}}]}
    even = {"masks": [{"name": "attention_entropy", "options": {"strength": 0.0}}]}
    with single_rank():
        seen = {
            name: make_learner(model, algorithm, activation_checkpointing=again).step(random_batch())
            for name, algorithm in (("weighed", mask), ("even", even), ("plain", {}))
        }
    assert seen["even"]["loss"] == pytest.approx(seen["plain"]["loss"], rel=1e-5)
    assert seen["even"]["grad_norm"] == pytest.approx(seen["plain"]["grad_norm"], rel=1e-4)
    assert seen["weighed"]["grad_norm"] != pytest.approx(seen["plain"]["grad_norm"], rel=1e-3)


def test_rows_that_ranks_share_are_not_watched(tmp_path: Path) -> None:
    from learners.sequence_parallel import SequenceGroup
    from learners.settings import TrainerSettings
    from learners.trained_policy import open_policy

    model = write_model(tmp_path)
    shared = SequenceGroup(None, 0, 2)
    with pytest.raises(UnfitError, match="sequence_parallel"):
        open_policy(model, TrainerSettings(), shared, CPU, watched=True)
