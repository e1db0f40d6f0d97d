"""How many processes each role has, and what each of them is given: the one place that knows where a recipe says so."""

from dataclasses import dataclass

from orchestrator.config import Recipe
from orchestrator.stages.recipes import StageRecipe

LEARNER_RANKS = "topology.learner.ranks"
SEQUENCE_PARALLEL = "topology.learner.sequence_parallel"
ENGINES = "topology.rollout.workers"
TENSOR_PARALLEL = "topology.rollout.tensor_parallel"


@dataclass(frozen=True, slots=True)
class Places:
    """Attributes:
    learner_threads: of a rank on the CPU; None divides the machine's cores among the actors.
    engines: 0 where the stage samples nothing.
    """

    ranks: int
    sequence_parallel: int
    learner_threads: int | None
    engines: int = 0
    tensor_parallel: int = 1
    engine_threads: int = 1
    reward_workers: int = 0

    @property
    def readers(self) -> int:
        """Ranks, or groups of ranks that share rows: what a batch is cut for."""
        return self.ranks // self.sequence_parallel


def places_of(recipe: StageRecipe) -> Places:
    learner = recipe.topology.learner
    if not isinstance(recipe, Recipe):
        return Places(learner.ranks, learner.sequence_parallel, learner.threads)
    rollout = recipe.topology.rollout
    return Places(
        learner.ranks,
        learner.sequence_parallel,
        learner.threads,
        rollout.workers,
        rollout.tensor_parallel,
        rollout.threads,
        recipe.reward.workers,
    )
