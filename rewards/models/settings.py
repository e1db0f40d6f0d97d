"""The recipe's part on models that rewards ask."""

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from rewards.section import Section

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _is_endpoint(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            "is no http(s) address; give the base of an OpenAI-compatible endpoint, such as https://HOST/v1"
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("must hold no user, password or query; a key is named by api_key_env")
    return url.rstrip("/")


def _is_variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise ValueError("is no name of an environment variable; name the variable that holds the key, not the key")
    return name


class ModelSettings(Section):
    """One model: at somebody's endpoint (`url`), or, without a `url`, served by an actor of the run."""

    model: str
    """Its name at the endpoint; or a folder or Hugging Face id that the run serves."""
    url: Annotated[str, AfterValidator(_is_endpoint)] | None = None
    """Base of an OpenAI-compatible endpoint, with its ``/v1``."""
    api_key_env: Annotated[str, AfterValidator(_is_variable)] | None = None
    """Name of the environment variable with the endpoint's key. The key itself stands in no file of the run."""
    concurrency: int = Field(16, ge=1)
    """Calls under way at a time; the others wait in line, and their answers' deadlines with them."""
    timeout_s: float | None = Field(None, gt=0)
    """Bound of one call, its retries included, counted from its turn; below `reward.deadline_s`. None: 0.8 of that."""
    retries: int = Field(4, ge=0)
    """How often a call that met no server, or one with too much to do (429, 5xx), is made again."""
    task: Literal["generate", "classify", "embed"] = "generate"
    """What a served model is for; an endpoint says so by itself."""
    engine: Literal["torch", "vllm"] = "vllm"
    """What serves it; `vllm` generates alone."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    context_length: int = Field(4096, ge=16)
    """Tokens of a question to a served model and its reply together."""
    max_running: int = Field(16, ge=1)
    """Replies that a served model writes, or texts that it reads, at a time."""
    kv_cache_gib: float = Field(0.5, gt=0)
    """KV cache of a served model without a GPU, GiB."""

    @property
    def served(self) -> bool:
        """Whether an actor of the run serves it."""
        return self.url is None

    @model_validator(mode="after")
    def _parts_fit(self) -> "ModelSettings":
        if self.served and self.api_key_env is not None:
            raise ValueError("api_key_env is for an endpoint; give its url, or leave the variable out")
        if self.served and self.engine == "vllm" and self.task != "generate":
            raise ValueError(f"engine=vllm serves task=generate alone; {self.task} needs engine=torch or an endpoint")
        return self
