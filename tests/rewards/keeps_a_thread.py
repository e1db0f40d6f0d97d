"""A user's module that starts a thread when it is imported: its process cannot be forked."""

import threading

from rewards.response import Response
from tests.rewards.misbehaving import obey

threading.Thread(target=threading.Event().wait, daemon=True).start()


def score(response: Response) -> float:
    return obey(response) + 0.5
