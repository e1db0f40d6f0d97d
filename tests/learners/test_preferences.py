"""Preference losses: small examples by hand, gradients by their formulas, units in micro-batches, and the learner."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from learners.batch import TrainBatch, TrainSequence
from learners.learner import Learner
from learners.micro_batch import cut_minibatches, cut_part, micro_batch
from learners.options import with_options
from learners.preferences import PREFERENCES, Groups, Pairs, preference_total
from learners.preferences.totals import paired
from learners.settings import AlgorithmSettings, PreferenceSettings, TrainerSettings
from learners.sharding import local_shard
from tests.learners.ranks import CPU, run_ranks, single_rank
from tests.learners.tiny import VOCABULARY, tiny_model, write_model


def pair(
    chosen: float, rejected: float, *, reference: tuple[float, float] = (0.0, 0.0), tokens: tuple[int, int] = (1, 1)
) -> Pairs:
    """One pair with gradients on both sums."""
    numbers = [torch.tensor([float(value)]) for value in (chosen, rejected, *tokens, *reference)]
    return Pairs(numbers[0].requires_grad_(), numbers[1].requires_grad_(), *numbers[2:])


def loss_of(name: str, given: Pairs | Groups, **options: float | bool) -> Tensor:
    return with_options(PREFERENCES[name].loss, options)(given)[0]


def gradients(name: str, given: Pairs, **options: float | bool) -> tuple[float, float]:
    """With respect to the two answers' logprobs."""
    loss_of(name, given, **options).sum().backward()
    assert given.chosen.grad is not None
    return given.chosen.grad.item(), 0.0 if given.rejected.grad is None else given.rejected.grad.item()


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# --- pairs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        # h = (-2 + 3) - (-5 + 4) = 2.
        ("dpo", {"beta": 0.5}, -math.log(sigmoid(1.0))),
        ("dpo", {"beta": 0.5, "smoothing": 0.1}, -0.9 * math.log(sigmoid(1.0)) - 0.1 * math.log(sigmoid(-1.0))),
        ("ipo", {"tau": 0.1}, (2 - 5) ** 2),
        ("ipo", {"tau": 0.25}, 0.0),
        # chosen: -2 over 4 tokens.
        ("rpo", {"beta": 0.5, "alpha": 2.0}, -math.log(sigmoid(1.0)) + 2 * 0.5),
        # gains 1 and -1.
        ("nca", {"beta": 1.0}, -math.log(sigmoid(1)) - (math.log(sigmoid(-1)) + math.log(sigmoid(1))) / 2),
        # means -0.5 and -5 / 2.
        ("simpo", {"beta": 2.0, "gamma": 1.0}, -math.log(sigmoid(2 * (-0.5 + 2.5) - 1))),
        ("redi", {"alpha": 0.8}, 0.5 - 0.8 * 2.5),
        ("redi", {"alpha": 0.0}, 0.5),
    ],
)
def test_a_pair_by_hand(name: str, options: dict[str, float], expected: float) -> None:
    given = pair(-2.0, -5.0, reference=(-3.0, -4.0), tokens=(4, 2))
    assert loss_of(name, given, **options).item() == pytest.approx(expected, abs=1e-6)


def test_orpo_by_hand() -> None:
    # Probabilities per token 1/2 and 1/4: odds 1 and 1/3.
    given = pair(2 * math.log(0.5), 3 * math.log(0.25), tokens=(2, 3))
    expected = math.log(2) - 0.1 * math.log(sigmoid(math.log(3)))
    assert loss_of("orpo", given).item() == pytest.approx(expected, rel=1e-5)


def test_orpo_survives_a_certain_answer() -> None:
    given = pair(0.0, -3.0)
    loss = loss_of("orpo", given)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert given.chosen.grad is not None
    assert given.chosen.grad.isfinite().all()


@pytest.mark.parametrize("name", ["dpo", "rpo", "nca"])
def test_policy_and_reference_being_one_is_log_2(name: str) -> None:
    given = pair(-2.0, -5.0, reference=(-2.0, -5.0))
    options = {"alpha": 0.0} if name == "rpo" else {}
    # Each of NCA's three terms is log 2 with weights 1, 1/2 and 1/2.
    expected = 2 * math.log(2) if name == "nca" else math.log(2)
    assert loss_of(name, given, **options).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("h", [-3.0, 0.0, 1.5])
