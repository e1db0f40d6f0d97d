"""The reward's part of a recipe: which terms count, and the limits under which answers are scored."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue, model_validator

from rewards.disturbance import Kind
from rewards.models.settings import ModelSettings
from rewards.registry import check_name
from rewards.section import Section


def spelled_out(reward: object) -> object:
    """A reward in full: ``my_module:score`` alone stands for one term of that name."""
    return {"terms": [{"name": reward}]} if isinstance(reward, str) else reward


class Condition(Section):
    """What another term must have found."""

    term: str
    """Name, as logged, of a term before this one: `math`, or `shape/length` of one that answers several values."""
    at_least: float = Field(1.0, allow_inf_nan=False)


class TermSettings(Section):
    name: Annotated[str, AfterValidator(check_name)]
    """A term in `rewards.registry.BUILT_IN`, or a function of your own as `package.module:function`."""
    weight: float = Field(1.0, allow_inf_nan=False)
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Keyword arguments of the term's function."""
    label: str | None = Field(None, min_length=1, pattern="^[^/]+$")
    """Name in logs and metrics; None takes the term's own. Needed where one term is used twice."""
    combine: Literal["add", "multiply"] = "add"
    """From top to bottom, weight times value is added to what the terms above make, or multiplies it."""
    when: Condition | None = None
    """Where it does not hold, the term leaves the total as it is and is not logged."""
    fallback: float | None = Field(None, allow_inf_nan=False)
    """Value of a term whose model gave no usable reply; such answers are counted. None takes the term's own, and for a
    term that has none the answer's scoring failed."""

    @model_validator(mode="before")
    @classmethod
    def _a_name_is_a_term(cls, term: object) -> object:
        return {"name": term} if isinstance(term, str) else term

    @property
    def logged_as(self) -> str:
        return self.label or self.name.rpartition(":")[2]


class Disturbance(Section):
    """A false reward on purpose: what a run learns from it says how far it can be trusted."""

    kind: Kind
    """`flip` (at rate 1 the reward is inverted) or `random`."""
    rate: float = Field(1.0, ge=0, le=1)
    """Share of the answers, or prompts, whose reward is disturbed."""
    per: Literal["answer", "prompt"] = "answer"
    """Whether a prompt's answers are disturbed each by itself or all together."""
    low: float = Field(0.0, allow_inf_nan=False)
    high: float = Field(1.0, allow_inf_nan=False)
    """Bounds of the reward: flipped it is low + high - r, random it is one of the two."""
    seed: int = 0


CALL_SHARE = 0.8
"""Of an answer's deadline, what one call of a model may take where its settings do not say."""


class RewardSettings(Section):
    terms: tuple[TermSettings, ...] = Field(min_length=1)
    """What the reward is made of; the first is the one that evaluations count as correct."""
    models: dict[str, ModelSettings] = Field(default_factory=dict)
    """Models that terms may ask, by the name that a term's option `model` gives."""
    disturb: Disturbance | None = None
    """None leaves the reward true. The terms are logged, and evaluated, as they are in any case."""
    workers: int = Field(1, ge=1)
    """Child processes that score at a time. More than there are cores keep the rate up where answers hang: a child that
    needs more than a moment of a core for an answer steps back behind the others."""
    deadline_s: float = Field(10.0, gt=0)
    """Wall time for one answer; past it the child is killed and the answer gets `fallback`."""
    memory_mb: int = Field(1024, ge=64)
    """Memory that scoring one answer may take in the child, MiB, beside what its libraries hold after loading."""
    heartbeat_s: float = Field(5.0, gt=0)
    """How often the reward worker is looked at while it scores; unanswered for four times as long, it is replaced."""
    start_timeout_s: float = Field(60.0, gt=0)
    """Deadline for a child to import what the terms need."""
    fallback: float = Field(0.0, allow_inf_nan=False)
    """Reward of an answer whose scoring failed."""
    slow_s: float = Field(1.0, gt=0)
    """An answer whose scoring takes longer is reported in events.jsonl."""
    quarantine_after: int = Field(3, ge=0)
    """Visits of a prompt in which the scoring of an answer ran into its deadline, after which its answers get the
    fallback unscored; 0 never gives up on a prompt."""
    history_prompts: int = Field(100_000, ge=1)
    """Prompts about which terms can remember something."""

    def call_timeout_s(self, model: str) -> float:
        """Bound of one call of this model."""
        return self.models[model].timeout_s or CALL_SHARE * self.deadline_s

    @model_validator(mode="before")
    @classmethod
    def _a_name_is_a_reward(cls, reward: object) -> object:
        return spelled_out(reward)

    @model_validator(mode="after")
    def _calls_end_before_answers(self) -> "RewardSettings":
        for name, model in self.models.items():
            if model.timeout_s is not None and model.timeout_s >= self.deadline_s:
                raise ValueError(
                    f"models.{name}.timeout_s={model.timeout_s:g} is not below deadline_s={self.deadline_s:g}, so that "
                    "an answer would be given up before its call; raise deadline_s"
                )
        return self

    @model_validator(mode="after")
    def _labels_differ(self) -> "RewardSettings":
        labels = [entry.logged_as for entry in self.terms]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"two terms are logged as {twice[0]!r}; give one of them a label of its own")
        return self

    @model_validator(mode="after")
    def _there_is_something_before(self) -> "RewardSettings":
        before: list[str] = []
        for entry in self.terms:
            if entry.combine == "multiply" and not before:
                raise ValueError(f"{entry.logged_as!r} multiplies and stands first; put a term that adds before it")
            if entry.when is not None and entry.when.term.partition("/")[0] not in before:
                known = ", ".join(before) or "none"
                raise ValueError(
                    f"{entry.logged_as!r} waits for {entry.when.term!r}, which is no term before it ({known})"
                )
            before.append(entry.logged_as)
        return self
