"""What the run log counts as submitted and as trained, over an answer's several lives."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from actors.trajectory import Trajectory
from learners.settings import AlgorithmSettings
from orchestrator.activity import Lap
from orchestrator.analysis.reward_report import reward_trouble
from orchestrator.batch_builder import BatchBuilder
from orchestrator.policies.groups import GroupInFlight, ScoredGroup
from orchestrator.progress import Progress
from orchestrator.recipe import load_recipe
from orchestrator.run_directory import RunDirectory
from orchestrator.run_events import read_events
from orchestrator.run_log import RunLog
from rewards.response import Failure, Score, SpanReward
from tests.orchestrator.builders import prompt, trajectory


class Book:
    """A run log, and the groups that are played to it: two answers each."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        self.path = folder / "run"
        recipe = load_recipe("quickstart", ["trainer.steps=2", *overrides])
        console = Progress("t", Console(quiet=True))
        self.log = RunLog(RunDirectory(self.path, ""), console, [], recipe, decode=str, clock=lambda: 0.0)

    def start(self, index: int, attempt: int = 0, greedy: int | None = None) -> GroupInFlight:
        group = GroupInFlight(index, prompt(index), (1,), 0, 2, 2, attempt, greedy=greedy)
        self.log.group_dispatched(group)
        return group

    def sample(self, group: GroupInFlight, *lengths: int) -> list[Trajectory]:
        answers = [trajectory(f"{group.index}/{n}", versions=(0,) * length) for n, length in enumerate(lengths)]
        for sample, answer in enumerate(answers):
            self.log.answer_sampled(group, sample, answer)
        return answers

    def train(
        self, *groups: tuple[GroupInFlight, list[Trajectory]], learner: dict[str, float] | None = None
    ) -> dict[str, float]:
        scored = [
            ScoredGroup(g.index, g.prompt, g.prompt_ids, 0, answers, [Score(1.0, {}), Score(0.0, {})], greedy=g.greedy)
            for g, answers in groups
        ]
        self.log.learner_did("trains", 0.0, 1.0)
        batch = BatchBuilder(AlgorithmSettings(advantage="raw")).build(scored, 0)
        self.log.trained(1, scored, batch, learner or {}, Lap(1.0, 0.0, 1))
        rows: list[dict[str, float]] = [json.loads(row) for row in (self.path / "metrics.jsonl").open()]
        return rows[-1]


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(tmp_path)


def test_an_answer_that_is_thrown_away_and_sampled_again_was_submitted_once(book: Book) -> None:
    group = book.start(0)
    short, _ = book.sample(group, 3, 5)
    book.log.group_cut(group, [short], "long_round")
    again = book.start(0, attempt=1)
    book.sample(group, 4)  # the news of an answer of the first attempt, overtaken by the second
    row = book.train((again, book.sample(again, 10, 20)))
    assert row["length_bias/mean_ratio"] == 1.0
    assert row["length_bias/mean_submitted"] == 15.0


def test_answers_that_are_dropped_or_fail_were_submitted(book: Book) -> None:
    dropped, failed, trained = (book.start(index) for index in range(3))
    book.sample(dropped, 30, 30)
    book.log.group_cut(dropped, (), "drop")
    book.sample(failed, 30, 30)
    book.log.group_failed(failed, "no reward")
    row = book.train((trained, book.sample(trained, 10, 10)))
    assert row["length_bias/mean_submitted"] == pytest.approx((4 * 30 + 2 * 10) / 6)
    assert row["length_bias/mean_trained"] == 10.0


def test_answers_that_still_wait_to_be_trained_do_not_count_yet(book: Book) -> None:
    waiting, trained = book.start(0), book.start(1)
    book.sample(waiting, 50, 50)
    assert book.train((trained, book.sample(trained, 10, 10)))["length_bias/mean_ratio"] == 1.0


def test_a_greedy_answer_counts_neither_as_submitted_nor_in_the_reward(book: Book) -> None:
    group = book.start(0, greedy=1)
    row = book.train((group, book.sample(group, 10, 90)))
    assert (row["reward"], row["response_tokens/max"]) == (1.0, 10.0)
    assert (row["length_bias/mean_ratio"], row["length_bias/mean_submitted"]) == (1.0, 10.0)


def test_a_mask_that_leaves_too_little_is_told_of(tmp_path: Path) -> None:
    book = Book(tmp_path, "algorithm.masks=[{name: curvature, alarm_below: 0.5}]")
    for kept in (0.6, 0.4):
        group = book.start(0)
        book.train((group, book.sample(group, 10, 10)), learner={"mask/curvature": kept})
    events = [json.loads(row) for row in (book.path / "events.jsonl").open()]
    warnings = [event["message"] for event in events if event["event"] == "warning"]
    assert warnings == ["step 1: mask curvature left 40.0% of the tokens' weight"]


def test_rewards_of_parts_that_nobody_reads_are_told_of_once(tmp_path: Path) -> None:
    paid = Score(1.0, {}, spans=(SpanReward(0, 1, -0.5),))
    for advantage, told in (("grpo", 1), ("gae", 0)):
        book = Book(tmp_path / advantage, f"algorithm.advantage={advantage}")
        for index in range(2):
            group = book.start(index)
            scored = ScoredGroup(index, group.prompt, (1,), 0, book.sample(group, 1, 1), [paid, Score(0.0, {})])
            book.log.group_scored(scored, 0.0, 1.0)
        events = [json.loads(row) for row in (book.path / "events.jsonl").open()]
        warnings = [event["message"] for event in events if event["event"] == "warning"]
        assert (
            warnings == [f"a term rewards parts of answers, which algorithm.advantage={advantage} does not read"] * told
        )


def test_what_failed_and_what_was_given_up_stands_in_the_report(book: Book) -> None:
    group = book.start(0)
    hung = Score(0.0, {}, "hung", failure=Failure("timeout", "math"))
    vague = Score(1.0, {}, troubles=(Failure("malformed", "judge"),))
    book.log.group_scored(ScoredGroup(0, group.prompt, (1,), 0, book.sample(group, 1, 1), [hung, vague]), 0.0, 1.0)
    book.log.prompt_quarantined("p0", "the scoring of its answers hung in 2 visits")
    lines = reward_trouble(read_events(book.path / "events.jsonl"))
    assert lines == [
        "1 answers got the fallback: timeout in math",
        "1 answers got a term's own value, for want of a model's: malformed in judge",
        "In quarantine: p0 (the scoring of its answers hung in 2 visits)",
    ]
