"""From scored groups to what the learner trains on: advantages per answer, spread over its tokens.

Pure. A masked answer counts in its group's baseline and takes no loss. Keeps the order of groups and samples, so that a
seeded synchronous run builds the same batch every time.
"""

from collections.abc import Sequence

from learners.advantages import ADVANTAGES, GroupRewards
from learners.batch import TrainBatch, TrainSequence
from orchestrator.policies.groups import ScoredGroup


def build_batch(groups: Sequence[ScoredGroup], *, advantage: str, version: int) -> TrainBatch:
    """Args:
    advantage: name in `learners.advantages`.
    version: the learner's version now.
    """
    estimator = ADVANTAGES[advantage]
    sequences = []
    for group in groups:
        values = estimator(GroupRewards(tuple(score.total for score in group.scores)))
        for number, (trajectory, value) in enumerate(zip(group.trajectories, values, strict=True)):
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
                )
            )
    return TrainBatch(version, tuple(sequences))
