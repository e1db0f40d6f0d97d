"""Trained drafters behind the torch engine: the same tokens as without them, and drafts that are those of training."""

import asyncio
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from actors.engine import Completion, EngineSettings, GenerationRequest, Sampling
from actors.speculation.drafter import Draft, DraftRequest, FixedLength, Observation, Speculation
from actors.speculation.learned_drafter import DraftSampling, LearnedDrafter
from actors.torch_engine import TorchEngine
from learners.drafters.drafter_files import DrafterCard, save_drafter
from learners.drafters.drafter_training import DrafterTrainer
from learners.drafters.fingerprint import PairingFingerprint, identify
from learners.drafters.settings import DrafterTrainingSettings
from tests.learners.drafters.builders import CPU, KINDS, new_drafter, plain_hidden, tied_target, windows_of_target
from tests.learners.drafters.walk import walk
from tests.learners.tiny import VOCABULARY, tokenizer

LENGTH, ANSWERS, TOKENS = 3, 16, 48


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def trained(kind: str) -> DrafterTrainer:
    """After 60 micro-steps on the target's own answers."""
    torch.set_num_threads(1)
    settings = DrafterTrainingSettings(learning_rate=5e-3, dtype="float32")
    trainer = DrafterTrainer(new_drafter(kind, tied_target()), settings, CPU)
    rng = random.Random(0)
    for _ in range(60):
        trainer.micro_step(rng.sample(windows_of_target(48, 49), 12))
    return trainer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The target's checkpoint, and a trained drafter of each kind beside it."""
    model = tied_target()
    model.save_pretrained(tmp_path / "target")
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    target = identify(model.config, shapes, tokenizer())
    for kind in KINDS:
        drafter = trained(kind).drafter
        card = DrafterCard(PairingFingerprint.of(kind, drafter.reads, target), version=4)
        save_drafter(drafter, card, tmp_path / kind, torch.float32)
    return tmp_path


def prompt_of(answer: Completion) -> tuple[int, ...]:
    return int(answer.request_id), 7


def answers(folder: Path, speculation: Speculation | None, temperature: float) -> list[Completion]:
    """Of `ANSWERS` prompts with a seed each."""
    settings = EngineSettings(model=str(folder / "target"), dtype="float32", context_length=128, max_running=ANSWERS)

    async def run() -> list[Completion]:
        engine = TorchEngine(settings, speculation)
        await engine.start()
        requests = [
            GenerationRequest(str(seed), (seed, 7), Sampling(TOKENS, temperature=temperature, seed=seed))
            for seed in range(ANSWERS)
        ]
        try:
            return await asyncio.wait_for(asyncio.gather(*map(engine.generate, requests)), 60)
        finally:
            await engine.shutdown()

    return asyncio.run(run())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_guessed_drafts_change_no_token_and_are_those_of_the_unrolled_forward(
    kind: str, temperature: float, folder: Path
) -> None:
    """Of every answer, as many drafted tokens stay as a walk over the trainer's own forward pass says."""
    plain = answers(folder, None, temperature)
    drafted = answers(folder, Speculation(LearnedDrafter(folder / kind), FixedLength(LENGTH)), temperature)
    for one, other in zip(drafted, plain, strict=True):
        assert one.token_ids == other.token_ids
        assert one.logprobs == pytest.approx(other.logprobs, abs=2e-4)
        assert one.speculated.accepted == walk(
            trained(kind).drafter.eval(), tied_target(), prompt_of(one), one.token_ids, LENGTH
        )
    # The drafters are of use: a token in five at least was drafted.
    assert sum(one.speculated.accepted for one in drafted) > ANSWERS * TOKENS / 5


def started(folder: Path, kind: str, draft_sampling: DraftSampling = "greedy") -> LearnedDrafter:
    """Attached, and told of the answer "a": tokens 1, 2 and 3, the last not read yet."""
    drafter = LearnedDrafter(folder / kind, draft_sampling)
    drafter.attach(tied_target())
    drafter.begin("a", b"group", (1, 2), ())
    observe(drafter, (3,), start=0)
    return drafter


