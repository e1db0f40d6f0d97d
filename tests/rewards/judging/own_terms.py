"""Terms that ask, as a careless user may write them."""

import os

from rewards.models.asking import Message, Models
from rewards.response import Response


async def length_of_reply(response: Response, *, models: Models, model: str = "judge") -> float:
    (said, *_) = await models[model].generate([Message("user", response.text)])
    return float(len(said))


async def sleeps(response: Response, *, models: Models) -> float:
    import asyncio

    await asyncio.sleep(3600)
    return 1.0


async def obeys(response: Response, *, models: Models) -> float:
    """`loop` computes without end, `exit` ends the process; else the process id."""
    if response.text == "loop":
        while True:
            pass
    if response.text == "exit":
        os._exit(3)
    return float(os.getpid())
