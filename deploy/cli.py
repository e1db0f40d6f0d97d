"""The `paceline` command: the commands of a run, and those that take a recipe to another place.

The latter stand beside what they call.
"""

import typer

from deploy import job_command
from deploy.manifests import command as manifests
from orchestrator import cli as runs

app = typer.Typer(help=runs.HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(runs.app)
app.add_typer(job_command.app)
app.add_typer(manifests.app)


def main() -> None:
    """Entry point of the `paceline` command."""
    runs.main(app)
