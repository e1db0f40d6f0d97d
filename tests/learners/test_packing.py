import random

import pytest

from learners.packing import pack, plan_micro_batches


def test_row_positions_and_boundaries() -> None:
    packed = pack([[5, 6, 7], [8], [9, 10]])
    assert packed.input_ids.tolist() == [5, 6, 7, 8, 9, 10]
    assert packed.position_ids.tolist() == [0, 1, 2, 0, 0, 1]
    assert packed.cu_seqlens.tolist() == [0, 3, 4, 6]
    assert packed.max_len == 3
    assert packed.lengths == [3, 1, 2]
    # The last token of a sequence predicts nothing: the next one belongs to somebody else.
    assert packed.next_token_positions().tolist() == [0, 1, 4]


@pytest.mark.parametrize("sequences", [[], [[1], []]])
def test_nothing_to_pack(sequences: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        pack(sequences)


@pytest.mark.parametrize("seed", range(20))
def test_plan_invariants(seed: int) -> None:
    draw = random.Random(seed)
    lengths = [draw.randint(1, 300) for _ in range(draw.randint(1, 70))]
    ranks = draw.randint(1, 4)
    budget = draw.randint(300, 2000)
    plan = plan_micro_batches(lengths, budget, ranks)
    assert len(plan) == ranks
    assert len({len(rounds) for rounds in plan}) == 1
    rows = [row for rounds in plan for row in rounds]
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert max(sum(lengths[i] for i in row) for row in rows) <= budget
    if len(lengths) >= len(rows):
        assert all(rows), "no empty micro-batch where there are sequences enough"
    loads = [sum(lengths[i] for row in rounds for i in row) for rounds in plan]
    assert max(loads) - min(loads) <= max(lengths), "ranks differ by less than one sequence"
    assert plan == plan_micro_batches(lengths, budget, ranks)


@pytest.mark.parametrize("ranks", [1, 2, 8])
@pytest.mark.parametrize("seed", range(5))
def test_a_long_tail_fills_nearly_all_places_of_all_ranks(seed: int, ranks: int) -> None:
    """A rank that waits in a round for a fuller row counts as padding."""
    draw = random.Random(seed)
    lengths = [min(1024, max(8, round(draw.lognormvariate(0, 1.0) * 128))) for _ in range(512)]
    plan = plan_micro_batches(lengths, 2048, ranks)
    loads = [[sum(lengths[index] for index in row) for row in rounds] for rounds in plan]
    places = sum(ranks * max(turn) for turn in zip(*loads, strict=True))
    assert sum(lengths) / places >= 0.95


def test_fewest_rounds_where_the_cut_is_easy() -> None:
    assert len(plan_micro_batches([10] * 16, 40, 2)[0]) == 2
    assert len(plan_micro_batches([10] * 16, 160, 1)[0]) == 1


def test_fewer_sequences_than_ranks_leaves_ranks_empty_but_in_step() -> None:
    plan = plan_micro_batches([7], 10, 3)
    assert sorted(plan) == [((),), ((),), ((0,),)]


def test_a_sequence_over_budget_names_the_setting() -> None:
    with pytest.raises(ValueError, match=r"trainer\.token_budget is 10, .* 11 tokens"):
        plan_micro_batches([3, 11], 10)
