"""The graph pool: TLT's table 5 from a model of two figures of it, the byte budget, and what vLLM is told."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.speculation.arms import Arm, everywhere
from actors.speculation.graph_pool import Graph, GraphBytes, GraphPool, Strategy, plan, wanted
from actors.speculation.vllm_graphs import capture_sizes, captured, schedule
from tests.actors.speculation.worlds import TLT_SPEED_UP

TLT_SIZES = (1, 2, 4, 8, 16, 32)
ONE, ALL, BUCKETED = 7.81, 30.39, 10.69
"""GB: one strategy, all strategies, bucketed (TLT, arXiv 2511.16665, table 5)."""
TLT = {verify: Strategy(str(verify), verify, "eagle") for verify in TLT_SPEED_UP}


def _tlt_bytes() -> GraphBytes:
    """The model from the first two figures of table 5 alone.

    Assumed, as the table does not say: the four strategies of table 4, captured at its batch sizes; the one strategy is
    the largest; all four build their trees alike, so share the drafter's graphs; and the drafter's one layer against 64
    of the target gives its share. Then two equations fix the two unknowns, in sums over the sizes:

        one = fixed * (6 + 6/64) + per_token * 64 * 63 + (drafter: negligible tokens)
        all = fixed * (4 * 6 + 6/64) + per_token * (16 + 32 + 48 + 64) * 63
    """
    share, count, total = 1 / 64, len(TLT_SIZES), sum(TLT_SIZES)
    a, b = count * (1 + share), total * (64 + share)
    c, d = count * (4 + share), total * (sum(TLT) + share)
    determinant = a * d - b * c
    return GraphBytes((ONE * d - b * ALL) / determinant, (a * ALL - ONE * c) / determinant, share)


def _near_best(verify: int, size: int) -> bool:
    """The bucket of a strategy: where table 4 has it within 2 % of the best."""
    column = TLT_SIZES.index(size)
    best = max(row[column] for row in TLT_SPEED_UP.values())
    return TLT_SPEED_UP[verify][column] >= 0.98 * best


def test_the_model_gives_the_two_figures_it_was_made_from() -> None:
    size_of = _tlt_bytes()
    assert min(size_of.fixed, size_of.per_token) > 0
    one = wanted({TLT[64]: lambda _: True}, TLT_SIZES)
    every = wanted({strategy: lambda _: True for strategy in TLT.values()}, TLT_SIZES)
    assert sum(map(size_of, one)) == pytest.approx(ONE)
    assert sum(map(size_of, every)) == pytest.approx(ALL)


def test_it_predicts_the_third_figure() -> None:
    """11.3 GB for 10.69, 2.7 times less than all for 2.8: the figure that the model was not made from."""
    size_of = _tlt_bytes()
    strategies = {TLT[verify]: lambda size, verify=verify: _near_best(verify, size) for verify in TLT}
    bucketed = sum(map(size_of, wanted(strategies, TLT_SIZES)))  # type: ignore[arg-type]
    assert bucketed == pytest.approx(BUCKETED, rel=0.07)
    assert pytest.approx(ALL / BUCKETED, rel=0.07) == ALL / bucketed


def test_the_prediction_rests_on_the_buckets_that_were_assumed() -> None:
    """One arm per size would need less than one strategy does; the published figure needs buckets that overlap."""
    size_of = _tlt_bytes()
    best = {size: max(TLT, key=lambda verify: TLT_SPEED_UP[verify][TLT_SIZES.index(size)]) for size in TLT_SIZES}
    strategies = {TLT[verify]: lambda size, verify=verify: best[size] == verify for verify in TLT}
    assert sum(map(size_of, wanted(strategies, TLT_SIZES))) < ONE  # type: ignore[arg-type]


def test_equal_shapes_share_the_drafters_graphs_and_others_do_not() -> None:
    two = {Strategy("a", 3, "eagle"): lambda _: True, Strategy("b", 5, "eagle"): lambda _: True}
    graphs = wanted(two, [1, 2])
    assert sum(graph.part == "target" for graph in graphs) == 4
    assert sum(graph.part == "draft" for graph in graphs) == 2
    other = two | {Strategy("c", 5, "mtp"): lambda _: True, Strategy("plain", 1): lambda _: True}
    graphs = wanted(other, [1, 2])
    assert sum(graph.part == "target" for graph in graphs) == 6, "b and c verify alike"
    assert sum(graph.part == "draft" for graph in graphs) == 4


GRAPHS = st.lists(
    st.builds(Graph, st.sampled_from(("target", "draft")), st.integers(1, 64), st.integers(1, 8)),
    unique=True,
    max_size=20,
)


@given(graphs=GRAPHS, budget=st.floats(0, 3000), values=st.lists(st.floats(0.1, 10), min_size=20, max_size=20))
@settings(deadline=None)
def test_a_plan_keeps_to_the_budget_and_leaves_out_only_what_is_worth_less(
    graphs: list[Graph], budget: float, values: list[float]
) -> None:
    size_of, worth = GraphBytes(20, 1, 0.1), dict(zip(graphs, values, strict=False))
    must = {graph for graph in graphs if graph.part == "target" and graph.tokens == 1}
    if sum(map(size_of, must)) > budget:
        with pytest.raises(ValueError, match="required graphs"):
            plan(graphs, size_of, budget, value=worth.__getitem__)
        return
    found = plan(graphs, size_of, budget, value=worth.__getitem__)
    assert found.bytes == pytest.approx(sum(map(size_of, found.graphs)))
    assert found.bytes <= budget
    assert sorted(map(str, (*found.graphs, *found.left_out))) == sorted(map(str, graphs))
    assert must <= set(found.graphs)
    density = {graph: worth[graph] / size_of(graph) for graph in graphs}
    chosen = [density[graph] for graph in found.graphs if graph not in must]
    assert not chosen or all(density[graph] <= min(chosen) + 1e-12 for graph in found.left_out)


def test_the_least_used_graph_makes_room() -> None:
    pool = GraphPool(lambda graph: 10.0, 25.0, half_life=4)
    old, new, newest = (Graph("target", size, 4) for size in (1, 2, 4))
    assert pool.add(old) == ()
    assert pool.add(new) == ()
    for _ in range(8):
        pool.use(new)
    for _ in range(3):
        assert pool.use(old)
    assert not pool.use(newest), "a miss"
    assert pool.value(old) > pool.value(new) - 2
    assert pool.add(newest, value=0.5) is None, "not worth either"
    gone = pool.add(newest, value=100.0)
    assert gone is not None
    assert len(gone) == 1
    assert pool.graphs == {old, new, newest} - set(gone)
    assert pool.bytes == 20.0


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 6), st.floats(0, 5)), max_size=60), st.floats(0, 60))
def test_the_account_never_passes_its_budget(moves: list[tuple[bool, int, float]], budget: float) -> None:
    size_of = GraphBytes(5, 1, 0.1)
    pool = GraphPool(size_of, budget)
    for add, batch, value in moves:
        graph = Graph("target", batch, 2)
        if add:
            pool.add(graph, value=value)
        else:
            assert pool.use(graph) == (graph in pool.graphs)
        assert pool.bytes == pytest.approx(sum(map(size_of, pool.graphs)))
        assert pool.bytes <= budget


def test_vllm_counts_tokens_and_captures_every_declared_length_at_every_size() -> None:
    strategies = {Strategy("plain", 1): lambda _: True, Strategy("k=3", 4, "eagle"): lambda size: size <= 2}
    found = plan(wanted(strategies, [1, 2, 4, 8]), GraphBytes(1, 0, 0.1), 100)
    sizes = capture_sizes(found)
    assert sizes == (1, 2, 4, 8)
    assert captured(sizes, (0, 3), 8) == {(1, 0), (2, 0), (4, 0), (8, 0), (1, 3), (2, 3)}


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4, unique=True),
    running=st.integers(1, 200),
    start=st.dictionaries(st.integers(0, 7), st.integers(0, 0), max_size=4),
)
def test_a_schedule_declares_every_length_and_is_one_that_vllm_takes(
    lengths: list[int], running: int, start: dict[int, int]
) -> None:
    table = everywhere([Arm(k) for k in lengths])
    if running < len(table.arms):
        with pytest.raises(ValueError, match="too few"):
            schedule(table, start, running)
        return
    ranges = schedule(table, start, running)
    assert ranges[0][0] == 1
    assert ranges[-1][1] == running
    assert all(low[1] + 1 == high[0] and low[2] != high[2] for low, high in itertools.pairwise(ranges))
    assert {k for _, _, k in ranges} == {arm.k for arm in table.arms}


def test_vllm_expands_the_schedule_as_meant() -> None:
    utils = pytest.importorskip("vllm.v1.spec_decode.dynamic.utils")
    ranges = schedule(everywhere([Arm(1), Arm(3)]), {5: 1, 6: 0, 7: 0}, 80)
    lookup = utils.build_dynamic_sd_schedule_lookup([list(entry) for entry in ranges], 80, 3)
    assert lookup[1:] == [k for first, last, k in ranges for _ in range(first, last + 1)]
    assert lookup[1] == 3
    assert lookup[20] == 1
    assert lookup[80] == 0
