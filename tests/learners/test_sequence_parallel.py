"""Ranks that share rows: everything is what one rank computes, up to rounding."""

from pathlib import Path

import pytest
import torch
from transformers import Qwen3Config

from learners.errors import UnfitError
from learners.learner import Learner
from learners.packing import pack
from learners.sequence_parallel import SequenceGroup, check_model, open_grid
from learners.settings import AlgorithmSettings, LearnerPlaces, TrainerSettings
from tests.learners.gradient_sums import assert_same_gradients, gradient_sums
from tests.learners.ranks import CPU, run_ranks, single_rank
from tests.learners.tiny import random_batch, tiny_model

PROBE = [1, 5, 9, 2, 30, 7, 7]
MODELS: dict[str, dict[str, object]] = {
    "kv heads that two ranks divide": {"num_key_value_heads": 2},
    "one kv head, repeated": {"num_key_value_heads": 1},
    "a sliding window": {
        "num_key_value_heads": 4,
        "use_sliding_window": True,
        "sliding_window": 5,
        "max_window_layers": 1,
    },
}
ALGORITHMS: dict[str, dict[str, object]] = {
    "tokens": {"terms": [{"name": "entropy", "weight": 0.01}]},
    "whole answers and a reference": {
        "surrogate": "gspo",
        "aggregation": "sequence",
        "correction": {"level": "geometric"},
        "terms": [{"name": "kl_k2", "weight": 0.1}],
        "reference": {"kind": "moving", "decay": 0.5},
    },
}
VARIANTS: dict[str, dict[str, object]] = {
    "plain": {},
    "activations computed again": {"activation_checkpointing": True},
    "adapters": {"lora": {"rank": 3}},
}
Outcome = dict[str, dict[str, object]]


def make(rank: int, ranks: int, model: str, sequence_parallel: int, algorithm: str, **trainer: object) -> Learner:
    settings = {"dtype": "float32", "learning_rate": 1e-3, "token_budget": 60, **trainer}
    return Learner(
        model,
        AlgorithmSettings.model_validate(ALGORITHMS[algorithm]),
        TrainerSettings.model_validate(settings),
        temperature=0.9,
        rank=rank,
        world_size=ranks,
        device=CPU,
        sequence_parallel=sequence_parallel,
    )


def train(rank: int, ranks: int, folder: Path, sequence_parallel: int) -> Outcome:
    """Each model, algorithm and variant: gradients, probe, and two steps, the last with fewer answers than readers."""
    outcome: Outcome = {}
    cases = [(model, "tokens", "plain") for model in MODELS]
    first = next(iter(MODELS))
    cases += [(first, "whole answers and a reference", "plain")]
    cases += [(first, "tokens", variant) for variant in VARIANTS if variant != "plain"]
    for model, algorithm, variant in cases:
        learner = make(rank, ranks, str(folder / model), sequence_parallel, algorithm, **VARIANTS[variant])
        learner.step(random_batch(seed=5))  # adapters have no gradient everywhere before
        sums = gradient_sums(learner, random_batch(seed=0).sequences)
        metrics = [learner.step(random_batch(seed=seed, sequences=count)) for seed, count in ((0, 12), (1, 1))]
        outcome[f"{model}, {algorithm}, {variant}"] = {
            "gradients": sums,
            "metrics": [{k: v for k, v in entry.items() if k != "seconds"} for entry in metrics],
            "weights": learner.snapshot(1)[1],
            "probe": learner.probe_logprobs(PROBE),
        }
    return outcome


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, changes in MODELS.items():
        tiny_model(**changes).save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def alone(models: Path) -> Outcome:
    with single_rank():
        return train(0, 1, models, 1)


@pytest.mark.parametrize(("ranks", "sequence_parallel"), [(2, 2), (4, 2), (4, 4)])
def test_ranks_that_share_rows_train_as_one_rank(
    models: Path, alone: Outcome, tmp_path: Path, ranks: int, sequence_parallel: int
) -> None:
    together = run_ranks(ranks, train, models, sequence_parallel, folder=tmp_path)
    for case, expected in alone.items():
        for place, outcome in enumerate(together):
            got = outcome[case]
            assert_same_gradients(got["gradients"], expected["gradients"], 2e-5)  # type: ignore[arg-type]
            for mine, theirs in zip(got["metrics"], expected["metrics"], strict=True):  # type: ignore[call-overload]
                assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-5), case
            assert got["probe"] == pytest.approx(expected["probe"], abs=1e-4), case
            assert got["metrics"] == together[0][case]["metrics"], "ranks must agree to the bit"
            assert (got["weights"] == {}) is (place > 0)
        for name, value in expected["weights"].items():  # type: ignore[attr-defined]
            # AdamW divides a gradient by its own size: rounding of one near zero may move its weight by far more.
            apart = (together[0][case]["weights"][name] - value).abs()  # type: ignore[index]
            assert float(apart.mean()) < 2e-7, (case, name)
            assert float(apart.max()) < 1e-4, (case, name)


