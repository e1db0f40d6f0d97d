"""Small groups, trajectories and prompts for tests, with every field real."""

from collections.abc import Sequence

from actors.engine import Completion, Segment
from actors.trajectory import Trajectory
from orchestrator.groups import ScoredGroup
from orchestrator.prompts import Prompt
from rewards.response import Score


def prompt(index: int) -> Prompt:
    return Prompt(prompt_id=f"p{index}", index=index, question=f"what is {index}?", reference=str(index), metadata={})


def trajectory(request_id: str, *, versions: Sequence[int] = (0, 0, 0)) -> Trajectory:
    segments: list[Segment] = []
    for version in versions:
        segments.append(Segment(version, (5 + version,), (-0.5,)))
    return Trajectory(Completion(request_id, tuple(segments), "stop"), "rollout-0", 10.0, 12.0)


def scored_group(index: int, *, admitted_version: int = 0, rewards: Sequence[float] = (1.0, 0.0)) -> ScoredGroup:
    return ScoredGroup(
        index,
        prompt(index),
        (1, 2),
        admitted_version,
        [trajectory(f"{index}/{sample}#1") for sample in range(len(rewards))],
        [Score(reward, {"math": reward}) for reward in rewards],
    )
