"""Whether bundles fit a cluster: never refused where a placing exists, never let through where none does."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.cluster_fit import Shortfall, placing, shortfall


@dataclass(frozen=True)
class Asked:
    """A bundle as the placement makes them."""

    actors: tuple[str, ...]
    cpus: float = 0.0
    gpus: float = 0.0
    gib: float = 0.0
    nodes: str | None = None

    def resources(self) -> dict[str, float]:
        named = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.gib * 2**30}
        if self.nodes is not None:
            named[self.nodes] = 0.001
        return {name: amount for name, amount in named.items() if amount}


def node(cpus: float = 0, gpus: float = 0, gib: float = 0, **others: float) -> dict[str, float]:
    return {"CPU": cpus, "GPU": gpus, "memory": gib * 2**30, **others}


def engines(count: int, **amounts: float) -> list[Asked]:
    return [Asked((f"rollout-{number}",), **amounts) for number in range(count)]  # type: ignore[arg-type]


def missing(bundles: Sequence[Asked], *nodes: Mapping[str, float]) -> Shortfall:
    found = shortfall(bundles, {f"10.0.0.{number}": one for number, one in enumerate(nodes)})
    assert found is not None
    return found


def test_what_fits_lacks_nothing() -> None:
    assert shortfall([], {}) is None
    pair = [Asked(("rollout-0", "learner-0"), cpus=2, gpus=1)]
    assert shortfall([*pair, *engines(2, gpus=0.5)], {"a": node(4, 2)}) is None


@pytest.mark.parametrize(
    ("bundles", "nodes", "said", "setting"),
    [
        (
            engines(1, cpus=1, gpus=4),
            [node(8, 2), node(8, 3)],
            "rollout-0 takes 4 GPUs and 1 core on one node, and no node has more than 3 GPUs",
            "topology.rollout",
        ),
        (
            [Asked(("learner-0",), cpus=1, gib=64)],
            [node(8, gib=32)],
            "learner-0 takes 1 core and 64.0 GiB of memory on one node, and no node has more than 32.0 GiB of memory",
            "topology.learner",
        ),
        (engines(3, cpus=1), [node(2)], "3 cores in all are wanted, and it has 2 cores", "topology.rollout"),
        (engines(3, gpus=1), [node(9, 1)] * 2, "3 GPUs in all are wanted, and it has 2 GPUs", "topology.rollout"),
        (
            [Asked(("model-judge",), cpus=1, nodes="a100")],
            [node(8)],
            "model-judge takes 1 core and 0.001 of the resource a100 on one node, and no node has more than "
            "0 of the resource a100",
            "topology.judges",
        ),
        (engines(1, cpus=1), [], "rollout-0 takes 1 core on one node, and it has no node", "topology.rollout"),
        (
            [Asked(("learner-0",), cpus=4, gpus=1)],
            [node(8), node(2, 8)],
            "learner-0 takes 1 GPU and 4 cores on one node, and no node has all of that",
            "topology.learner",
        ),
    ],
)
def test_what_is_missing_is_named(bundles: list[Asked], nodes: list[dict[str, float]], said: str, setting: str) -> None:
    found = missing(bundles, *nodes)
    assert (found.missing, found.setting) == (said, setting)


def test_shares_of_a_gpu_are_of_a_single_one() -> None:
    assert shortfall(engines(3, gpus=0.5), {"a": node(9, 2)}) is None
    assert "no way of placing all 3 bundles" in missing(engines(3, gpus=0.6), node(9, 2)).missing


def test_a_whole_that_is_cut_in_parts_is_not_enough() -> None:
    found = missing(engines(3, gpus=2), node(9, 3), node(9, 3))
    assert found.missing == (
        "no way of placing all 3 bundles leaves room for rollout-2, which must lie on one node: 2 GPUs"
    )


def test_hundreds_of_equal_bundles_are_placed_at_once() -> None:
    rows = {f"node-{number}": node(96, 8) for number in range(64)}
    assert shortfall(engines(512, cpus=12, gpus=1), rows) is None
    assert "513 GPUs in all are wanted, and it has 512 GPUs" in missing(engines(513, gpus=1), *rows.values()).missing


def test_the_only_node_with_what_one_bundle_needs_is_kept_for_it() -> None:
    anywhere = [Asked((f"learner-{rank}",), cpus=1, nodes="ranks") for rank in range(2)]
    engine = Asked(("rollout-0",), cpus=1, nodes="engines")
    cluster = {"head": node(1, ranks=1), "far": node(2, ranks=1, engines=1)}
    places = placing([*anywhere, engine], cluster)
    assert places is not None
    assert sorted(places[:2]) == ["far", "head"]
    assert places[2] == "far"
    assert placing([*anywhere, *anywhere], cluster) is None
    assert placing([], cluster) == []


def placing_exists(bundles: Sequence[Asked], nodes: Sequence[Mapping[str, float]]) -> bool:
    """By trying every node, and every GPU of it, for every bundle."""
    places = [(at, gpu) for at, one in enumerate(nodes) for gpu in range(int(one["GPU"]) + 1)]
    for chosen in itertools.product(places, repeat=len(bundles)):
        cpus = [one["CPU"] for one in nodes]
        gpus = [[1.0] * int(one["GPU"]) for one in nodes]
        for bundle, (at, gpu) in zip(bundles, chosen, strict=True):
            cpus[at] -= bundle.cpus
            if bundle.gpus < 1:
                if bundle.gpus:
                    if gpu >= len(gpus[at]):
                        break
                    gpus[at][gpu] -= bundle.gpus
            else:  # whole ones, from `gpu` on
                if gpu + int(bundle.gpus) > len(gpus[at]):
                    break
                for one in range(gpu, gpu + int(bundle.gpus)):
                    gpus[at][one] -= 1
        else:
            if min(cpus) >= -1e-9 and min((left for row in gpus for left in row), default=0) >= -1e-9:
                return True
    return False


bundles_of_any_kind = st.lists(
    st.builds(
        lambda cpus, gpus: Asked(("rollout-0",), cpus=cpus, gpus=gpus),
        st.sampled_from([0.0, 0.5, 1.0, 2.0]),
        st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0, 2.0]),
    ),
    max_size=4,
)
clusters = st.lists(st.builds(node, st.sampled_from([0, 1, 2, 3]), st.sampled_from([0, 1, 2])), min_size=1, max_size=2)


@settings(max_examples=150, deadline=None)
@given(bundles_of_any_kind, clusters)
def test_a_cluster_is_too_small_exactly_where_no_placing_exists(
    bundles: list[Asked], nodes: list[dict[str, float]]
) -> None:
    cluster = {str(number): one for number, one in enumerate(nodes)}
    found, places = shortfall(bundles, cluster), placing(bundles, cluster)
    assert (found is None) == (places is not None) == placing_exists(bundles, nodes)
    for name, one in cluster.items() if places is not None else ():
        assert placing_exists([bundle for bundle, at in zip(bundles, places or (), strict=True) if at == name], [one])


@settings(max_examples=100, deadline=None)
@given(bundles_of_any_kind, clusters, st.randoms())
def test_the_order_of_bundles_and_nodes_does_not_matter(
    bundles: list[Asked], nodes: list[dict[str, float]], random: object
) -> None:
    def lacks(some: list[Asked], there: list[dict[str, float]]) -> bool:
        return shortfall(some, {str(number): one for number, one in enumerate(there)}) is not None

    mixed, turned = list(bundles), list(nodes)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    random.shuffle(turned)  # type: ignore[attr-defined]
    assert lacks(bundles, nodes) == lacks(mixed, turned)