def trade(rank: int, ranks: int) -> dict[str, object]:
    """Tokens for heads and back, over a row of 5 tokens that is filled up."""
    group = open_grid(rank, ranks, ranks, 60).sequence_group
    assert group is not None
    shard = group.shard(pack([[11, 12, 13], [14, 15]]))
    # Value of token t and head h: 10 t + h.
    row = (10 * torch.arange(6.0)[None, None, :, None] + torch.arange(4.0)[None, :, None, None]).requires_grad_()
    heads = shard.to_heads(row[:, :, shard.places])
    back = shard.to_tokens(heads.transpose(1, 2)).transpose(1, 2)
    one = shard.to_heads(row[:, :1, shard.places])
    shares = shard.shares(torch.tensor([0, 1, 3]))
    own = torch.arange(3.0)[shard.own(shares)].requires_grad_()
    whole = shard.gather(own, shares)
    (heads.sum() + (whole * torch.tensor([1.0, 10.0, 100.0])).sum()).backward()
    return {
        "ids": shard.row.input_ids[shard.places].tolist(),
        "lengths": shard.row.lengths,
        "heads": heads[0, :, :, 0].detach(),
        "back": torch.equal(back, row[:, :, shard.places]),
        "repeated": one[0, :, :, 0].detach(),
        "shares": shares,
        "whole": whole.tolist(),
        "slope": own.grad.tolist() if own.grad is not None else None,
        "row_slope": row.grad[0, :, :, 0] if row.grad is not None else None,
    }


def test_tokens_are_traded_for_heads_and_back(tmp_path: Path) -> None:
    first, second = run_ranks(2, trade, folder=tmp_path)
    assert first["ids"] == [11, 12, 13]
    assert second["ids"] == [14, 15, 0], "filled up with a sequence of its own"
    assert first["lengths"] == [3, 2, 1]
    assert first["heads"].tolist() == [[0, 10, 20, 30, 40, 50], [1, 11, 21, 31, 41, 51]]
    assert second["heads"].tolist() == [[2, 12, 22, 32, 42, 52], [3, 13, 23, 33, 43, 53]]
    assert first["back"]
    assert second["back"]
    assert first["repeated"].tolist() == second["repeated"].tolist() == [[0, 10, 20, 30, 40, 50]]
    assert first["shares"] == [2, 1]
    assert first["whole"] == second["whole"] == [0.0, 1.0, 2.0]
    assert (first["slope"], second["slope"]) == ([1.0, 10.0], [100.0])
    assert first["row_slope"].tolist() == [[1, 1, 1, 0, 0, 0]] * 4


def test_a_row_shorter_than_the_ranks_is_filled_up() -> None:
    shard = SequenceGroup(None, 3, 4).shard(pack([[0, 0]]))  # type: ignore[arg-type]
    assert shard.row.lengths == [2, 2]
    assert shard.length == 1
    assert shard.shares(torch.zeros(0, dtype=torch.int64)) == [0, 0, 0, 0]
    assert shard.row.position_ids.tolist() == [0, 1, 0, 1]


def test_heads_that_the_ranks_do_not_divide_are_one_line() -> None:
    with pytest.raises(
        UnfitError, match=r"topology\.learner\.sequence_parallel: 3 ranks .* 4 attention heads; 1, 2, 4 can"
    ):
        check_model(tiny_model().config, 3)


def test_layers_that_mix_tokens_outside_of_attention_are_refused() -> None:
    config = Qwen3Config(num_attention_heads=4, num_hidden_layers=2)
    config.layer_types = ["linear_attention", "full_attention"]
    check_model(config, 1)
    with pytest.raises(UnfitError, match="linear_attention"):
        check_model(config, 2)


def test_ranks_that_cannot_be_grouped_are_refused_by_the_settings() -> None:
    with pytest.raises(ValueError, match="sequence_parallel=2 does not divide ranks=3"):
        LearnerPlaces(ranks=3, sequence_parallel=2)
