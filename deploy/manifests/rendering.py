"""A recipe and a target in, manifests out: what is applied to a cluster, all of it checked before a file is written."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from deploy.manifests.binding import MOUNT, bound, object_storage, reserved, stages_of
from deploy.manifests.cluster import ray_cluster
from deploy.manifests.containers import RECIPE_FILE, Site, sandbox_class
from deploy.manifests.job import ray_job
from deploy.manifests.judge import asked_by, judge_of, ray_service
from deploy.manifests.leaks import refuse_keys
from deploy.manifests.names import check_ray_name
from deploy.manifests.needs import Needs, needs_of
from deploy.manifests.network import judge_policy, policies
from deploy.manifests.options import LONGEST_NAME, ClusterOptions, Target, check_options
from deploy.manifests.pods import PodGroup, pod_groups
from deploy.manifests.reach import check_reach, own_modules
from deploy.manifests.surroundings import budgets, claim, recipe_map
from deploy.manifests.tree import Tree, as_yaml
from deploy.serving import KEY_VARIABLE, JudgeArguments
from orchestrator.config import Recipe
from orchestrator.errors import RunError, SettingError
from orchestrator.placement import Device
from orchestrator.stages.load import dump_any
from orchestrator.stages.recipes import AnyRecipe, StageRecipe

KUSTOMIZATION = "kustomization.yaml"


@dataclass(frozen=True, slots=True)
class Rendering:
    """Attributes:
    manifests: in the order in which they are applied.
    notes: what whoever applies them must know, a line each.
    """

    target: Target
    manifests: tuple[Tree, ...]
    notes: tuple[str, ...]


def render(
    recipe: AnyRecipe, target: Target, options: ClusterOptions, environment: Mapping[str, str] | None = None
) -> Rendering:
    """Args:
        recipe: with `device` said.
        environment: whose keys must not be in what is rendered; None is this process's.

    Raises:
        SettingError: the cluster would refuse it, pods could not do it, or it holds a key.
    """
    check_options(options)
    name = options.name or recipe.name
    check_ray_name("name" if options.name is None else "--name", name, LONGEST_NAME[target])
    told = bound(recipe, name)
    text = dump_any(told)
    refuse_keys(yaml.safe_load(text), os.environ if environment is None else environment)
    for stage in stages_of(told):
        check_reach(stage)
    if target == "rayservice-judge":
        return _judge(told, name, options)
    return _run(told, text, target, name, options)


def as_text(rendering: Rendering) -> str:
    """All in one file, with what to do with it on top."""
    return as_yaml(rendering.manifests, "\n".join(rendering.notes))


def write(rendering: Rendering, out: Path) -> list[Path]:
    """Into one file (.yaml), or a folder with a file each and what kustomize needs. Returns: what was written.

    Raises:
        RunError: it cannot be written.
    """
    if out.suffix in {".yaml", ".yml"}:
        files = {out: as_text(rendering)}
    else:
        files = {out / name: text for name, text in as_files(rendering).items()}
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.partial")
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
    except OSError as error:
        raise RunError(f"{out} cannot be written ({error.strerror})", "give another --out") from None
    return list(files)


def as_files(rendering: Rendering) -> dict[str, str]:
    """A file for each object, by name, and the list of them for kustomize."""
    named = {_file_name(manifest): as_yaml([manifest], "") for manifest in rendering.manifests}
    listed: Tree = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(named),
    }
    return {KUSTOMIZATION: as_yaml([listed], "\n".join(rendering.notes)), **named}


def _run(told: AnyRecipe, text: str, target: Target, name: str, options: ClusterOptions) -> Rendering:
    stages = stages_of(told)
    groups = pod_groups([(stage, reserved(stage)) for stage in stages], gpus_per_pod=options.gpus_per_pod)
    recipe_name = f"{name}-recipe" if target == "rayjob" else None
    needs = needs_of(told, stages)
    storage = options.claim or f"{name}-storage"
    gpu = any(stage.device == "gpu" for stage in stages)
    site = Site(name, "gpu" if gpu else "cpu", needs, options, claim=storage, recipe=recipe_name)
    _check_sandbox(site, groups)
    manifests = [
        *([recipe_map(site, recipe_name, text)] if recipe_name is not None else []),
        *([claim(site, storage)] if options.claim is None else []),
        *policies(site),
        *budgets(site, groups),
        ray_job(site, groups) if target == "rayjob" else ray_cluster(site, groups),
    ]
    return Rendering(target, tuple(manifests), tuple(_notes(site, target, told, groups)))


def _judge(told: AnyRecipe, name: str, options: ClusterOptions) -> Rendering:
    if not isinstance(told, Recipe):
        raise SettingError("--target", "rayservice-judge serves a model of a single stage", "render that stage alone")
    model = judge_of(told)
    settings, places = told.reward.models[model], told.topology.judge_places(model)
    bundles = [bundle for bundle in reserved(told) if bundle.nodes == places.nodes]
    (one,) = pod_groups([(told, bundles)], gpus_per_pod=options.gpus_per_pod)
    group = replace(one, pods=options.replicas, most=options.replicas)
    device: Device = "gpu" if group.gpus else "cpu"
    site = Site(name, device, Needs(), options, claim=options.claim, judge_key=KEY_VARIABLE)
    arguments = JudgeArguments(model=settings, places=places, replicas=options.replicas)
    notes = [
        f"A judge for rewards, from the recipe {told.name}.",
        *_applied(site),
        f"It answers whoever bears the key {KEY_VARIABLE} of the Secret {options.keys}; recipes ask it with",
        *[f"  {override}" for override in asked_by(site, model)],
    ]
    manifests = (*policies(site), judge_policy(site), ray_service(site, group, arguments))
    return Rendering("rayservice-judge", manifests, tuple(notes))


def _check_sandbox(site: Site, groups: Sequence[PodGroup]) -> None:
    mixed = next((group for group in groups if "reward" in group.roles and len(group.roles) > 1), None)
    if mixed is not None and sandbox_class(site) is not None:
        reason = f"the reward shares the nodes {mixed.nodes} with others, and the sandbox would hold them too"
        raise SettingError("topology.reward.nodes", reason, "leave it out, or write --sandbox-class none")


def _notes(site: Site, target: Target, told: AnyRecipe, groups: Sequence[PodGroup]) -> list[str]:
    options, stages, run_dir = site.options, stages_of(told), told.run_dir
    modules = sorted({module for stage in stages for module in own_modules(stage)})
    begins = target == "rayjob"
    lines = [f"{'A run of' if begins else 'A Ray cluster for'} the recipe {told.name}.", *_applied(site)]
    if site.needs.endpoint_keys:
        lines.append(f"The Secret {options.keys} must hold {', '.join(site.needs.endpoint_keys)}.")
    if site.needs.object_storage and options.service_account is None:
        lines.append(f"The Secret {options.storage_keys} must hold AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.")
    if modules:
        lines.append(f"The image must hold the module {', '.join(modules)}.")
    if not begins:
        return [*lines, "Runs find their pods, and the reward its sandbox, by", *_nodes_of(stages, groups)]
    if not all(stage.trainer.checkpoint_every for stage in stages):
        lines.append("It writes no checkpoints, so a second attempt begins anew: set trainer.checkpoint_every.")
    place = "" if object_storage(run_dir) else f" on the volume {site.claim} ({MOUNT})"
    lines.append(f"The run is written to {run_dir}{place}.")
    return lines


def _nodes_of(stages: Sequence[StageRecipe], groups: Sequence[PodGroup]) -> list[str]:
    """The overrides by which a recipe that is submitted asks for the pods of each role."""
    found: dict[str, str] = {}
    for stage in stages:
        topology = stage.topology.model_dump()
        roles = {role: places for role, places in topology.items() if role not in ("judges", "colocate")}
        judges = {f"judges.{name}": places for name, places in topology.get("judges", {}).items()}
        found |= {f"topology.{role}.nodes": places["nodes"] for role, places in {**roles, **judges}.items()}
    offered = {group.nodes for group in groups}
    return [f"  {setting}={nodes}" for setting, nodes in found.items() if nodes in offered]


def _applied(site: Site) -> list[str]:
    space = "" if site.options.namespace is not None else " -n NAMESPACE"
    return [
        f"Apply it with kubectl apply{space} -f FILE (or -k FOLDER), where KubeRay's operator runs, 1.5.1 or newer.",
    ]


def _file_name(manifest: Tree) -> str:
    described = manifest["metadata"]
    assert isinstance(described, Mapping), "every manifest has metadata"
    kind = str(manifest["kind"]).lower()
    return RECIPE_FILE if kind == "configmap" else f"{kind}-{described['name']}.yaml"
