"""The probe tells a sandbox from none, and the sandboxes hold for whoever runs them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rewards.sandbox.bare import Bare
from rewards.sandbox.choice import BACKENDS, NoSandboxError, check, sandbox
from rewards.sandbox.identity import identity
from rewards.sandbox.job import Job, Limits, Outcome, Run, Sandbox, SandboxError
from rewards.sandbox.namespaces import Namespaces

ROOT = Path(__file__).parents[3]
SYSTEM_PYTHON = Path("/usr/bin/python3")


def test_the_probe_finds_what_is_open_without_a_sandbox() -> None:
    with pytest.raises(SandboxError) as found:
        check(Bare())
    managed = str(found.value)
    for attempt in ("reads_the_host", "sees_processes", "has_more_disk"):
        assert attempt in managed
    for still_shut in ("opens_a_socket", "traces", "makes_namespaces", "may_gain_privileges", "has_more_memory"):
        assert still_shut not in managed
    assert ("is_root" in managed) == (os.getuid() == 0)


class _Leaky:
    """A safe sandbox with another job than the one asked for."""

    name = "leaky"

    def __init__(self, limits: Limits) -> None:
        self._inner, self._limits = Namespaces(), limits

    def run(self, job: Job) -> tuple[Outcome, ...]:
        return self._inner.run(Job(job.files, job.runs, self._limits))

    def close(self) -> None:
        self._inner.close()


@pytest.mark.parametrize(
    ("limits", "managed"),
    [
        (Limits(memory_mb=1024, processes=4, file_mb=2), "has_more_memory"),
        (Limits(memory_mb=256, processes=40, file_mb=2), "has_more_processes"),
        (Limits(memory_mb=256, processes=4, file_mb=20), "has_more_disk"),
    ],
)
def test_the_probe_finds_a_limit_that_does_not_hold(box: Sandbox, limits: Limits, managed: str) -> None:
    if box.name != "namespaces":
        pytest.skip("one kind is enough: the probe is the same")
    leaky = _Leaky(limits)
    with pytest.raises(SandboxError, match=f"could {managed}$"):
        check(leaky)
    leaky.close()


def test_the_bare_one_runs_programs_and_takes_their_children_along() -> None:
    source = b"import os, time\nif os.fork() == 0:\n  os.setsid(); time.sleep(600)\nprint(os.getpid(), os.getcwd())"
    (outcome,) = Bare().run(Job({"p.py": source}, (Run("p.py"),), Limits(run_s=2.0)))
    assert outcome.is_clean
    pid, directory = outcome.stdout.decode().split()
    assert not Path(directory).exists()
    assert not Path(f"/proc/{pid}").exists()


def test_a_job_that_cannot_be_set_up_is_an_error_of_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job({"p.py": b""}, (Run("p.py"),))
    monkeypatch.setattr("rewards.sandbox.supervise.syscall_filter", lambda: b"\xff" * 8)
    with pytest.raises(SandboxError, match="PR_SET_SECCOMP"):
        Bare().run(job)
    monkeypatch.undo()
    broken = Namespaces()
    monkeypatch.setattr("rewards.sandbox.namespaces.WORK", "/dev/null/impossible")
    with pytest.raises(SandboxError, match="dev"):
        broken.run(job)
    monkeypatch.undo()
    assert broken.run(job)[0].is_clean, "the template lives on"
    broken.close()
    assert broken.run(job)[0].is_clean, "or is started again"
    broken.close()


def test_a_template_that_was_killed_is_replaced(box: Sandbox) -> None:
    if not isinstance(box, Namespaces):
        pytest.skip("only one kind has a template")
    job = Job({"p.py": b"print(1)"}, (Run("p.py"),))
    box.run(job)
    assert box._process is not None
    box._process.kill()
    box._process.wait(5)
    assert box.run(job)[0].stdout == b"1\n"


def test_impossible_jobs_are_refused() -> None:
    with pytest.raises(ValueError, match="not a plain file name"):
        Job({"../x": b""}, ())
    with pytest.raises(ValueError, match="either a Python file or a command"):
        Run()
    with pytest.raises(ValueError, match="run_s=0"):
        Limits(run_s=0)


def test_the_choice_is_made_once_and_says_no_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Sandbox:
        raise SandboxError("is not installed\nhere")

    with pytest.raises(ValueError, match="choose one of bubblewrap, nsjail, namespaces"):
        sandbox("docker")
    monkeypatch.setattr("rewards.sandbox.choice.BACKENDS", {"one": missing, "two": Bare})
    with pytest.raises(NoSandboxError, match="unsafe_no_sandbox: true") as refusal:
        sandbox.__wrapped__()
    assert "one: is not installed" in str(refusal.value)
    assert "two: a program in it could" in str(refusal.value)
    assert sandbox(unsafe_no_sandbox=True) is sandbox(unsafe_no_sandbox=True)


ELSEWHERE = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from rewards.sandbox.choice import BACKENDS, check
from rewards.sandbox.identity import identity
from rewards.sandbox.job import Job, Run
who = identity()
print(who.builds_as_root, who.before is not None, who.within is not None)
box = BACKENDS[sys.argv[1]]()
check(box)
(outcome,) = box.run(Job({{"p.py": b"import os; print(os.getuid())"}}, (Run("p.py"),)))
print(outcome.stdout.decode().strip())
box.close()
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become others")
@pytest.mark.parametrize(
    ("become", "who"),
    [
        (("--reuid", "12345", "--regid", "12345", "--clear-groups"), "False False False"),
        (("--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"), "False True False"),
    ],
    ids=["an ordinary user", "root without CAP_SYS_ADMIN"],
)
def test_it_holds_for_other_users(box: Sandbox, become: tuple[str, ...], who: str) -> None:
    """With the system's interpreter, since this one may stand in a directory of root's."""
    if shutil.which("setpriv") is None or not SYSTEM_PYTHON.exists():
        pytest.skip("needs setpriv and a system Python")
    version = subprocess.run(
        [SYSTEM_PYTHON, "-c", "import sys; print(sys.version_info >= (3, 11))"], capture_output=True
    )
    if version.stdout.strip() != b"True" or not ROOT.stat().st_mode & 0o005:
        pytest.skip("the system's Python is older than 3.11, or this directory is private")
    command = ["setpriv", *become, str(SYSTEM_PYTHON), "-B", "-c", ELSEWHERE, box.name]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd="/", env={"PATH": os.environ["PATH"]}, timeout=60
    )
    if "unshare" in done.stderr or "namespace" in done.stderr:
        pytest.skip(f"this kernel gives them no namespaces: {done.stderr.splitlines()[-1]}")
    assert done.stderr == ""
    first, uid = done.stdout.splitlines()
    assert first == who
    assert uid == "65534"


def test_root_becomes_somebody_without_an_account() -> None:
    who = identity()
    if os.getuid() != 0:
        assert who == type(who)(False, None, None)
        return
    taken = {int(line.split(":")[2]) for line in Path("/etc/passwd").read_text().splitlines()}
    assert (who.within or who.before) not in taken
    assert sys.platform == "linux"


def test_every_backend_is_named_as_it_is_chosen() -> None:
    assert [made.name for made in BACKENDS.values()] == list(BACKENDS)  # type: ignore[attr-defined]
