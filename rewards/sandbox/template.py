"""A small Python that waits outside the sandboxes and forks one for each job: no interpreter is started twice.

It is safe to fork from because it holds nothing: it was started with a minimal environment, has read no job, and no
untrusted code ever runs in it or can see it. Each job gets two processes: one that leaves all namespaces of the host
and builds the new root (outside the new process namespace), and its child, process 1 inside, `rewards.sandbox.inside`.
Killing the first kills all: the kernel ends the second with it, and with that one its namespace.

Started by `rewards.sandbox.namespaces` with FD and PARENT_PID; a request over the socket FD is a `Plan` and the ends
of two pipes, the answer the first process's number and pidfd.
"""

import ctypes
import gc
import json  # noqa: F401 - for `inside`, in whose forks it then is
import marshal
import os
import socket
import sys

from rewards.sandbox import inside

_NEWNS, _NEWUSER, _NEWPID, _NEWNET = 0x00020000, 0x10000000, 0x20000000, 0x40000000  # linux/sched.h
_NEWUTS, _NEWIPC, _NEWCGROUP = 0x04000000, 0x08000000, 0x02000000
_RDONLY, _NOSUID, _NODEV, _BIND, _REC, _PRIVATE = 1, 2, 4, 4096, 16384, 1 << 18  # linux/mount.h
_MNT_DETACH, _AT_FDCWD, _AT_RECURSIVE = 2, -100, 0x8000
_SYS_MOUNT_SETATTR = 442  # the same on all architectures
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _SIGKILL = 1, 4, 9
_LONGEST_PLAN = 1 << 16
_INODES = 16384

_libc = ctypes.CDLL(None, use_errno=True)


class Plan:
    """How a sandbox is to look (`rewards.sandbox.layout`) and as whom it is built (`rewards.sandbox.identity`)."""

    def __init__(
        self,
        read_only: tuple[str, ...],
        parents: tuple[str, ...],
        links: tuple[tuple[str, str], ...],
        devices: tuple[str, ...],
        work: str,
        file_mb: int,
        builds_as_root: bool,
        before: int | None,
        nobody: int,
    ) -> None:
        self.read_only, self.parents, self.links, self.devices = read_only, parents, links, devices
        self.work, self.file_mb = work, file_mb
        self.builds_as_root, self.before, self.nobody = builds_as_root, before, nobody


def main() -> None:
    control_fd, parent = int(sys.argv[1]), int(sys.argv[2])
    _die_with_parent()
    if os.getppid() != parent:
        return
    control = socket.socket(fileno=control_fd)
    gc.collect()
    gc.freeze()
    while True:
        # No deadline: it waits for jobs as long as its parent lives, and dies with it.
        request, fds, _, _ = socket.recv_fds(control, _LONGEST_PLAN, 2)
        if not request:
            return
        builder = os.fork()
        if builder == 0:
            control.close()
            _build_and_serve(Plan(**marshal.loads(request)), *fds)
        for fd in fds:
            os.close(fd)
        handle = os.pidfd_open(builder)
        socket.send_fds(control, [str(builder).encode()], [handle])
        os.close(handle)
        _reap()


def _reap() -> None:
    """Builders of earlier jobs: each has ended before the next request comes, or soon will."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _build_and_serve(plan: Plan, job_fd: int, report_fd: int) -> None:
    """In the fork. Never returns."""
    try:
        _leave_the_host(plan)
        _build_root(plan)
    except (OSError, KeyError) as error:
        os.write(report_fd, inside.FAILED + str(error).encode())
        os._exit(1)
    first = os.fork()
    if first == 0:
        _die_with_parent()
        with open(job_fd, "rb") as job:
            inside.serve(job.read(), report_fd)
        os._exit(0)
    os.close(job_fd)
    os.close(report_fd)
    os.waitpid(first, 0)
    os._exit(0)


def _leave_the_host(plan: Plan) -> None:
    spaces = _NEWNS | _NEWPID | _NEWNET | _NEWIPC | _NEWUTS | _NEWCGROUP
    if plan.before is not None:
        os.setgroups([])
        os.setresgid(plan.before, plan.before, plan.before)
        os.setresuid(plan.before, plan.before, plan.before)
        _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # or the map of users below is not ours to write
    user, group = os.geteuid(), os.getegid()
    _call("unshare", _libc.unshare(spaces if plan.builds_as_root else spaces | _NEWUSER))
    if not plan.builds_as_root:
        for name, line in (
            ("setgroups", "deny"),
            ("uid_map", f"{plan.nobody} {user} 1"),
            ("gid_map", f"{plan.nobody} {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as told:
                told.write(line)
    _die_with_parent()  # again: a change of user or namespace ends it
    _call("sethostname", _libc.sethostname(b"sandbox", 7))


def _build_root(plan: Plan) -> None:
    """A root of tmpfs with views of the host's directories in it, and the host's own root gone from sight."""
    _mount(None, "/", None, _REC | _PRIVATE)
    # Two steps: on a tmpfs with the host under /old a root can be built that hides no directory it is built from.
    _mount("tmpfs", "/tmp", "tmpfs", _NOSUID | _NODEV, "size=1m,mode=755")
    os.mkdir("/tmp/old")
    os.mkdir("/tmp/new")
    _pivot("/tmp", "/tmp/old")
    _mount("tmpfs", "/new", "tmpfs", _NOSUID | _NODEV, "size=1m,mode=755")
    for parent in (*plan.parents, "/dev", plan.work):
        os.makedirs(f"/new{parent}", exist_ok=True)
    for path in (*plan.read_only, *plan.devices):
        if os.path.isdir(f"/old{path}"):
            os.makedirs(f"/new{path}", exist_ok=True)
        else:
            os.close(os.open(f"/new{path}", os.O_CREAT | os.O_WRONLY, 0o644))
        _mount(f"/old{path}", f"/new{path}", None, _BIND | _REC)
        _restrict(f"/new{path}", _RDONLY | _NOSUID | (0 if path in plan.devices else _NODEV), _AT_RECURSIVE)
    for path, target in plan.links:
        os.symlink(target, f"/new{path}")
    options = f"size={plan.file_mb}m,mode=1777,nr_inodes={_INODES}"
    _mount("tmpfs", f"/new{plan.work}", "tmpfs", _NOSUID | _NODEV, options)
    os.chdir("/new")
    _pivot(".", ".")
    _call("umount", _libc.umount2(b".", _MNT_DETACH))
    os.chdir("/")
    _restrict("/", _RDONLY | _NOSUID | _NODEV, 0)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    _call(f"mount {target}", _libc.mount(*encoded, ctypes.c_ulong(flags), options.encode()))


def _restrict(path: str, attributes: int, flags: int) -> None:
    """`mount_setattr` of Linux 5.12: unlike a remount it reaches what is mounted below, and only ever adds."""
    wanted = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    answer = _libc.syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, os.fsencode(path), flags, wanted, ctypes.sizeof(wanted))
    _call(f"mount_setattr {path}", answer)


def _pivot(root: str, old: str) -> None:
    _call("pivot_root", _libc.syscall(_SYS_PIVOT_ROOT[os.uname().machine], os.fsencode(root), os.fsencode(old)))
    os.chdir("/" if root != "." else ".")


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)


def _call(what: str, answer: int) -> None:
    if answer != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
