"""The first process inside a sandbox: gives up its powers, then runs the untrusted ones and reports how they ended.

Started with the job on stdin and the reports on stdout, or entered by a fork of `rewards.sandbox.template`.
It is alone with the program and stands between it and nothing: the walls are the kernel's, and what it reports is
believed of the program only. Still it is hard to reach: as process 1 of its namespace it takes no signal from inside,
it cannot be traced, and its pipes are closed in the runs.

Invariant: when a run is reported, every process that it started is dead.

Only the standard library, and as little as can be of it: each import here is paid for at every start.
"""

import builtins
import ctypes
import marshal
import os
import resource
import select
import struct
import sys
import time

RECORD = struct.Struct("!BiddIIi")
"""Of a run: end, status, CPU and wall seconds, lengths of stdout, stderr and value (-1: none), which follow."""
READY, FAILED = b"R", b"F"
"""What is said first: the runs begin; or the sandbox is none, and why."""
EXIT, SIGNAL, WALL_TIME, CPU_TIME, OUTPUT, SKIPPED = range(6)
"""`rewards.sandbox.job.End`."""

_STDIN = ".stdin"
_REAP_S = 2.0
_MIB = 1 << 20
_OPEN_FILES = 128
_STACK = 64 * _MIB
"""Of a Python program's main thread: recursive solutions raise the recursion limit and trust the stack to follow."""
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP = 1, 4, 22, 24  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 36, 38
_SIGKILL, _SIGPIPE, _SIGXCPU = 9, 13, 24
_SIGNALS = [number for number in range(1, 32) if number != _SIGPIPE]
"""That have their usual effect in the sandbox; a broken pipe Python tells by itself."""
_CAPABILITY_VERSION, _LAST_CAPABILITY = 0x20080522, 63  # linux/capability.h

RunSpec = tuple[str | None, str | None, tuple[str, ...], bytes]
"""Python file, expression, command, stdin: `rewards.sandbox.job.Run`."""


