"""Programs that try to get out, to stay, to take all, or to fool the one that watches them; in every sandbox here.

Each says on its stdout what it managed, so that an attempt that never ran cannot pass for one that failed.
"""

# ruff: noqa: E501 - programs stand on one line each

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rewards.sandbox.job import End, Job, Run, Sandbox
from tests.rewards.sandbox.programs import QUICK, alive, dedented, descendants, happens, run, run_two

SMALL = replace(QUICK, memory_mb=96, run_s=10.0, job_s=15.0)
"""Touching fresh memory can be slow on a virtual machine."""
ROOT = Path(__file__).parents[3]


def refused(box: Sandbox, attempt: str) -> None:
    """The attempt raises, and does nothing."""
    body = textwrap.indent(textwrap.dedent(attempt), "    ")
    outcome = run(
        box,
        f"import os, ctypes\ntry:\n{body}\n    print('managed')\nexcept (OSError, ValueError):\n    print('refused')\n",
    )
    assert (outcome.stdout, outcome.status) == (b"refused\n", 0), outcome


# What it sees


def test_nothing_of_the_host_is_there_to_be_read(box: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    secret.chmod(0o666)
    monkeypatch.setenv("API_KEY", "hunter2")
    places = ["/proc", "/sys", "/home", "/var", "/run", "/opt", "/etc/passwd", "/etc/shadow", "/root/.ssh", "/dev/shm"]
    places += [str(secret), str(ROOT), "/dev/mem", "/dev/kmsg", "/dev/tty", "/proc/1/environ", "/proc/self/mem"]
    outcome = run(box, f"import os\nprint([p for p in {places} if os.path.lexists(p)], dict(os.environ))")
    assert outcome.stdout.startswith(b"[] {")
    assert b"hunter2" not in outcome.stdout


def test_a_link_leads_nowhere(box: Sandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    refused(box, f"os.symlink({str(secret)!r}, 'link'); open('link')")
    refused(box, "os.symlink('../../../../../../etc/shadow', 'link'); open('link')")
    refused(box, "os.symlink('/', 'link'); open('link/written', 'w')")
    refused(box, "os.link('/usr/bin/su', 'link')")


def test_it_sees_no_process_but_its_own(box: Sandbox) -> None:
    outcome = run(
        box,
        """
        import os
        found = []
        for pid in range(1, 70000):
            try:
                os.kill(pid, 0)
                found.append(pid)
            except ProcessLookupError:
                pass
        print(found == [1, os.getpid()], os.getppid())
        """,
    )
    assert outcome.stdout == b"True 1\n"


def test_the_hosts_name_is_not_told(box: Sandbox) -> None:
    assert run(box, "import os; print(os.uname().nodename)").stdout == b"sandbox\n"


# What it changes


def test_writes_stay_in_the_private_directory_and_vanish_with_it(box: Sandbox) -> None:
    outcome = run(
        box,
        """
        import os
        managed = []
        for top, directories, files in os.walk('/'):
            if top.count('/') > 3 or top.startswith('/tmp'):
                directories.clear()
                continue
            try:
                open(os.path.join(top, 'written'), 'w').close()
                managed.append(top)
            except OSError:
                pass
        open('/tmp/written-by-a-sandboxed-program', 'w').close()
        print(managed)
        """,
        limits=replace(QUICK, run_s=20.0, job_s=20.0),
    )
    assert outcome.stdout == b"[]\n", outcome
    assert not Path("/tmp/written-by-a-sandboxed-program").exists()
    assert run(box, "import os; print(sorted(os.listdir('/tmp')))").stdout == b"['.stdin', 'program.py']\n"


@pytest.mark.parametrize(
    "attempt",
    [
        "os.mkdir('/usr/written')",
        "os.unlink('/usr/bin/env')",
        "os.chmod('/usr/bin/env', 0o777)",
        "os.remove('/dev/null')",
        "os.setuid(0)",
        "os.setgroups([0])",
        "os.chroot('/tmp')",
        "os.mknod('device', 0o20666, os.makedev(1, 1))",
        "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))",
        "os.nice(-5)",
        "__import__('resource').setrlimit(__import__('resource').RLIMIT_AS, (1 << 40, 1 << 40))",
        "__import__('fcntl').ioctl(0, 0x5412, b'x')",
        "__import__('socket').sethostname('x')",
    ],
)
def test_what_needs_power_is_refused(box: Sandbox, attempt: str) -> None:
    refused(box, attempt)


NUMBERS = {
    "ptrace": 101, "process_vm_readv": 310, "mount": 165, "umount2": 166, "pivot_root": 155, "unshare": 272, "setns": 308,
    "bpf": 321, "keyctl": 250, "add_key": 248, "request_key": 249, "perf_event_open": 298, "userfaultfd": 323,
    "io_uring_setup": 425, "io_uring_enter": 426, "memfd_create": 319, "memfd_secret": 447, "shmget": 29, "msgget": 68,
    "semget": 64, "mq_open": 240, "init_module": 175, "kexec_load": 246, "reboot": 169, "swapon": 167, "syslog": 103,
    "open_by_handle_at": 304, "name_to_handle_at": 303, "fanotify_init": 300, "inotify_init": 253, "personality": 135,
    "socket": 41, "connect": 42, "bind": 49, "quotactl": 179, "acct": 163, "iopl": 172, "modify_ldt": 154,
    "kcmp": 312, "pidfd_getfd": 438, "move_mount": 429, "fsopen": 430, "mount_setattr": 442, "landlock_create_ruleset": 444,
    "clock_settime": 227, "sethostname": 170, "chroot": 161, "setuid": 105, "capset": 126, "mlock": 149, "seccomp": 317,
}  # fmt: skip


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are x86-64's")
def test_dangerous_system_calls_are_refused_before_the_kernel_looks_at_them(box: Sandbox) -> None:
    outcome = run(
        box,
        f"""
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        for name, number in {NUMBERS}.items():
            ctypes.set_errno(0)
            answer = libc.syscall(number, 0, 0, 0, 0, 0, 0)
            if answer != -1 or ctypes.get_errno() != 1:
                print(name, answer, ctypes.get_errno())
        new_user = libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0)
        print('clone', new_user, ctypes.get_errno())
        print('clone3', libc.syscall(435, 0, 0), ctypes.get_errno())
        print('socketpair', libc.socketpair(2, 1, 0, (ctypes.c_int * 2)()), ctypes.get_errno())
        print('local', libc.socketpair(1, 1, 0, (ctypes.c_int * 2)()))
        """,
    )
    assert outcome.stdout.decode().splitlines() == ["clone -1 1", "clone3 -1 38", "socketpair -1 1", "local 0"], outcome


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="32-bit calls exist on x86-64")
def test_the_32_bit_door_is_shut(box: Sandbox) -> None:
    """`int 0x80` reaches another table of numbers, in which what we allow means something else."""
    outcome = run(
        box,
        """
        import ctypes, mmap
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(bytes.fromhex('b814000000cd80c3'))  # mov eax, 20; int 0x80; ret
        call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
        print('before', flush=True)
        print(call())
        """,
    )
    assert (outcome.stdout, outcome.end, outcome.status) == (b"before\n", End.SIGNAL, 31), outcome  # SIGSYS


def test_programs_that_raise_privileges_raise_none(box: Sandbox) -> None:
    outcome = run(
        box,
        """
        import os, subprocess
        for program in ('su', 'mount', 'passwd', 'newgrp', 'unshare', 'sudo', 'bwrap'):
            path = f'/usr/bin/{program}'
            if os.path.exists(path):
                arguments = {'su': ['-c', 'id -u'], 'unshare': ['-Ur', 'id', '-u'],
                             'bwrap': ['--bind', '/', '/', 'id', '-u']}.get(program, [])
                done = subprocess.run([path, *arguments], capture_output=True, stdin=subprocess.DEVNULL)
                if done.stdout.strip() == b'0':
                    print('root by', program)
        print('end')
        """,
        limits=replace(QUICK, run_s=6.0),
    )
    assert outcome.stdout == b"end\n", outcome


# Whom it reaches


def test_there_is_no_network_and_no_socket_of_the_host(box: Sandbox, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as local:
        local.bind("\0sandbox-test")
        local.listen()
        port = listener.getsockname()[1]
        outcome = run(
            box,
            f"""
            import socket
            for family in range(0, 46):
                for kind in (1, 2, 3, 5):
                    try:
                        socket.socket(family, kind)
                        print('family', family)
                    except OSError:
                        pass
            for address in (('127.0.0.1', {port}), ('1.1.1.1', 53)):
                try:
                    socket.create_connection(address, 1)
                    print('connected')
                except OSError:
                    pass
            try:
                socket.getaddrinfo('example.org', 80)
                print('resolved')
            except OSError:
                pass
            print('end')
            """,
        )
        assert outcome.stdout == b"end\n", outcome
        for waiting in (listener, local):
            waiting.setblocking(False)
            with pytest.raises(BlockingIOError):
                waiting.accept()


@pytest.mark.parametrize(
    "attack",
    [
        "os.kill(os.getppid(), 9)",
        "os.kill(1, 9)",
        "[os.kill(1, number) for number in range(1, 65)]",
        "os.kill(-1, 9)",
        "os.killpg(0, 9)",
        "os.killpg(os.getpgid(1), 9)",
    ],
)
def test_killing_those_around_it_ends_nothing_but_itself(box: Sandbox, attack: str) -> None:
    first, second = run_two(box, f"import os\n{attack}\nprint('alive')", "print('second')")
    assert first.end in (End.EXIT, End.SIGNAL)
    assert second.stdout == b"second\n"


def test_the_watcher_cannot_be_traced_read_or_spoken_for(box: Sandbox) -> None:
    first, second = run_two(
        box,
        """
        import ctypes, os
        libc = ctypes.CDLL(None)
        print(libc.ptrace(16, 1, 0, 0), libc.ptrace(0, 0, 0, 0), end=' ')
        for fd in list(range(3, 200)):
            try:
                os.write(fd, b'R' + bytes(1000))
            except OSError:
                continue
            if fd > 3:
                print('wrote to', fd)
        print('end')
        """,
        "print('second')",
    )
    assert first.stdout == b"-1 -1 end\n"
    assert second.stdout == b"second\n"


# What it takes


def test_a_fork_bomb_goes_off_inside_alone(box: Sandbox) -> None:
    first, second = run_two(
        box,
        """
        import os
        while True:
            try:
                os.fork()
            except OSError:
                pass
        """,
        "print('second')",
    )
    assert first.end is End.WALL_TIME
    assert first.wall_s < QUICK.run_s + 1.5
    assert second.stdout == b"second\n"
    assert happens(lambda: len(descendants(os.getpid())) < 10)


def test_threads_count_as_processes(box: Sandbox) -> None:
    outcome = run(
        box,
        """
        import threading, time
        started = 0
        try:
            for _ in range(64):
                threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
                started += 1
        except RuntimeError:
            pass
        print(1 < started <= 8, flush=True)
        import os
        os._exit(0)
        """,
    )
    assert outcome.stdout == b"True\n", outcome


def test_memory_is_bounded_for_one_process(box: Sandbox) -> None:
    outcome = run(box, "held = []\nwhile True: held.append(bytearray(1 << 24))", limits=SMALL)
    assert (outcome.end, outcome.status) == (End.EXIT, 1)
    assert outcome.stderr.rstrip().endswith(b"MemoryError")


def test_memory_is_bounded_for_all_processes_together(box: Sandbox) -> None:
    started = time.monotonic()
    outcome = run(
        box,
        """
        import os, time
        for _ in range(5):
            if os.fork() == 0:
                break
        held = []
        try:
            while True:
                held.append(os.urandom(1 << 20))
        except MemoryError:
            time.sleep(60)
        """,
        limits=replace(SMALL, run_s=20.0, job_s=20.0),
    )
    assert outcome.end is End.SKIPPED, "killed from outside"
    assert time.monotonic() - started < 15.0


def test_disk_is_bounded_by_size_and_for_one_file(box: Sandbox) -> None:
    outcome = run(
        box,
        """
        import errno, os
        written = 0
        for number in range(20):
            try:
                with open(f'file{number}', 'wb', buffering=0) as file:
                    for _ in range(8):
                        written += file.write(bytes(1 << 19))
            except OSError as error:
                assert error.errno in (errno.ENOSPC, errno.EFBIG), error
        print(0 < written <= 4 << 20)
        """,
    )
    assert outcome.stdout == b"True\n", outcome


def test_a_full_disk_harms_the_next_run_at_most_and_is_reported(box: Sandbox) -> None:
    fill = "import os\ntry:\n  for n in range(9): open(f'f{n}', 'wb', buffering=0).write(bytes(1 << 22))\nexcept OSError: pass"
    bar = "import os\nos.unlink('.stdin'); os.mkdir('.stdin'); open('.stdin/x', 'w').close()"
    _, after_filling = run_two(box, fill, "print('second')")
    assert after_filling.end in (End.EXIT, End.SKIPPED)
    _, after_barring = run_two(box, bar, "print('second')")
    assert after_barring.end is End.SKIPPED


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_endless_output_is_cut(box: Sandbox, stream: str) -> None:
    outcome = run(box, f"import sys\nwhile True: sys.{stream}.write('x' * 4096)")
    assert outcome.end is End.OUTPUT
    assert len(getattr(outcome, stream)) == QUICK.output_bytes
    assert outcome.wall_s < QUICK.run_s


def test_output_that_is_too_long_is_over_the_limit_even_where_the_program_ended_well(box: Sandbox) -> None:
    assert run(box, f"print('x' * {QUICK.output_bytes - 1}, end='')").is_clean
    assert run(box, f"print('x' * {QUICK.output_bytes + 1}, end='')").end is End.OUTPUT


# How long it stays


@pytest.mark.parametrize(
    "program",
    [
        "import time; time.sleep(600)",
        "while True: pass",
        "import signal, time\nfor n in range(1, 65):\n  try: signal.signal(n, signal.SIG_IGN)\n  except (OSError, ValueError): pass\nwhile True: pass",
        "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
        "import sys; sys.stdout.close(); import os; os.close(2); import time; time.sleep(600)",
        "9**9**9",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()",
        "import atexit, time; atexit.register(time.sleep, 600)",
    ],
)
def test_its_time_ends(box: Sandbox, program: str) -> None:
    outcome = run(box, program, limits=replace(QUICK, run_s=1.0))
    assert outcome.end in (End.WALL_TIME, End.CPU_TIME), outcome
    assert outcome.wall_s < 2.5


def test_the_jobs_time_ends_and_what_was_done_before_counts(box: Sandbox) -> None:
    files = {"good.py": b"print('good')", "slow.py": b"while True: pass"}
    runs = (Run("good.py"), *[Run("slow.py")] * 4, Run("good.py"))
    started = time.monotonic()
    outcomes = box.run(Job(files, runs, replace(QUICK, run_s=1.0, job_s=2.5)))
    assert time.monotonic() - started < 6.0
    ends = [outcome.end for outcome in outcomes]
    assert ends[0] is End.EXIT
    assert ends[1:4].count(End.WALL_TIME) + ends[1:4].count(End.CPU_TIME) == 3
    assert ends[-1] is End.SKIPPED


def test_a_daemon_does_not_outlive_its_run(box: Sandbox) -> None:
    first, second = run_two(
        box,
        """
        import os, signal, time
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_IGN)
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(600)  # it keeps stdout open
            os._exit(0)
        print('first')
        """,
        """
        import os
        try:
            os.kill(-1, 0)
            print('not alone')
        except ProcessLookupError:
            print('alone')
        """,
    )
    assert first.stdout == b"first\n"
    assert first.end is End.EXIT
    assert first.wall_s < 1.5
    assert second.stdout == b"alone\n"


def test_zombies_are_no_burden(box: Sandbox) -> None:
    first, second = run_two(
        box,
        "import os\nfor _ in range(6):\n  if os.fork() == 0: os._exit(0)\nprint('first')",
        "import os\nfor _ in range(6):\n  if os.fork() == 0: os._exit(0)\nprint('second')",
    )
    assert (first.stdout, second.stdout) == (b"first\n", b"second\n")


def test_it_dies_with_the_process_that_asked_for_it(box: Sandbox) -> None:
    program = textwrap.dedent(f"""
        import threading, time
        from rewards.sandbox.choice import BACKENDS
        from rewards.sandbox.job import Job, Limits, Run
        box = BACKENDS[{box.name!r}]()
        source = b"import os, time; os.fork(); os.setsid() if os.getpid() != os.getpgrp() else 0; time.sleep(600)"
        print("ready", flush=True)
        box.run(Job({{"p.py": source}}, (Run("p.py"),), Limits(run_s=500.0, job_s=500.0)))
    """)
    owner = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"ready\n"
    assert happens(lambda: len(descendants(owner.pid)) >= 4, 10.0), "launcher, first process, program and its fork"
    time.sleep(0.3)
    inside = descendants(owner.pid)
    owner.kill()
    owner.wait(10)
    owner.stdout.close()
    assert happens(lambda: not any(alive(pid) for pid in inside))


# What it says


def test_any_bytes_come_through(box: Sandbox) -> None:
    everything = bytes(range(256)) * 8 + "\u2028é\ud800".encode("utf-8", "surrogatepass")
    outcome = run(box, "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read()); sys.exit(7)", stdin=everything)
    assert (outcome.stdout, outcome.end, outcome.status) == (everything, End.EXIT, 7)
    assert run(box, "print('\\ud800\\0é')").stderr.endswith(b"surrogates not allowed\n")


@pytest.mark.parametrize("number", [1, 2, 3, 6, 8, 9, 11, 13, 14, 15])
def test_the_signal_that_ended_it_is_told(box: Sandbox, number: int) -> None:
    outcome = run(box, f"import os, signal; signal.signal(2, 0); signal.signal(13, 0); os.kill(os.getpid(), {number})")
    assert (outcome.end, outcome.status) == (End.SIGNAL, number)


def test_a_signal_that_the_host_ignores_as_under_nohup_is_not_ignored_inside(box: Sandbox) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    another = type(box)()
    try:
        outcome = run(another, "import os; os.kill(os.getpid(), 1)")
    finally:
        another.close()
        signal.signal(signal.SIGHUP, before)
    assert (outcome.end, outcome.status) == (End.SIGNAL, 1)


def test_a_crash_of_the_interpreter_is_the_programs(box: Sandbox) -> None:
    first, second = run_two(box, "import ctypes; ctypes.string_at(0)", "print('second')")
    assert (first.end, first.status) == (End.SIGNAL, 11)
    assert second.stdout == b"second\n"


def test_a_large_input_and_one_that_nobody_reads(box: Sandbox) -> None:
    large = b"x" * (3 << 20)
    assert run(box, "import sys; print(len(sys.stdin.read()))", stdin=large).stdout == b"3145728\n"
    assert run(box, "print('unread')", stdin=large).stdout == b"unread\n"
    assert run(box, "print(open('/dev/stdin').read(), open(0).read())", stdin=b"abc").stdout == b"abc abc\n"


def test_a_program_may_patch_what_it_likes_in_its_own_process(box: Sandbox) -> None:
    first, second = run_two(
        box,
        """
        import builtins, json, os, sys
        json.dumps = os.write = sys.exit = builtins.print = lambda *a, **k: 'patched'
        os._exit = lambda code: None
        """,
        "import json; print(json.dumps([1]))",
    )
    assert first.end in (End.EXIT, End.SIGNAL)
    assert second.stdout == b"[1]\n"


def test_commands_run_as_programs_do(box: Sandbox) -> None:
    files = {"note.txt": b"abc"}
    runs = (Run(command=("cat", "note.txt")), Run(command=("no-such-command",)), Run(command=("sh", "-c", "exit 3")))
    shown, missing, failed = box.run(Job(files, runs, QUICK))
    assert (shown.stdout, shown.status) == (b"abc", 0)
    assert missing.status == 127
    assert failed.status == 3


def test_what_follows_a_failure_is_skipped_where_asked(box: Sandbox) -> None:
    job = Job(
        {"p.py": dedented("print(1 / int(input()))")}, tuple(Run("p.py", stdin=s) for s in (b"1", b"0", b"1")), QUICK
    )
    assert [outcome.is_clean for outcome in box.run(job)] == [True, False, True]
    ends = [outcome.end for outcome in box.run(replace(job, stop_at_failure=True))]
    assert ends == [End.EXIT, End.EXIT, End.SKIPPED]
