"""What a person sees: the live table on a terminal, plain lines in a log."""

from io import StringIO

from rich.console import Console

from orchestrator.progress import Progress, StepLine

LINE = StepLine(
    step=11,
    steps=50,
    reward=0.61,
    response_tokens=52.4,
    tokens_per_s=3552,
    samples_per_s=72.8,
    staleness=0.98,
    seconds=1.9,
)


def test_a_log_gets_one_whole_line_per_step() -> None:
    out = StringIO()
    with Progress("t", Console(file=out, width=40)) as progress:
        progress.phase("training")
        progress.step(LINE)
    lines = out.getvalue().splitlines()
    assert lines[0].endswith("training")
    assert "step   11/50" in lines[1]
    assert "1.90 s" in lines[1], "a narrow log must not break the line"
    assert len(lines) == 2


def test_a_terminal_shows_every_actor_on_a_line_of_its_own() -> None:
    out = StringIO()
    console = Console(file=out, force_terminal=True, width=100, color_system=None)
    progress = Progress("t", console)
    progress.phase("training")
    progress.actors({"rollout-0": "93 answers running", "learner": "trains step 12"})
    progress.step(LINE)
    console.print(progress.renderable())
    shown = [line.rstrip() for line in out.getvalue().splitlines()]
    assert "rollout-0  93 answers running" in shown
    assert "learner    trains step 12" in shown
    assert any(line.endswith("11/50") for line in shown)
