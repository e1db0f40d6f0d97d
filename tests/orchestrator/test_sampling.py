"""How answers are drawn: a seed of its own for each, or a length that is replayed."""

from pathlib import Path

import pytest

from actors.engine import Sampling
from actors.settings import RolloutSettings
from orchestrator.errors import SettingError
from orchestrator.sampling import sampling_of

COMMON = Sampling(max_tokens=50, stop_token_ids=(0,))


def test_every_answer_and_every_seed_of_a_run_draws_for_itself() -> None:
    draws = [sampling_of(RolloutSettings(), COMMON, seed) for seed in (5, 6)]
    seeds = {draw(group, sample).seed for draw in draws for group in range(20) for sample in range(8)}
    assert len(seeds) == 2 * 20 * 8
    assert draws[0](3, 1) == sampling_of(RolloutSettings(), COMMON, 5)(3, 1)


def test_the_greedy_answer_of_a_group_is_drawn_at_temperature_0() -> None:
    draw = sampling_of(RolloutSettings(), COMMON, 5, greedy=3)
    assert [draw(7, sample).temperature for sample in range(4)] == [1.0, 1.0, 1.0, 0.0]
    assert draw(7, 3).stop_token_ids == (0,)


def test_a_replayed_length_ends_an_answer_and_nothing_else_does(tmp_path: Path) -> None:
    path = tmp_path / "lengths.txt"
    path.write_text("3\n40\n")
    settings = RolloutSettings(replay_lengths=str(path), max_response_tokens=50)
    drawn = [sampling_of(settings, COMMON, 1)(group, 0) for group in range(50)]
    assert {sampling.max_tokens for sampling in drawn} == {3, 40}
    assert {sampling.stop_token_ids for sampling in drawn} == {()}


@pytest.mark.parametrize("content", ["", "3\nfour\n", "0\n", "51\n"])
def test_lengths_that_cannot_be_replayed_are_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "lengths.txt"
    path.write_text(content)
    settings = RolloutSettings(replay_lengths=str(path), max_response_tokens=50)
    with pytest.raises(SettingError, match=r"rollout\.replay_lengths"):
        sampling_of(settings, COMMON, 1)
