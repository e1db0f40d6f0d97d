"""From the sequences of a training batch to the tensors of one forward pass.

Only trained tokens get an entry: everything downstream of the model is [N], N = tokens with `loss_mask`, in
the order of the packed row, and knows no masks. A micro-batch without sequences still holds a row (two
tokens, N = 0), because its rank must run the same collectives as the others.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from learners.aggregation import BatchCounts
from learners.batch import TrainSequence
from learners.errors import EmptyBatchError
from learners.packing import PackedSequences, pack, plan_micro_batches


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """What a critic learns from N trained tokens.

    Attributes:
        values: [N] float32, of the states before them under the weights at the start of the batch.
        returns: [N] float32, what they should have been.
        teaches: [N] bool, whether the critic learns from the token.
    """

    values: Tensor
    returns: Tensor
    teaches: Tensor

    def to(self, device: torch.device) -> "Lesson":
        return Lesson(self.values.to(device), self.returns.to(device), self.teaches.to(device))


@dataclass(frozen=True, slots=True, eq=False)
class MicroBatch:
    """One packed row and its N trained tokens.

    Attributes:
        packed: prompts and answers, on the CPU.
        sequence_ids: of the row's sequences; empty where the row is there for the collectives alone.
        positions: [N] place in the row of the token before each trained one, ascending.
        sequence: [N] index of each token's sequence within the row.
        behaviour: [N] float32 behaviour logprobs.
        advantages: [N] float32.
        staleness: [N] float32, the batch's version minus the token's.
        rewards: [N] float32, of the token's answer; group_rewards: [N] float32, mean over its group.
        token_rewards: [N] float32, of the token itself and of those behind it up to the next trained one.
        group: [N] index of each token's group within the row.
        off_policy: [N] bool, whether another than the policy wrote it; its behaviour logprob may be nan.
        truncated: of the row's sequences, whether the answer was cut before its end.
        lesson: for the critic, where there is one.
    """

    packed: PackedSequences
    sequence_ids: tuple[str, ...]
    positions: Tensor
    sequence: Tensor
    behaviour: Tensor
    advantages: Tensor
    staleness: Tensor
    rewards: Tensor
    group_rewards: Tensor
    token_rewards: Tensor
    group: Tensor
    off_policy: Tensor
    truncated: tuple[bool, ...] = ()
    lesson: Lesson | None = None

    def to(self, device: torch.device) -> "MicroBatch":
        """The [N] tensors on a device; the row moves in the model's forward."""
        if device.type == "cpu":
            return self
        lesson = None if self.lesson is None else self.lesson.to(device)
        return replace(self, lesson=lesson, **{name: getattr(self, name).to(device) for name in _MOVED})


_MOVED = (
    *("sequence", "behaviour", "advantages", "staleness"),
    *("rewards", "group_rewards", "token_rewards", "group", "off_policy"),
)


@dataclass(frozen=True, slots=True)
class Part:
    """Sequences whose gradients add up: this rank's micro-batches of them, and the counts over all ranks.

    A part may be all that an optimizer step trains on, a minibatch, or one delivery of a streamed batch.
    """

    micro_batches: tuple[MicroBatch, ...]
    counts: BatchCounts


