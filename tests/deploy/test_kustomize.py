"""The kustomize folders: bases are what `paceline render` makes today, and every overlay builds and would be taken."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from deploy.manifests.rendering import as_files
from tests.deploy.rendered import groups, rendering
from tests.deploy.schemas import check, cluster_of, needs_kuberay

FOLDER = Path(__file__).parents[2] / "deploy/kuberay"
BASES = {
    "base": ("quickstart", "device=cpu", "trainer.checkpoint_every=10"),
    "base-gpu": (
        "gsm8k",
        "device=gpu",
        "topology.rollout.workers=2",
        "topology.rollout.most=4",
        "trainer.checkpoint_every=10",
    ),
}
OVERLAYS = sorted(path.parent.name for path in FOLDER.glob("overlays/*/kustomization.yaml"))
TOOL = next((path for name in ("kustomize", "kubectl") if (path := shutil.which(name))), None)
needs_kustomize = pytest.mark.skipif(TOOL is None, reason="neither kustomize nor kubectl is installed")


@pytest.mark.parametrize("base", BASES)
def test_the_bases_are_what_is_rendered(base: str) -> None:
    found = {path.name: path.read_text(encoding="utf-8") for path in (FOLDER / base).iterdir()}
    assert found == as_files(rendering(*BASES[base])), "`make manifests` renders it anew"
    commands = (FOLDER.parents[1] / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    command = ["paceline render", *BASES[base], "--out", f"deploy/kuberay/{base}"]
    assert f"{' '.join(command)} " in f"{' '.join(commands.split())} "


def built(overlay: str) -> list[dict]:
    assert TOOL is not None
    verb = "kustomize" if Path(TOOL).name == "kubectl" else "build"
    command = [TOOL, verb, str(FOLDER / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@needs_kustomize
@needs_kuberay
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_builds_and_is_what_the_schemas_say(overlay: str) -> None:
    manifests = built(overlay)
    for manifest in manifests:
        check(manifest)
    (job,) = [manifest for manifest in manifests if manifest["kind"] == "RayJob"]
    cluster = cluster_of(job)
    pods = {name: group["template"]["spec"] for name, group in groups(cluster).items()}
    assert cluster["authOptions"] == {"mode": "token"}
    if overlay == "kind":
        (claim,) = [manifest for manifest in manifests if manifest["kind"] == "PersistentVolumeClaim"]
        assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    elif overlay == "gvisor":
        assert {name: spec.get("runtimeClassName") for name, spec in pods.items()} == {
            "rollout": None,
            "learner": None,
            "reward": "gvisor",
        }
    elif overlay == "spot":
        assert {name for name, spec in pods.items() if "nodeSelector" in spec} == {"rollout"}
        assert len(pods["rollout"]["tolerations"]) == 2
    elif overlay == "s3":
        assert "run_dir=s3://" in job["spec"]["entrypoint"]
        assert {name for name, spec in pods.items() if "envFrom" in spec["containers"][0]} == {"rollout", "learner"}
    else:
        pytest.fail(f"nothing is claimed of {overlay}")


def test_the_overlays_are_those_of_the_page() -> None:
    page = (FOLDER.parents[1] / "docs/kuberay.md").read_text(encoding="utf-8")
    assert all(f"overlays/{overlay}" in page for overlay in OVERLAYS)
    assert OVERLAYS == ["gvisor", "kind", "s3", "spot"]
