"""Where everybody in a run stands at one moment: looked at twice a second, for the screen and for who watches it."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineScene:
    """Attributes:
    running: answers that it has.
    limit: answers that it may have at a time.
    kv_use: share of its KV cache, 0 to 1.
    version: of the weights that it serves.
    """

    name: str
    running: int
    limit: int
    kv_use: float
    version: int


@dataclass(frozen=True, slots=True)
class Scene:
    """Attributes:
    waiting: answers that no engine has yet.
    to_score: answers handed to the rewards and not scored yet.
    buffered, in_flight, aside: groups that are ready, that are sampled or scored, and that were set aside.
    learner: what it does, in words.
    idle: share of the training time so far in which each actor stood idle, 0 to 1.
    """

    engines: tuple[EngineScene, ...]
    waiting: int
    to_score: int
    buffered: int
    in_flight: int
    aside: int
    learner: str
    idle: Mapping[str, float]


def lines(scene: Scene) -> dict[str, str]:
    """What each actor does, for the screen."""
    engines = {
        one.name: f"{one.running} answers running, at most {one.limit}, KV cache {one.kv_use:.0%}, "
        f"weights v{one.version}"
        for one in scene.engines
    }
    return {
        **engines,
        "reward": f"{scene.to_score} answers to score",
        "waiting": f"{scene.waiting} answers for an engine",
        "buffer": f"{scene.buffered} groups ready, {scene.in_flight} in flight"
        + (f", {scene.aside} set aside" if scene.aside else ""),
        "learner": scene.learner,
    }
