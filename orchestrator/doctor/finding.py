"""What a check says: one line, and what to do about it."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "fault"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Attributes:
    status: with a `fault` a run does not work here; a `warning` may cost speed, or matter for some recipes only.
    fix: what to do; empty where all is well.
    """

    subject: str
    status: Status
    detail: str
    fix: str = ""


def ok(subject: str, detail: str) -> Finding:
    return Finding(subject, "ok", detail)
