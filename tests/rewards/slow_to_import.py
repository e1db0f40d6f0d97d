"""A user's reward whose import never comes to an end."""

import time

from rewards.response import Response

time.sleep(600)


def score(response: Response) -> float:
    return 0.0
