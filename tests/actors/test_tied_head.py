"""The trap of a tied output head on vLLM's CPU backend, and that attestation's probe catches it.

The backend multiplies with a packed copy of the head. A tied head shares the embedding's tensor, so an update makes
the tensor new and leaves the packed copy old: every checksum is right, and every logprob is wrong. With the remedy
(`tests/actors/test_engine_contract.py`, the `vllm-tied` cases) both are right.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.actors.subject import Subject, answer_logprobs, checksums, weights
from tests.actors.tiny_model import model_of

pytestmark = pytest.mark.slow
PROBE = tuple(range(30, 90))


@pytest.fixture(scope="module")
def unremedied(tied_checkpoint: Path) -> Iterator[Subject]:
    running = Subject("vllm", tied_checkpoint, tied=True, tied_head_remedy=False)
    yield running
    running.close()


def probe_gap(subject: Subject) -> float:
    """Mean absolute difference between the engine's and the reference's logprobs of the probe."""
    expected = answer_logprobs(subject.reference, PROBE[:1], PROBE[1:])
    expected = expected.gather(1, torch.tensor(PROBE[1:])[:, None])[:, 0]
    scores = torch.tensor(subject.run(subject.engine.score(PROBE)))
    return float((scores - expected).abs().mean())


def test_without_the_remedy_the_probe_sees_what_the_checksums_do_not(unremedied: Subject) -> None:
    assert probe_gap(unremedied) < 1e-4
    new = model_of(1, tied=True)
    assert unremedied.update(new) == checksums(weights(new))
    assert probe_gap(unremedied) > 0.1


def test_even_a_small_change_of_the_head_is_lost_without_the_remedy(unremedied: Subject) -> None:
    """Only the shared tensor changes, by a hundredth of its spread: far less than a new model, still seen."""
    unremedied.update(model_of(0, tied=True))
    assert probe_gap(unremedied) < 1e-4
    nudged = model_of(0, tied=True)
    embedding = nudged.get_input_embeddings().weight
    noise = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        embedding += 0.01 * embedding.std() * noise
    assert unremedied.update(nudged) == checksums(weights(nudged))
    assert probe_gap(unremedied) > 1e-3
