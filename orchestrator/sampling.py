"""How each answer of a run is drawn: by the recipe's sampling with a seed of its own, or with a replayed length."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from actors.engine import Sampling
from actors.settings import RolloutSettings
from orchestrator.errors import SettingError
from orchestrator.seeds import request_seed


def sampling_of(
    rollout: RolloutSettings, common: Sampling, seed: int, greedy: int | None = None
) -> Callable[[int, int], Sampling]:
    """The sampling of answer `sample` of group `group`: a function of both and the run's seed alone.

    Answer number `greedy` of every group is decoded greedily. With `rollout.replay_lengths` an answer ends after a
    length drawn from that file, and by nothing else.

    Raises:
        SettingError: the file cannot be read.
    """
    if rollout.replay_lengths is None:
        best = replace(common, temperature=0.0)
        return lambda group, sample: replace(
            best if sample == greedy else common, seed=request_seed(seed, group, sample)
        )
    lengths = read_lengths(Path(rollout.replay_lengths), longest=rollout.max_response_tokens)

    def replayed(group: int, sample: int) -> Sampling:
        own = request_seed(seed, group, sample)
        return replace(common, seed=own, max_tokens=random.Random(own).choice(lengths), stop_token_ids=())

    return replayed


def read_lengths(path: Path, *, longest: int) -> list[int]:
    """Answer lengths, one per line.

    Raises:
        SettingError: no file, no lengths, or one that is not in [1, longest].
    """
    fix = f"give a file with one length from 1 to rollout.max_response_tokens={longest} per line"
    try:
        lengths = [int(line) for line in path.read_text(encoding="utf-8").split()]
    except (OSError, ValueError) as error:
        raise SettingError("rollout.replay_lengths", f"{path}: {error}", fix) from None
    if not lengths or min(lengths) < 1 or max(lengths) > longest:
        span = f"lengths from {min(lengths)} to {max(lengths)}" if lengths else "no length"
        raise SettingError("rollout.replay_lengths", f"{path} has {span}", fix)
    return lengths
