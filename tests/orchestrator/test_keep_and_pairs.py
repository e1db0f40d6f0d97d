"""Which answers of a scored group are kept or paired: small groups by hand, seeds, and the batches made of them."""

from dataclasses import replace

import pytest

from actors.engine import Completion, Segment
from actors.trajectory import Trajectory
from orchestrator.batch_builder import BatchBuilder
from orchestrator.config import Recipe
from orchestrator.policies.admission import Continuous
from orchestrator.policies.dispatch import Dispatcher
from orchestrator.policies.grades import Grade, Grader
from orchestrator.policies.groups import ScoredGroup
from orchestrator.policies.keep import KeepSettings, kept
from orchestrator.policies.late import LateRule
from orchestrator.policies.pairs import PairSettings, paired_answers
from orchestrator.policies.staleness import StalenessRule
from orchestrator.recipe import load_recipe
from orchestrator.stages.batches import KeptBatches, LabelledBatches, PairedBatches, make_batches
from tests.orchestrator.builders import CountingSource, scored_group, trajectory

GRADER = Grader("math", 1.0)


def graded(*rewards: float, tokens: tuple[int, ...] | None = None) -> list[Grade]:
    """Right where the reward is 1 or more."""
    lengths = tokens or (10,) * len(rewards)
    return [Grade(reward, reward >= 1, length) for reward, length in zip(rewards, lengths, strict=True)]


def keep(**settings: object) -> KeepSettings:
    return KeepSettings.model_validate(settings)


def pairs(**settings: object) -> PairSettings:
    return PairSettings.model_validate(settings)


# --- keep -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "rewards", "expected"),
    [
        ({"rule": "right", "per_prompt": 4}, (0, 1, 0.5, 1.1), (1, 3)),
        ({"rule": "right"}, (0, 0.5), ()),
        ({"rule": "best"}, (0.2, 0.9, 0.4), (1,)),
        ({"rule": "best", "per_prompt": 2}, (0.2, 0.9, 0.4), (1, 2)),
        ({"rule": "best", "least": 0.5, "per_prompt": 2}, (0.2, 0.9, 0.4), (1,)),
        ({"rule": "best", "least": 1.0}, (0.2, 0.9, 0.4), ()),
    ],
)
def test_what_is_kept(settings: dict[str, object], rewards: tuple[float, ...], expected: tuple[int, ...]) -> None:
    assert kept(graded(*rewards), keep(**settings), "seed") == expected


def test_the_shortest_right_answers_are_kept() -> None:
    grades = graded(1, 1, 0, 1, tokens=(30, 10, 1, 20))
    assert kept(grades, keep(rule="shortest_right"), "seed") == (1,)
    assert kept(grades, keep(rule="shortest_right", per_prompt=2), "seed") == (1, 3)


def test_among_equals_the_seed_decides_and_nothing_else() -> None:
    grades = graded(*[1.0] * 6)
    chosen = {seed: kept(grades, keep(), str(seed)) for seed in range(200)}
    assert chosen == {seed: kept(grades, keep(), str(seed)) for seed in range(200)}
    counts = [sum(choice == (n,) for choice in chosen.values()) for n in range(6)]
    assert sum(counts) == 200
    assert min(counts) > 10, "no place in the group is favoured"


def test_one_step_of_best_of_group_is_the_same_answers() -> None:
    """RAFT with the advantage `best_of_group` and `reinforce` trains on what `best` keeps, ties taken together."""
    from learners.advantages.estimator import GroupRewards
    from learners.advantages.likelihoods import best_of_group

    rewards = (0.2, 0.9, 0.4, 0.9)
    advantages = best_of_group(GroupRewards(rewards))
    chosen = kept(graded(*rewards), keep(rule="best", per_prompt=2), "seed")
    assert tuple(n for n, advantage in enumerate(advantages) if advantage) == chosen