def test_dpo_pushes_apart_by_how_wrong_it_is(h: float) -> None:
    """The gradient is -beta sigmoid(-beta h) on the chosen answer, its opposite on the other (arXiv 2305.18290)."""
    expected = 0.7 * sigmoid(-0.7 * h)
    assert gradients("dpo", pair(h, 0.0), beta=0.7) == pytest.approx((-expected, expected), rel=1e-5)


def test_ipo_pulls_back_a_margin_that_is_too_wide() -> None:
    assert gradients("ipo", pair(4.0, 0.0), tau=0.25) == pytest.approx((4.0, -4.0))
    assert gradients("ipo", pair(2.0, 0.0), tau=0.25) == (0.0, 0.0)


def test_nca_holds_up_the_chosen_answer_where_dpo_is_indifferent() -> None:
    """Both answers fell by 3: DPO sees the same margin, NCA pulls the chosen one up harder than before."""
    fallen, level = pair(-3.0, -3.0), pair(0.0, 0.0)
    assert gradients("dpo", pair(-3.0, -3.0), beta=1.0) == pytest.approx(gradients("dpo", pair(0.0, 0.0), beta=1.0))
    assert gradients("nca", fallen, beta=1.0)[0] < gradients("nca", level, beta=1.0)[0] < 0


def test_nca_with_its_minimum_at_the_density_ratio() -> None:
    """At K=2 the minimum over the two gains has sigmoid(c) = 2/3, and the rejected falls for ever (derived)."""
    chosen = pair(math.log(2.0), -2.0)
    assert gradients("nca", chosen, beta=1.0)[0] == pytest.approx(0.0, abs=1e-6)
    assert gradients("nca", pair(0.0, -2.0), beta=1.0)[1] > 0


def test_lengths_count_where_a_loss_says_so_and_nowhere_else() -> None:
    short, long = ({"tokens": tokens} for tokens in ((1, 1), (1, 10)))
    for name in ("dpo", "ipo", "nca"):
        assert torch.equal(loss_of(name, pair(-2, -5, **short)), loss_of(name, pair(-2, -5, **long)))
    for name in ("simpo", "orpo", "redi"):
        assert not torch.equal(loss_of(name, pair(-2, -5, **short)), loss_of(name, pair(-2, -5, **long)))


def test_losses_without_a_reference_never_read_one() -> None:
    bare = replace(pair(-2.0, -5.0, tokens=(4, 2)), reference_chosen=None, reference_rejected=None)
    for name in PREFERENCES.names():
        if PREFERENCES[name].of == "pairs" and not PREFERENCES[name].compares:
            assert loss_of(name, bare).isfinite().all(), name


def test_redi_weighs_what_it_pushes_down() -> None:
    assert gradients("redi", pair(-2.0, -6.0, tokens=(2, 3)), alpha=0.8) == pytest.approx((-1 / 2, 0.8 / 3))


