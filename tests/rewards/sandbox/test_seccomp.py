"""The filter, run here by a small interpreter of its instructions, and its numbers against the system's headers."""

import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.sandbox.job import SandboxError
from rewards.sandbox.seccomp import syscall_filter
from rewards.sandbox.syscalls import ALLOWED

ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def verdict(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    data = struct.pack("<IIQ6Q", number, architecture or ARCHITECTURE[machine], 0, *(*arguments, *[0] * 6)[:6])
    program = list(struct.iter_unpack("<HBBI", syscall_filter(machine)))
    held, at = 0, 0
    while True:
        code, if_true, if_false, operand = program[at]
        at += 1
        if code == 0x20:  # load a word
            (held,) = struct.unpack_from("<I", data, operand)
        elif code == 0x15:
            at += if_true if held == operand else if_false
        elif code == 0x45:
            at += if_true if held & operand else if_false
        else:
            assert code == 0x06
            return operand


@pytest.mark.parametrize("machine", ARCHITECTURE)
def test_what_is_listed_is_allowed_and_nothing_else(machine: str) -> None:
    allowed = set(ALLOWED[machine].values()) - {ALLOWED[machine]["clone3"]}
    passing = {number for number in range(1024) if verdict(machine, number, 1, 0) == ALLOW}
    assert passing == allowed
    assert len(syscall_filter(machine)) // 8 < 4096


@pytest.mark.parametrize("machine", ARCHITECTURE)
def test_the_calls_that_are_looked_at(machine: str) -> None:
    number = ALLOWED[machine]
    assert verdict(machine, number["clone3"]) == ENOSYS
    assert verdict(machine, number["clone"], 0x3D0F00) == ALLOW, "a thread of glibc's"
    for namespace in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000, 0x80):
        assert verdict(machine, number["clone"], namespace | 17) == EPERM
    assert verdict(machine, number["socketpair"], 1) == ALLOW
    assert all(verdict(machine, number["socketpair"], family) == EPERM for family in (0, 2, 10, 16, 17))
    assert verdict(machine, number["ioctl"], 0, 0x5401) == ALLOW, "isatty"
    assert verdict(machine, number["ioctl"], 0, 0x5412) == verdict(machine, number["ioctl"], 0, 0x541C) == EPERM


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
def test_another_architectures_calls_end_the_process(number: int, argument: int, architecture: int) -> None:
    if architecture != ARCHITECTURE["x86_64"] and architecture:
        assert verdict("x86_64", number, argument, architecture=architecture) == KILL
    if number not in ALLOWED["x86_64"].values():
        assert verdict("x86_64", number, argument) == EPERM


@pytest.mark.parametrize(
    ("machine", "header"),
    [("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), ("aarch64", "/usr/include/asm-generic/unistd.h")],
)
def test_the_numbers_are_the_kernels(machine: str, header: str) -> None:
    if not Path(header).exists():
        pytest.skip(f"no {header}")
    named = dict(re.findall(r"#define\s+__NR(?:3264)?_(\w+)\s+(\d+)\s*$", Path(header).read_text(), re.MULTILINE))
    aliases = {"newfstatat": "fstatat", "fadvise64": "fadvise64_64"}
    for name, number in ALLOWED[machine].items():
        told = named.get(name) or named.get(aliases.get(name, name))
        assert told is not None, name
        assert int(told) == number, name


def test_an_unknown_architecture_has_no_sandbox() -> None:
    with pytest.raises(SandboxError, match="no table of system calls for riscv64"):
        syscall_filter("riscv64")


def test_both_tables_allow_the_same_but_for_calls_that_only_one_has() -> None:
    one_sided = set(ALLOWED["x86_64"]) ^ set(ALLOWED["aarch64"])
    assert set(ALLOWED["aarch64"]) < set(ALLOWED["x86_64"])
    assert one_sided >= {"open", "fork", "stat", "poll", "arch_prctl"}
    dangerous = {"ptrace", "mount", "socket", "connect", "bpf", "unshare", "setns", "keyctl", "memfd_create", "shmget"}
    assert not dangerous & set(ALLOWED["x86_64"])
