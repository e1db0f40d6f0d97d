"""What a person sees of a run: phases, then one table that follows every actor, then one line per finished step.

On a terminal the table is live; elsewhere (a log file, CI) the same facts are plain lines. Knows nothing of Ray.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

PRINT_EVERY_S = 10.0
"""Where there is no terminal, how often a long phase says how far it is."""


@dataclass(frozen=True, slots=True)
class StepLine:
    """The figures of one finished step that a person follows."""

    step: int
    steps: int
    reward: float
    response_tokens: float
    tokens_per_s: float
    samples_per_s: float
    staleness: float
    seconds: float


class Progress:
    """A context manager; every method may be called at any time between enter and exit."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        self._console = console or Console()
        self._title = title
        self._started = time.monotonic()
        self._phase = "starting"
        self._part: tuple[float, float] | None = None
        self._printed_part = self._started
        self._actors: dict[str, str] = {}
        self._live = Live(console=self._console, get_renderable=self.renderable, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def phase(self, text: str) -> None:
        """A new phase begins, e.g. ``starting the engine``."""
        self._phase, self._part, self._printed_part = text, None, time.monotonic()
        self._print(Text(f"{self._clock()}  {text}", style="dim"))

    def part(self, done: float, total: float, note: str = "") -> None:
        """How far the phase has come."""
        self._part = (done, total)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._printed_part >= PRINT_EVERY_S:
            self._printed_part = now
            self._print(f"{self._clock()}  {self._phase}: {done:g}/{total:g} {note}".rstrip())

    def actors(self, doing: Mapping[str, str]) -> None:
        """What each actor does now."""
        self._actors = dict(doing)

    def step(self, line: StepLine) -> None:
        self._part = (line.step, line.steps)
        self._print(
            f"step {line.step:>4}/{line.steps}  reward {line.reward:6.3f}  length {line.response_tokens:6.1f}  "
            f"{line.tokens_per_s:7,.0f} tok/s  {line.samples_per_s:6.1f} samples/s  "
            f"staleness {line.staleness:4.2f}  {line.seconds:5.2f} s"
        )

    def say(self, text: str, style: str = "") -> None:
        """A line that stays, such as a result."""
        self._print(Text(text, style=style))

    def warn(self, text: str) -> None:
        self._print(Text(f"warning: {text}", style="yellow"))

    def _print(self, text: str | Text) -> None:
        """A line that stays above the table; a log keeps it whole, whatever its length."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def _clock(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        return f"{minutes:02d}:{seconds:02d}"

    def renderable(self) -> RenderableType:
        """The live table as it is now."""
        head = Text.assemble((f"{self._title}  ", "bold"), (self._clock(), "cyan"), f"  {self._phase}")
        rows: list[RenderableType] = [head]
        if self._part is not None:
            done, total = self._part
            bar = Table.grid(padding=(0, 2))
            bar.add_row(ProgressBar(total=total, completed=done, width=60), Text(f"{done:g}/{total:g}"))
            rows.append(bar)
        if self._actors:
            table = Table.grid(padding=(0, 2))
            for name, doing in self._actors.items():
                table.add_row(Text(name, style="bold"), doing)
            rows.append(table)
        return Group(*rows)
