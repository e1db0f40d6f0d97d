"""Small groups, trajectories and prompts for tests, with every field real."""

from collections.abc import Mapping, Sequence

from actors.engine import Completion, FinishReason, Segment
from actors.trajectory import Leg, Trajectory
from orchestrator.data.prompts import Prompt
from orchestrator.policies.groups import ScoredGroup
from rewards.response import Score


class CountingSource:
    """Prompts 0, 1, 2, ..."""

    def __init__(self) -> None:
        self.drawn = 0

    def next(self) -> Prompt:
        self.drawn += 1
        return prompt(self.drawn - 1)

    def preview(self) -> list[Prompt]:
        return [prompt(0)]

    def eval_prompts(self) -> list[Prompt]:
        return []

    def state(self) -> Mapping[str, int]:
        return {"drawn": self.drawn}

    def restore(self, state: Mapping[str, int]) -> None:
        self.drawn = state["drawn"]


def prompt(index: int) -> Prompt:
    return Prompt(prompt_id=f"p{index}", index=index, question=f"what is {index}?", reference=str(index), metadata={})


def trajectory(
    request_id: str, *, versions: Sequence[int] = (0, 0, 0), finish_reason: FinishReason = "stop"
) -> Trajectory:
    segments: list[Segment] = []
    for version in versions:
        segments.append(Segment(version, (5 + version,), (-0.5,)))
    leg = Leg("rollout-0", 10.0, 12.0, len(versions))
    return Trajectory(Completion(request_id, tuple(segments), finish_reason), (leg,))


def scored_group(
    index: int,
    *,
    admitted_version: int = 0,
    rewards: Sequence[float] = (1.0, 0.0),
    oldest: Sequence[int] | None = None,
) -> ScoredGroup:
    """`oldest`: version of each answer's first token; None is the admitted version for all."""
    first = [admitted_version] * len(rewards) if oldest is None else oldest
    return ScoredGroup(
        index,
        prompt(index),
        (1, 2),
        admitted_version,
        [trajectory(f"{index}/{sample}#1", versions=(version, version)) for sample, version in enumerate(first)],
        [Score(reward, {"math": reward}) for reward in rewards],
    )
