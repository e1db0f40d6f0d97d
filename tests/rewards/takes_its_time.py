"""A user's reward whose import takes seconds."""

import time

from rewards.response import Response

IMPORT_S = 4.0
time.sleep(IMPORT_S)


def score(response: Response) -> float:
    return float(len(response.text))
