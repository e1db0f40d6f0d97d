"""What a reward sees and what it answers.

A `Response` is plain data, so that it can cross a process boundary; nothing in it is ever executed or trusted.
The orchestrator makes it from a finished trajectory, once: no later stage changes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call that the answer made.

    Attributes:
        name: of the tool.
        arguments: as the model wrote them.
        result: what came back, as the model saw it.
        failed: the tool refused, or raised.
    """

    name: str
    arguments: str = ""
    result: str = ""
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How likely the policy found the reference, as a logprob of each of its tokens.

    Attributes:
        reasoned: in the place of the answer, behind the answer's own reasoning; empty where the text has no such place.
        bare: behind the question alone.
        version: of the weights that said so; None where nobody had to be asked.
    """

    reasoned: tuple[float, ...]
    bare: tuple[float, ...]
    version: int | None = None


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
        prompt_id: names the prompt; what stands before an ``@`` names the item in all its epochs.
        token_ids: what the model sampled; empty where a caller has text alone.
        tool_calls: in the order in which they were made.
        likelihood: of the reference under the policy, where a recipe asks the engines for it (`rollout.likelihood`).
    """

    sample_id: str
    question: str
    text: str
    reference: str | None = None
    metadata: Mapping[str, Json] = field(default_factory=dict)
    truncated: bool = False
    response_tokens: int = 0
    prompt_id: str = ""
    token_ids: tuple[int, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    likelihood: Likelihood | None = None

    @property
    def item(self) -> str:
        """The data's name of what was asked: the same in every epoch."""
        return self.prompt_id.partition("@")[0]


@dataclass(frozen=True, slots=True)
class SpanReward:
    """A reward of a part of the text: of the characters from `start` up to `stop`, in Python's counting.

    Attributes:
        on: `each` token of the part gets the value, or the `last` one alone.
    """

    start: int
    stop: int
    value: float
    on: Literal["each", "last"] = "each"


@dataclass(frozen=True, slots=True)
class Fact:
    """Something to remember about the prompt, or, if `shared`, about the whole run.

    Attributes:
        rule: how it meets what is remembered: the smaller value stays (`least`), or the remembered value moves towards
            the mean of the new ones (`average`). Neither depends on the order in which answers arrive.
    """

    name: str
    value: float
    rule: Literal["least", "average"]
    shared: bool = False


FailureKind = Literal[
    "raised",
    "timeout",
    "memory",
    "died",
    "closed",
    "cancelled",
    "quarantined",
    "start",
    "unreachable",
    "refused",
    "malformed",
]
"""The last three, and `timeout` as well, may be a model's: see `rewards.models.asking`."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no verdict, for counting. `term` is the label of the term at work, "" where nobody knows."""

    kind: FailureKind
    term: str = ""


@dataclass(frozen=True, slots=True)
class Score:
    """The verdict on one response.

    Attributes:
        total: what the recipe makes of `terms`; the configured fallback where scoring failed.
        terms: value of each named term before weighting, in the order of the recipe.
        error: one line where a term raised, timed out or ran out of memory; None for a clean score.
        seconds: wall time that the scoring took.
        spans: rewards of parts of the text, weighted; they are no part of `total`.
        facts: what a term wants remembered.
        failure: set where `error` is.
        troubles: what no model could tell, where a term has a value of its own for that; such a score is no failure.
    """

    total: float
    terms: Mapping[str, float]
    error: str | None = None
    seconds: float = 0.0
    spans: tuple[SpanReward, ...] = ()
    facts: tuple[Fact, ...] = ()
    failure: Failure | None = None
    troubles: tuple[Failure, ...] = ()
