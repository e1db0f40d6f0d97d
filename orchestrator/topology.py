"""How many of each role there are, and what each takes: the one section that a laptop, a Ray job and Kubernetes share.

Nothing here says what a role does, so the same recipe runs in all three places; `orchestrator.placement` makes bundles
of it, which become a Ray placement group, and the pods of a rendered cluster are sized by the same bundles.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from learners.settings import LearnerPlaces, Section


class RolloutPlaces(Section):
    workers: int = Field(1, ge=1)
    """Engines, each in an actor of its own."""
    most: int | None = Field(None, ge=1)
    """Engines that the run may grow to where the cluster has room, beyond `workers`; None stays at `workers`."""
    tensor_parallel: int = Field(1, ge=1)
    """GPUs over which one engine's weights are spread."""
    gpus: float | None = Field(None, ge=0)
    """GPUs of one engine; None is `tensor_parallel` where the run is on GPUs, and half a one where it shares it."""
    cpus: float = Field(1.0, ge=0)
    """Cores that Ray sets aside for one engine."""
    memory_gib: float | None = Field(None, gt=0)
    """Main memory that Ray sets aside for one engine; None sets none aside."""
    threads: int = Field(1, ge=1)
    """CPU threads of one engine's forward pass, where there is no GPU."""
    nodes: str | None = None
    """Custom resource of the nodes that the engines shall be on; None is any node."""

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.most is not None and self.most < self.workers:
            raise ValueError(f"most={self.most} is less than workers={self.workers}: raise it, or leave it out")
        return self


class RewardPlaces(Section):
    """Of the actor whose child processes score answers; `reward.workers` is how many children it has."""

    cpus: float = Field(0.0, ge=0)
    """Cores that Ray sets aside for it; 0 lets it run beside others, on any node."""
    memory_gib: float | None = Field(None, gt=0)
    nodes: str | None = None


class DrafterPlaces(Section):
    """Of the drafter's trainer, which computes where nobody else does: by default it has nothing to itself."""

    cpus: float = Field(0.0, ge=0)
    gpus: float | None = Field(None, ge=0)
    """None is a sliver where the run is on GPUs, so that it sees one."""
    nodes: str | None = None


class JudgePlaces(Section):
    """Of each model of `reward.models` that the run serves itself."""

    cpus: int = Field(1, ge=1)
    """Cores that it computes with, and that Ray sets aside."""
    gpus: float = Field(0.0, ge=0)
    """GPUs that it has to itself; 0 computes on cores."""
    memory_gib: float | None = Field(None, gt=0)
    nodes: str | None = None


class Topology(Section):
    rollout: RolloutPlaces = RolloutPlaces()
    learner: LearnerPlaces = LearnerPlaces()
    reward: RewardPlaces = RewardPlaces()
    drafter: DrafterPlaces = DrafterPlaces()
    judges: dict[str, JudgePlaces] = Field(default_factory=dict)
    """By the name of a served model in `reward.models`; one that is not named here takes the defaults."""
    colocate: Literal["auto", "always", "never"] = "auto"
    """Whether each engine shares its GPU with a learner rank. `auto`: where this machine has too few for both."""

    def judge_places(self, name: str) -> JudgePlaces:
        """Of the served model of this name."""
        return self.judges.get(name, JudgePlaces())


class LearnerTopology(Section):
    """Of a recipe that trains without engines."""

    learner: LearnerPlaces = LearnerPlaces()
