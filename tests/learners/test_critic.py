"""The critic in the learner: what it is trained to, that cuts and ranks change nothing, and what a checkpoint holds."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from learners.batch import TrainBatch, TrainSequence
from learners.critic.credit import credit_tokens
from learners.errors import PolicyError
from learners.learner import Learner
from learners.micro_batch import cut_minibatches, micro_batch
from learners.sharding import local_shard
from tests.learners.ranks import run_ranks, single_rank
from tests.learners.tiny import make_learner, random_batch, tiny_model

CUTS: dict[str, dict[str, object]] = {
    "gae": {"advantage": "gae", "advantage_options": {"lam": 0.9}, "critic": {"clip": 0.2}},
    "extended": {"advantage": "extended_gae", "advantage_norm": "batch_whiten", "aggregation": "sequence"},
}
CRITIC_RATE = {"learning_rate": 1e-3}
State = dict[str, torch.Tensor]


def make(
    model: str, algorithm: dict[str, object] | None = None, rank: int = 0, ranks: int = 1, **trainer: object
) -> Learner:
    asked = {"advantage": "gae", **(algorithm or {})}
    if asked["advantage"] in ("gae", "extended_gae"):
        asked["critic"] = {**CRITIC_RATE, **asked.get("critic", {})}  # type: ignore[dict-item]
    return make_learner(model, asked, rank, ranks, **trainer)


def rewarded(seed: int = 0, **batch: int) -> TrainBatch:
    """A batch whose answers have rewards between -1 and 1; every third was cut."""
    made = random_batch(seed=seed, **batch)
    items = tuple(
        replace(
            item, reward=(7 * number % 5) / 2 - 1, truncated=number % 3 == 0, advantages=(99.0,) * len(item.versions)
        )
        for number, item in enumerate(made.sequences)
    )
    return TrainBatch(made.version, items)


def whole_state(learner: Learner) -> State:
    """Copies of this rank's part of all that a checkpoint holds."""
    return {name: local_shard(value).clone() for name, value in learner._record.state().items()}


def values_of(learner: Learner, item: TrainSequence) -> tuple[torch.Tensor, torch.Tensor]:
    assert learner._critic is not None
    return learner._critic.values(micro_batch([item], version=3))


# --- what it computes ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("group")
def test_the_critic_is_loaded_only_where_the_advantage_asks_for_it(model: str) -> None:
    assert make(model, {"advantage": "grpo"})._critic is None
    assert not any(name.startswith("critic.") for name in make(model, {"advantage": "grpo"})._record.state())
    assert make(model)._critic is not None


@pytest.mark.usefixtures("group")
def test_a_critic_that_knows_nothing_yet_makes_the_reward_every_token_s_advantage(model: str) -> None:
    """Its head begins at 0: with lam = 1 the first step is REINFORCE's, to the bit."""
    batch = rewarded()
    plain = TrainBatch(
        3, tuple(replace(item, advantages=(item.reward,) * len(item.versions)) for item in batch.sequences)
    )
    with_critic, without = make(model, {"advantage_options": {"lam": 1.0}}), make(model, {"advantage": "raw"})
    assert with_critic.step(batch)["loss"] == without.step(plain)["loss"]
    expected = without.snapshot(1)[1]
    assert all(torch.equal(value, expected[name]) for name, value in with_critic.snapshot(1)[1].items())


