"""The command line: `paceline train RECIPE [key=value ...]` and its companions.

Every foreseeable fault ends here as one line on standard error and exit code 2 (an input that cannot work) or 1 (a
run that had to stop). Heavy imports wait until a command needs them, so that `--help` answers at once. The
`paceline` command is `deploy.cli`, which adds what takes a recipe to another place.
"""

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.errors import PacelineError, SettingError

HELP = "Train reasoning LLMs by reinforcement learning, without waiting for the longest answer."

app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

UNSCORED = 1
"""Exit code of `score` where some answers got the fallback."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells expect it."""


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe (see `paceline recipes`) or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change, as key.sub=value.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and stop.")] = False,
    goes_on: Annotated[bool, typer.Option("--resume", help="Go on with the run in run_dir, if one is there.")] = False,
) -> None:
    """Train a model by a recipe."""
    from orchestrator.stages.load import dump_any, load_any

    resolved = load_any(recipe, overrides or [])
    if dry_run:
        typer.echo(dump_any(resolved), nl=False)
        return
    from orchestrator.progress import Progress
    from orchestrator.stages.report import print_any
    from orchestrator.stages.resume import begin_or_go_on
    from orchestrator.stages.run import run_any

    with Progress(f"paceline train {resolved.name}") as progress:
        folder = (begin_or_go_on if goes_on else run_any)(resolved, progress)
        status = print_any(folder, progress)
    if status == "interrupted":
        raise typer.Exit(INTERRUPTED)


@app.command()
def resume(
    run: Annotated[str, typer.Argument(help="Folder or s3://... of a run that broke off, or shall go on longer.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change, as key.sub=value.")] = None,
    step: Annotated[int | None, typer.Option(help="Step of the checkpoint; default: the newest.")] = None,
) -> None:
    """Go on with a run from its last checkpoint, as if there had been no break."""
    from orchestrator.progress import Progress
    from orchestrator.stages.report import print_any
    from orchestrator.stages.resume import resume_any
    from orchestrator.storage.address import check_address

    check_address("RUN", run)
    with Progress(f"paceline resume {run}") as progress:
        folder = resume_any(run, progress, overrides or [], step)
        status = print_any(folder, progress)
    if status == "interrupted":
        raise typer.Exit(INTERRUPTED)


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="Folder or s3://... of a run, also of one that failed or goes on.")],
) -> None:
    """Say what the longest answers of a run cost, and what other policies would have saved."""
    from orchestrator.progress import Progress
    from orchestrator.report import print_details
    from orchestrator.storage.address import check_address
    from orchestrator.storage.fetch import readable_run

    check_address("RUN", run)
    with Progress(f"paceline report {run}") as progress, readable_run(run, progress) as folder:
        print_details(folder, progress)


@app.command()
def export_drafter(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run whose drafter learned.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; it must not exist yet.")],
    target: Annotated[str | None, typer.Option(help="Model to serve it with; default: the run's own.")] = None,
    draft_tokens: Annotated[int, typer.Option(min=1, help="Tokens that a server drafts at a time.")] = 3,
) -> None:
    """Write a run's drafter in the speculators format, which vLLM serves by the folder alone."""
    from orchestrator.drafting import export

    served = export.export_drafter(run, out, target=target, draft_tokens=draft_tokens)
    typer.echo(f"{out}: drafts {draft_tokens} tokens at a time for {served}")


@app.command()
def recipes() -> None:
    """List the recipes that come with Paceline."""
    from orchestrator.recipe import shipped_recipes

    for name, path in shipped_recipes().items():
        first = path.read_text(encoding="utf-8").splitlines()[0]
        typer.echo(f"{name:<14} {first.lstrip('# ')}")


@app.command()
def methods(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/methods.md.")] = False,
) -> None:
    """List the algorithms that a recipe can name, with their formulas, sources and options."""
    from orchestrator.methods import as_markdown, as_text

    typer.echo(as_markdown() if markdown else as_text(), nl=False)


@app.command()
def doctor(
    recipe: Annotated[str, typer.Argument(help="Recipe that shall run here.")] = "quickstart",
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change, as key.sub=value.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to look at; default: the recipe's.")] = None,
) -> None:
    """Check this machine, and a Ray cluster, for what would stop a run; a line each, with the fix."""
    from rich.console import Console

    from orchestrator.doctor.examination import examine, print_findings
    from orchestrator.recipe import load_recipe

    faults = print_findings(examine(load_recipe(recipe, overrides or []), address), Console())
    if faults:
        raise typer.Exit(1)


