"""What the learner trains on: frozen sequences of tokens with everything that the loss needs beside them.

Invariants, held by `TrainSequence.__post_init__`: the response part of every per-token field has the same length;
prompt tokens carry no loss. A batch keeps the order in which it was built, so that a seeded run repeats.
"""

import math
from dataclasses import dataclass

_MAY_BE_EMPTY = ("off_policy", "token_rewards")


@dataclass(frozen=True, slots=True)
class TrainSequence:
    """One answer with its prompt. R = number of response tokens.

    Attributes:
        sequence_id: the trajectory's id.
        prompt_ids: token ids of the prompt.
        response_ids: [R] token ids that the policy sampled.
        behaviour_logprobs: [R] log-probability of each sampled token under the weights and engine that sampled it; nan
            where nobody knows it, which only tokens without loss and off-policy ones may have.
        versions: [R] weight version that sampled each token.
        advantages: [R] advantage of each token.
        loss_mask: [R] True where the token takes loss.
        reward: of the answer.
        group_reward: mean reward of the answers to its prompt.
        group_id: names what it is compared with: its prompt's group, or a pair. Empty: a group of its own.
        off_policy: [R] True where another than the trained policy wrote the token (a worked solution, a teacher);
            empty where the policy wrote them all.
        truncated: it was cut before its end, at the greatest length that it was allowed.
        token_rewards: [R] what each token was given beside `reward`; empty where none was. Advantages that are made
            before the batch hold it already: it is for those that a critic's values make.
    """

    sequence_id: str
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    behaviour_logprobs: tuple[float, ...]
    versions: tuple[int, ...]
    advantages: tuple[float, ...]
    loss_mask: tuple[bool, ...]
    reward: float = 0.0
    group_reward: float = 0.0
    group_id: str = ""
    off_policy: tuple[bool, ...] = ()
    truncated: bool = False
    token_rewards: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        length = len(self.response_ids)
        for name in ("behaviour_logprobs", "versions", "advantages", "loss_mask", *_MAY_BE_EMPTY):
            if len(getattr(self, name)) != length and (name not in _MAY_BE_EMPTY or getattr(self, name)):
                raise ValueError(
                    f"{self.sequence_id}: {name} has {len(getattr(self, name))} entries for {length} response tokens"
                )
        if not self.prompt_ids or not length:
            raise ValueError(f"{self.sequence_id}: a sequence to train on needs a prompt and a response")
        unknown = self._trained_without_logprob()
        if unknown is not None:
            raise ValueError(
                f"{self.sequence_id}: response token {unknown} takes loss and has no behaviour logprob: mask it, or "
                f"mark it as off-policy"
            )

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)

    @property
    def loss_tokens(self) -> int:
        return sum(self.loss_mask)

    def _trained_without_logprob(self) -> int | None:
        """Place of the first token whose ratio nobody can tell; None where there is none."""
        own = self.loss_mask
        if self.off_policy:
            own = tuple(takes and not foreign for takes, foreign in zip(own, self.off_policy, strict=True))
        places = zip(own, self.behaviour_logprobs, strict=True)
        return next((place for place, (takes, value) in enumerate(places) if takes and math.isnan(value)), None)


@dataclass(frozen=True, slots=True)
class TrainBatch:
    """The sequences of one training step, in order.

    Attributes:
        version: the learner's version when the batch was built: staleness of a token = version - its own.
    """

    version: int
    sequences: tuple[TrainSequence, ...]

    @property
    def tokens(self) -> int:
        return sum(len(s) for s in self.sequences)

    @property
    def loss_tokens(self) -> int:
        return sum(s.loss_tokens for s in self.sequences)
