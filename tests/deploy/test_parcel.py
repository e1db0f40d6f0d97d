"""What travels with a job: everything that the recipe names by a relative path, and nothing else."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from deploy.parcel import Parcel, pack
from deploy.submit import make_job
from orchestrator.errors import SettingError
from orchestrator.recipe import Tree, dump_recipe, load_recipe

SECRET = "planted-5f2c9e"
Folder = Callable[[dict[str, str]], Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A user's folder with these files: their text by their path."""

    def make(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / "mine" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (tmp_path / "mine").mkdir(exist_ok=True)
        return tmp_path / "mine"

    return make


def tree(*overrides: str) -> Tree:
    resolved: Tree = yaml.safe_load(dump_recipe(load_recipe("quickstart", overrides)))
    return resolved


def places(parcel: Parcel) -> list[str]:
    return [place for place, _ in parcel.files]


def test_a_recipe_that_names_nothing_carries_nothing(folder: Folder) -> None:
    root = folder({"notes.py": "", ".env": SECRET})
    parcel = pack(tree(), root)
    assert (parcel.files, parcel.tree) == ((), tree())


def test_data_and_models_travel_and_are_found_there(folder: Folder, tmp_path: Path) -> None:
    root = folder(
        {
            "train.jsonl": "{}",
            "other.jsonl": "{}",
            "model/config.json": "{}",
            "model/__pycache__/x.pyc": "",
            "sub/train.jsonl": "",
        }
    )
    parcel = pack(tree("data.path=train.jsonl", "model=./model", "reward.terms=[math]"), root)
    assert places(parcel) == ["files/model/config.json", "files/train.jsonl"]
    assert (parcel.tree["model"], parcel.tree["data"]["path"]) == ("files/model", "files/train.jsonl")  # type: ignore[index]
    parcel.write(tmp_path / "out")
    assert (tmp_path / "out" / "files" / "train.jsonl").read_text() == "{}"


def test_what_the_cluster_has_stays_as_it_is(folder: Folder) -> None:
    given = tree("data.path=/shared/train.jsonl", "model=Qwen/Qwen3-0.6B", "reward.terms=[math]")
    parcel = pack(given, folder({}))
    assert (parcel.files, parcel.tree) == ((), given)
    assert not pack(tree("model=s3://bucket/model"), folder({})).files


def test_two_files_of_one_name_keep_apart(folder: Folder) -> None:
    root = folder({"a/data.jsonl": "1", "b/data.jsonl": "2"})
    stages = {"name": "s", "run_dir": None, "stages": [{"name": n, "data": {"path": f"{n}/data.jsonl"}} for n in "ab"]}
    parcel = pack(stages, root)  # type: ignore[arg-type]
    assert places(parcel) == ["files/2-data.jsonl", "files/data.jsonl"]
    assert [one["data"]["path"] for one in parcel.tree["stages"]] == ["files/data.jsonl", "files/2-data.jsonl"]  # type: ignore


def test_modules_bring_what_they_import_and_no_more(folder: Folder) -> None:
    root = folder(
        {
            "mine.py": "import json\nfrom pack.inner import score\nimport beside\n",
            "beside.py": "",
            "unused.py": "",
            "pack/__init__.py": "",
            "pack/inner.py": "from . import sibling\nfrom .deep.er import thing\n",
            "pack/sibling.py": "",
            "pack/deep/__init__.py": "",
            "pack/deep/er.py": "",
            "pack/other.py": "",
        }
    )
    parcel = pack(tree("reward.terms=[mine:score]"), root)
    assert places(parcel) == [
        "beside.py",
        "mine.py",
        "pack/__init__.py",
        "pack/deep/__init__.py",
        "pack/deep/er.py",
        "pack/inner.py",
        "pack/sibling.py",
    ]


def test_further_files_keep_their_places(folder: Folder) -> None:
    root = folder({"words/one.txt": "", "words/two.txt": ""})
    assert places(pack(tree(), root, also=["words"])) == ["words/one.txt", "words/two.txt"]
    for outside in ("../words", "/etc/passwd", "absent"):
        with pytest.raises(SettingError, match="--also"):
            pack(tree(), root, also=[outside])


def test_the_source_is_whole_and_holds_no_bytecode(folder: Folder) -> None:
    sent = places(pack(tree(), folder({}), with_source=True))
    assert {"deploy/cli.py", "orchestrator/run.py", "orchestrator/recipes/quickstart.yaml"} <= set(sent)
    assert not [place for place in sent if "__pycache__" in place]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.path=absent.jsonl", "reward.terms=[math]"], "data.path: there is no absent.jsonl here"),
        (["model=./absent"], "model: there is no folder ./absent here"),
        (["reward.terms=[no_such_module_of_mine:score]"], "reward.terms[0].name: there is no module no_such_module"),
    ],
)
def test_what_is_not_here_is_named(folder: Folder, overrides: list[str], said: str) -> None:
    with pytest.raises(SettingError) as caught:
        pack(tree(*overrides), folder({}))
    assert said in str(caught.value)


def test_too_much_is_refused_by_the_setting_that_brings_it(folder: Folder) -> None:
    root = folder({"train.jsonl": "x" * 3_000_000})
    with pytest.raises(SettingError, match=r"data\.path: the job would carry 3 MiB, 3 of them in .*train\.jsonl"):
        pack(tree("data.path=train.jsonl", "reward.terms=[math]"), root, limit_mib=1)


def test_a_job_joins_its_cluster_in_every_stage_and_holds_no_secret(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder({".env": SECRET})
    for name in ("RAY_AUTH_TOKEN", "WANDB_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    job = make_job("stages", ["run_dir=/shared/run"], root=root)
    settings = yaml.safe_load(job.text)
    assert settings["run_dir"] == job.run_dir == "/shared/run"
    assert {stage["ray"]["address"] for stage in settings["stages"]} == {"auto"}
    job.parcel.write(tmp_path / "out")
    written = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert SECRET not in job.text
    assert not [content for content in written if SECRET.encode() in content]


def test_a_run_goes_where_it_outlives_its_job(folder: Folder) -> None:
    job = make_job("quickstart", [], root=folder({}))
    assert job.run_dir == f"~/paceline-runs/{job.submission_id}"
    assert make_job("quickstart", [], root=folder({})).submission_id != job.submission_id
    with pytest.raises(SettingError, match="run_dir: runs/x is relative"):
        make_job("quickstart", ["run_dir=runs/x"], root=folder({}))
