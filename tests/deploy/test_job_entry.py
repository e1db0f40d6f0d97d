"""The job's first step: whoever runs on another Python, Ray or Paceline than was meant is told so in one line."""

import platform
from importlib import metadata

import pytest

from deploy.job_entry import version_fault

SENT = {
    "python": "{}.{}".format(*platform.python_version_tuple()),
    "ray": metadata.version("ray"),
    "paceline": metadata.version("paceline"),
}


def test_equal_versions_pass() -> None:
    assert version_fault(SENT, False, checked=True) is None


@pytest.mark.parametrize("name", ["python", "ray", "paceline"])
def test_each_version_counts(name: str) -> None:
    other = {**SENT, name: "0.0"}
    fault = version_fault(other, False, checked=True)
    assert fault is not None
    assert f"the cluster has {name} {SENT[name]}, the job was made with 0.0" in fault
    assert version_fault(other, False, checked=False) is None


def test_source_that_travels_need_not_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def installed(package: str) -> str:
        if package == "paceline":
            raise metadata.PackageNotFoundError(package)
        return SENT[package]

    monkeypatch.setattr(metadata, "version", installed)
    assert version_fault({**SENT, "paceline": "9"}, True, checked=True) is None
    assert "not installed on the cluster; submit with --with-source" in str(version_fault(SENT, False, checked=False))


def test_a_python_without_ray_is_the_wrong_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", nothing)
    assert "has no Ray; name the Python of its nodes by --python" in str(version_fault(SENT, True, checked=True))
