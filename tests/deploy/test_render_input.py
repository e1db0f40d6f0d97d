"""What a cluster would refuse, or nobody should read, ends in one line before anything is written."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from deploy.cli import app
from deploy.manifests.names import check_ray_name, slug
from deploy.manifests.options import LONGEST_NAME
from deploy.manifests.rendering import as_files, as_text
from orchestrator.errors import RunError, SettingError
from tests.deploy.rendered import JUDGE, manifests, of_kind, rendering
from tests.deploy.schemas import cluster_of, pods_of

DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
SECRETS = {
    "WANDB_API_KEY": "5a1f0c9b7e3d4826a1b2c3d4e5f60718293a4b5c",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIK7MDENGbPxRfiCYplanted",
    "HF_TOKEN": "hf_plantedplantedplantedplanted",
    "JUDGE_KEY": "sk-planted-planted-planted-planted",
    "RAY_AUTH_TOKEN": "planted-token-of-the-cluster",
}


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ([], {}, r"^device: auto goes by the machine.*device=gpu"),
        (["device=cpu", "name=My Run"], {}, r"^name: 'My Run' is no name for Kubernetes.*--name my-run"),
        (["device=cpu"], {"name": "x" * 48}, r"^--name: x+ has 48 characters, and KubeRay takes 47"),
        (["device=cpu"], {"name": "1st"}, r"^--name: '1st' is no name.*--name x-1st"),
        (["device=cpu"], {"namespace": "Team_A"}, r"^--namespace: 'Team_A'.*team-a"),
        (["device=cpu"], {"image": "paceline cpu"}, r"^--image: 'paceline cpu' is no image"),
        (["device=cpu"], {"storage_size": "much"}, r"^--storage-size: 'much'.*100Gi"),
        (["device=cpu"], {"node_selector": ("h200",)}, r"^--node-selector: 'h200' is no label.*key=value"),
        (["device=cpu"], {"keys": "Keys!"}, r"^--keys: 'Keys!'"),
        (["device=cpu"], {"claim": "mine", "storage_class": "nfs"}, r"^--storage-class: the claim mine exists"),
        (["device=cpu", "run_dir=runs/here"], {}, r"^run_dir: runs/here is inside a pod and goes with it.*/paceline"),
        (["device=cpu", "data.path=train.jsonl"], {}, r"^data\.path: train\.jsonl is on this machine"),
        (["device=cpu", "model=./mine"], {}, r"^model: \./mine is on this machine"),
        (
            ["device=gpu", "topology.rollout.workers=16", "topology.rollout.nodes=learner"],
            {},
            r"^topology: rollout-0 and",
        ),
        (["device=cpu", "topology.learner.nodes=big-gpu"], {}, r"^topology\.learner\.nodes: 'big-gpu' is no resource"),
        (["device=cpu", "topology.learner.nodes=it's"], {}, r"^topology\.learner\.nodes: "),
        (
            ["device=cpu", "topology.reward.nodes=rollout", "reward.terms=[python_stdio]", "reward.deadline_s=60"],
            {},
            r"^topology\.reward\.nodes: the reward shares",
        ),
        (["device=cpu", "topology.reward.nodes=rollout"], {"sandbox_class": "gvisor"}, r"^topology\.reward\.nodes: "),
        (
            ["device=gpu", "topology.rollout.nodes=a_b", "topology.learner.nodes=a-b"],
            {},
            r"^topology: two names of nodes",
        ),
    ],
)
def test_what_cannot_work_is_one_line(settings: list[str], options: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message) as found:
        rendering("quickstart", *settings, **options)
    assert "\n" not in str(found.value)


def test_a_judge_that_the_recipe_does_not_serve() -> None:
    with pytest.raises(SettingError, match=r"^reward\.models: the recipe serves no model"):
        rendering("quickstart", "device=cpu", target="rayservice-judge")
    with pytest.raises(SettingError, match="serves judge, second"):
        rendering("quickstart", "device=cpu", JUDGE, "reward.models.second.model=m", target="rayservice-judge")


@given(st.text(max_size=80))
def test_the_name_that_is_proposed_would_be_taken(text: str) -> None:
    for longest in LONGEST_NAME.values():
        check_ray_name("name", slug(text, longest=longest), longest)


@pytest.mark.parametrize("target", ["rayjob", "raycluster", "rayservice-judge"])
def test_the_longest_name_makes_names_that_kubernetes_takes(target: str) -> None:
    longest = LONGEST_NAME[target]
    settings = ("device=cpu", JUDGE.replace("judge.", "A_very.long.name_of_a_judge.".replace(".", "_") + "."))
    for key in manifests(rendering("quickstart", *settings, target=target, name="n" * longest)):
        assert DNS_LABEL.fullmatch(key.partition("/")[2]), key


@pytest.mark.parametrize("target", ["rayjob", "raycluster", "rayservice-judge"])
def test_planted_secrets_are_in_nothing_that_is_rendered(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    settings = ["device=gpu", "tracking.wandb=true", "run_dir=s3://bucket/runs/one"]
    served = (
        [JUDGE]
        if target == "rayservice-judge"
        else [
            "reward.models.judge.model=m",
            "reward.models.judge.url=https://judge.example.com/v1",
            "reward.models.judge.api_key_env=JUDGE_KEY",
        ]
    )
    rendered = rendering("quickstart", *settings, *served, target=target, environment=SECRETS)
    for text in [as_text(rendered), *as_files(rendered).values()]:
        for name, value in SECRETS.items():
            assert value not in text, name
    if target == "rayjob":
        head, *workers = pods_of(of_kind(rendered, "RayJob"))[:-1]
        assert keys_of(head) == {"HF_TOKEN", "WANDB_API_KEY", "JUDGE_KEY"}
        for worker in workers:
            assert keys_of(worker) == set()
            by_storage = worker["spec"]["containers"][0].get("envFrom")
            role = worker["metadata"]["labels"]["paceline/role"]
            assert by_storage == (
                None if role == "reward" else [{"secretRef": {"name": "paceline-storage", "optional": False}}]
            )


def keys_of(pod: dict) -> set[str]:
    return {
        entry["name"] for entry in pod["spec"]["containers"][0]["env"] if "secretKeyRef" in entry.get("valueFrom", {})
    }


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("reward.models.judge.url", f"https://judge.example.com/{SECRETS['JUDGE_KEY']}/v1"),
        ("reward.models.judge.url", f"https://judge.example.com/{SECRETS['RAY_AUTH_TOKEN']}/v1"),
        ("reward.models.judge.model", SECRETS["WANDB_API_KEY"]),
        ("tracking.project", SECRETS["HF_TOKEN"]),
        ("data.template", "'{question} AKIAIOSFODNN7EXAMPLE'"),
        ("run_dir", "s3://user:password@host/bucket"),
    ],
)
def test_a_recipe_that_holds_a_key_is_refused_without_showing_it(setting: str, value: str) -> None:
    judge = ["reward.models.judge.model=m", "reward.models.judge.url=https://judge.example.com/v1"]
    with pytest.raises(
        SettingError,
        match=f"^{re.escape(setting)}: (holds what looks like a|an address must hold no password and no) key",
    ) as found:
        rendering("quickstart", "device=cpu", *judge, f"{setting}={value}", environment=SECRETS)
    assert value.strip("'") not in str(found.value)


def test_every_pod_is_what_the_restricted_profile_asks_for() -> None:
    """Kubernetes' Pod Security Standards, "restricted"; and no pod but a head that scales sees an account."""
    settings = ("device=gpu", JUDGE, "topology.rollout.most=4", "speculation=adaptive")
    for target, kind in (("rayjob", "RayJob"), ("raycluster", "RayCluster"), ("rayservice-judge", "RayService")):
        manifest = of_kind(rendering("quickstart", *settings, target=target), kind)
        assert cluster_of(manifest)["authOptions"] == {"mode": "token"}
        assert cluster_of(manifest)["headGroupSpec"]["serviceType"] == "ClusterIP"
        for pod in pods_of(manifest):
            spec, role = pod["spec"], pod["metadata"]["labels"]["paceline/role"]
            assert spec["securityContext"]["runAsNonRoot"] is True
            assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            scales = role == "head" and target != "rayservice-judge"
            assert spec["automountServiceAccountToken"] is scales
            for container in spec["containers"]:
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                }
                assert container["resources"]["requests"] == container["resources"]["limits"]


