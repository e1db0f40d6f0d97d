"""A user's reward whose import ends the process."""

import os

from rewards.response import Response

os._exit(9)


def score(response: Response) -> float:
    return 0.0
