"""What Ray has set aside for a run: one placement group, whose bundles the actors take their places in.

Invariants: all of it is there before the first actor starts, or none is; an actor runs in its own bundle alone, and so
does the one that replaces it; the group goes when the run does.

Ray packs bundles one after another and takes no place back, so that it may fill the only node that has what a later
bundle needs, and then wait for ever. Where it has not found places soon although there are some, they are named to it.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Thread

import ray
from ray._private.state import available_resources_per_node  # Ray has no public call that says it by node
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestrator.cluster_fit import placing, shortfall
from orchestrator.errors import RunError, SettingError
from orchestrator.placement import Bundle

GIVE_BACK_S = 10.0
PACKING_S = 5.0
"""Ray has packed bundles within a second where it can."""
NODE_LABEL = "ray.io/node-id"
LOCAL_SLACK_CPUS = 1
"""Beside the bundles, for what runs in none, where Ray is started for a run alone."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """Attributes:
    bundles: of the group, in its order.
    group: None where nobody takes anything.
    """

    bundles: tuple[Bundle, ...] = ()
    group: PlacementGroup | None = None

    def options(self, actor: str) -> dict[str, object]:
        """Options of `ray.remote` that put the actor of this name into its bundle; none for who has no bundle."""
        places = [index for index, bundle in enumerate(self.bundles) if actor in bundle.actors]
        if not places or self.group is None:
            return {}
        (index,) = places
        return {"scheduling_strategy": PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=index)}

    def nodes(self) -> dict[str, str]:
        """Where each actor has its place: the node's id by the actor's name."""
        if self.group is None:
            return {}
        places: dict[int, str] = placement_group_table(self.group)["bundles_to_node_id"]
        return {actor: places[index] for index, bundle in enumerate(self.bundles) for actor in bundle.actors}

    def give_back(self) -> None:
        """Now; Ray does it too, but later, when the driver is gone, which is left where the cluster does not answer."""
        if self.group is not None:
            asking = Thread(target=remove_placement_group, args=(self.group,), daemon=True)
            asking.start()
            asking.join(timeout=GIVE_BACK_S)


def reserve(bundles: Sequence[Bundle], *, timeout_s: float, grows: bool = False) -> Reservation:
    """Have Ray set aside all bundles, near each other where they fit.

    Args:
        timeout_s: how long it may take until they are free, or until nodes come on a cluster that grows.
        grows: the cluster gets nodes as they are wanted, so that those of today say nothing.

    Raises:
        SettingError: the cluster is too small; it names what is missing.
        RunError: the cluster did not have them in time.
    """
    if not bundles:
        return Reservation()
    lacking = shortfall(bundles, nodes_now())
    if lacking is not None and not grows:
        fix = "lower it, add nodes, or set ray.grows=true where nodes come as they are wanted"
        raise SettingError(lacking.setting, f"the cluster is too small: {lacking.missing}", fix)
    if (group := _group(bundles, timeout_s)) is not None:
        return Reservation(tuple(bundles), group)
    lacking = shortfall(bundles, nodes_now())
    why = "others hold it" if lacking is None else lacking.missing
    raise RunError(
        f"the cluster did not have room for {_asked(bundles)} within {timeout_s:g} s: {why}",
        "lower topology, add nodes, or raise ray.room_timeout_s",
    )


def _group(bundles: Sequence[Bundle], timeout_s: float) -> PlacementGroup | None:
    """A placement group that has its places; None where it did not get them in time, and then nothing is left of it."""
    deadline = time.monotonic() + timeout_s
    named: list[str] | None = None
    group = _ask(bundles, named)
    while not group.wait(max(0.0, min(PACKING_S, deadline - time.monotonic()))):
        if time.monotonic() >= deadline:
            remove_placement_group(group)
            return None
        places = placing(bundles, available_resources_per_node())
        if places != named:
            remove_placement_group(group)
            group, named = _ask(bundles, places), places
    return group


def _ask(bundles: Sequence[Bundle], places: Sequence[str] | None) -> PlacementGroup:
    """Ask Ray for all of them, near each other where they fit, or on these nodes."""
    amounts = [bundle.resources() for bundle in bundles]
    if places is None:
        return placement_group(amounts, strategy="PACK")
    return placement_group(amounts, bundle_label_selector=[{NODE_LABEL: node} for node in places])


def nodes_now() -> dict[str, dict[str, float]]:
    """What each node of the cluster has, by its address and id."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    return {f"{node['NodeManagerAddress']}/{node['NodeID'][:6]}": dict(node["Resources"]) for node in alive}


def cpus_of(bundles: Sequence[Bundle]) -> int:
    """Cores to start Ray with, so that these have room."""
    return math.ceil(sum(bundle.cpus for bundle in bundles)) + LOCAL_SLACK_CPUS


def _asked(bundles: Sequence[Bundle]) -> str:
    cpus, gpus = sum(bundle.cpus for bundle in bundles), sum(bundle.gpus for bundle in bundles)
    return f"{len(bundles)} bundles of {cpus:g} cores and {gpus:g} GPUs"
