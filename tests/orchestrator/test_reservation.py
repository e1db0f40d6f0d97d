"""What Ray sets aside, on a real Ray of four cores."""

import pytest
import ray
from ray.util.placement_group import placement_group_table

from orchestrator.errors import RunError, SettingError
from orchestrator.placement import Bundle
from orchestrator.reservation import cpus_of, reserve

PATIENCE_S = 60.0


class Seated:
    def bundle(self) -> int:
        seat = ray.get_runtime_context().get_placement_group_id()
        assert seat is not None
        return int(ray.get_runtime_context().get_assigned_resources()["CPU"])


def groups_held() -> int:
    return sum(group["state"] in ("CREATED", "PENDING") for group in placement_group_table().values())


@pytest.mark.usefixtures("cluster")
def test_actors_take_the_places_that_were_set_aside_and_so_do_those_that_replace_them() -> None:
    before = groups_held()
    wanted = (Bundle(("rollout-0",), 1, 0), Bundle(("learner-0",), 2, 0))
    assert cpus_of(wanted) >= 3
    reserved = reserve(wanted, timeout_s=PATIENCE_S)
    assert groups_held() == before + 1
    for _ in range(2):  # the second finds the place of the first
        options = reserved.options("learner-0")
        actor = ray.remote(num_cpus=2, **options)(Seated).remote()
        assert ray.get(actor.bundle.remote(), timeout=PATIENCE_S) == 2
        ray.kill(actor)
    assert reserved.options("reward") == {}, "who takes nothing runs anywhere"
    reserved.give_back()
    assert groups_held() == before


@pytest.mark.usefixtures("cluster")
def test_room_that_does_not_come_is_one_line_and_nothing_stays_reserved() -> None:
    before = groups_held()
    too_many = [Bundle(("rollout-0",), 100, 0), Bundle(("learner-0",), 1, 0)]
    said = r"topology\.rollout: the cluster is too small: rollout-0 takes 100 cores on one node, and no node has more"
    with pytest.raises(SettingError, match=said):
        reserve(too_many, timeout_s=PATIENCE_S)  # at once, whatever the patience
    nodes_may_come = r"did not have room for 2 bundles of 101 cores and 0 GPUs within 0\.5 s: rollout-0 takes 100"
    with pytest.raises(RunError, match=nodes_may_come):
        reserve(too_many, timeout_s=0.5, grows=True)
    held = reserve([Bundle(("rollout-0",), 3, 0)], timeout_s=PATIENCE_S)
    with pytest.raises(RunError, match=r"within 0\.5 s: others hold it"):
        reserve([Bundle(("learner-0",), 2, 0)], timeout_s=0.5)
    held.give_back()
    assert groups_held() == before


def test_nobody_who_takes_nothing_needs_a_group() -> None:
    assert reserve([], timeout_s=1).options("rollout-0") == {}