def observe(drafter: LearnedDrafter, token_ids: tuple[int, ...], *, start: int) -> None:
    sequence = [1, 2, 3, 4, 5, 6]
    hidden = plain_hidden(tied_target(), sequence)
    read = sequence.index(token_ids[-1]) - start
    states = tuple(hidden[layer][start : start + read] for layer in drafter.hidden_layers)
    drafter.observe([Observation("a", token_ids, start, read, states)])


GREEDY = Sampling(9, temperature=0)


def proposal(drafter: LearnedDrafter, sampling: Sampling = GREEDY) -> Draft:
    (draft,) = drafter.propose([DraftRequest("a", 3, sampling, torch.Generator().manual_seed(1))])
    return draft


@pytest.mark.parametrize("kind", KINDS)
def test_a_draft_hangs_on_what_was_read_and_not_on_how(kind: str, folder: Path) -> None:
    drafter = started(folder, kind)
    observe(drafter, (4,), start=2)
    observe(drafter, (5, 6), start=3)
    stepwise = proposal(drafter)
    assert len(stepwise.token_ids) == 3
    assert stepwise.probabilities is None
    assert proposal(drafter).token_ids == stepwise.token_ids
    drafter.end("a")
    drafter.begin("a", b"group", (1, 2), (3, 4, 5))
    observe(drafter, (6,), start=0)
    assert proposal(drafter).token_ids == stepwise.token_ids


@pytest.mark.parametrize("kind", KINDS)
def test_drawn_drafts_bring_the_distributions_that_they_were_drawn_from(kind: str, folder: Path) -> None:
    drafter = started(folder, kind, "probabilistic")
    sampling = Sampling(9, temperature=0.7, top_k=5)
    draft = proposal(drafter, sampling)
    assert draft.probabilities is not None
    assert draft.probabilities.shape == (3, VOCABULARY)
    torch.testing.assert_close(draft.probabilities.sum(-1), torch.ones(3))
    assert ((draft.probabilities > 0).sum(-1) == 5).all()
    assert all(row[token] > 0 for row, token in zip(draft.probabilities, draft.token_ids, strict=True))
    assert proposal(drafter, sampling).token_ids == draft.token_ids, "the request's generator alone decides"
    assert proposal(drafter).probabilities is None, "a greedy answer takes guesses"


@pytest.mark.parametrize("kind", KINDS)
def test_new_weights_are_taken_whole_or_not_at_all(kind: str, folder: Path) -> None:
    drafter = started(folder, kind)
    before = proposal(drafter).token_ids
    assert (drafter.name, drafter.version) == (kind, 4)
    good = {name: tensor.detach().clone() for name, tensor in trained(kind).drafter.trainable().items()}
    name = next(iter(good))
    for bad in ({**good, name: good[name] * torch.nan}, {**good, name: good[name][:1]}, {**good, "more": good[name]}):
        with pytest.raises(ValueError, match="version 5 of the drafter"):
            drafter.load_weights(bad, 5)
    with pytest.raises(ValueError, match="version 5 of the drafter"):
        drafter.load_weights({}, 5)
    assert drafter.version == 4
    assert proposal(drafter).token_ids == before
    drafter.load_weights(good, 6)
    assert drafter.version == 6
    assert proposal(drafter).token_ids == before


@pytest.mark.parametrize("draft_sampling", ["greedy", "probabilistic"])
def test_logits_that_are_not_finite_draft_nothing(draft_sampling: DraftSampling, folder: Path) -> None:
    drafter = started(folder, "eagle", draft_sampling)
    drafter.observe([Observation("a", (4,), 2, 1, (torch.full((1, 32), torch.inf),))])
    assert proposal(drafter, Sampling(9)).token_ids == ()
