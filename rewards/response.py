"""What a reward sees and what it answers.

A `Response` is plain data, so that it can cross a process boundary; nothing in it is ever executed or trusted.
The orchestrator makes it from a finished trajectory, once: no later stage changes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True, slots=True)
class Response:
    """One sampled answer, ready to be scored.

    Attributes:
        sample_id: names the trajectory in logs and reports, e.g. ``"p17/3"``.
        question: the prompt as the dataset states it, before any template.
        text: what the model wrote, decoded, without special tokens.
        reference: the dataset's answer; None where the task's own scorer knows it.
        metadata: the dataset row's further fields, JSON-like (a reasoning-gym item keeps ``task`` and ``entry`` here).
        truncated: the answer ended because it ran out of tokens, not because the model stopped.
        response_tokens: length of the answer in tokens.
    """

    sample_id: str
    question: str
    text: str
    reference: str | None = None
    metadata: Mapping[str, Json] = field(default_factory=dict)
    truncated: bool = False
    response_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Score:
    """The verdict on one response.

    Attributes:
        total: weighted sum of `terms`; the configured fallback where scoring failed.
        terms: value of each named term before weighting.
        error: one line where a term raised, timed out or ran out of memory; None for a clean score.
        seconds: wall time that the scoring took.
    """

    total: float
    terms: Mapping[str, float]
    error: str | None = None
    seconds: float = 0.0
