"""The reward's part of a recipe: which terms count, and the limits under which answers are scored."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator

from rewards.registry import check_name


class Section(BaseModel):
    """A part of a recipe: immutable, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TermSettings(Section):
    name: Annotated[str, AfterValidator(check_name)]
    """A term in `rewards.registry.BUILT_IN`, or a function of your own as `package.module:function`."""
    weight: float = Field(1.0, allow_inf_nan=False)
    options: dict[str, JsonValue] = {}
    """Keyword arguments of the term's function."""
    label: str | None = Field(None, min_length=1)
    """Name in logs and metrics; None takes the term's own. Needed where one term is used twice."""

    @property
    def logged_as(self) -> str:
        return self.label or self.name.rpartition(":")[2]


class RewardSettings(Section):
    terms: tuple[TermSettings, ...] = Field(min_length=1)
    """The reward is the weighted sum of these; the first is the one that evaluations count as correct."""
    workers: int = Field(1, ge=1)
    """Child processes that score."""
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

    @model_validator(mode="after")
    def _labels_differ(self) -> "RewardSettings":
        labels = [entry.logged_as for entry in self.terms]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"two terms are logged as {twice[0]!r}; give one of them a label of its own")
        return self
