"""What a cluster has, asked of the cluster."""

import socket

import pytest
import ray
from ray.cluster_utils import Cluster

from orchestrator.errors import SettingError
from orchestrator.planning.machine import cluster


def test_an_address_that_nobody_serves_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(SettingError, match=f"--address: nothing answers at 127.0.0.1:{port}") as refusal:
        cluster(f"127.0.0.1:{port}")
    assert "\n" not in str(refusal.value)


@pytest.mark.slow
def test_a_cluster_is_asked_and_left_again(two_nodes: Cluster) -> None:
    found = cluster(two_nodes.address)
    assert (found.nodes, found.cores, found.accelerators, found.here) == (2, 2, 0, False)
    assert not ray.is_initialized()
