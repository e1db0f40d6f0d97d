"""Addresses of storage: which texts are one, and which hold what nobody may read.

Credentials come from the environment or from the driver's own configuration. An address with a password or a key in it
would lie in recipes, logs and run directories: it is refused, and never repeated. Pure.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from orchestrator.errors import SettingError

_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>\S*)")
_WORDS_OF_KEYS = re.compile(r"[?&#][^=]*(?:key|token|secret|password|signature|credential|sig)[^=]*=", re.IGNORECASE)
_LOGIN = re.compile(r"(?<=://)[^/@\s]*@")
_QUERY = re.compile(r"(?P<address>[A-Za-z][A-Za-z0-9+.-]*://[^\s?]*)\?\S*")
LOCAL = ("file", "local")
"""Schemes of this machine's own folders."""
CHECKED_ELSEWHERE = ("url",)
"""Settings whose section refuses a password in words of its own."""


def scheme_of(text: str) -> str | None:
    """`s3` of `s3://bucket/runs`; None of a folder."""
    found = _ADDRESS.fullmatch(text)
    return None if found is None else found["scheme"].lower()


def is_remote(text: str | None) -> bool:
    """Whether a driver is needed to get there."""
    return text is not None and scheme_of(text) not in (None, *LOCAL)


def local_path(text: str) -> Path:
    """The folder or file of this machine that a path or a `file://` address names."""
    return Path(text.partition("://")[2] if scheme_of(text) in LOCAL else text).expanduser()


def holds_secret(text: str) -> bool:
    """Whether an address names a password (`user:password@`, where the password may hold a slash) or a key."""
    found = _ADDRESS.fullmatch(text)
    if found is None:
        return False
    rest = found["rest"]
    login, at, _ = rest.partition("@")
    port = rest.partition("/")[0].partition(":")[2]
    return bool(
        (at and ":" in login) or (port and not port.isdigit() and "]" not in port) or _WORDS_OF_KEYS.search(rest)
    )


def check_address(setting: str, text: str) -> None:
    """Raises: SettingError: it holds a secret, which is not repeated."""
    if holds_secret(text):
        raise SettingError(
            setting,
            "an address must hold no password and no key",
            "leave it out: credentials come from the environment, see docs/storage.md",
        )


def check_addresses(tree: Mapping[str, object]) -> None:
    """Raises: SettingError: some setting of a recipe is an address that holds a secret."""
    for setting, text in _texts(tree, ""):
        if setting.rpartition(".")[2] not in CHECKED_ELSEWHERE:
            check_address(setting, text)


def scrubbed(text: str) -> str:
    """What somebody else's error says, without the logins and queries of the addresses in it."""
    return _QUERY.sub(r"\g<address>", _LOGIN.sub("", text))


def _texts(node: object, place: str) -> Iterator[tuple[str, str]]:
    """All texts below a node of a recipe, by dotted name."""
    if isinstance(node, str):
        yield place, node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _texts(value, f"{place}.{key}" if place else str(key))
    elif isinstance(node, Sequence):
        for number, value in enumerate(node):
            yield from _texts(value, f"{place}.{number}")