@pytest.mark.usefixtures("group")
def test_steps_are_adamw_on_the_written_out_losses(model: str) -> None:
    """Values, advantages and both losses against formulas without packing, FSDP or micro-batches."""
    learner = make(model, {"advantage_options": {"gamma": 0.9, "lam": 0.8}, "old_logprobs": "behaviour"})
    policy, body = tiny_model(), tiny_model().model
    head = torch.zeros(32, requires_grad=True)
    critic = torch.optim.AdamW([*body.parameters(), head], lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    for seed in range(3):
        batch = rewarded(seed)
        metrics = learner.step(batch)
        losses, square_errors, errors, returns = [], [], [], []
        for item in batch.sequences:
            if not item.loss_tokens:
                continue
            trained = torch.tensor(item.loss_mask)
            ids = torch.tensor([item.prompt_ids + item.response_ids])
            first = len(item.prompt_ids) - 1
            values = (body(input_ids=ids).last_hidden_state[0] @ head)[first:-1][trained]
            seen = [*values.tolist(), 0.0]
            deltas = [0.9 * seen[t + 1] - seen[t] for t in range(len(values))]
            deltas[-1] += item.reward
            advantages = torch.tensor(
                [sum(0.72 ** (s - t) * deltas[s] for s in range(t, len(deltas))) for t in range(len(deltas))]
            )
            target = advantages + values.detach()
            square_errors.append((values - target).square() / 2)
            errors.append(advantages)
            returns.append(target)
            if seed == 0:
                table = policy(input_ids=ids).logits[0, first:-1].log_softmax(-1)
                logprobs = table.gather(-1, ids[0, first + 1 :, None]).squeeze(-1)
                ratio = (logprobs - torch.tensor(item.behaviour_logprobs))[trained].exp()
                losses.append(-torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.28) * advantages))
        loss = torch.cat(square_errors).mean()
        critic.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_([*body.parameters(), head], 1.0)
        critic.step()
        assert metrics["value_loss"] == pytest.approx(loss.item(), rel=1e-4), seed
        assert metrics["critic_grad_norm"] == pytest.approx(norm.item(), rel=1e-3)
        assert metrics["returns_mean"] == pytest.approx(torch.cat(returns).mean().item(), rel=1e-4)
        unexplained = torch.cat(errors).var(correction=0) / torch.cat(returns).var(correction=0)
        assert metrics["explained_variance"] == pytest.approx(1 - unexplained.item(), rel=1e-3, abs=1e-5)
        if seed == 0:
            assert metrics["loss"] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-4)
            assert abs(metrics["explained_variance"]) < 1e-6


@pytest.mark.usefixtures("group")
def test_a_value_is_of_the_state_before_its_token(model: str) -> None:
    """It does not know the token; the value after the answer knows all of it."""
    learner = make(model)
    learner.step(rewarded())
    item = random_batch(sequences=1).sequences[0]
    item = replace(item, loss_mask=(True,) * len(item.response_ids))
    other = replace(item, response_ids=(*item.response_ids[:-1], (item.response_ids[-1] + 1) % 40))
    (before, after), (other_before, other_after) = values_of(learner, item), values_of(learner, other)
    torch.testing.assert_close(before, other_before, atol=1e-6, rtol=0)
    assert (after - other_after).abs().item() > 1e-5


def telling(seed: int) -> TrainBatch:
    """Answers of low tokens earn 1, those of high ones 0: after an answer's first token its reward can be foreseen."""
    items = []
    for number, item in enumerate(random_batch(seed=seed).sequences):
        low = number % 2
        tokens = tuple(token % 20 + (0 if low else 20) for token in item.response_ids)
        items.append(replace(item, response_ids=tokens, reward=float(low)))
    return TrainBatch(3, tuple(items))


def explained(model: str, steps: int, **critic: float) -> list[float]:
    """Explained variance of each step on fresh batches, under the values from before the step."""
    asked = {"warmup_steps": 99, **critic}
    learner = make(model, {"advantage_options": {"lam": 1.0}, "critic": asked})
    return [learner.step(telling(seed))["explained_variance"] for seed in range(steps)]


@pytest.mark.usefixtures("group")
def test_the_critic_learns_which_answers_earn_a_reward(model: str) -> None:
    """After a while a value tells them apart, the answer's first alone excepted."""
    seen = explained(model, 25, learning_rate=1e-2)
    assert seen[0] == pytest.approx(0.0, abs=1e-6)
    assert sum(seen[-5:]) / 5 > 0.5, seen


@pytest.mark.usefixtures("group")
def test_further_passes_over_a_batch_are_further_steps_on_it(model: str) -> None:
    """With lam = 1 the targets are the rewards whatever the critic says, so three passes are three steps."""
    alone = {"advantage_options": {"lam": 1.0}}
    thrice = make(model, {**alone, "critic": {"warmup_steps": 9, "passes": 3}})
    once = make(model, {**alone, "critic": {"warmup_steps": 9}})
    seen = [once.step(telling(0)) for _ in range(3)]
    metrics = thrice.step(telling(0))
    expected, found = whole_state(once), whole_state(thrice)
    assert all(torch.equal(found[name], expected[name]) for name in found if name.startswith("critic.model."))
    assert metrics["value_loss"] == seen[0]["value_loss"], "of the first pass"
    assert metrics["critic_grad_norm"] == max(one["critic_grad_norm"] for one in seen)


@pytest.mark.usefixtures("group")
def test_in_a_short_run_several_passes_foresee_what_one_does_not_yet(model: str) -> None:
    one, four = (explained(model, 8, learning_rate=2e-3, passes=passes) for passes in (1, 4))
    assert sum(one[-3:]) / 3 < 0.25, one
    assert sum(four[-3:]) / 3 > 0.3, four


