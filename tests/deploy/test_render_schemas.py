"""Every shipped recipe, for every target: a cluster would take what is rendered."""

from pathlib import Path

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from deploy.manifests.options import Target
from orchestrator.recipe import shipped_recipes
from orchestrator.stages.load import load_any
from orchestrator.stages.recipes import StagedRecipe
from tests.deploy.rendered import JUDGE, groups, manifests, of_kind, rendering
from tests.deploy.schemas import check, check_core, cluster_of, needs_kuberay

pytestmark = needs_kuberay
SINGLE = [name for name in shipped_recipes() if not isinstance(load_any(name), StagedRecipe)]
FULL = {
    "namespace": "training",
    "image": "registry.example.com:5000/team/paceline:1.2@sha256:" + "0" * 64,
    "pull_secret": "registry",
    "auth_secret": "ray-token",
    "service_account": "trainer",
    "storage_class": "nfs",
    "node_selector": ("cloud.example.com/accelerator=h200", "zone=a"),
    "priority_class": "important",
    "sandbox_class": "gvisor",
    "deadline_s": 3600,
    "queue": "team",
    "operator_namespace": "kuberay",
    "metrics_namespace": "monitoring",
    "storage_port": 9000,
}


@pytest.mark.parametrize("options", [{}, FULL], ids=["defaults", "all options"])
@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("target", ["rayjob", "raycluster"])
@pytest.mark.parametrize("recipe", sorted(shipped_recipes()))
def test_every_shipped_recipe_is_what_the_schemas_say(
    recipe: str, target: Target, device: str, options: dict[str, object]
) -> None:
    found = manifests(rendering(recipe, f"device={device}", target=target, **options))
    assert {m["kind"] for m in found.values()} >= {"NetworkPolicy", "PodDisruptionBudget", "PersistentVolumeClaim"}
    for manifest in found.values():
        check(manifest)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("recipe", SINGLE)
def test_every_shipped_recipe_with_a_judge_of_its_own(recipe: str, device: str) -> None:
    gpus = ["topology.judges.judge.gpus=1"] if device == "gpu" else []
    found = manifests(rendering(recipe, f"device={device}", JUDGE, *gpus, target="rayservice-judge", **FULL))
    for manifest in found.values():
        check(manifest)
    assert "judge-judge" in groups(cluster_of(of_kind(rendering(recipe, f"device={device}", JUDGE), "RayJob")))


def test_the_schemas_refuse_what_a_typing_error_makes() -> None:
    job = of_kind(rendering("quickstart", "device=cpu"), "RayJob")
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["toleration"] = []
    with pytest.raises(jsonschema.ValidationError, match="toleration"):
        check(job)
    budget = manifests(rendering("quickstart", "device=cpu"))["PodDisruptionBudget/quickstart-head"]
    budget["spec"]["minimum"] = 1
    with pytest.raises(Exception, match="minimum"):
        check_core(budget)


def test_rays_autoscaler_reads_the_pods_as_they_are_meant() -> None:
    """By Ray's own reader of custom resources, which the autoscaler beside the head runs."""
    settings = (
        "device=gpu",
        "topology.rollout.workers=2",
        "topology.rollout.most=6",
        "topology.rollout.tensor_parallel=2",
    )
    cluster = of_kind(rendering("gsm8k", *settings, "topology.learner.ranks=4", target="raycluster"), "RayCluster")
    cluster["metadata"]["namespace"] = "training"
    read = _derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]
    engines, learners, rewards = read["rollout"], read["learner"], read["reward"]
    assert (engines["min_workers"], engines["max_workers"], engines["resources"]["GPU"]) == (2, 6, 2)
    assert engines["resources"]["rollout"] == 1
    assert (learners["min_workers"], learners["max_workers"], learners["resources"]["GPU"]) == (1, 1, 4)
    assert "GPU" not in rewards["resources"]
    assert read["headgroup"]["resources"]["CPU"] == 0
    assert cluster["spec"]["autoscalerOptions"]["version"] == "v2"


def test_the_recipe_in_the_cluster_is_the_recipe(tmp_path: Path) -> None:
    """What the head reads loads again, and says what the pods are made of."""
    rendered = rendering("stages", "device=cpu")
    path = tmp_path / "recipe.yaml"
    path.write_text(of_kind(rendered, "ConfigMap")["data"]["recipe.yaml"], encoding="utf-8")
    told = load_any(str(path))
    assert isinstance(told, StagedRecipe)
    assert told.run_dir == "/paceline/runs/stages"
    assert {stage.ray.address for stage in told.stages} == {"auto"}
    assert {stage.topology.learner.nodes for stage in told.stages} == {"learner"}
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["stages"][0]["device"] == "cpu"
