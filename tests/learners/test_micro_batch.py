from dataclasses import replace

import pytest

from learners.aggregation import BatchCounts
from learners.batch import TrainSequence
from learners.micro_batch import Part, cut_minibatches, cut_part, micro_batch


def sequence(name: str, prompt: int, mask: tuple[bool, ...], *, group: str = "") -> TrainSequence:
    length = len(mask)
    return TrainSequence(
        sequence_id=name,
        prompt_ids=tuple(range(100, 100 + prompt)),
        response_ids=tuple(range(length)),
        behaviour_logprobs=tuple(-1.0 - place for place in range(length)),
        versions=tuple(range(length)),
        advantages=tuple(10.0 + place for place in range(length)),
        loss_mask=mask,
        group_id=group,
    )


def test_trained_tokens_line_up_with_the_row() -> None:
    micro = micro_batch([sequence("a", 2, (True, False, True)), sequence("b", 1, (True,))], version=4)
    # Row: 100 101 | 0 1 2 || 100 | 0; trained: a's 0 and 2, b's 0.
    row = micro.packed.input_ids
    assert row[micro.positions + 1].tolist() == [0, 2, 0]
    assert micro.positions.tolist() == [1, 3, 5]
    assert micro.sequence.tolist() == [0, 0, 1]
    assert micro.behaviour.tolist() == [-1.0, -3.0, -1.0]
    assert micro.advantages.tolist() == [10.0, 12.0, 10.0]
    assert micro.staleness.tolist() == [4, 2, 4]


def test_rewards_of_untrained_tokens_go_to_the_last_trained_one_before_them() -> None:
    own = replace(sequence("a", 2, (False, True, False, False, True)), token_rewards=(9.0, 1.0, 0.25, 0.5, -1.0))
    micro = micro_batch([own, sequence("b", 1, (True,))], version=4)
    assert micro.token_rewards.tolist() == [1.75, -1.0, 0.0]


def test_minibatches_keep_order_and_count_their_own() -> None:
    items = [sequence(str(n), 2, (True,) * (n + 1)) for n in range(5)]
    cut = cut_minibatches(items, version=9, minibatches=2, token_budget=100, rank=0, ranks=1)
    assert [(part.counts.tokens, part.counts.sequences) for part in cut] == [(1 + 2, 2), (3 + 4 + 5, 3)]


def test_ranks_share_the_tokens_and_know_the_whole_counts() -> None:
    items = [sequence(str(n), 2, (True,) * (n + 1)) for n in range(7)]
    parts = [
        cut_minibatches(items, version=9, minibatches=1, token_budget=20, rank=rank, ranks=2)[0] for rank in range(2)
    ]
    assert all(part.counts.tokens == 28 for part in parts)
    assert sum(micro.positions.numel() for part in parts for micro in part.micro_batches) == 28
    assert len(parts[0].micro_batches) == len(parts[1].micro_batches)


def test_untrained_sequences_cost_nothing() -> None:
    items = [sequence("a", 2, (False, False)), sequence("b", 2, (True, False))]
    (part,) = cut_minibatches(items, version=9, minibatches=3, token_budget=100, rank=0, ranks=1)
    assert part.counts.sequences == 1
    assert part.micro_batches[0].packed.input_ids.numel() == 4


def test_nothing_to_train_on() -> None:
    with pytest.raises(ValueError, match="nothing to train on"):
        cut_minibatches([sequence("a", 1, (False,))], version=0, minibatches=1, token_budget=9, rank=0, ranks=1)


@pytest.mark.parametrize("items", [[], [sequence("a", 3, (False, False))]])
def test_a_part_without_a_trained_token_has_no_micro_batch_on_any_rank(items: list[TrainSequence]) -> None:
    parts = [cut_part(items, version=0, token_budget=9, rank=rank, ranks=2) for rank in range(2)]
    assert parts == [Part((), BatchCounts())] * 2


def test_a_part_smaller_than_the_ranks_gives_the_others_an_empty_row() -> None:
    parts = [cut_part([sequence("a", 2, (True,))], version=0, token_budget=9, rank=rank, ranks=2) for rank in range(2)]
    assert [part.counts for part in parts] == [BatchCounts(1, 1, 1)] * 2
    assert [[micro.positions.numel() for micro in part.micro_batches] for part in parts] == [[1], [0]]


def groups_of(sizes: list[int]) -> list[TrainSequence]:
    """Groups of so many answers of 2 + 1, 2 + 2, ... tokens; the second answer of each takes no loss."""
    return [
        sequence(f"{group}/{answer}", 2, (answer != 1,) * (answer + 1), group=str(group))
        for group, size in enumerate(sizes)
        for answer in range(size)
    ]


@pytest.mark.parametrize("ranks", [1, 2])
def test_whole_groups_stay_in_one_micro_batch(ranks: int) -> None:
    items = groups_of([4, 3, 4, 2, 4])
    parts = [
        cut_minibatches(items, version=0, minibatches=2, token_budget=20, rank=rank, ranks=ranks, whole_groups=True)
        for rank in range(ranks)
    ]
    rows = [micro for rank in parts for part in rank for micro in part.micro_batches]
    owners: dict[str, list[int]] = {}
    for number, micro in enumerate(rows):
        for identity in micro.sequence_ids:
            owners.setdefault(identity.split("/")[0], []).append(number)
        groups = [int(identity.split("/")[0]) for identity in micro.sequence_ids]
        order = {group: place for place, group in enumerate(dict.fromkeys(groups))}
        assert micro.group.tolist() == [order[groups[owner]] for owner in micro.sequence.tolist()]
        assert micro.packed.input_ids.numel() <= 20
    assert {group: len(set(places)) for group, places in owners.items()} == dict.fromkeys("01234", 1)
    # The first step has groups 0 and 1, the second the others: 3 + 2 trained answers, then 3 + 1 + 3.
    assert [part.counts.sequences for part in parts[0]] == [5, 7]
    assert all(rank[step].counts == parts[0][step].counts for rank in parts for step in range(2))


def test_a_group_beyond_the_token_budget_is_named() -> None:
    with pytest.raises(ValueError, match=r"trainer\.token_budget is 13, but a group has 14 tokens"):
        cut_part(groups_of([4]), version=0, token_budget=13, rank=0, ranks=1, whole_groups=True)
    assert cut_part(groups_of([4]), version=0, token_budget=13, rank=0, ranks=1).counts.sequences == 3


def test_sequences_without_a_group_are_groups_of_their_own() -> None:
    items = [sequence(str(n), 2, (True,)) for n in range(3)]
    part = cut_part(items, version=0, token_budget=6, rank=0, ranks=1, whole_groups=True)
    assert [micro.group.tolist() for micro in part.micro_batches] == [[0, 1], [0]]