# --- pairs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "rewards", "expected"),
    [
        ({}, (0.2, 0.9, 0.0, 0.5), ((1, 2),)),
        ({"per_prompt": 2}, (0.2, 0.9, 0.0, 0.5), ((1, 2), (3, 0))),
        ({"per_prompt": 2, "margin": 0.5}, (0.2, 0.9, 0.0, 0.5), ((1, 2),)),
        ({"margin": 0.95}, (0.2, 0.9, 0.0, 0.5), ()),
        ({}, (1.0, 1.0, 1.0), ()),
        ({"per_prompt": 3}, (0.0, 1.0, 0.5), ((1, 0),)),
        ({}, (1.0,), ()),
    ],
)
def test_best_against_worst(
    settings: dict[str, object], rewards: tuple[float, ...], expected: tuple[tuple[int, int], ...]
) -> None:
    assert paired_answers(graded(*rewards), pairs(**settings), "seed") == expected


def test_random_pairs_are_right_against_wrong_each_answer_once() -> None:
    grades = graded(1, 0, 1, 0, 0, 1)
    made = paired_answers(grades, pairs(rule="random", per_prompt=9), "seed")
    assert len(made) == 3
    assert {chosen for chosen, _ in made} == {0, 2, 5}
    assert {rejected for _, rejected in made} == {1, 3, 4}
    different = {paired_answers(grades, pairs(rule="random"), str(seed)) for seed in range(60)}
    assert len(different) == 9, "every right one meets every wrong one"
    assert paired_answers(grades, pairs(rule="random"), "a") == paired_answers(grades, pairs(rule="random"), "a")


@pytest.mark.parametrize("rewards", [(1, 1, 1), (0, 0.5, 0)])
def test_random_pairs_need_both_kinds(rewards: tuple[float, ...]) -> None:
    assert paired_answers(graded(*rewards), pairs(rule="random"), "seed") == ()


def test_a_wrong_answer_of_a_higher_reward_is_never_rejected_for_a_right_one() -> None:
    """The reward may hold more than rightness, such as a format's."""
    grades = [Grade(0.5, True, 10), Grade(0.9, False, 10)]
    assert paired_answers(grades, pairs(rule="random"), "seed") == ()


def test_ties_at_the_top_are_broken_by_the_seed() -> None:
    grades = graded(1, 1, 1, 0)
    assert {paired_answers(grades, pairs(), str(seed)) for seed in range(50)} == {((n, 3),) for n in range(3)}


# --- batches ----------------------------------------------------------------------------------------------------------


def test_grades_go_by_the_term_that_evaluations_count() -> None:
    group = scored_group(0, rewards=(2.0, 0.5))
    scores = [replace(group.scores[0], total=0.1), replace(group.scores[1], total=3.0)]
    assert GRADER(replace(group, scores=scores)) == (Grade(0.1, True, 2), Grade(3.0, False, 2))


def test_kept_answers_train_alone_and_the_others_are_there_for_the_log() -> None:
    batches = KeptBatches(keep(rule="right", per_prompt=4), GRADER, seed=0)
    batch = batches.build([scored_group(3, rewards=(0, 1, 1)), scored_group(5, rewards=(1, 0, 0))], 7)
    assert [s.sequence_id for s in batch.sequences] == ["3/0", "3/1", "3/2", "5/0", "5/1", "5/2"]
    assert [s.loss_tokens for s in batch.sequences] == [0, 2, 2, 2, 0, 0]
    assert {s.advantages for s in batch.sequences} == {(1.0, 1.0)}
    assert batch.version == 7


def test_every_kept_sample_names_the_weights_that_sampled_it() -> None:
    group = scored_group(0, rewards=(1, 0))
    mixed = replace(group, trajectories=[trajectory("0/0", versions=(2, 2, 5)), group.trajectories[1]])
    first = KeptBatches(keep(), GRADER, seed=0).build([mixed], 6).sequences[0]
    assert first.versions == (2, 2, 5)
    assert first.loss_tokens == 3