@pytest.mark.usefixtures("group")
def test_a_whitened_batch_has_mean_0_and_deviation_1_over_its_tokens(model: str) -> None:
    learner = make(model, {"advantage_norm": "batch_whiten"})
    learner.step(rewarded())
    parts = cut_minibatches(rewarded(1).sequences, version=3, minibatches=3, token_budget=60, rank=0, ranks=1)
    assert learner._critic is not None
    credited = credit_tokens(parts, learner._critic, learner._algorithm)
    tokens = torch.cat([micro.advantages for part in credited for micro in part.micro_batches])
    assert tokens.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert tokens.std(correction=0).item() == pytest.approx(1.0, abs=1e-4)
    assert len({round(value, 5) for value in tokens.tolist()}) > len(rewarded(1).sequences), "tokens have their own"


# --- warm-up ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("group")
def test_in_its_warm_up_the_critic_trains_alone(model: str) -> None:
    learner = make(model, {"critic": {"warmup_steps": 2}}, warmup_steps=2)
    before = whole_state(learner)
    metrics = [learner.step(rewarded(seed)) for seed in range(2)]
    after = whole_state(learner)
    policy = [name for name in before if not name.startswith("critic.")]
    assert all(torch.equal(before[name], after[name]) for name in policy)
    assert not torch.equal(before["critic.model.head"], after["critic.model.head"])
    assert learner.steps == 2
    assert [entry["learning_rate"] for entry in metrics] == [0.0, 0.0]
    assert all(entry["grad_norm"] == entry["skipped_updates"] == 0.0 for entry in metrics)
    # What is measured of the policy is measured all the same.
    assert metrics[0]["entropy"] > 0
    assert metrics[0]["engine_gap"] > 0
    # The policy's own ramp begins with its first step.
    assert [learner.step(rewarded(seed))["learning_rate"] for seed in (2, 3)] == [5e-4, 1e-3]
    assert learner.steps == 4
    assert not torch.equal(before["model.model.norm.weight"], whole_state(learner)["model.model.norm.weight"])


