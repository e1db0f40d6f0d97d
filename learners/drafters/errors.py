"""What a caller of the drafters tells apart; free of torch, so that a driver may import it."""


class DrafterError(ValueError):
    """A drafter that cannot be built, loaded, written or paired; the message is one line for the user."""


class DrafterDivergedError(RuntimeError):
    """Updates in a row had no finite gradient: training must stop. The drafter's weights are the last good ones."""
