"""From scored groups to what the learner trains on: advantages per answer, spread over its tokens.

A masked answer counts in its group's baseline and takes no loss. Keeps the order of groups and samples, so that a
seeded synchronous run builds the same batch every time. The one thing that it remembers from batch to batch is the
advantage norm's state.
"""

from collections.abc import Sequence
from statistics import fmean

from learners.advantages import ADVANTAGES, NORMS, GroupAdvantages, GroupRewards
from learners.batch import TrainBatch, TrainSequence
from learners.options import with_options
from learners.settings import AlgorithmSettings
from orchestrator.policies.groups import ScoredGroup


class BatchBuilder:
    """Args: algorithm: names the estimator and the norm of the advantages, with their options."""

    def __init__(self, algorithm: AlgorithmSettings) -> None:
        self._estimator = with_options(ADVANTAGES[algorithm.advantage], algorithm.advantage_options)
        self.norm = with_options(NORMS[algorithm.advantage_norm], algorithm.advantage_norm_options)()

    def build(self, groups: Sequence[ScoredGroup], version: int) -> TrainBatch:
        """Args: version: the learner's now."""
        compared = [self._compared(group) for group in groups]
        advantages = self.norm(compared)
        sequences = []
        for group, of_group, rewards in zip(groups, advantages, (c.rewards for c in compared), strict=True):
            mean = fmean(rewards)
            for number, (trajectory, value) in enumerate(zip(group.trajectories, of_group, strict=True)):
                answer = trajectory.completion
                length = len(answer.token_ids)
                sequences.append(
                    TrainSequence(
                        sequence_id=f"{group.index}/{number}",
                        prompt_ids=group.prompt_ids,
                        response_ids=answer.token_ids,
                        behaviour_logprobs=answer.logprobs,
                        versions=answer.versions,
                        advantages=(float(value),) * length,
                        loss_mask=(number not in group.masked,) * length,
                        reward=rewards[number],
                        group_reward=mean,
                    )
                )
        return TrainBatch(version, tuple(sequences))

    def _compared(self, group: ScoredGroup) -> GroupAdvantages:
        rewards = tuple(score.total for score in group.scores)
        task = str(group.prompt.metadata.get("task", ""))
        return GroupAdvantages(rewards, self._estimator(GroupRewards(rewards)), task)
