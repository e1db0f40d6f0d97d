"""The limit to updates that are left out because a loss or a gradient is not finite.

An update that is left out changes neither weights nor optimizer state, on any rank. One now and then costs nothing;
many in a row mean that training has come to its end.
"""

import math

from learners.errors import DivergedError


class SkippedUpdates:
    """Counts those in a row.

    Args:
        who: is updated, for the message.
        limit: of how many in a row end training.
    """

    def __init__(self, who: str, limit: int) -> None:
        self._who, self._limit = who, limit
        self._in_a_row = 0

    def note(self, norm: float) -> None:
        """An update had a gradient of this norm; one that is not finite was left out.

        Raises:
            DivergedError: the limit is reached.
        """
        self._in_a_row = 0 if math.isfinite(norm) else self._in_a_row + 1
        if self._in_a_row >= self._limit:
            raise DivergedError(
                f"the last {self._in_a_row} updates of {self._who} were left out: loss or gradient was not finite "
                f"(trainer.max_skipped_updates={self._limit})"
            )
