"""What a caller of the learner tells apart; free of torch, so that a driver may import it."""


class PolicyError(ValueError):
    """A checkpoint that cannot be loaded, used or written; the message is one line for the user."""
