"""Which answers a group has, and under which budget each is asked for."""

from orchestrator.group_plan import GroupPlan, plan_of
from orchestrator.recipe import load_recipe
from tests.orchestrator.builders import prompt


def test_a_greedy_answer_is_one_more_and_the_last() -> None:
    recipe = load_recipe("quickstart", ["algorithm.advantage=remax", "rollout.group_size=3"])
    plan = plan_of(recipe)
    assert (plan.answers, plan.sampled, plan.greedy_answer) == (4, 3, 3)
    assert plan_of(load_recipe("quickstart")) == GroupPlan(8)
    assert GroupPlan(8).greedy_answer is None


def test_budgets_have_equal_shares_in_order() -> None:
    plan = GroupPlan(6, budgets=(64, 128, 256))
    assert [plan.part(sample) for sample in range(6)] == [0, 0, 1, 1, 2, 2]
    assert [plan.asked(prompt(1), sample).metadata["budget"] for sample in (0, 3, 5)] == [64, 128, 256]
    assert GroupPlan(2, greedy=True, budgets=(64, 128)).part(2) == 1
    assert GroupPlan(4).part(3) == 0
    assert GroupPlan(4).asked(prompt(1), 3) == prompt(1)