def test_programs_of_the_model_run_in_gvisor_and_reach_nobody() -> None:
    settings = ("device=cpu", "reward.terms=[python_stdio]", "reward.deadline_s=60")
    rendered = rendering("quickstart", *settings)
    pods = {pod["metadata"]["labels"]["paceline/role"]: pod["spec"] for pod in pods_of(of_kind(rendered, "RayJob"))}
    assert pods["reward"]["runtimeClassName"] == "gvisor"
    assert all("runtimeClassName" not in spec for role, spec in pods.items() if role != "reward")
    assert [volume["name"] for volume in pods["reward"]["volumes"]] == ["shared-memory"]
    policies = [m["spec"] for m in manifests(rendered).values() if m["kind"] == "NetworkPolicy"]
    outward = [spec for spec in policies if any("ipBlock" in str(rule) for rule in spec.get("egress", []))]
    assert [spec["podSelector"]["matchExpressions"] for spec in outward] == [
        [{"key": "paceline/role", "operator": "NotIn", "values": ["reward"]}]
    ]


def test_the_reward_reaches_the_endpoints_that_it_asks() -> None:
    judge = ("reward.models.judge.model=m", "reward.models.judge.url=http://judge-serve-svc:8000/v1")
    policies = manifests(rendering("quickstart", "device=cpu", *judge))
    (rule,) = policies["NetworkPolicy/quickstart-endpoints"]["spec"]["egress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 8000}]


def test_head_and_learners_are_not_evicted() -> None:
    found = manifests(rendering("quickstart", "device=gpu", "topology.learner.ranks=24", priority_class="important"))
    kept = {name: m["spec"]["minAvailable"] for name, m in found.items() if m["kind"] == "PodDisruptionBudget"}
    assert kept == {"PodDisruptionBudget/quickstart-head": 1, "PodDisruptionBudget/quickstart-learner": 3}
    for pod in pods_of(found["RayJob/quickstart"]):
        role = pod["metadata"]["labels"]["paceline/role"]
        keeps = role in ("head", "learner")
        assert ("cluster-autoscaler.kubernetes.io/safe-to-evict" in pod["metadata"].get("annotations", {})) is keeps
        assert (pod["spec"].get("priorityClassName") == "important") is keeps


def test_the_command_writes_whole_files_or_none(tmp_path: Path) -> None:
    run = CliRunner().invoke
    out = tmp_path / "job.yaml"
    done = run(
        app, ["render", "quickstart", "device=cpu", "--out", str(out), "--retries", "0", "--deadline-hours", "1.5"]
    )
    assert done.exit_code == 0, done.output
    (job,) = [m for m in yaml.safe_load_all(out.read_text(encoding="utf-8")) if m["kind"] == "RayJob"]
    assert (job["spec"]["backoffLimit"], job["spec"]["activeDeadlineSeconds"]) == (0, 5400)
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]
    refused = run(app, ["render", "quickstart", "--out", str(tmp_path / "other.yaml")])
    assert isinstance(refused.exception, SettingError)
    assert not (tmp_path / "other.yaml").exists()
    printed = run(app, ["render", "quickstart", "device=cpu"])
    assert printed.output == run(app, ["render", "quickstart", "device=cpu"]).output, "two renderings are equal"