@pytest.mark.parametrize(
    ("name", "options"),
    [("dpo", {"beta": 0.0}), ("dpo", {"smoothing": 0.5}), ("ipo", {"tau": -1.0}), ("simpo", {"beta": 0.0})],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        loss_of(name, pair(-1.0, -2.0), **options)


# --- groups -----------------------------------------------------------------------------------------------------------


def group(logprobs: list[float], good: list[bool], unit: list[int], reference: list[float] | None = None) -> Groups:
    return Groups(
        torch.tensor(logprobs, requires_grad=True),
        torch.ones(len(logprobs)),
        torch.tensor(good),
        torch.tensor(unit),
        None if reference is None else torch.tensor(reference),
    )


def test_kto_by_hand() -> None:
    # Gains 3 and 1, -4 and 0: anchors 2 and max(0, -2) = 0.
    given = group([1.0, 0.0, -5.0, -1.0], [True, False, True, False], [0, 0, 1, 1], [-2.0, -1.0, -1.0, -1.0])
    loss = loss_of("kto", given, beta=0.5, good_weight=2.0, bad_weight=1.0)
    first = (2 * sigmoid(-0.5 * (3 - 2)) + sigmoid(0.5 * (1 - 2))) / 2
    second = (2 * sigmoid(-0.5 * (-4 - 0)) + sigmoid(0.5 * (0 - 0))) / 2
    assert loss.tolist() == pytest.approx([first, second])


def test_ktos_anchor_takes_no_gradient() -> None:
    """d/dg of w sigmoid(-beta (g - z)) with z fixed: -w beta s (1 - s); with z's it would be halved here."""
    given = group([2.0, 0.0], [True, True], [0, 0], [0.0, 0.0])
    loss_of("kto", given, beta=1.0).sum().backward()
    assert given.logprobs.grad is not None
    s = sigmoid(-(2.0 - 1.0))
    assert given.logprobs.grad[0].item() == pytest.approx(-s * (1 - s) / 2)


def test_kto_raises_good_answers_and_lowers_bad_ones() -> None:
    given = group([-1.0, -1.0], [True, False], [0, 0], [-1.0, -1.0])
    loss_of("kto", given).sum().backward()
    assert given.logprobs.grad is not None
    up, down = given.logprobs.grad.tolist()
    assert up < 0 < down


def test_aft_by_hand() -> None:
    given = group([-1.0, -1.0, -3.0, -2.0], [True, False, False, True], [0, 0, 0, 1])
    loss = loss_of("aft", given)
    assert loss.tolist() == pytest.approx([math.log(1 + 1 + math.exp(-2)), 0.0])


@pytest.mark.parametrize("detach", [True, False])
def test_aft_pushes_bad_answers_down_only_where_asked(detach: bool) -> None:
    given = group([-1.0, -1.0], [True, False], [0, 0])
    loss_of("aft", given, detach=detach).sum().backward()
    assert given.logprobs.grad is not None
    assert given.logprobs.grad.tolist() == pytest.approx([-0.5, 0.0 if detach else 0.5])


# --- from tokens to answers -------------------------------------------------------------------------------------------


def test_tokens_add_up_to_answers_whatever_the_order_of_the_pair() -> None:
    """Unit 0 has the rejected answer first, unit 1 the chosen one; answers of 1 to 3 tokens."""
    sequence = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3])
    unit = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1])
    logprobs = torch.tensor([-1.0, -2.0, -0.5, -0.5, -0.5, -4.0, -3.0, -3.0], requires_grad=True)
    advantages = torch.tensor([-1.0, -1.0, 1.0, 1.0, 1.0, 1.0, -1.0, -1.0])
    settings = PreferenceSettings(name="dpo", options={"beta": 1.0})
    total, seen = preference_total(settings, logprobs, torch.zeros(8), advantages, sequence=sequence, unit=unit)
    margins = [-1.5 + 3.0, -4.0 + 6.0]
    assert seen["margin"].tolist() == pytest.approx(margins)
    assert total.item() == pytest.approx(sum(-math.log(sigmoid(margin)) for margin in margins))
    total.backward()
    assert logprobs.grad is not None
    # All tokens of an answer have the answer's gradient.
    assert logprobs.grad[:2].tolist() == pytest.approx([sigmoid(-1.5)] * 2)
    assert logprobs.grad[2:5].tolist() == pytest.approx([-sigmoid(-1.5)] * 3)


def test_a_unit_that_is_no_pair_is_refused() -> None:
    one = torch.ones(3)
    both_good = Groups(one, one, torch.tensor([True, True, False]), torch.tensor([0, 0, 1]))
    with pytest.raises(ValueError, match="one chosen and one rejected"):
        paired(both_good)
    three = Groups(one, one, torch.tensor([True, False, False]), torch.tensor([0, 0, 0]))
    with pytest.raises(ValueError, match="one chosen and one rejected"):
        paired(three)


@pytest.mark.parametrize("name", PREFERENCES.names())
def test_a_micro_batch_without_answers_costs_nothing_and_has_a_gradient(name: str) -> None:
    empty, none = torch.zeros(0, requires_grad=True), torch.zeros(0, dtype=torch.int64)
    total, seen = preference_total(
        PreferenceSettings(name=name), empty, torch.zeros(0), torch.zeros(0), sequence=none, unit=none
    )
    assert total.item() == 0.0
    total.backward()
    assert all(not values.numel() for values in seen.values())


@pytest.mark.parametrize("name", PREFERENCES.names())
def test_units_add_up_however_they_are_cut(name: str) -> None:
    draw = torch.Generator().manual_seed(3)
    settings = PreferenceSettings(name=name)
    logprobs, reference = (-torch.rand(12, generator=draw, dtype=torch.float64) for _ in range(2))
    sequence = torch.tensor([0, 0, 1, 2, 2, 2, 3, 4, 4, 5, 5, 5])
    unit = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2])
    sign = torch.tensor([1.0, 1, -1, -1, -1, -1, 1, 1, 1, -1, -1, -1])

    def total(begin: int, end: int) -> Tensor:
        part = slice(begin, end)
        own = (sequence[part] - sequence[begin], unit[part] - unit[begin])
        return preference_total(settings, logprobs[part], reference[part], sign[part], sequence=own[0], unit=own[1])[0]

    assert total(0, 12).item() == pytest.approx((total(0, 3) + total(3, 7) + total(7, 12)).item(), rel=1e-12)


