import random
from collections import Counter

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh

from learners.drafters.capture import HiddenCapture
from learners.drafters.errors import DrafterError
from learners.drafters.settings import CaptureSettings
from learners.drafters.target import FINAL
from learners.drafters.window_choice import choose_stretches
from learners.packing import pack
from learners.policy import Policy
from learners.sharding import shard_policy
from tests.learners.drafters.builders import ALL_LAYERS, captured, plain_hidden, target_model, tied_target
from tests.learners.ranks import single_rank

SEQUENCES = [[1, 2, 3, 4, 5, 6, 7], [9, 8, 7], [5, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5]]


def _check_against_plain(windows, sequences, atol: float = 1e-5) -> None:  # type: ignore[no-untyped-def]
    for window in windows:
        sequence = sequences[int(window.sequence_id)]
        places = window.positions.tolist()
        assert window.token_ids.tolist() == [sequence[place] for place in places]
        assert window.sequence_length == len(sequence)
        for layer, states in plain_hidden(tied_target(), sequence).items():
            if layer in window.hidden:
                torch.testing.assert_close(window.hidden[layer].float(), states[places], atol=atol, rtol=1e-3)
            assert not window.hidden[FINAL].requires_grad


def test_captured_states_are_those_of_a_plain_forward() -> None:
    windows = captured(tied_target(), SEQUENCES, window_length=4)
    assert {layer for window in windows for layer in window.hidden} == {*ALL_LAYERS, FINAL}
    assert sum(len(window) for window in windows) >= 17  # All but pieces of one token.
    _check_against_plain(windows, SEQUENCES)


def test_the_pass_keeps_its_result_and_its_gradients() -> None:
    policy, packed = Policy(target_model()), pack(SEQUENCES)
    plain = policy(packed).logprobs
    plain.sum().backward()
    gradients = [value.grad.clone() for value in policy.parameters()]
    policy.zero_grad()
    capture = HiddenCapture(policy.model, (1,), CaptureSettings(tokens_per_pass=8, window_length=4))
    with capture.watch(packed, ["a", "b", "c"], version=7) as windows:
        watched = policy(packed).logprobs
    watched.sum().backward()
    assert torch.equal(watched, plain)
    assert all(torch.equal(value.grad, wanted) for value, wanted in zip(policy.parameters(), gradients, strict=True))
    assert 0 < sum(len(window) for window in windows) <= 8
    assert {window.version for window in windows} == {7}
    assert {state.dtype for window in windows for state in window.hidden.values()} == {torch.bfloat16}
    # Outside of a watch the model carries no hook.
    assert not any(module._forward_hooks for module in policy.model.modules())


def test_a_sharded_policy_is_captured_alike() -> None:
    with single_rank():
        policy = Policy(target_model())
        shard_policy(policy, init_device_mesh("cpu", (1,)), torch.float32)
        packed = pack(SEQUENCES)
        capture = HiddenCapture(
            policy.model, (0, 1, 2), CaptureSettings(tokens_per_pass=32, window_length=4, dtype="float32")
        )
        with capture.watch(packed, ["0", "1", "2"], version=0) as windows:
            logprobs = policy(packed).logprobs
        logprobs.sum().backward()
    assert windows
    _check_against_plain(windows, SEQUENCES)


def test_the_seed_and_the_pass_choose_the_windows() -> None:
    settings = CaptureSettings(tokens_per_pass=4, window_length=2, seed=3)

    def chosen(passes: int) -> list[tuple[str, int]]:
        capture = HiddenCapture(tied_target(), (), settings)
        found = []
        for _ in range(passes):
            with capture.watch(pack(SEQUENCES), ["0", "1", "2"], 0) as windows, torch.no_grad():
                Policy(tied_target())(pack(SEQUENCES))
            found += [(window.sequence_id, int(window.positions[0])) for window in windows]
        return found

    assert chosen(4) == chosen(4)
    assert len(set(chosen(4))) > len(set(chosen(1)))


def test_misuse_is_named() -> None:
    capture, packed = HiddenCapture(tied_target(), (), CaptureSettings()), pack(SEQUENCES)
    with pytest.raises(ValueError, match="2 sequence ids for a row of 3"), capture.watch(packed, ["0", "1"], 0):
        pass
    with pytest.raises(RuntimeError, match="no forward pass"), capture.watch(packed, ["0", "1", "2"], 0):
        pass
    with pytest.raises(DrafterError, match="layer 9 do not exist: the target has 3 blocks"):
        HiddenCapture(tied_target(), (9,), CaptureSettings())
    with pytest.raises(ValueError, match="no window fits"):
        CaptureSettings(tokens_per_pass=8, window_length=9)


def test_windows_lie_apart_within_their_sequences_and_the_budget() -> None:
    rng = random.Random(0)
    for _ in range(300):
        lengths = [rng.randint(1, 40) for _ in range(rng.randint(1, 6))]
        budget = rng.randint(8, 100)
        stretches = choose_stretches(lengths, window_length=8, token_budget=budget, rng=rng)
        assert sum(part.length for part in stretches) <= budget
        places = Counter(
            (part.sequence, place) for part in stretches for place in range(part.start, part.start + part.length)
        )
        assert all(count == 1 for count in places.values())
        assert all(place < lengths[sequence] for sequence, place in places)
        assert all(2 <= part.length <= 8 for part in stretches)


def test_every_place_of_a_long_sequence_has_the_same_chance() -> None:
    """The end of an answer as often as its beginning: 4000 draws, a tenth of the tokens each."""
    rng = random.Random(0)
    hits: Counter[int] = Counter()
    for _ in range(4000):
        for part in choose_stretches([200], window_length=20, token_budget=20, rng=rng):
            hits.update(range(part.start, part.start + part.length))
    thirds = [sum(hits[place] for place in range(start, start + 60)) for start in (10, 70, 130)]
    expected = sum(thirds) / 3
    assert all(abs(third - expected) < 0.05 * expected for third in thirds)
