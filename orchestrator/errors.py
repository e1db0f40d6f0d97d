"""The errors that a user sees: one line each, which names what is wrong and what to do about it."""


class PacelineError(Exception):
    """Anything that ends a command with one line and a non-zero exit instead of a traceback."""


class SettingError(PacelineError):
    """A setting or an input that cannot work, found before anything was started.

    Args:
        setting: dotted name of the setting (or the file) at fault.
        reason: what is wrong with it.
        fix: what to change.
    """

    def __init__(self, setting: str, reason: str, fix: str) -> None:
        super().__init__(setting, reason, fix)
        self.setting, self.reason, self.fix = setting, reason, fix

    def __str__(self) -> str:
        return f"{self.setting}: {self.reason}; {self.fix}"


class RunError(PacelineError):
    """A run that had to stop: `reason` says why, `fix` what its owner can do."""

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason, fix)
        self.reason, self.fix = reason, fix

    def __str__(self) -> str:
        return f"{self.reason}; {self.fix}"


GUESSES = "Worker exit type:"
"""Where Ray goes on with a paragraph of what may have killed a process."""


def last_line(error: BaseException) -> str:
    """The cause in one line: a Ray task error carries a whole remote traceback, whose last line says what happened."""
    lines = [line.partition(GUESSES)[0].strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