def test_a_pair_is_a_unit_and_no_pair_mixes_prompts() -> None:
    batches = PairedBatches(pairs(per_prompt=2), GRADER, seed=0)
    batch = batches.build([scored_group(3, rewards=(0, 1, 0.2, 0.9, 0.5)), scored_group(4, rewards=(1, 0))], 1)
    units: dict[str, list[str]] = {}
    for sequence in batch.sequences:
        if sequence.group_id:
            units.setdefault(sequence.group_id, []).append(f"{sequence.sequence_id} {sequence.advantages[0]:+.0f}")
    assert units == {
        "3/pair0": ["3/1 +1", "3/0 -1"],
        "3/pair1": ["3/3 +1", "3/2 -1"],
        "4/pair0": ["4/0 +1", "4/1 -1"],
    }
    (alone,) = [s for s in batch.sequences if not s.group_id]
    assert (alone.sequence_id, alone.loss_tokens) == ("3/4", 0)


def test_labels_make_a_unit_of_the_group() -> None:
    batch = LabelledBatches(GRADER).build([scored_group(3, rewards=(0, 1, 1))], 1)
    assert [(s.group_id, s.advantages[0]) for s in batch.sequences] == [("3", -1.0), ("3", 1.0), ("3", 1.0)]


@pytest.mark.parametrize(
    ("batches", "usable"),
    [
        (KeptBatches(keep(), GRADER, 0), {(1.0, 0.0), (1.0, 1.0)}),
        (KeptBatches(keep(rule="best"), GRADER, 0), {(1.0, 0.0), (1.0, 1.0), (0.0, 0.0)}),
        (PairedBatches(pairs(), GRADER, 0), {(1.0, 0.0)}),
        (PairedBatches(pairs(margin=2.0), GRADER, 0), set()),
        (LabelledBatches(GRADER), {(1.0, 0.0), (1.0, 1.0), (0.0, 0.0)}),
    ],
)
def test_groups_without_anything_to_train_on_are_not_usable(
    batches: KeptBatches | PairedBatches | LabelledBatches, usable: set[tuple[float, ...]]
) -> None:
    kinds = [(1.0, 0.0), (1.0, 1.0), (0.0, 0.0)]
    assert {rewards for rewards in kinds if batches.usable(scored_group(0, rewards=rewards))} == usable


def test_an_unusable_group_is_filtered_and_makes_room() -> None:
    rule = StalenessRule(1, 0)
    dispatcher = Dispatcher(
        source=CountingSource(),
        encode=lambda p: (p.index,),
        rule=rule,
        admission=Continuous(rule, 8, 2),
        late=LateRule("wait", 0, 0),
        group_size=2,
        drop_zero_variance=False,
        usable=KeptBatches(keep(), GRADER, 0).usable,
        wanted=1,
    )
    (first,) = dispatcher.admit(0)
    answers = [scored(text) for text in ("a", "b")]
    wrong = scored_group(0, rewards=(0.0, 0.0)).scores
    assert dispatcher.finish(first.index, answers, wrong).filtered
    (second,) = dispatcher.admit(0)
    right = scored_group(0, rewards=(0.0, 1.0)).scores
    assert not dispatcher.finish(second.index, answers, right).filtered
    assert dispatcher.ledger.counts()["filtered"] == 1


def scored(name: str) -> Trajectory:
    return Trajectory(Completion(name, (Segment(0, (1,), (-1.0,)),), "stop"), ())


@pytest.mark.parametrize(
    ("overrides", "made"),
    [
        (["kind=rejection"], KeptBatches),
        (["kind=preference"], PairedBatches),
        (["kind=preference", "algorithm.preference.name=kto"], LabelledBatches),
    ],
)
def test_the_kind_makes_its_batches(overrides: list[str], made: type) -> None:
    recipe: Recipe = load_recipe("quickstart", overrides)
    assert isinstance(make_batches(recipe, BatchBuilder(recipe.algorithm)), made)


def test_other_kinds_build_all_answers() -> None:
    group: ScoredGroup = scored_group(0, rewards=(1.0, 1.0))
    recipe = load_recipe("quickstart")
    batches = make_batches(recipe, BatchBuilder(recipe.algorithm))
    assert batches.usable(group)
    assert len(batches.build([group], 0).sequences) == 2
