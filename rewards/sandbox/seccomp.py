"""The filter through which untrusted code calls the kernel, as classic BPF, assembled here.

An allow list (`rewards.sandbox.syscalls`), with four calls looked at more closely: `clone` makes no namespaces,
`clone3` is reported as missing (its flags stand in memory, out of a filter's sight; libc then takes `clone`),
`socketpair` makes local pairs only, and `ioctl` types nothing into a terminal. Format: linux/filter.h, linux/seccomp.h.
"""

import os
import struct
from collections.abc import Iterable

from rewards.sandbox.job import SandboxError
from rewards.sandbox.syscalls import ALLOWED

_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM, _ENOSYS = 1, 38
_LOAD, _RETURN, _IF_EQUAL, _IF_ANY_BIT = 0x20, 0x06, 0x15, 0x45
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16  # struct seccomp_data, arguments of 8 bytes each
_NAMESPACES = 0x7E020080
"""CLONE_NEW* (linux/sched.h) of all kinds."""
_AF_UNIX, _TIOCSTI, _TIOCLINUX = 1, 0x5412, 0x541C

_Instruction = tuple[int, int, int, int]


def syscall_filter(machine: str | None = None) -> bytes:
    """The instructions, 8 bytes each, as `struct sock_fprog` points to them.

    Raises: SandboxError for an architecture without a table.
    """
    machine = machine or os.uname().machine
    if machine not in ALLOWED:
        raise SandboxError(f"no table of system calls for {machine}")
    numbers = ALLOWED[machine]
    program: list[_Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_IF_EQUAL, 1, 0, _ARCHITECTURE[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        *_when(numbers["clone3"], [_refuse(_ENOSYS)]),
        *_when(numbers["clone"], [_argument(0), (_IF_ANY_BIT, 0, 1, _NAMESPACES), _refuse(_EPERM), _allow()]),
        *_when(numbers["socketpair"], [_argument(0), (_IF_EQUAL, 1, 0, _AF_UNIX), _refuse(_EPERM), _allow()]),
        *_when(
            numbers["ioctl"],
            [_argument(1), (_IF_EQUAL, 1, 0, _TIOCSTI), (_IF_EQUAL, 0, 1, _TIOCLINUX), _refuse(_EPERM), _allow()],
        ),
    ]
    plain = sorted(set(numbers.values()) - {numbers[name] for name in ("clone", "clone3", "socketpair", "ioctl")})
    for number in plain:
        program += _when(number, [_allow()])
    program.append(_refuse(_EPERM))
    return _packed(program)


def _when(number: int, then: list[_Instruction]) -> list[_Instruction]:
    return [(_IF_EQUAL, 0, len(then), number), *then]


def _argument(index: int) -> _Instruction:
    """The lower half of it: flags and families fit, and both architectures are little-endian."""
    return (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * index)


def _allow() -> _Instruction:
    return (_RETURN, 0, 0, _ALLOW)


def _refuse(error: int) -> _Instruction:
    return (_RETURN, 0, 0, _ERRNO | error)


def _packed(program: Iterable[_Instruction]) -> bytes:
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)