def cut_minibatches(
    sequences: Sequence[TrainSequence],
    *,
    version: int,
    minibatches: int,
    token_budget: int,
    rank: int,
    ranks: int,
    whole_groups: bool = False,
) -> tuple[Part, ...]:
    """Cut a batch into optimizer steps, in order and of even counts of units, and take this rank's share of each.

    Sequences without a trained token are left out; fewer units than minibatches give fewer minibatches.

    Args:
        whole_groups: a minibatch and a micro-batch hold all trained sequences of a group, or none; the steps then have
            even counts of groups.

    Raises:
        EmptyBatchError: no token takes loss.
        ValueError: a sequence, or with `whole_groups` a group, exceeds the token budget.
    """
    units = _units(sequences, whole_groups)
    if not units:
        raise EmptyBatchError
    steps = min(minibatches, len(units))
    bounds = [len(units) * step // steps for step in range(steps + 1)]
    return tuple(
        cut_part(
            [sequence for unit in units[begin:end] for sequence in unit],
            version=version,
            token_budget=token_budget,
            rank=rank,
            ranks=ranks,
            whole_groups=whole_groups,
        )
        for begin, end in itertools.pairwise(bounds)
    )


def cut_part(
    sequences: Sequence[TrainSequence],
    *,
    version: int,
    token_budget: int,
    rank: int,
    ranks: int,
    whole_groups: bool = False,
) -> Part:
    """Pack sequences into micro-batches and take this rank's share of them.

    Sequences without a trained token are left out; where there is no other, no rank has a micro-batch.

    Raises:
        ValueError: a sequence, or with `whole_groups` a group, exceeds the token budget.
    """
    units = _units(sequences, whole_groups)
    if not units:
        return Part((), BatchCounts())
    lengths = [sum(map(len, unit)) for unit in units]
    plan = plan_micro_batches(lengths, token_budget, ranks, unit="a group" if whole_groups else "a sequence")[rank]
    rows = [[sequence for index in row for sequence in units[index]] for row in plan]
    trained = [sequence for unit in units for sequence in unit]
    return Part(
        micro_batches=tuple(micro_batch(row, version) for row in rows),
        counts=BatchCounts(sum(sequence.loss_tokens for sequence in trained), len(trained), len(units)),
    )


def _units(sequences: Sequence[TrainSequence], whole_groups: bool) -> list[list[TrainSequence]]:
    """The sequences with a trained token, what must stay together together, in the order of each unit's first."""
    units: dict[object, list[TrainSequence]] = {}
    for place, sequence in enumerate(sequences):
        if sequence.loss_tokens:
            key = sequence.group_id if whole_groups and sequence.group_id else place
            units.setdefault(key, []).append(sequence)
    return list(units.values())


def _group_of(sequence: TrainSequence) -> tuple[str, str]:
    return (sequence.group_id, "" if sequence.group_id else sequence.sequence_id)


def rewards_of_trained(sequence: TrainSequence) -> list[float]:
    """What each trained token was given: its own, and what came behind it before the policy's next one.

    What came before the first of them is nobody's doing, and left out.
    """
    rewards: list[float] = []
    own_rewards = sequence.token_rewards or (0.0,) * len(sequence.loss_mask)
    for takes_loss, own in zip(sequence.loss_mask, own_rewards, strict=True):
        if takes_loss:
            rewards.append(own)
        elif rewards:
            rewards[-1] += own
    return rewards


def micro_batch(sequences: Sequence[TrainSequence], version: int) -> MicroBatch:
    """Pack sequences and line up what belongs to their trained tokens."""
    packed = pack([sequence.prompt_ids + sequence.response_ids for sequence in sequences] or [(0, 0)])
    positions: list[int] = []
    owners: list[int] = []
    behaviour: list[float] = []
    advantages: list[float] = []
    staleness: list[int] = []
    token_rewards: list[float] = []
    off_policy: list[bool] = []
    start = 0
    for index, sequence in enumerate(sequences):
        # The first response token is predicted at the last prompt token.
        first = start + len(sequence.prompt_ids) - 1
        for place, takes_loss in enumerate(sequence.loss_mask):
            if takes_loss:
                positions.append(first + place)
                owners.append(index)
                behaviour.append(sequence.behaviour_logprobs[place])
                advantages.append(sequence.advantages[place])
                staleness.append(version - sequence.versions[place])
                off_policy.append(bool(sequence.off_policy) and sequence.off_policy[place])
        token_rewards += rewards_of_trained(sequence)
        start += len(sequence)
    groups = {key: number for number, key in enumerate(dict.fromkeys(map(_group_of, sequences)))}
    return MicroBatch(
        packed=packed,
        sequence_ids=tuple(sequence.sequence_id for sequence in sequences),
        positions=torch.tensor(positions, dtype=torch.int64),
        sequence=torch.tensor(owners, dtype=torch.int64),
        behaviour=torch.tensor(behaviour, dtype=torch.float32),
        advantages=torch.tensor(advantages, dtype=torch.float32),
        staleness=torch.tensor(staleness, dtype=torch.float32),
        rewards=torch.tensor([sequences[owner].reward for owner in owners], dtype=torch.float32),
        group_rewards=torch.tensor([sequences[owner].group_reward for owner in owners], dtype=torch.float32),
        token_rewards=torch.tensor(token_rewards, dtype=torch.float32),
        group=torch.tensor([groups[_group_of(sequences[owner])] for owner in owners], dtype=torch.int64),
        off_policy=torch.tensor(off_policy, dtype=torch.bool),
        truncated=tuple(sequence.truncated for sequence in sequences),
    )
