"""The commands about jobs of a Ray cluster: `submit`, `follow`, `status`, `jobs` and `stop`.

Each reads its arguments and hands them on; heavy imports wait until it is called.
"""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli import INTERRUPTED

app = typer.Typer()

Address = Annotated[
    str | None, typer.Option("--address", help="The cluster's dashboard, http://HOST:8265; default: this machine's.")
]
JobId = Annotated[str, typer.Argument(help="Name of the job, as `paceline submit` printed it.")]
Patience = Annotated[float, typer.Option(min=1, help="Seconds that the cluster may be out of reach.")]


@app.command()
def submit(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe (see `paceline recipes`) or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change, as key.sub=value.")] = None,
    address: Address = None,
    goes_on: Annotated[str | None, typer.Option("--resume", help="A job that ended: go on with its run.")] = None,
    wait: Annotated[bool, typer.Option("--follow/--no-follow", help="Show what the job writes, until it ends.")] = True,
    also: Annotated[list[str] | None, typer.Option(help="Further file or folder to send, relative to here.")] = None,
    with_source: Annotated[
        bool, typer.Option("--with-source", help="Send Paceline itself: the nodes lack it.")
    ] = False,
    any_version: Annotated[bool, typer.Option("--any-version", help="Whatever versions the cluster has.")] = False,
    limit_mib: Annotated[float, typer.Option(min=0, help="Most that the job may carry, MiB.")] = 100,
    python: Annotated[str, typer.Option(help="Python of the cluster's nodes: a command or a path there.")] = "python",
    patience: Patience = 300,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print recipe and files, and stop.")] = False,
) -> None:
    """Run a recipe as a job of a Ray cluster; submitted again with the same run_dir, it goes on."""
    from deploy import jobs
    from deploy import submit as sending
    from deploy.job_client import JobServer

    settings, server = list(overrides or []), None
    if goes_on is not None:
        server = JobServer(address)
        settings.append(f"run_dir={jobs.run_dir_of(server.job(goes_on))}")
    job = sending.make_job(
        recipe, settings, root=Path.cwd(), also=also or [], with_source=with_source, limit_mib=limit_mib
    )
    if dry_run:
        typer.echo(job.text, nl=False)
        typer.echo("\n".join(f"# {line}" for line in job.parcel.listing()))
        return
    server = server or JobServer(address)
    mib = job.parcel.nbytes / 2**20
    typer.echo(f"sending the recipe and {len(job.parcel.files)} files, {mib:.1f} MiB, to {server.address}")
    sending.submit(server, job, python=python, with_source=with_source, any_version=any_version)
    typer.echo(f"job {job.submission_id}\nrun {job.run_dir}, on the cluster")
    if wait:
        _follow(server.address, job.submission_id, patience)


@app.command()
def follow(job: JobId, address: Address = None, patience: Patience = 300) -> None:
    """Show what a job writes, from its beginning, until it ends; the exit code is the run's."""
    _follow(address, job, patience)


@app.command()
def status(job: JobId, address: Address = None) -> None:
    """Say how a job goes on or ended; the exit code is the run's, 0 as long as it goes on."""
    import time

    from deploy import jobs
    from deploy.job_client import JobServer

    server = JobServer(address)
    found = server.job(job)
    typer.echo(jobs.described(found, time.time()))
    if (line := jobs.last_step(server.log(job))) is not None:
        typer.echo(line)
    raise typer.Exit(jobs.exit_code(found))


@app.command(name="jobs")
def list_jobs(address: Address = None) -> None:
    """List the runs that were submitted to a cluster, the newest first."""
    import time

    from deploy import jobs
    from deploy.job_client import JobServer

    for found in JobServer(address).jobs():
        typer.echo(jobs.described(found, time.time()))


@app.command()
def stop(
    job: JobId,
    address: Address = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for its end.")] = 600,
) -> None:
    """End a job behind a last checkpoint, from which `paceline submit --resume JOB` goes on."""
    import time

    from deploy import jobs
    from deploy.job_client import JobServer

    ended = jobs.stop(JobServer(address), job, _show, timeout_s=timeout)
    typer.echo(jobs.described(ended, time.time()))


def _follow(address: str | None, job: str, patience: float) -> None:
    from deploy import jobs
    from deploy.job_client import JobServer

    try:
        code = jobs.follow(JobServer(address), job, _show, patience_s=patience)
    except KeyboardInterrupt:
        typer.echo(f"\nthe job goes on: paceline follow {job}, or paceline stop {job}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    raise typer.Exit(code)


def _show(text: str) -> None:
    typer.echo(text, nl=False)
