"""Where the models are that rewards ask at somebody's endpoint, with the keys that the environment holds."""

import os

from orchestrator.errors import SettingError
from rewards.models.address import Address
from rewards.settings import RewardSettings


def endpoint_addresses(reward: RewardSettings) -> dict[str, Address]:
    """Of the models with a `url`, by name.

    Raises: SettingError where a key is not in the environment; neither it nor what was written in its place is shown.
    """
    return {
        name: Address(model.url, _key(name, model.api_key_env))
        for name, model in reward.models.items()
        if model.url is not None
    }


def _key(name: str, variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        setting = f"reward.models.{name}.api_key_env"
        raise SettingError(setting, "no environment variable of this name is set", "export it before the run")
    return key