def test_a_job_waits_in_its_queue_resumes_and_ends_in_time() -> None:
    options = {"queue": "team", "auth_secret": "token", "deadline_s": 60, "retries": 5, "namespace": "training"}
    job = of_kind(rendering("quickstart", "device=cpu", "run_dir=s3://bucket/one", **options), "RayJob")
    spec = job["spec"]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    assert job["metadata"]["namespace"] == "training"
    assert (spec["suspend"], spec["shutdownAfterJobFinishes"]) == (True, True), "KubeRay suspends no other"
    assert (spec["activeDeadlineSeconds"], spec["backoffLimit"]) == (60, 5)
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token", "secretName": "token"}
    assert spec["entrypoint"].split()[-1] == "--resume"
    assert "storage.working_dir=/paceline/work" in spec["entrypoint"], "all ranks see where the run works"
    plain = of_kind(rendering("quickstart", "device=cpu"), "RayJob")["spec"]
    assert (plain["suspend"], "storage" in plain["entrypoint"]) == (False, False)


def test_what_whoever_applies_it_must_know_stands_on_top() -> None:
    endpoint = [
        "reward.models.j.model=m",
        "reward.models.j.url=https://j.example.com/v1",
        "reward.models.j.api_key_env=J",
    ]
    settings = ["device=cpu", "run_dir=s3://bucket/one", "reward.terms=['my_module:score']", *endpoint]
    top = as_text(rendering("quickstart", *settings)).partition("---")[0]
    for said in ("paceline-keys must hold J", "paceline-storage must hold AWS", "module my_module", "checkpoint_every"):
        assert said in top
    cluster = as_text(rendering("quickstart", *settings, target="raycluster")).partition("---")[0]
    assert "topology.reward.nodes=reward" in cluster
    assert "resume" not in cluster
    quiet = as_text(rendering("quickstart", "device=cpu", "trainer.checkpoint_every=5")).partition("---")[0]
    assert "must hold" not in quiet
    assert "checkpoint_every" not in quiet


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    done = CliRunner().invoke(app, ["render", "quickstart", "device=cpu", "--out", str(tmp_path / "file" / "job.yaml")])
    assert isinstance(done.exception, RunError)
    assert "cannot be written" in str(done.exception)