# --- units in micro-batches -------------------------------------------------------------------------------------------


def answer(name: str, group_id: str, length: int, *, good: bool = True, seed: int = 0) -> TrainSequence:
    draw = torch.Generator().manual_seed(seed)
    ids = tuple(torch.randint(VOCABULARY, (length,), generator=draw).tolist())
    return TrainSequence(
        sequence_id=name,
        prompt_ids=(1, 2),
        response_ids=ids,
        behaviour_logprobs=(-3.0,) * length,
        versions=(0,) * length,
        advantages=(1.0 if good else -1.0,) * length,
        loss_mask=(True,) * length,
        group_id=group_id,
    )


def pairs_batch(pairs: int = 5) -> TrainBatch:
    """Pairs whose members do not stand side by side."""
    chosen = [answer(f"{n}+", f"u{n}", 2 + n, seed=n) for n in range(pairs)]
    rejected = [answer(f"{n}-", f"u{n}", 9 - n, good=False, seed=50 + n) for n in range(pairs)]
    return TrainBatch(0, (*chosen, *rejected))


@pytest.mark.parametrize("budget", [15, 30, 1000])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_pair_lands_in_one_micro_batch_under_every_packing(budget: int, ranks: int) -> None:
    parts = [
        cut_part(pairs_batch().sequences, version=0, token_budget=budget, rank=rank, ranks=ranks, whole_groups=True)
        for rank in range(ranks)
    ]
    rows = [micro.sequence_ids for part in parts for micro in part.micro_batches]
    assert sorted(name for row in rows for name in row) == sorted(f"{n}{sign}" for n in range(5) for sign in "+-")
    assert all(
        {name[0] for name in row if name[1] == "+"} == {name[0] for name in row if name[1] == "-"} for row in rows
    )
    assert all(part.counts.units == 5 for part in parts)
    assert all(part.counts.sequences == 10 for part in parts)


def test_minibatches_hold_whole_units() -> None:
    cut = cut_minibatches(
        pairs_batch().sequences, version=0, minibatches=2, token_budget=100, rank=0, ranks=1, whole_groups=True
    )
    assert [part.counts.units for part in cut] == [2, 3]
    assert sorted(cut[0].micro_batches[0].sequence_ids) == ["0+", "0-", "1+", "1-"]


def test_each_token_knows_its_unit() -> None:
    items = [answer("a", "", 2), answer("b", "x", 1), answer("c", "x", 2, good=False), answer("d", "", 1)]
    assert micro_batch(items, 0).group.tolist() == [0, 0, 1, 1, 1, 2]


# --- in the learner ---------------------------------------------------------------------------------------------------


@pytest.fixture
def group_of_one() -> Iterator[None]:
    with single_rank():
        yield


def learner(model: str, preference: dict[str, object], **trainer: object) -> Learner:
    settings = AlgorithmSettings.model_validate({"preference": preference, "old_logprobs": "behaviour"})
    made = TrainerSettings.model_validate({"dtype": "float32", "learning_rate": 1e-2, **trainer})
    return Learner(model, settings, made, temperature=1.0, rank=0, world_size=1, device=CPU)


@pytest.mark.usefixtures("group_of_one")
@pytest.mark.parametrize("name", PREFERENCES.names())
def test_the_learner_comes_to_prefer_the_chosen_answers(name: str, tmp_path: Path) -> None:
    trained = learner(write_model(tmp_path / "model"), {"name": name})
    first, *_, last = [trained.step(pairs_batch()) for _ in range(12)]
    grown = "preference/accuracy" if PREFERENCES[name].of == "pairs" else "preference/good_logprob"
    if name == "kto":
        assert last["preference/good_gain"] > 1 > -1 > last["preference/bad_gain"]
    else:
        assert last[grown] > first[grown] or last[grown] == 1.0
    if name in ("dpo", "rpo", "nca", "ipo"):
        assert first["preference/margin"] == pytest.approx(0.0, abs=1e-4)
        assert last["preference/margin"] > 1


