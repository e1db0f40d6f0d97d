"""From scored groups to what the learner trains on: advantages per answer, spread over its tokens.

A masked answer counts in its group's baseline and takes no loss; a greedy one is nothing but a baseline and not in the
batch. Keeps the order of groups and samples, so that a
seeded synchronous run builds the same batch every time. The one thing that it remembers from batch to batch is the
advantage norm's state. Where advantages are made of a critic's values, the learner makes and norms them, and what goes
there with each answer is its reward, with those of its tokens.
"""

from collections.abc import Callable, Sequence
from statistics import fmean

from learners.advantages import ADVANTAGES, NORMS, TRACE_ADVANTAGES, GroupAdvantages, GroupRewards, Trace, TracedGroup
from learners.batch import TrainBatch, TrainSequence
from learners.critic.advantages import asks_critic
from learners.options import with_options
from learners.settings import AlgorithmSettings
from orchestrator.data.prompts import Prompt
from orchestrator.policies.groups import ScoredGroup

PromptOf = Callable[[ScoredGroup, int], tuple[int, ...]]
"""Token ids of the prompt under which the answer with this number was sampled."""


class BatchBuilder:
    """Args:
    algorithm: names the estimator and the norm of the advantages, with their options.
    prompt_of, part_of: where the answers of a group are asked for differently: each one's prompt, and subgroup.
    budgets: where answers are cut for a value along them, and behind that the most tokens of an answer.
    """

    def __init__(
        self,
        algorithm: AlgorithmSettings,
        *,
        prompt_of: PromptOf = lambda group, _: group.prompt_ids,
        part_of: Callable[[int], int] = lambda _: 0,
        budgets: tuple[int, ...] = (),
    ) -> None:
        name, options = algorithm.advantage, algorithm.advantage_options
        self._along = with_options(TRACE_ADVANTAGES[name], options) if name in TRACE_ADVANTAGES.names() else None
        self._estimator = None
        self.norm = with_options(NORMS[algorithm.advantage_norm], algorithm.advantage_norm_options)()
        if asks_critic(name):
            self._estimator, self.norm = ADVANTAGES["raw"], NORMS["none"]()
        elif self._along is None:
            self._estimator = with_options(ADVANTAGES[name], options)
        self._prompt_of, self._part_of, self._budgets = prompt_of, part_of, budgets

    def usable(self, group: ScoredGroup) -> bool:
        """Whether there is anything to train on in the group: in any (see `algorithm.drop_zero_variance`)."""
        return True

    def build(self, groups: Sequence[ScoredGroup], version: int) -> TrainBatch:
        """Args: version: the learner's now."""
        sequences: list[TrainSequence] = []
        for group, advantages in zip(groups, self._advantages(groups), strict=True):
            mean = fmean(group.scores[number].total for number in group.compared)
            for number, of_tokens in zip(group.compared, advantages, strict=True):
                answer = group.trajectories[number].completion
                sequences.append(
                    TrainSequence(
                        sequence_id=f"{group.index}/{number}",
                        prompt_ids=self._prompt_of(group, number),
                        response_ids=answer.token_ids,
                        behaviour_logprobs=answer.logprobs,
                        versions=answer.versions,
                        advantages=of_tokens,
                        loss_mask=(number not in group.masked,) * len(answer.token_ids),
                        reward=group.scores[number].total,
                        group_reward=mean,
                        group_id=str(group.index),
                        off_policy=(True,) * len(answer.token_ids) if number in group.foreign else (),
                        truncated=answer.finish_reason == "length",
                        token_rewards=group.rewards_along(number),
                    )
                )
        return TrainBatch(version, tuple(sequences))

    def _advantages(self, groups: Sequence[ScoredGroup]) -> list[list[tuple[float, ...]]]:
        """[group][compared answer][token]"""
        if self._along is not None:
            return [self._along(self._traced(group)) for group in groups]
        advantages = self.norm([self._compared(group) for group in groups])
        return [
            [(float(value),) * length for value, length in zip(of_group, _lengths(group), strict=True)]
            for group, of_group in zip(groups, advantages, strict=True)
        ]

    def _compared(self, group: ScoredGroup) -> GroupAdvantages:
        assert self._estimator is not None, "answers are compared whole, or along their way"
        scores = [group.scores[number] for number in group.compared]
        rewards = tuple(score.total for score in scores)
        known = GroupRewards(
            rewards,
            terms=tuple(score.terms for score in scores),
            greedy=None if group.greedy is None else group.scores[group.greedy].total,
            parts=tuple(self._part_of(number) for number in group.compared),
        )
        return GroupAdvantages(rewards, self._estimator(known), _task(group.prompt))

    def _traced(self, group: ScoredGroup) -> TracedGroup:
        traces = []
        for number, length in zip(group.compared, _lengths(group), strict=True):
            cuts = group.values[number] if number < len(group.values) else ()
            places, values = tuple(cut for cut, _ in cuts), tuple(value for _, value in cuts)
            traces.append(Trace(length, group.scores[number].total, places, values, group.rewards_along(number)))
        return TracedGroup(tuple(traces), self._budgets)


def _task(prompt: Prompt) -> str:
    """What norms keep apart: the prompt's task, and the role in it where the data name one, as in self-play."""
    return "/".join(str(prompt.metadata[key]) for key in ("task", "role") if key in prompt.metadata)


def _lengths(group: ScoredGroup) -> list[int]:
    """Tokens of each compared answer."""
    return [len(group.trajectories[number].completion.token_ids) for number in group.compared]
