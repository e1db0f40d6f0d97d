"""What lies where in a run directory. Pure: names in, names out, whether of a folder here or of a place in storage.

config.yaml  metrics.jsonl  events.jsonl  samples/  summary.json  trace.json
checkpoints/step-000010/    see `orchestrator.checkpoints`
model/  optimizer/  drafter/trained/    what the end of the run leaves; `model.1` and so on of an end before that
"""

import itertools
import re
from collections.abc import Callable, Collection

CONFIG, METRICS, EVENTS, SUMMARY = "config.yaml", "metrics.jsonl", "events.jsonl", "summary.json"
MODEL, OPTIMIZER, TRAINED_DRAFTER, FIRST_DRAFTER = "model", "optimizer", "drafter/trained", "drafter/first"
ENDS = (MODEL, OPTIMIZER, TRAINED_DRAFTER)
"""Where a finished run has what it made."""
CHECKPOINTS, LEARNER, CARD, DRAFTER = "checkpoints", "learner", "run.json", "drafter"
"""The folder of all checkpoints, and what lies in one of them beside `model`."""

_SET_ASIDE = re.compile(rf"(?:^|.*/)(?:{'|'.join(map(re.escape, ENDS))})\.\d+(?:/.*)?")


def step_name(step: int) -> str:
    """Of the checkpoint of a step."""
    return f"step-{step:06d}"


def step_of(name: str) -> int:
    return int(name.removeprefix("step-"))


def joined(folder: str, name: str) -> str:
    """Args: folder: empty for that from which names are counted."""
    return f"{folder}/{name}" if folder else name


def checkpoint_steps(names: Collection[str], checkpoints: str, *, whole: bool = True) -> dict[int, str]:
    """The checkpoints among the files of a run, by step, each with its folder.

    Args:
        names: of files.
        checkpoints: the folder of all checkpoints, as in the names.
        whole: those alone that can be resumed from.
    """
    start = f"{checkpoints}/"
    folders = {start + name.removeprefix(start).partition("/")[0] for name in names if name.startswith(f"{start}step-")}
    found = {step_of(folder.rpartition("/")[2]): folder for folder in folders}
    return {step: folder for step, folder in sorted(found.items()) if not whole or f"{folder}/{CARD}" in names}


def next_aside(end: str, taken: Callable[[str], bool]) -> str:
    """The first free name for an end that is set aside."""
    return next(name for name in (f"{end}.{number}" for number in itertools.count(1)) if not taken(name))


def is_set_aside(name: str) -> bool:
    """Whether a file belongs to an end that was set aside."""
    return _SET_ASIDE.fullmatch(name) is not None
