"""Joining a Ray cluster that somebody else has started, and what of GPUs a run may count on.

Only the cluster itself knows what its nodes have: the driver's machine, a head without GPUs perhaps, says nothing.
"""

import logging
import os
import socket

import ray
import torch
from ray.exceptions import RayError

from orchestrator.config import RaySettings
from orchestrator.errors import SettingError

CONNECT_TIMEOUT_S = 5.0
QUIET: dict[str, object] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
LONGEST = 300
"""Characters of Ray's own words that an error repeats."""


def gpus_in_reach(settings: RaySettings) -> int:
    """GPUs of this machine, or of the cluster that the run joins, which is joined now.

    Raises:
        SettingError: it cannot be.
    """
    if settings.address is None:
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
    join(settings.address)
    return int(sum(node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]))


def join(address: str, setting: str = "ray.address") -> None:
    """Be a driver of this cluster; nothing is done by one that is.

    Args:
        setting: what gave the address, for whoever has to change it.

    Raises:
        SettingError: nobody answers, it wants another token, or it has another version of Ray or Python.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if (fault := unreachable(address)) is not None:
        raise SettingError(setting, fault, "check it with `ray status`")
    try:
        ray.init(address=address, **QUIET)
    except (ConnectionError, ValueError, RuntimeError, RayError) as error:
        said = " ".join(str(error).split())[:LONGEST]
        fix = "check it with `ray status`, and that token and versions are the same here and there"
        raise SettingError(setting, f"{address} cannot be joined: {said}", fix) from None


def unreachable(address: str) -> str | None:
    """Why nobody can be at an address; None where somebody answers, or Ray finds out by itself where it is."""
    host, _, port = address.rpartition(":")
    if address == "auto" or "://" in address or not port.isdigit():
        return None
    try:
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        return f"nothing answers at {address} ({error})"
    return None
