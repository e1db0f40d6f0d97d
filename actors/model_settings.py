"""What an actor that serves a model for rewards is told."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class ServedModel:
    """Attributes:
    folder: of a Hugging Face checkpoint with its tokenizer.
    name: that calls give.
    host: address that the server is bound to.
    token: that calls must bear.
    """

    folder: str
    name: str
    host: str
    token: str = field(repr=False)
    task: Literal["generate", "classify", "embed"]
    engine: Literal["torch", "vllm"]
    dtype: Literal["bfloat16", "float32"]
    context_length: int
    max_running: int
    threads: int
    kv_cache_gib: float
    on_gpu: bool
    start_timeout_s: float = 600.0
