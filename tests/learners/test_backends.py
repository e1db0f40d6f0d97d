"""What every backend promises, over real gloo groups of one rank and of two: the same training as a plain torch loop.

Each case is one life of a learner in processes of its own; the tests read what it left.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

from learners.batch import TrainBatch
from learners.drafters.settings import CaptureSettings
from learners.learner import Learner
from learners.micro_batch import cut_minibatches
from learners.objective import ObjectiveInput, objective
from learners.packing import pack
from learners.policy import Policy, load_policy
from learners.settings import AlgorithmSettings, TrainerSettings
from learners.zero import BackendError
from tests.learners.ranks import CPU, run_ranks
from tests.learners.tiny import random_batch, tokenizer, write_model

Settings = dict[str, object]
Outcome = dict[str, object]
Weights = dict[str, Tensor]

BACKENDS: dict[str, Settings] = {
    "fsdp2": {"backend": "fsdp2"},
    "zero2": {"backend": "deepspeed", "zero_stage": 2},
    "zero3": {"backend": "deepspeed", "zero_stage": 3},
}
SIZES = (1, 2)
PROBE = [1, 5, 9, 2, 30]
# The last batch has fewer sequences than the ranks have micro-batches: their number differs from step to step.
BATCHES = [random_batch(seed=seed, sequences=count) for seed, count in enumerate((12, 12, 3))]
TRAINING: Settings = {
    "dtype": "float32",
    "learning_rate": 1e-3,
    "warmup_steps": 2,
    "weight_decay": 0.1,
    "max_grad_norm": 0.5,
    "token_budget": 60,
}
PULLED: Settings = {"terms": [{"name": "kl_k2", "weight": 0.5}], "reference": {"kind": "moving", "decay": 0.5}}


def make(rank: int, size: int, model: str, settings: Settings, algorithm: Settings | None = None) -> Learner:
    return Learner(
        model,
        AlgorithmSettings.model_validate(algorithm or {}),
        TrainerSettings.model_validate({**TRAINING, **settings}),
        temperature=0.8,
        rank=rank,
        world_size=size,
        device=CPU,
    )


def metrics_of(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name != "seconds"}


def weights(learner: Learner) -> Weights:
    return learner.snapshot(0)[1]


def masters(learner: Learner) -> Weights:
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()
        for name, value in learner._backend.parameters().items()
    }


def live(rank: int, size: int, model: str, folder: Path, settings: Settings, loads: str | None) -> Outcome:
    """All that is asked of one backend; `loads` is the checkpoint that another number of ranks has left in `folder`."""
    outcome: Outcome = {}
    learner = make(rank, size, model, settings)
    outcome["metrics"] = [metrics_of(learner.step(batch)) for batch in BATCHES]
    manifest, tensors = learner.snapshot(3)
    truth = learner.truth(manifest, tensors, PROBE)
    outcome |= {"manifest": manifest, "weights": tensors, "truth": truth, "probe": learner.probe_logprobs(PROBE)}

    learner.perturb(seed=1, scale=0.2)
    outcome["perturbed"], outcome["perturbed_probe"] = weights(learner), learner.probe_logprobs(PROBE)
    learner.restore()
    outcome["restored"], outcome["restored_probe"] = weights(learner), learner.probe_logprobs(PROBE)

    learner.save(folder / f"export_{size}", tokenizer())
    learner.save_checkpoint(folder / f"of_{size}")
    learner.step(BATCHES[0])
    outcome["gone_on"] = weights(learner)
    if loads is not None:
        other = make(rank, size, model, settings)
        other.load_checkpoint(folder / loads)
        other.save_checkpoint(folder / f"{loads}_by_{size}")
        other.step(BATCHES[0])
        outcome["resumed"], outcome["resumed_steps"] = weights(other), other.steps

    outcome["streamed"] = stream(make(rank, size, model, settings))
    outcome["minibatches"] = step_in_minibatches(make(rank, size, model, {**settings, "minibatches": 3}))
    outcome["pulled"] = follow(make(rank, size, model, settings, PULLED))
    outcome["poisoned"] = survive(make(rank, size, model, settings))
    narrow = make(rank, size, model, {**settings, "dtype": "bfloat16"})
    outcome["narrow_start"] = masters(narrow)
    outcome["narrow_metrics"] = [metrics_of(narrow.step(batch)) for batch in BATCHES]
    outcome["narrow_masters"], outcome["narrow_weights"] = masters(narrow), weights(narrow)
    return outcome


def stream(learner: Learner) -> tuple[list[dict[str, float]], Weights]:
    """The same steps in parts, with a step of other sequences begun and abandoned before each."""
    metrics = []
    for index, batch in enumerate(BATCHES):
        learner.begin_step(batch.version)
        learner.add(BATCHES[index - 1].sequences[:5])
        learner.abandon_step()
        learner.begin_step(batch.version)
        for part in (batch.sequences[:1], (), batch.sequences[1:]):
            learner.add(part)
        metrics.append(metrics_of(learner.finish_step()))
    return metrics, weights(learner)


def step_in_minibatches(learner: Learner) -> tuple[dict[str, float], Weights, int]:
    """Three updates against logprobs of the start, while a capture listens."""
    learner.capture([1], CaptureSettings(tokens_per_pass=60, window_length=50, dtype="float32"))
    return metrics_of(learner.step(BATCHES[0])), weights(learner), len(learner.take_windows())


def follow(learner: Learner) -> list[dict[str, float]]:
    return [metrics_of(learner.step(batch)) for batch in BATCHES]


def survive(learner: Learner) -> tuple[float, bool, float]:
    """An update that is not finite: how many were left out, whether the weights stayed, how many after it."""
    before = weights(learner)
    first = BATCHES[0].sequences[0]
    poisoned = replace(first, advantages=(float("nan"),) * len(first.response_ids))
    skipped = learner.step(TrainBatch(3, (poisoned, *BATCHES[0].sequences[1:])))["skipped_updates"]
    after = weights(learner)
    same = all(torch.equal(value, after[name]) for name, value in before.items())
    return skipped, same, learner.step(BATCHES[0])["skipped_updates"]


def resume(rank: int, size: int, model: str, folder: Path, settings: Settings) -> Weights:
    learner = make(rank, size, model, settings)
    learner.load_checkpoint(folder)
    learner.step(BATCHES[0])
    return weights(learner)


@dataclass(frozen=True)
class World:
    """Lives that were lived once, and where their files lie."""

    folder: Path
    model: str
    lives: dict[tuple[str, int], list[Outcome]]

    def of(self, backend: str, size: int) -> list[Outcome]:
        """By rank. A life of one rank also loads what one of two has left."""
        if (backend, size) not in self.lives:
            if size == 1:
                self.of(backend, 2)
            place = self.folder / backend
            self.lives[backend, size] = run_ranks(
                size,
                live,
                self.model,
                place,
                BACKENDS[backend],
                "of_2" if size == 1 else None,
                folder=place / f"ranks_{size}",
                deadline_s=240,
            )
        return self.lives[backend, size]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("backends")
    return World(folder, write_model(folder / "model"), {})


def plain_loop(model: str) -> tuple[list[dict[str, float]], Weights, list[float]]:
    """The training without any backend: one process, one row for each batch, torch's own AdamW and clipping."""
    policy = Policy(load_policy(model))
    names = dict(policy.model.named_parameters())
    groups = [
        {"params": [value for value in names.values() if value.ndim == 2]},
        {"params": [value for value in names.values() if value.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.1)
    metrics = []
    for step, batch in enumerate(BATCHES, start=1):
        (part,) = cut_minibatches(
            batch.sequences, version=batch.version, minibatches=1, token_budget=10_000, rank=0, ranks=1
        )
        (micro,) = part.micro_batches
        now = policy(micro.packed, micro.positions, 0.8)
        given = ObjectiveInput(
            now.logprobs,
            now.entropy,
            now.logprobs.detach(),
            micro.behaviour,
            micro.advantages,
            micro.sequence,
            micro.rewards,
            micro.group_rewards,
            {},
        )
        loss = objective(given, AlgorithmSettings())[0] / part.counts.tokens
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, step / 2)
        optimizer.step()
        metrics.append({"loss": loss.item(), "grad_norm": norm.item(), "trained_tokens": part.counts.tokens})
    probe = policy(pack([PROBE])).logprobs.tolist()
    return metrics, {name: value.detach() for name, value in names.items()}, probe


each_backend = pytest.mark.parametrize("backend", list(BACKENDS))
each_case: Callable[..., object] = pytest.mark.parametrize(
    ("backend", "size"), [(backend, size) for backend in BACKENDS for size in SIZES]
)


def assert_near(one: Weights, other: Weights, atol: float = 2e-5) -> None:
    """A step is 1e-3 wide: a gradient that went missing, or was scaled otherwise, would show at that scale."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=atol, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def assert_alike(mine: list[dict[str, float]], theirs: list[dict[str, float]], rel: float = 1e-3) -> None:
    for one, other in zip(mine, theirs, strict=True):
        assert one == pytest.approx(other, rel=rel, abs=1e-5)


@each_case
def test_training_is_that_of_a_plain_loop(world: World, backend: str, size: int) -> None:
    metrics, state, probe = plain_loop(world.model)
    outcome = world.of(backend, size)[0]
    for mine, theirs in zip(outcome["metrics"], metrics, strict=True):  # type: ignore[call-overload]
        assert {name: mine[name] for name in theirs} == pytest.approx(theirs, rel=1e-4)
    assert_near(outcome["weights"], state)  # type: ignore[arg-type]
    assert outcome["probe"] == pytest.approx(probe, abs=1e-4)


@each_case
def test_all_metrics_are_those_of_fsdp2_on_one_rank(world: World, backend: str, size: int) -> None:
    alone = world.of("fsdp2", 1)[0]
    for outcome in world.of(backend, size):
        assert_alike(outcome["metrics"], alone["metrics"])  # type: ignore[arg-type]
        # The reference has moved along with the policy, so that its distance shows how.
        assert_alike(outcome["pulled"], alone["pulled"])  # type: ignore[arg-type]
    assert alone["pulled"][2]["term/kl_k2"] > 1e-4  # type: ignore[index]


@each_case
def test_a_snapshot_is_whole_on_rank_0_and_true_on_all(world: World, backend: str, size: int) -> None:
    first, *others = world.of(backend, size)
    plain = AutoModelForCausalLM.from_pretrained(world.model)
    tensors, truth = first["weights"], first["truth"]
    assert tensors.keys() == dict(plain.named_parameters()).keys()  # type: ignore[attr-defined]
    assert [spec.name for spec in first["manifest"].tensors] == list(tensors)  # type: ignore[attr-defined,call-overload]
    assert truth.checksums.keys() == tensors.keys()  # type: ignore[attr-defined]
    assert truth.probe_logprobs == first["probe"]  # type: ignore[attr-defined]
    for other in others:
        assert other["weights"] == {}
        assert (other["manifest"], other["probe"]) == (first["manifest"], first["probe"])


@each_case
def test_a_perturbation_is_everywhere_the_same_and_leaves_no_trace(world: World, backend: str, size: int) -> None:
    outcome, alone = world.of(backend, size)[0], world.of("fsdp2", 1)[0]
    assert_near(outcome["perturbed"], alone["perturbed"], atol=5e-5)  # type: ignore[arg-type]
    assert outcome["perturbed_probe"] == pytest.approx(alone["perturbed_probe"], abs=1e-3)
    assert max(abs(a - b) for a, b in zip(outcome["perturbed_probe"], outcome["probe"], strict=True)) > 0.01  # type: ignore[call-overload]
    assert outcome["restored_probe"] == outcome["probe"]
    for name, value in outcome["weights"].items():  # type: ignore[attr-defined]
        assert torch.equal(outcome["restored"][name], value), name  # type: ignore[index]


@each_case
def test_parts_train_like_the_whole_and_an_abandoned_step_is_forgotten(world: World, backend: str, size: int) -> None:
    outcome = world.of(backend, size)[0]
    metrics, state = outcome["streamed"]  # type: ignore[misc]
    assert_alike(metrics, outcome["metrics"])  # type: ignore[arg-type]
    assert_near(state, outcome["weights"])  # type: ignore[arg-type]


@each_case
def test_several_updates_share_one_start(world: World, backend: str, size: int) -> None:
    metrics, state, windows = world.of(backend, size)[0]["minibatches"]  # type: ignore[misc]
    expected, expected_state, _ = world.of("fsdp2", 1)[0]["minibatches"]  # type: ignore[misc]
    assert_alike([metrics], [expected])
    assert_near(state, expected_state)
    assert windows > 0


@each_case
def test_an_update_that_is_not_finite_is_left_out(world: World, backend: str, size: int) -> None:
    for outcome in world.of(backend, size):
        assert outcome["poisoned"] == (1.0, True, 0.0)


@each_backend
def test_a_checkpoint_of_two_ranks_goes_on_on_one_and_on_two(world: World, backend: str) -> None:
    straight, alone = world.of(backend, 2)[0], world.of(backend, 1)[0]
    assert alone["resumed_steps"] == 4
    assert_near(alone["resumed"], straight["gone_on"])  # type: ignore[arg-type]
    place = world.folder / backend
    back = run_ranks(2, resume, world.model, place / "of_2_by_1", BACKENDS[backend], folder=place / "back")[0]
    for name, value in straight["gone_on"].items():  # type: ignore[attr-defined]
        # The same ranks repeat to the bit, though the state has been through one rank meanwhile.
        assert torch.equal(back[name], value), name


def test_a_run_goes_on_over_another_backend(world: World) -> None:
    straight = world.of("fsdp2", 2)[0]["gone_on"]
    of_fsdp2 = world.folder / "fsdp2" / "of_2"
    resumed = run_ranks(1, resume, world.model, of_fsdp2, BACKENDS["zero3"], folder=world.folder / "crossed")[0]
    assert_near(resumed, straight)  # type: ignore[arg-type]


@each_case
def test_an_export_loads_as_a_hugging_face_model(world: World, backend: str, size: int) -> None:
    outcome = world.of(backend, size)[0]
    loaded = AutoModelForCausalLM.from_pretrained(world.folder / backend / f"export_{size}")
    state = {name: value.detach() for name, value in loaded.named_parameters()}
    assert_near(state, outcome["weights"], atol=0)  # type: ignore[arg-type]


@each_case
def test_narrow_passes_have_wide_masters(world: World, backend: str, size: int) -> None:
    outcome, same_ranks = world.of(backend, size)[0], world.of("fsdp2", size)[0]
    plain = AutoModelForCausalLM.from_pretrained(world.model, dtype=torch.float32)
    start: Weights = outcome["narrow_start"]  # type: ignore[assignment]
    for name, value in plain.named_parameters():
        assert torch.equal(start[name], value), name
    after: Weights = outcome["narrow_masters"]  # type: ignore[assignment]
    for name, value in outcome["narrow_weights"].items():  # type: ignore[attr-defined]
        assert value.dtype == torch.bfloat16
        assert torch.equal(after[name].bfloat16(), value), name
    assert_alike(outcome["narrow_metrics"], same_ranks["narrow_metrics"])  # type: ignore[arg-type]
    assert_near(after, same_ranks["narrow_masters"])  # type: ignore[arg-type]


def refuse(rank: int, size: int, model: str) -> str:
    """What a rank says where DeepSpeed cannot be imported."""
    sys.modules["deepspeed"] = None  # type: ignore[assignment]
    with pytest.raises(BackendError) as caught:
        make(rank, size, model, BACKENDS["zero3"])
    return str(caught.value)


def test_a_missing_library_is_one_line_with_the_way_out(world: World, tmp_path: Path) -> None:
    (said,) = run_ranks(1, refuse, world.model, folder=tmp_path)
    assert "\n" not in said
    assert "paceline[deepspeed]" in said
    assert "trainer.backend=fsdp2" in said
