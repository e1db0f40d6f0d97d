"""`paceline score`: answers in a file, graded from the command line by real child processes."""

import json
import re
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.errors import SettingError
from orchestrator.recipe import load_reward
from tests.rewards.judging.scripted_server import chat, serving

ROWS = [
    {"prompt": "1 + 1", "answer": "2", "response": r"\boxed{2}", "response_tokens": 9},
    {"prompt": "1 + 1", "answer": "2", "response": r"\boxed{3}", "response_tokens": 4},
    {"prompt": "2 + 1", "answer": 3, "response": "#### 3", "response_tokens": 7},
    {"prompt": "1 + 1", "answer": "2", "response": "#### 2", "response_tokens": 5},
]


def written(folder: Path, *rows: object) -> Path:
    file = folder / "answers.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return file


def score(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["score", *map(str, arguments)])


def test_a_file_is_graded_and_summed_up(tmp_path: Path) -> None:
    out = tmp_path / "grades.jsonl"
    done = score(written(tmp_path, *ROWS[:2], "", *ROWS[2:]), "--reward", "math", "--out", out)
    assert done.exit_code == 0, done.output
    assert "4 answers in" in done.output
    assert re.search(r"reward +0\.7500", done.output)
    grades = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(grade["sample"], grade["reward"]) for grade in grades] == [("1", 1), ("2", 0), ("4", 1), ("5", 1)]
    assert grades[0]["terms"] == {"math": 1.0}


def test_rows_with_one_prompt_are_a_group_and_the_order_of_the_file_stays(tmp_path: Path) -> None:
    out = tmp_path / "grades.jsonl"
    terms = "reward.terms=[math, {name: shortest_correct, weight: 0.5}]"
    done = score(written(tmp_path, *ROWS), terms, "reward.workers=2", "--out", out)
    assert done.exit_code == 0, done.output
    rewards = [json.loads(line)["reward"] for line in out.read_text().splitlines()]
    assert rewards == [1.0, 0.0, 1.5, 1.5]


def test_a_recipes_reward_grades_too(tmp_path: Path) -> None:
    done = score(written(tmp_path, *ROWS), "--reward", "gsm8k")
    assert done.exit_code == 0, done.output
    assert re.search(r"format +0\.5000", done.output)
    assert re.search(r"reward +0\.8000", done.output)


def test_what_could_not_be_scored_is_counted_shown_and_told_by_the_exit_code(tmp_path: Path) -> None:
    rows = [{"text": text} for text in ("abc", "raise", "raise again")]
    done = score(written(tmp_path, *rows), "--reward", "tests.rewards.misbehaving:obey", "--response-column", "text")
    assert done.exit_code == 1
    assert "2 not scored: raised in obey" in done.output
    assert "line 2: obey: KeyError" in done.output


@pytest.mark.parametrize(
    ("rows", "arguments", "says"),
    [
        (["{"], [], "line 1: not JSON"),
        ([{"answer": "2"}], [], "has no text 'response' (answer); name it with --response-column"),
        (["3"], [], "(int)"),
        ([], [], "has no rows"),
        (ROWS, ["--reward", "maths"], "did you mean math"),
        (ROWS, ["--reward", "no_such_module:score"], "ModuleNotFoundError"),
        (ROWS, ["reward.worker=2"], "did you mean workers?"),
        (ROWS, ["--reward", "none.yaml"], "no such recipe file"),
    ],
)
def test_an_input_that_cannot_work_is_one_line(
    tmp_path: Path, rows: list[object], arguments: list[str], says: str
) -> None:
    done = score(written(tmp_path, *rows), *arguments)
    assert isinstance(done.exception, SettingError)
    assert says in str(done.exception)
    assert "\n" not in str(done.exception)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "cannot be read" in str(score(tmp_path / "none.jsonl").exception)


def test_a_reward_alone_takes_overrides() -> None:
    settings = load_reward("my_module:score", ["reward.workers=3"])
    assert (settings.workers, settings.terms[0].name) == (3, "my_module:score")
    assert load_reward("gsm8k", ["reward=math"]).terms[0].name == "math"


def test_a_judge_at_an_endpoint_grades_and_what_it_could_not_tell_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-not-to-be-shown")
    with serving() as server:
        server.script = lambda asked: chat("Score: 10" if "{2}" in asked.text else "Well.")
        where = [f"reward.models.judge={{model: m, url: '{server.url}', api_key_env: JUDGE_KEY}}"]
        file = written(tmp_path, *ROWS[:2])
        strict = score(file, "--reward", "judge", *where)
        lenient = score(file, "--reward", "judge", *where, "reward.terms=[{name: judge, fallback: 0.5}]")
    assert (strict.exit_code, lenient.exit_code) == (1, 0), strict.output + lenient.output
    assert "1 not scored: malformed in judge" in strict.output
    assert re.search(r"reward +0\.7500", lenient.output)
    assert "1 times the term's own value, for want of a model's: malformed in judge" in lenient.output
    assert {asked.authorization for asked in server.asked} == {"Bearer sk-not-to-be-shown"}
    assert "not-to-be-shown" not in strict.output + lenient.output


def test_a_model_that_a_run_would_serve_is_refused(tmp_path: Path) -> None:
    done = score(written(tmp_path, *ROWS), "--reward", "judge", "reward.models.judge.model=some/model")
    assert isinstance(done.exception, SettingError)
    assert "reward.models.judge: a run serves it" in str(done.exception)