@app.command()
def plan(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe (see `paceline recipes`) or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change, as key.sub=value.")] = None,
    gpus: Annotated[int | None, typer.Option(help="GPUs of a machine that is not this one.")] = None,
    gpu_memory: Annotated[float | None, typer.Option(help="GiB of each of them.")] = None,
    accelerator: Annotated[str | None, typer.Option(help="What they are, such as h100.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to ask what it has.")] = None,
    like: Annotated[Path | None, typer.Option(help="Folder of a run whose measured speeds hold.")] = None,
    answer_tokens: Annotated[float | None, typer.Option(help="Mean length of an answer.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a recipe needs of memory, and how fast it may be. Exit code 1 where it does not fit."""
    from rich.console import Console

    from orchestrator.planning.command import Asked, print_plans
    from orchestrator.stages.load import load_any

    resolved = load_any(recipe, overrides or [])
    asked = Asked(gpus, gpu_memory, accelerator, address, like, answer_tokens)
    console = Console() if sys.stdout.isatty() else Console(width=160)
    if not print_plans(resolved, asked, as_data=as_json, console=console):
        raise typer.Exit(1)


@app.command()
def rewards(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the list of docs/rewards.md.")] = False,
) -> None:
    """List the reward terms that a recipe can name, with their sources, options and an example."""
    from orchestrator.reward_list import as_markdown, as_text

    typer.echo(as_markdown() if markdown else as_text(), nl=False)


@app.command()
def score(
    file: Annotated[Path, typer.Argument(help="JSONL with a `response` a line; `prompt` and `answer` where needed.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings, as reward.workers=4.")] = None,
    reward: Annotated[str, typer.Option(help="A term, a function `module:name`, or a recipe.")] = "math",
    out: Annotated[Path | None, typer.Option(help="File to write the grade of each answer to, as JSONL.")] = None,
    response_column: Annotated[str, typer.Option(help="Field with the answer to grade.")] = "response",
    answer_column: Annotated[str, typer.Option(help="Field with the right answer.")] = "answer",
    prompt_column: Annotated[str, typer.Option(help="Field with the prompt; equal prompts are a group.")] = "prompt",
) -> None:
    """Grade answers in a file. Exit code 1 where some could not be scored."""
    from orchestrator.progress import Progress
    from orchestrator.recipe import load_reward
    from orchestrator.score_file import Columns, grade, print_grades, read_responses, write_grades

    settings = load_reward(reward, overrides or [])
    responses = read_responses(file, Columns(response_column, answer_column, prompt_column))
    with Progress(f"paceline score {file}") as progress:
        progress.phase(f"scoring {len(responses)} answers")
        grades = grade(responses, settings, progress.part)
        print_grades(responses, grades, progress)
    if out is not None:
        write_grades(out, responses, grades)
    if grades.failures:
        raise typer.Exit(UNSCORED)


@app.command()
def starter(
    cache: Annotated[Path | None, typer.Option(help="Folder of the cache; default ~/.cache/paceline.")] = None,
) -> None:
    """Make the quickstart's small model, if it is not cached yet, and print its folder."""
    from orchestrator.data.starter import ensure_starter
    from orchestrator.progress import Progress

    with Progress("paceline starter") as progress:
        progress.phase("making the starter model")
        folder = ensure_starter(cache, lambda r: progress.part(r.step, r.total, f"loss {r.loss:.3f}"))
    typer.echo(str(folder))


def main(commands: typer.Typer = app) -> None:
    """Run the command that the arguments name, of these; faults end it with one line and an exit code."""
    # Other packages' syntax warnings, shown when their byte code is first compiled, say nothing to our users.
    warnings.simplefilter("ignore", SyntaxWarning)
    os.environ.setdefault("PYTHONWARNINGS", "ignore::SyntaxWarning")
    try:
        commands()
    except PacelineError as error:
        print(f"paceline: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, SettingError) else 1)
    except KeyboardInterrupt:
        print("paceline: interrupted before the run began; nothing was written", file=sys.stderr)
        sys.exit(INTERRUPTED)
