"""The images: their files are parsed, and those of their steps that need no registry and no root folder are run."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from tests.deploy.image import DOCKERFILES, ROOT, Step, context, environment, instructions, stages, steps

LOCK = "cpu" if "+cpu" in metadata.version("torch") else "gpu"
"""What the environment of these tests was made from."""
BOTH = pytest.mark.parametrize("hardware", DOCKERFILES)
TIMEOUT_S = 200


def final(hardware: str) -> list[Step]:
    return list(steps(stages(DOCKERFILES[hardware])[-1]))


@BOTH
def test_everything_is_installed_by_the_script_that_makes_every_environment(hardware: str) -> None:
    wheels, image = stages(DOCKERFILES[hardware])
    assert [step.setup for step in steps(wheels)] == [["wheels", "/wheels"]]
    assert [step.setup for step in steps(image) if step.setup] == [["system"], ["torch"], ["packages"], ["paceline"]]
    others = [step.command.split()[0] for step in steps(image) if not step.setup]
    assert others == ["groupadd", "echo"], "what else runs installs nothing"
    assert environment(wheels)["HARDWARE"] == environment(image)["HARDWARE"] == hardware
    installing = [step for step in steps(image) if step.setup and step.setup != ["system"]]
    assert all(step.environment["PIP_NO_INDEX"] == "1" for step in installing), "nothing but the wheels of the locks"


@BOTH
def test_it_does_not_run_as_root_and_holds_no_secret(hardware: str) -> None:
    image = stages(DOCKERFILES[hardware])[-1]
    users = [one.rest for one in image if one.name == "USER"]
    assert users == ["1000:1000"], "a number, which Kubernetes can check"
    assert not re.search(r"SECRET|PASSWORD|API_KEY|AUTH", " ".join(environment(image)))
    assert not [one for one in image if one.name in ("ADD", "ARG")]


@BOTH
def test_what_is_copied_exists_and_the_code_comes_after_the_packages(hardware: str) -> None:
    sent = context()
    image = stages(DOCKERFILES[hardware])[-1]
    copied = [one.rest.split()[0] for one in image if one.name == "COPY"]
    assert all(source == "." or source in sent for source in copied)
    order = [one.rest for one in image if one.name in ("COPY", "RUN")]
    assert order.index(". .") == len(order) - 3, "a change of the code makes three small layers anew"


def test_both_are_of_one_python_that_the_project_supports() -> None:
    bases = {one.rest for file in DOCKERFILES.values() for one in instructions(file) if one.name == "ARG"}
    (base,) = bases
    wanted = re.search(r'requires-python = "(.+)"', (ROOT / "pyproject.toml").read_text())
    assert wanted is not None
    assert SpecifierSet(wanted[1]).contains(base.removeprefix("PYTHON="))


def test_the_builder_gets_the_packages_and_nothing_of_the_tests() -> None:
    sent = set(context())
    assert not [file for file in sent if file.startswith(("tests/", "docs/", "runs/", ".git"))]
    packages = ("actors", "deploy", "learners", "orchestrator", "rewards")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    needed = {file for file in tracked.stdout.splitlines() if file.startswith(tuple(f"{name}/" for name in packages))}
    assert needed <= sent
    assert {"pyproject.toml", "README.md", "LICENSE", f"requirements/{LOCK}.txt"} <= sent


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's /opt/paceline, where the packages of the locks have come from this environment."""
    folder = tmp_path_factory.mktemp("image") / "opt" / "paceline"
    for file in context():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, folder / file)
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(folder / ".venv")], check=True, timeout=TIMEOUT_S
    )
    site = folder / ".venv" / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    (site / "wheels.pth").write_text(sysconfig.get_path("purelib"))
    return folder


@pytest.mark.slow
def test_the_steps_that_install_find_every_locked_version_and_make_a_command_that_works(root: Path) -> None:
    """pip may ask nobody here: it is content only if what the tests run with is what the lock says."""
    outside = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    for step in final(LOCK):
        if step.setup and step.setup != ["system"]:
            ran = {**outside, "HARDWARE": LOCK, **step.environment, "PIP_FIND_LINKS": str(root / "no-wheels")}
            done = subprocess.run(
                [str(root / "deploy" / "setup.sh"), *step.setup],
                env=ran,
                cwd="/",
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
    asked = subprocess.run(
        [str(root / ".venv" / "bin" / "paceline"), "recipes"],
        env=outside,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr
    assert "quickstart" in asked.stdout


def test_a_login_shell_finds_the_command(tmp_path: Path) -> None:
    (step,) = [step for step in final("gpu") if step.command.startswith("echo")]
    profile = tmp_path / "paceline.sh"
    command = step.command.replace("/etc/profile.d/paceline.sh", str(profile))
    assert command != step.command
    subprocess.run(["sh", "-c", command], check=True, timeout=TIMEOUT_S)
    shell = subprocess.run(
        ["sh", "-c", f"PATH=/usr/bin; . {profile}; echo $PATH"], capture_output=True, text=True, check=True, timeout=60
    )
    assert shell.stdout == "/opt/paceline/.venv/bin:/usr/bin\n"
    assert environment(stages(DOCKERFILES["gpu"])[-1])["PATH"].startswith("/opt/paceline/.venv/bin:")


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("useradd") is None, reason="making a user needs root and useradd")
def test_the_user_is_made_as_the_image_runs_it(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    for file in ("passwd", "group", "shadow", "gshadow"):
        (tmp_path / "etc" / file).touch()
    (step,) = [step for step in final("cpu") if step.command.startswith("groupadd")]
    for command in step.command.split("&&"):
        name, *rest = shlex.split(command)
        prefixed = [shutil.which(name) or f"/usr/sbin/{name}", "--prefix", str(tmp_path), *rest]
        subprocess.run(prefixed, check=True, timeout=TIMEOUT_S, capture_output=True)
    assert (tmp_path / "etc" / "passwd").read_text().startswith("paceline:x:1000:1000:")


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="this is no Debian")
def test_debian_packages_are_those_that_the_tests_ran_with() -> None:
    """Where one of them is installed here at all; another release of Debian has other versions."""
    lines = [line for line in (ROOT / "requirements" / "debian.txt").read_text().splitlines() if line[0] != "#"]
    wanted = dict(line.split("=", 1) for line in lines)
    assert {"bubblewrap", "iverilog", "swi-prolog-nox"} <= wanted.keys(), "what reward terms start"
    if "bookworm" not in Path("/etc/os-release").read_text():
        pytest.skip("the images are of Debian 12")
    for package, pattern in wanted.items():
        found = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True, timeout=60, check=False
        )
        assert found.returncode or fnmatch(found.stdout, pattern), f"{package} {found.stdout} is not {pattern}"
