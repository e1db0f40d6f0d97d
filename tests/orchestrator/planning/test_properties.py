"""What must hold of every plan, whatever the numbers."""

from functools import lru_cache

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config import Recipe
from orchestrator.planning.engine_memory import EngineLoad, torch_engine, vllm_on_gpu
from orchestrator.planning.learner_memory import LearnerParts, Sharding, Trained, learner_need
from orchestrator.planning.learner_role import largest_row, rank_need
from orchestrator.planning.memory import GIB
from orchestrator.planning.model_shape import Parameter, PlannedModel, Unit, body_of, shape_of
from orchestrator.planning.passes import Row, passes_of
from tests.orchestrator.planning.models import QWEN3_0_6B, planned, recipe

MODEL = planned(QWEN3_0_6B)
SHAPE = shape_of(MODEL)


@lru_cache
def trained(tokens: int = 1024) -> Trained:
    return Trained(SHAPE, passes_of(MODEL, Row((tokens,), tokens), dtype="bfloat16", device="gpu"))


@given(
    ranks=st.integers(1, 32),
    more=st.integers(1, 32),
    checkpointing=st.booleans(),
    accumulates=st.booleans(),
    critic=st.booleans(),
    zero_stage=st.sampled_from([None, 2, 3]),
)
@settings(max_examples=60, deadline=None)
def test_more_ranks_never_need_more_memory_each(
    ranks: int, more: int, checkpointing: bool, accumulates: bool, critic: bool, zero_stage: int | None
) -> None:
    value = Trained(body_of(SHAPE), trained().passes) if critic and zero_stage is None else None
    parts = LearnerParts(trained(), value, {"reference": SHAPE})

    def need(count: int) -> int:
        how = Sharding(count, 2, checkpointing, accumulates, zero_stage=zero_stage)
        return learner_need(parts, how).device.total

    # Rows are dealt out whole, so that a shard may be larger by a row of each matrix where they do not divide.
    widest = sum(parameter.width for unit in SHAPE.units for parameter in unit.parameters)
    assert need(ranks + more) <= need(ranks) + 4 * 12 * widest


@given(rows=st.integers(1, 10_000), width=st.integers(1, 64), ranks=st.integers(1, 64))
def test_shards_hold_everything(rows: int, width: int, ranks: int) -> None:
    unit = Unit((Parameter(rows, width), Parameter(rows, 1, trained=False)))
    assert unit.shard(ranks) * ranks >= unit.elements
    assert unit.shard(1) == unit.elements
    assert unit.trained_shard(ranks) <= unit.shard(ranks)


@given(context=st.integers(64, 32_768), more=st.integers(1, 4096), running=st.integers(1, 512))
def test_engines_need_more_for_longer_answers(context: int, more: int, running: int) -> None:
    short, long = (EngineLoad(tokens, running, 2) for tokens in (context, context + more))
    assert torch_engine(SHAPE, long).need.total > torch_engine(SHAPE, short).need.total
    shorter, longer = (vllm_on_gpu(SHAPE, load, memory=80 * GIB, utilization=0.8) for load in (short, long))
    assert longer.answers <= shorter.answers
    assert longer.need.total >= shorter.need.total


@given(tokens=st.integers(2, 1024), more=st.integers(1, 1024))
@settings(max_examples=6, deadline=None)
def test_the_learner_needs_more_for_longer_rows(tokens: int, more: int) -> None:
    def need(count: int) -> int:
        return learner_need(LearnerParts(trained(count)), Sharding(1, 2)).device.total

    # Weights may outweigh a short row's activations altogether.
    assert need(tokens + more) >= need(tokens)
    assert trained(tokens + more).passes.layer.saved > trained(tokens).passes.layer.saved


@given(
    prompt=st.integers(1, 512),
    answer=st.integers(1, 2048),
    prompts=st.integers(1, 32),
    group=st.integers(2, 16),
    ranks=st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_no_row_is_longer_than_the_budget_or_than_what_there_is(
    prompt: int, answer: int, prompts: int, group: int, ranks: int
) -> None:
    made = recipe(
        rollout={"max_prompt_tokens": prompt, "max_response_tokens": answer, "group_size": group},
        trainer={"prompts_per_step": prompts, "token_budget": 4096},
        topology={"learner": {"ranks": ranks if ranks <= prompts * group else 1}},
    )
    row = largest_row(made)
    assert max(2, min(prompt + answer, 4096) // 2) <= row.tokens <= 4096
    assert 1 <= row.trained <= row.tokens
    assert row.tokens <= max(2, prompts * group * (prompt + answer))


def test_each_setting_that_saves_memory_saves_it() -> None:
    def need(**trainer: object) -> int:
        made = recipe(trainer={"token_budget": 2048, **trainer}, rollout={"max_prompt_tokens": 512})
        assert isinstance(made, Recipe)
        return rank_need(made, lambda name, setting: PlannedModel(name, MODEL.config), "gpu").device.total

    plain = need()
    assert need(activation_checkpointing=True) < plain
    assert need(token_budget=1024) < plain
    assert need(cpu_offload=True) < plain
    assert need(lora={}) < plain
    assert need(dtype="float32") > plain
