"""`paceline render`: its options, handed on to `deploy.manifests.rendering`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from deploy.manifests.options import KEYS, STORAGE, ClusterOptions

app = typer.Typer()


class RenderTarget(StrEnum):
    """What `render` makes."""

    RAYJOB = "rayjob"
    RAYCLUSTER = "raycluster"
    JUDGE = "rayservice-judge"


@app.command()
def render(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe (see `paceline recipes`) or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change, as key.sub=value.")] = None,
    target: Annotated[
        RenderTarget, typer.Option(help="A run, a cluster for `submit`, or a judge.")
    ] = RenderTarget.RAYJOB,
    out: Annotated[Path | None, typer.Option(help="A .yaml file, or a folder for kustomize; default: print.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the run in the cluster; default: the recipe's.")] = None,
    namespace: Annotated[str | None, typer.Option(help="Default: what `kubectl -n` says.")] = None,
    image: Annotated[str | None, typer.Option(help="Default: paceline:gpu or paceline:cpu.")] = None,
    pull_secret: Annotated[str | None, typer.Option(help="Secret with the registry's credentials.")] = None,
    keys: Annotated[str, typer.Option(help="Secret with the keys of hub, tracker and endpoints.")] = KEYS,
    storage_keys: Annotated[str, typer.Option(help="Secret with the keys of object storage.")] = STORAGE,
    storage_port: Annotated[int | None, typer.Option(help="Of object storage inside the cluster.")] = None,
    auth_secret: Annotated[str | None, typer.Option(help="Secret with Ray's token; default: it is made.")] = None,
    service_account: Annotated[str | None, typer.Option(help="Of the pods, where the cloud goes by it.")] = None,
    claim: Annotated[str | None, typer.Option(help="Volume claim that exists; default: one is made.")] = None,
    storage_size: Annotated[str, typer.Option(help="Of the volume that is made.")] = "100Gi",
    storage_class: Annotated[str | None, typer.Option(help="Of the volume that is made; it is shared.")] = None,
    gpus_per_pod: Annotated[int, typer.Option(min=1, help="Most GPUs of a pod: as many as a node has.")] = 8,
    node_selector: Annotated[list[str] | None, typer.Option(help="Label of nodes with GPUs, as key=value.")] = None,
    priority_class: Annotated[str | None, typer.Option(help="Of head and learner pods.")] = None,
    sandbox_class: Annotated[
        str | None,
        typer.Option(help="Runtime class of reward pods; default: gvisor where programs run."),
    ] = None,
    head_cpus: Annotated[int, typer.Option(min=1, help="Cores of the head.")] = 2,
    head_gib: Annotated[int, typer.Option(min=2, help="Main memory of the head, GiB.")] = 6,
    retries: Annotated[int, typer.Option(min=0, help="How often a run that failed goes on by itself.")] = 2,
    deadline_hours: Annotated[float | None, typer.Option(min=0.01, help="After which a run is given up.")] = None,
    keep_s: Annotated[int, typer.Option(min=0, help="Seconds that a cluster outlives its run.")] = 600,
    queue: Annotated[str | None, typer.Option(help="Kueue's queue that the run waits in.")] = None,
    operator_namespace: Annotated[str | None, typer.Option(help="Of the KubeRay operator; default: any.")] = None,
    metrics_namespace: Annotated[str | None, typer.Option(help="Of Prometheus; default: nobody reads metrics.")] = None,
    replicas: Annotated[int, typer.Option(min=1, help="Of the judge.")] = 1,
) -> None:
    """Write a recipe as Kubernetes manifests for the KubeRay operator; nothing is applied."""
    from deploy.manifests import rendering
    from orchestrator.stages.load import load_any

    options = ClusterOptions(
        name=name,
        namespace=namespace,
        image=image,
        pull_secret=pull_secret,
        keys=keys,
        storage_keys=storage_keys,
        storage_port=storage_port,
        auth_secret=auth_secret,
        service_account=service_account,
        claim=claim,
        storage_size=storage_size,
        storage_class=storage_class,
        gpus_per_pod=gpus_per_pod,
        node_selector=tuple(node_selector or ()),
        priority_class=priority_class,
        sandbox_class=sandbox_class,
        head_cpus=head_cpus,
        head_gib=head_gib,
        retries=retries,
        deadline_s=None if deadline_hours is None else round(deadline_hours * 3600),
        keep_s=keep_s,
        queue=queue,
        operator_namespace=operator_namespace,
        metrics_namespace=metrics_namespace,
        replicas=replicas,
    )
    rendered = rendering.render(load_any(recipe, overrides or []), target.value, options)
    if out is None:
        typer.echo(rendering.as_text(rendered), nl=False)
        return
    for path in rendering.write(rendered, out):
        typer.echo(str(path))
    typer.echo("\n".join(rendered.notes))
