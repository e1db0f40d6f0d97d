"""Rewards as a careless user may write them. The text of a response says what happens."""

import asyncio
import os
import sys
import time
from pathlib import Path

from rewards.group import Group
from rewards.registry import of_group
from rewards.response import Response


def obey(response: Response) -> float:
    """Do what the text says; score its length where it says nothing special."""
    verb, _, argument = response.text.partition(" ")
    if verb == "loop":
        while True:
            pass
    if verb == "power":
        return float(len(str(9**9**9)))  # one C call that holds the interpreter's lock
    if verb == "allocate":
        return float(len(bytearray(10 << 30)))
    if verb == "exit":
        os._exit(int(argument))
    if verb == "sys.exit":
        sys.exit(int(argument))
    if verb == "abort":
        os.abort()
    if verb == "raise":
        raise KeyError("first line\nsecond line")
    if verb == "spawn":
        pid = os.fork()
        if pid == 0:
            time.sleep(600)
        Path(argument).write_text(str(pid))
        time.sleep(600)
    if verb == "pid":
        return float(os.getpid())
    if verb == "torch":
        return float(any(name in sys.modules for name in ("torch", "ray", "vllm")))
    if verb == "nan":
        return float("nan")
    if verb == "print":
        print("text on stdout")
    return float(len(response.text))


def several(response: Response) -> dict[str, float]:
    return {"length": float(len(response.text)), "truncated": float(response.truncated)}


def scaled(response: Response, *, factor: float) -> float:
    return factor * len(response.text)


@of_group
def hang_together(group: Group) -> list[float]:
    """1 for each answer; without an end where one of them is `abc`."""
    while any(response.text == "abc" for response in group.responses):
        pass
    return [1.0] * len(group.responses)


async def sleepy(response: Response) -> float:
    await asyncio.sleep(float(response.text))
    return float(response.text)


def slow_to_load_failure(response: Response) -> str:
    return "not a number"


not_a_function = 3


def busy(response: Response) -> float:
    """Computes for as many seconds of a core as the text says."""
    until = time.process_time() + float(response.text)
    while time.process_time() < until:
        pass
    return 1.0


def stuck(response: Response) -> float:
    """Waits for something that never comes, where the question says so."""
    if response.question == "stuck":
        time.sleep(600)
    return 0.0


def upset(text: str) -> None:
    """Raises on one text in some ten million, if nobody looks at how far the others come."""
    if text.startswith("####"):
        rest = text.removeprefix("####")
        if rest.startswith("<answer>"):
            rest = rest.removeprefix("<answer>")
            if rest.startswith("]"):
                raise KeyError(rest)
