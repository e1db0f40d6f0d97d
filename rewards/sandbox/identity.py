"""As whom untrusted code runs: never as root, and under a number that no account has where root may choose one.

Three cases. Root with CAP_SYS_ADMIN builds the walls itself and takes another user inside them: no user namespace is
needed. Root without it (most containers) takes another user first and then a user namespace. Anybody else takes a user
namespace, in which it is nobody.
"""

import os
import random
from dataclasses import dataclass
from pathlib import Path

NOBODY = 65534
_CAP_SYS_ADMIN = 21  # linux/capability.h
_UNUSED = range(61184, 65520)
"""systemd's range for dynamic users. A fresh number for each job keeps the counts of processes apart."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Attributes:
    builds_as_root: no user namespace.
    before, within: the number to take before the walls are built, or inside them; None: keep one's own.
    """

    builds_as_root: bool
    before: int | None
    within: int | None


def identity() -> Identity:
    """For one job."""
    if os.geteuid() != 0:
        return Identity(False, None, None)
    unused = random.choice(_UNUSED)
    return Identity(True, None, unused) if _may_mount() else Identity(False, unused, None)


def _may_mount() -> bool:
    status = Path("/proc/self/status").read_text().splitlines()
    (effective,) = [line.split()[1] for line in status if line.startswith("CapEff:")]
    return bool(int(effective, 16) >> _CAP_SYS_ADMIN & 1)