@pytest.mark.usefixtures("group_of_one")
def test_a_reference_is_loaded_only_where_the_loss_asks_for_it(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    assert list(learner(model, {"name": "dpo"})._companions) == ["reference"]
    assert learner(model, {"name": "simpo"})._companions == {}
    assert learner(model, {"name": "dpo", "against": "behaviour"})._companions == {}


@pytest.mark.usefixtures("group_of_one")
def test_the_step_is_that_of_plain_torch(tmp_path: Path) -> None:
    """DPO of a batch in several micro-batches against the same loss written out on whole sequences."""
    trained = learner(write_model(tmp_path / "model"), {"name": "dpo", "options": {"beta": 0.3}}, token_budget=16)
    expected = plain_dpo_gradient(pairs_batch(), beta=0.3)
    caught: dict[str, Tensor] = {}
    update = trained._backend.update

    def catch(divisor: float = 1.0) -> float:
        for name, value in trained._policy.model.named_parameters():
            assert value.grad is not None
            caught[name] = local_shard(value.grad).clone() / divisor
        return update(divisor)

    trained._backend.update = catch  # type: ignore[method-assign]
    trained.step(pairs_batch())
    assert caught.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(caught[name], value, atol=1e-5, rtol=1e-4)


def plain_dpo_gradient(batch: TrainBatch, beta: float) -> dict[str, Tensor]:
    policy, reference = tiny_model(), tiny_model()

    def logprob(model: torch.nn.Module, item: TrainSequence) -> Tensor:
        ids = torch.tensor([[*item.prompt_ids, *item.response_ids]])
        logits = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        return logits.gather(1, ids[0, 1:, None])[len(item.prompt_ids) - 1 :, 0].sum()

    def gain(item: TrainSequence) -> Tensor:
        return logprob(policy, item) - logprob(reference, item).detach()

    half = len(batch.sequences) // 2
    losses = [
        -torch.nn.functional.logsigmoid(beta * (gain(chosen) - gain(rejected)))
        for chosen, rejected in zip(batch.sequences[:half], batch.sequences[half:], strict=True)
    ]
    torch.stack(losses).mean().backward()
    return {name: value.grad for name, value in policy.named_parameters() if value.grad is not None}


@pytest.mark.usefixtures("group_of_one")
def test_the_step_does_not_depend_on_the_packing(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    one, many = (learner(model, {"name": "kto"}, token_budget=budget) for budget in (1000, 15))
    metrics = [trained.step(pairs_batch()) for trained in (one, many)]
    assert metrics[0]["loss"] == pytest.approx(metrics[1]["loss"], rel=1e-5)
    assert metrics[0]["grad_norm"] == pytest.approx(metrics[1]["grad_norm"], rel=1e-3)


def train_on_ranks(rank: int, world_size: int, model: str) -> dict[str, object]:
    settings = AlgorithmSettings.model_validate({"preference": {"name": "dpo"}, "old_logprobs": "behaviour"})
    trainer = TrainerSettings(dtype="float32", learning_rate=1e-3, token_budget=20, minibatches=2)
    trained = Learner(model, settings, trainer, temperature=1.0, rank=rank, world_size=world_size, device=CPU)
    metrics = [trained.step(pairs_batch()), trained.step(pairs_batch(1))]
    names = ("loss", "grad_norm", "preference/margin", "preference/accuracy")
    return {"metrics": [{name: row[name] for name in names} for row in metrics], "tensors": trained.snapshot(0)[1]}


def test_any_number_of_ranks_trains_the_same_weights(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    alone, together = (run_ranks(size, train_on_ranks, model, folder=tmp_path / str(size))[0] for size in (1, 2))
    for mine, theirs in zip(alone["metrics"], together["metrics"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-4)
    for name, value in alone["tensors"].items():
        torch.testing.assert_close(together["tensors"][name], value, atol=2e-5, rtol=0)


def test_terms_beside_a_preference_are_refused() -> None:
    with pytest.raises(ValueError, match="leave out one of the two"):
        AlgorithmSettings.model_validate({"preference": {}, "terms": [{"name": "entropy", "weight": 0.1}]})


@pytest.mark.usefixtures("group_of_one")
def test_start_anew_brings_back_weights_and_optimizer(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    trained, fresh = (learner(model, {"name": "dpo"}) for _ in range(2))
    first = trained.snapshot(0)[1]
    trained.step(pairs_batch())
    trained.step(pairs_batch(3))
    assert any(not torch.equal(value, first[name]) for name, value in trained.snapshot(0)[1].items())
    trained.start_anew()
    assert trained.steps == 0
    assert all(torch.equal(value, first[name]) for name, value in trained.snapshot(0)[1].items())
    for each in (trained, fresh):
        each.step(pairs_batch())
    after = fresh.snapshot(0)[1]
    assert all(torch.equal(value, after[name]) for name, value in trained.snapshot(0)[1].items())