class Spec:
    """A job as it travels into the sandbox: plain data (`marshal`; the same interpreter stands on both sides).

    Beside what `rewards.sandbox.job.Job` says: `directory` is where the runs work; `uid` whom to become, None to stay;
    `filter` the system calls (`rewards.sandbox.seccomp`); `is_init` whether this process is number 1 of its namespace.
    """

    def __init__(
        self,
        files: dict[str, bytes],
        runs: tuple[RunSpec, ...],
        limits: dict[str, float],
        stop_at_failure: bool,
        directory: str,
        uid: int | None,
        filter: bytes,
        is_init: bool,
    ) -> None:
        self.files, self.runs, self.stop_at_failure = files, runs, stop_at_failure
        self.directory, self.uid, self.filter, self.is_init = directory, uid, filter, is_init
        self.run_s, self.job_s = limits["run_s"], limits["job_s"]
        self.cpu_s = -int(-self.run_s // 1)
        self.memory, self.largest_file = int(limits["memory_mb"]) * _MIB, int(limits["file_mb"]) * _MIB
        self.processes = int(limits["processes"])
        self.output_bytes, self.value_bytes = int(limits["output_bytes"]), int(limits["value_bytes"])


def main() -> None:
    with open(0, "rb", closefd=False) as stdin:
        serve(stdin.read(), os.dup(1))


def serve(spec_bytes: bytes, report_fd: int) -> None:
    """Lock this process down, then do the runs in order. Never raises."""
    try:
        spec = Spec(**marshal.loads(spec_bytes))
        os.chdir(spec.directory)
        lock_down(spec)
        for name, content in spec.files.items():
            _write_file(name, content)
        started = READY
    except (OSError, ValueError, EOFError) as error:
        started = FAILED + str(error).encode("utf-8", "replace")[:500]
    try:
        _write_all(report_fd, started)
        if started == READY:
            _run_all(spec, report_fd)
    except BrokenPipeError:
        return  # nobody listens any more


def lock_down(spec: Spec) -> None:
    """Another user, no capabilities, no way to new ones, limits, and few system calls; all of it for good.

    Raises: OSError where the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if spec.uid is not None:
        for capability in range(_LAST_CAPABILITY + 1):
            libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails past the kernel's last one
        os.setgroups([])
        os.setresgid(spec.uid, spec.uid, spec.uid)
        os.setresuid(spec.uid, spec.uid, spec.uid)
    _checked(libc.capset(struct.pack("=Ii", _CAPABILITY_VERSION, 0), bytes(24)), "capset")
    # After the change of user, which would clear it.
    _checked(libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0), "PR_SET_PDEATHSIG")
    _checked(libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "PR_SET_DUMPABLE")
    _checked(libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "PR_SET_CHILD_SUBREAPER")
    # Python's own handler would make SIGINT the one signal that process 1 hears from inside; and what is ignored here,
    # as under nohup, the programs would ignore too.
    for number in _SIGNALS:
        libc.signal(number, None)
    _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _limit(resource.RLIMIT_MEMLOCK, 0)
    _limit(resource.RLIMIT_FSIZE, spec.largest_file)
    if spec.is_init:  # elsewhere the user's other processes would count
        _limit(resource.RLIMIT_NPROC, spec.processes + 1)
    instructions = ctypes.create_string_buffer(spec.filter, len(spec.filter))
    program = struct.pack("HxxxxxxP", len(spec.filter) // 8, ctypes.addressof(instructions))  # struct sock_fprog
    _checked(libc.prctl(_PR_SET_SECCOMP, 2, program, 0, 0), "PR_SET_SECCOMP")


def _run_all(spec: Spec, report_fd: int) -> None:
    if any(run[1] is not None for run in spec.runs):
        import json  # noqa: F401 - once for all forks, and only where values are written: it takes half of the start
    until = time.monotonic() + spec.job_s
    has_failed = False
    for run in spec.runs:
        left_s = until - time.monotonic()
        is_skipped = left_s <= 0 or (has_failed and spec.stop_at_failure)
        record = _record(SKIPPED) if is_skipped else _run(spec, run, min(spec.run_s, left_s), report_fd)
        end, status, *_ = RECORD.unpack_from(record)
        has_failed |= end != EXIT or status != 0
        _write_all(report_fd, record)


class _Streams:
    """What a run writes to its pipes, and whether it is too much."""

    def __init__(self, spec: Spec, out: int, err: int, value: int) -> None:
        self.out, self.err, self.value = bytearray(), bytearray(), bytearray()
        self.by_fd = {out: self.out, err: self.err, value: self.value}
        self._output_bytes, self._value_bytes = spec.output_bytes, spec.value_bytes

    @property
    def is_over(self) -> bool:
        return len(self.out) + len(self.err) > self._output_bytes or len(self.value) > self._value_bytes

    def read(self, fd: int) -> bool:
        """One part; False at the end."""
        part = os.read(fd, 1 << 16)
        self.by_fd[fd] += part
        return bool(part)

    def drain(self) -> None:
        """What is left in the pipes when nobody writes to them any more."""
        for fd in self.by_fd:
            os.set_blocking(fd, False)
            try:
                while not self.is_over and self.read(fd):
                    pass
            except BlockingIOError:
                pass
            os.close(fd)


def _run(spec: Spec, run: RunSpec, wall_s: float, report_fd: int) -> bytes:
    try:
        _write_file(_STDIN, run[3])
        stdin = os.open(_STDIN, os.O_RDONLY)
    except OSError:
        return _record(SKIPPED)  # an earlier run filled or barred the directory: its own loss
    out, err, value = os.pipe(), os.pipe(), os.pipe()
    started = time.monotonic()
    leader = os.fork()
    if leader == 0:
        _become(spec, run, (stdin, out[1], err[1], value[1]))
    for theirs in (stdin, out[1], err[1], value[1]):
        os.close(theirs)
    exited = os.pidfd_open(leader)
    streams = _Streams(spec, out[0], err[0], value[0])
    try:
        end = _watch(exited, streams, started + wall_s, report_fd)
    finally:
        status, cpu_s = _end_all(leader, spec.is_init)
    os.close(exited)
    streams.drain()
    taken_s = time.monotonic() - started
    if end is None and streams.is_over:
        end = OUTPUT
    if end is None:
        end, status = _ended_by(status, cpu_s, spec.cpu_s)
    stdout = bytes(streams.out[: spec.output_bytes])
    stderr = bytes(streams.err[: spec.output_bytes])
    written = bytes(streams.value) if run[1] is not None and end == EXIT else None
    return _record(end, status, cpu_s, taken_s, stdout, stderr, written)


def _watch(exited: int, streams: _Streams, until: float, report_fd: int) -> int | None:
    """Collect what is printed until the process ends (None), or the reason to end it.

    Raises: BrokenPipeError when nobody is left to report to. The kernel's signal at a parent's death is not enough:
    a launcher without powers may not send it to a child that is another user.
    """
    poller = select.poll()
    poller.register(report_fd, 0)  # errors are always told
    for fd in (exited, *streams.by_fd):
        poller.register(fd, select.POLLIN)
    while True:
        left_s = until - time.monotonic()
        if left_s <= 0:
            return WALL_TIME
        ready = [fd for fd, _ in poller.poll(left_s * 1000)]
        if report_fd in ready:
            raise BrokenPipeError
        for fd in ready:
            if fd != exited and not streams.read(fd):
                poller.unregister(fd)
        if streams.is_over:
            return OUTPUT
        if exited in ready:
            return None


def _end_all(leader: int, is_init: bool) -> tuple[int, float]:
    """Kill whatever still runs, reap it, and tell the leader's wait status and CPU seconds."""
    status, cpu_s = 0, 0.0
    until = time.monotonic() + _REAP_S
    while time.monotonic() < until:
        _kill_others(is_init)
        try:
            pid, ended, usage = os.wait4(-1, os.WNOHANG)
            while pid:
                if pid == leader:
                    status, cpu_s = ended, usage.ru_utime + usage.ru_stime
                pid, ended, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return status, cpu_s
        time.sleep(0.0005)
    os._exit(1)  # what does not die is killed with this namespace


def _kill_others(is_init: bool) -> None:
    if is_init and os.getpid() == 1:
        try:
            os.kill(-1, _SIGKILL)  # all in this namespace, this process excepted
        except ProcessLookupError:
            return
        return
    # Orphans come to this process, which is their subreaper, so each pass takes one more generation.
    with open("/proc/thread-self/children") as children:
        for pid in children.read().split():
            os.kill(int(pid), _SIGKILL)


def _ended_by(status: int, cpu_s: float, limit_s: int) -> tuple[int, int]:
    if not os.WIFSIGNALED(status):
        return EXIT, os.WEXITSTATUS(status)
    signal = os.WTERMSIG(status)
    is_cpu = signal == _SIGXCPU or (signal == _SIGKILL and cpu_s >= limit_s)
    return CPU_TIME if is_cpu else SIGNAL, signal


def _become(spec: Spec, run: RunSpec, fds: tuple[int, int, int, int]) -> None:
    """In the fork: be the program, to the end."""
    os.setpgid(0, 0)
    for wanted, fd in enumerate(fds):  # all of them are above 2, so none is lost before it is copied
        os.dup2(fd, wanted, inheritable=wanted < 3)
    os.closerange(4, _OPEN_FILES)
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # its own /proc/self, where there is one
    _limit(resource.RLIMIT_CPU, spec.cpu_s, spec.cpu_s + 1)
    _limit(resource.RLIMIT_AS, spec.memory)
    python, expression, command, _ = run
    if python is not None:
        _limit(resource.RLIMIT_STACK, _STACK)
        os._exit(_interpret(spec.files[python], python, expression))
    try:
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    os._exit(127)


def _interpret(source: bytes, name: str, expression: str | None) -> int:
    """Run Python source as a fresh interpreter would; its exit code."""
    _open_standard_streams()
    sys.argv, sys.path = [name], [os.getcwd(), *sys.path]
    vars(builtins).update(exit=sys.exit, quit=sys.exit)  # as `site` does, which is not loaded
    module = type(sys)("__main__" if expression is None else "solution")
    module.__dict__["__file__"] = name
    sys.modules[module.__name__] = module
    status = 0
    try:
        exec(compile(source, name, "exec", dont_inherit=True), module.__dict__)
        if expression is not None:
            value = eval(compile(expression, "<test>", "eval", dont_inherit=True), module.__dict__)
            _write_all(3, sys.modules["json"].dumps(plain(value)).encode())
    except SystemExit as leaving:
        status = _exit_code(leaving.code)
    except BaseException as raised:  # noqa: BLE001 - shown and turned into an exit code, as at any program's end
        raised = raised.with_traceback(raised.__traceback__ and raised.__traceback__.tb_next)  # without this frame
        sys.excepthook(type(raised), raised, raised.__traceback__)
        status = 1
    return _finish() or status


def _open_standard_streams() -> None:
    """Anew, because the interpreter's own were made for other files."""
    for fd, name, mode, errors in (
        (0, "stdin", "r", "surrogateescape"),
        (1, "stdout", "w", "surrogateescape"),
        (2, "stderr", "w", "backslashreplace"),
    ):
        stream = open(fd, mode, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        vars(sys)[name] = vars(sys)[f"__{name}__"] = stream


def _finish() -> int:
    """What an interpreter does at its end: wait for threads, run what was left for the exit, flush."""
    try:
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
        if "atexit" in sys.modules:
            sys.modules["atexit"]._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001 - a program's own flush or exit function may raise anything
        return 120  # as Python does where it cannot flush
    return 0


def _exit_code(code: object) -> int:
    if code is None or isinstance(code, int):
        return (code or 0) & 0xFF
    print(code, file=sys.stderr)
    return 1


def plain(value: object) -> object:
    """A value as JSON: numbers, text, bool and None as themselves; containers as a list that starts with their kind.

    What is none of these becomes its type's name, which equals nothing.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, complex):
        return ["complex", value.real, value.imag]
    if isinstance(value, (bytes, bytearray)):
        return ["bytes", bytes(value).hex()]
    if isinstance(value, dict):
        return ["dict", *([plain(key), plain(held)] for key, held in value.items())]
    for kind, name in ((list, "list"), (tuple, "tuple"), (set, "set"), (frozenset, "set")):
        if isinstance(value, kind):
            return [name, *map(plain, value)]
    return ["other", type(value).__name__]


def _record(end: int, status: int = 0, cpu_s: float = 0.0, wall_s: float = 0.0, *said: bytes | None) -> bytes:
    """`said` is stdout, stderr and the value, or nothing."""
    stdout, stderr, value = said or (b"", b"", None)
    sizes = (len(stdout or b""), len(stderr or b""), -1 if value is None else len(value))
    return RECORD.pack(end, status, cpu_s, wall_s, *sizes) + (stdout or b"") + (stderr or b"") + (value or b"")


def _write_file(name: str, content: bytes) -> None:
    if os.path.lexists(name):
        os.unlink(name)
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        _write_all(fd, content)
    finally:
        os.close(fd)


def _write_all(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def _limit(kind: int, soft: int, hard: int | None = None) -> None:
    """As asked, or as much of it as was left to this process."""
    ceiling = resource.getrlimit(kind)[1]
    hard = soft if hard is None else hard
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    resource.setrlimit(kind, (soft, hard))


def _checked(answer: int, what: str) -> None:
    if answer != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    main()
