"""Finds a model's configuration by the name that a recipe gives it: a small file, no weights."""

from pathlib import Path

from transformers import AutoConfig, PretrainedConfig, Qwen3Config

from learners.errors import first_line
from orchestrator.config import STARTER
from orchestrator.data.starter_shape import StarterShape
from orchestrator.errors import SettingError
from orchestrator.planning.model_shape import PlannedModel


class Configs:
    """Each name is looked up once."""

    def __init__(self) -> None:
        self._found: dict[str, PlannedModel] = {}

    def __call__(self, name: str, setting: str = "model") -> PlannedModel:
        """Raises:
        SettingError: there is no such model, or it cannot be asked for.
        """
        if name not in self._found:
            self._found[name] = PlannedModel(name, _look_up(name, setting))
        return self._found[name]

    def know(self, name: str, config: PretrainedConfig) -> None:
        """A configuration that need not be looked up."""
        self._found[name] = PlannedModel(name, config)


def _look_up(name: str, setting: str) -> PretrainedConfig:
    if name == STARTER:
        return starter_config()
    folder = Path(name).expanduser()
    try:
        return AutoConfig.from_pretrained(folder if folder.is_dir() else name)
    except (OSError, ValueError, KeyError) as error:
        fix = "give a folder with a config.json, a Hugging Face id or `starter`"
        raise SettingError(setting, f"{name} has no configuration that loads ({first_line(error)})", fix) from None


def starter_config() -> PretrainedConfig:
    """Of the small model that runs make for themselves, as `orchestrator.data.starter` shapes it."""
    # Tokens are left out: a padding token of the class's own may lie beyond so small a vocabulary.
    return Qwen3Config(**StarterShape().architecture(), bos_token_id=None, eos_token_id=None, pad_token_id=None)
