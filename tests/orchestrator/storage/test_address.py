"""What is an address, and which hold a secret: those are refused, and never repeated."""

from pathlib import Path

import pytest

from orchestrator import cli
from orchestrator.errors import SettingError
from orchestrator.recipe import load_recipe
from orchestrator.stages.load import load_any
from orchestrator.storage.address import check_addresses, holds_secret, is_remote, local_path, scrubbed

SECRET = "wJalr/XUtnF+EMI"


def test_a_folder_is_none_and_neither_is_a_file_address() -> None:
    assert not any(is_remote(text) for text in (None, "runs/mine", "/mnt/nfs/runs", "~/x", "C:runs", "file:///mnt/x"))
    assert all(is_remote(text) for text in ("s3://bucket/runs/x", "S3://b/x", "gs://b", "memory://x"))
    assert local_path("file:///mnt/nfs/x") == Path("/mnt/nfs/x")
    assert local_path("runs/mine") == Path("runs/mine")


@pytest.mark.parametrize(
    "address",
    [
        f"s3://AKIA:{SECRET}@bucket/runs",
        f"s3://AKIA:{SECRET}",
        f"sftp://me:{SECRET}@host/x",
        f"https://host/x?X-Amz-Signature={SECRET}",
        f"abfs://box/x?sig={SECRET}",
    ],
)
def test_an_address_with_a_secret_is_told_apart(address: str) -> None:
    assert holds_secret(address)
    with pytest.raises(SettingError, match=r"storage\.where: an address must hold no password") as error:
        check_addresses({"storage": {"where": address}})
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    "address", ["s3://bucket/runs/a@b", "hdfs://host:8020/x", "sftp://me@host/x", "http://[::1]:80/x", "see a://b:c@d"]
)
def test_one_without_is_let_through(address: str) -> None:
    assert not holds_secret(address)


@pytest.mark.parametrize("setting", ["run_dir", "model", "data.path", "algorithm.reference.model"])
def test_a_recipe_with_a_secret_in_an_address_is_refused_wherever_it_stands(setting: str) -> None:
    with pytest.raises(SettingError, match="no password and no key") as error:
        load_recipe("quickstart", [f"{setting}=s3://AKIA:{SECRET}@bucket/x"])
    assert error.value.setting == setting
    assert SECRET not in str(error.value)


def test_so_is_one_of_several_stages() -> None:
    for setting in ("run_dir", "stages.sft.examples.path", "model"):
        with pytest.raises(SettingError, match="no password and no key") as error:
            load_any("stages", [f"{setting}=s3://AKIA:{SECRET}@bucket/x"])
        assert SECRET not in str(error.value)


def test_what_others_say_is_quoted_without_logins_and_queries() -> None:
    said = 'Could not connect to the endpoint URL: "http://me:pw@host:9000/b?X-Amz-Credential=k"'
    assert scrubbed(said) == 'Could not connect to the endpoint URL: "http://host:9000/b'


@pytest.mark.parametrize(
    "words",
    [
        ("train", "quickstart", "--dry-run", f"run_dir=s3://AKIA:{SECRET}@bucket/x"),
        ("train", "quickstart", f"storage.working_dir=s3://AKIA:{SECRET}"),
        ("resume", f"s3://AKIA:{SECRET}@bucket/x"),
        ("report", f"s3://AKIA:{SECRET}@bucket/x"),
    ],
)
def test_no_command_repeats_a_secret(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["paceline", *words])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert "an address must hold no password and no key" in said.err
    assert said.err.strip().count("\n") == 0
    assert SECRET not in said.out + said.err
    assert "AKIA" not in said.out + said.err