@pytest.mark.usefixtures("group")
def test_the_forward_after_a_warm_up_uses_the_weights_that_there_are(model: str) -> None:
    """Gathered parameters of a pass without gradient must not outlive it."""
    warmed = make(model, {"critic": {"warmup_steps": 1}})
    warmed.step(rewarded())
    warmed.step(rewarded(1))
    ids = [1, 5, 9, 2, 30]
    fresh = tiny_model(seed=9)
    fresh.load_state_dict(warmed.snapshot(1)[1], strict=False)
    table = fresh(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    expected = table.gather(-1, torch.tensor(ids)[1:, None]).squeeze(-1)
    assert warmed.probe_logprobs(ids) == pytest.approx(expected.tolist(), abs=1e-5)


# --- cuts and ranks -----------------------------------------------------------------------------------------------


def train(rank: int, ranks: int, model: str, case: str, trainer: dict[str, object], streamed: bool = False) -> object:
    """Three steps: full state by full tensors, and the metrics."""
    learner = make(model, CUTS[case], rank, ranks, **trainer)
    metrics = []
    for seed in range(3):
        batch = rewarded(seed)
        if streamed:
            learner.begin_step(3)
            for part in (batch.sequences[:1], (), batch.sequences[1:8], batch.sequences[8:]):
                learner.add(part)
            metrics.append(learner.finish_step())
        else:
            metrics.append(learner.step(batch))
    tensors = {
        name: value.full_tensor() if hasattr(value, "full_tensor") else value
        for name, value in learner._record.state().items()
        if "exp_avg" not in name
    }
    return {name: value.detach().clone() for name, value in tensors.items()}, metrics


def assert_same(one: object, other: object) -> None:
    (state, metrics), (other_state, other_metrics) = one, other  # type: ignore[misc]
    assert state.keys() == other_state.keys()
    for name, value in other_state.items():
        torch.testing.assert_close(state[name], value, atol=3e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
    for mine, theirs in zip(metrics, other_metrics, strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine.keys() - {"seconds"}:
            assert mine[name] == pytest.approx(theirs[name], rel=2e-3, abs=2e-5), name


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("case", list(CUTS))
@pytest.mark.parametrize("minibatches", [1, 3])
def test_the_token_budget_changes_nothing(model: str, case: str, minibatches: int) -> None:
    whole = train(0, 1, model, case, {"token_budget": 10_000, "minibatches": minibatches})
    for budget in (40, 100):
        assert_same(train(0, 1, model, case, {"token_budget": budget, "minibatches": minibatches}), whole)


@pytest.mark.usefixtures("group")
def test_a_batch_in_parts_trains_like_the_whole_batch(model: str) -> None:
    assert_same(train(0, 1, model, "gae", {}, streamed=True), train(0, 1, model, "gae", {}))


def train_all(rank: int, ranks: int, model: str) -> list[object]:
    return [
        train(rank, ranks, model, "gae", {}, streamed=True),
        *[train(rank, ranks, model, case, {"minibatches": 2}) for case in CUTS],
    ]


def test_two_ranks_train_what_one_rank_does(model: str, tmp_path: Path) -> None:
    with single_rank():
        alone = train_all(0, 1, model)
    together = run_ranks(2, train_all, model, folder=tmp_path)
    for mine, theirs, other in zip(alone, *together, strict=True):
        assert_same(theirs, mine)
        for one, two in zip(theirs[1], other[1], strict=True):
            assert {**one, "seconds": 0} == {**two, "seconds": 0}


# --- checkpoints --------------------------------------------------------------------------------------------------


def save(rank: int, ranks: int, model: str, folder: Path) -> State:
    learner = make(model, CUTS["gae"], rank, ranks)
    learner.step(rewarded(0))
    learner.save_checkpoint(folder)
    learner.step(rewarded(1))
    return full(learner)


def resume(rank: int, ranks: int, model: str, folder: Path) -> State:
    learner = make(model, CUTS["gae"], rank, ranks)
    learner.load_checkpoint(folder)
    learner.step(rewarded(1))
    assert learner.steps == 2
    return full(learner)


def full(learner: Learner) -> State:
    return {
        name: (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().clone()
        for name, value in learner._record.state().items()
    }


@pytest.mark.parametrize("ranks", [2, 1])
def test_a_checkpoint_holds_the_critic_and_any_number_of_ranks_goes_on(model: str, tmp_path: Path, ranks: int) -> None:
    straight = run_ranks(ranks, save, model, tmp_path / "step_1", folder=tmp_path / "a")[0]
    assert {"critic.model.head", "critic.optimizer.steps", "critic.optimizer.exp_avg.head"} <= straight.keys()
    assert straight["critic.model.head"].abs().max() > 0
    for others in (1, 2):
        resumed = run_ranks(others, resume, model, tmp_path / "step_1", folder=tmp_path / f"b{others}")[0]
        for name, value in straight.items():
            atol = 0 if others == ranks else 3e-5
            torch.testing.assert_close(resumed[name], value, atol=atol, rtol=0)


# --- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("group")
def test_a_critic_may_start_from_another_model_of_the_same_vocabulary(model: str, tmp_path: Path) -> None:
    tiny_model(seed=5, num_hidden_layers=1).save_pretrained(tmp_path / "small")
    learner = make(model, {"critic": {"model": str(tmp_path / "small")}})
    names = [name for name in learner._record.state() if name.startswith("critic.model.model.layers.")]
    assert {name.split(".")[4] for name in names} == {"0"}
    assert learner.step(rewarded())["value_loss"] > 0
    tiny_model(vocab_size=50).save_pretrained(tmp_path / "other")
    with pytest.raises(PolicyError, match="50 tokens, but the policy has 40"):
        make(model, {"critic": {"model": str(tmp_path / "other")}})


@pytest.mark.usefixtures("group")
def test_an_abandoned_step_leaves_no_trace_in_the_critic(model: str) -> None:
    straight, broken = make(model), make(model)
    broken.begin_step(3)
    broken.add(rewarded(1).sequences)
    broken.abandon_step()
    straight.step(rewarded(0))
    broken.step(rewarded(0))
    expected = whole_state(straight)
    assert all(torch.equal(value, expected[name]) for name, value in whole_state(broken).items())


@pytest.mark.usefixtures("group")
def test_a_critic_in_bfloat16_keeps_float32_masters(model: str) -> None:
    learner = make(model, dtype="bfloat16")
    before = whole_state(learner)
    metrics = learner.step(rewarded())
    after = whole_state(learner)
    assert metrics["value_loss"] > 0
    assert all(value.dtype == torch.float32 for name, value in after.items() if name.startswith("critic.model."))
    assert not torch.equal(before["critic.model.head"], after["critic.model.head"])
