"""A recipe that holds a key is not rendered: manifests lie in repositories, and Secrets are referred to by name."""

import re
from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from orchestrator.errors import SettingError

_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
SHORTEST = 12
"""A shorter value of the environment may stand in a recipe by chance."""
_LOOKS = re.compile(
    r"""
      hf_[A-Za-z0-9]{20,}                         # Hugging Face
    | \bsk-[A-Za-z0-9_-]{16,}                     # OpenAI and those who write keys like it
    | \b(?:AKIA|ASIA)[0-9A-Z]{16}\b               # AWS
    | \bgh[pousr]_[A-Za-z0-9]{20,}                # GitHub
    | \bxox[abprs]-[A-Za-z0-9-]{10,}              # Slack
    | \beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.   # a JSON web token
    | -----BEGIN[ A-Z]*PRIVATE[ ]KEY
    | ://[^/@\s:]*:[^/@\s]+@                      # a password in an address
    """,
    re.VERBOSE,
)


def refuse_keys(recipe: Mapping[str, JsonValue], environment: Mapping[str, str]) -> None:
    """Args:
        recipe: all of its settings.
        environment: of whoever renders; values of variables that are named like keys.

    Raises:
        SettingError: names the setting, and does not repeat what it holds.
    """
    known = known_keys(environment)
    for setting, text in _texts(recipe, ""):
        if _LOOKS.search(text) or any(key in text for key in known):
            fix = "put it into a Secret and name its variable, as api_key_env does"
            raise SettingError(setting, "holds what looks like a key, and a manifest is read by many", fix)


def known_keys(environment: Mapping[str, str]) -> set[str]:
    """The keys that this environment holds."""
    return {value for name, value in environment.items() if _SECRET_NAME.search(name) and len(value) >= SHORTEST}


def _texts(value: JsonValue | Mapping[str, JsonValue], at: str) -> Iterator[tuple[str, str]]:
    """All texts with the dotted names of their settings; a key of a mapping is a text as well."""
    if isinstance(value, str):
        yield at, value
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _texts(item, f"{at}[{number}]")
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield at or "recipe", name
            yield from _texts(item, f"{at}.{name}" if at else name)
