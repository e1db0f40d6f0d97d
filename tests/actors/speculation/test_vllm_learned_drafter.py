"""Drafters that were trained and saved here, inside vLLM: it loads them as they are and drafts the same tokens."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel
from vllm.transformers_utils.configs.speculators import SpeculatorsConfig

from actors.engine import Sampling
from actors.speculation.settings import SpeculationSettings
from learners.drafters.drafter import Drafter
from learners.drafters.drafter_files import DrafterCard, save_drafter
from learners.drafters.drafter_training import DrafterTrainer
from learners.drafters.fingerprint import PairingFingerprint, TargetIdentity
from learners.drafters.settings import DrafterTrainingSettings
from learners.drafters.speculators_export import export_speculators
from tests.actors.speculation.eagle_checkpoint import write_target
from tests.actors.speculation.vllm_subject import SpeculatingSubject
from tests.actors.subject import greedy
from tests.actors.tiny_model import model_of
from tests.learners.drafters.builders import CPU, new_drafter, tied_target, whole_windows
from tests.learners.drafters.walk import walk

LENGTH, TOKENS = 3, 120
PROMPTS = [tuple(range(start, start + 20)) for start in (40, 90, 140)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trained(kind: str, target: PreTrainedModel) -> Drafter:
    """On the answers that it will draft: it is not judged by what it learned, but vLLM by what it makes of it."""
    windows = whole_windows(target, [[*prompt, *greedy(target, prompt, TOKENS)] for prompt in PROMPTS])
    settings = DrafterTrainingSettings(learning_rate=5e-3, dtype="float32")
    trainer = DrafterTrainer(new_drafter(kind, target), settings, CPU)
    for _ in range(60):
        trainer.micro_step(windows)
    return trainer.drafter.eval()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["eagle", "eagle3"])
def test_vllm_drafts_what_the_trainers_forward_drafts(kind: str, tmp_path: Path) -> None:
    """Greedy tokens as without a drafter, and as many of them drafted as a walk over the trainer's own forward says;
    only the last draft of an answer may reach beyond its end."""
    target = model_of(0, tied=True, layers=3)
    with torch.no_grad():
        for layer in target.model.layers:
            layer.self_attn.o_proj.weight.mul_(0.3)
            layer.mlp.down_proj.weight.mul_(0.3)
    write_target(tmp_path / "target", target, tied=True)
    drafter = trained(kind, target)
    identity = TargetIdentity("", "", 64, 257, 3)
    card = DrafterCard(PairingFingerprint.of(kind, drafter.reads, identity), version=1)
    save_drafter(drafter, card, tmp_path / kind, torch.float32)
    speculation = SpeculationSettings(
        kind,  # type: ignore[arg-type]
        str(tmp_path / kind),
        lengths=(0, LENGTH),
        governor="fixed",
        governor_options={"1": LENGTH},
    )
    subject = SpeculatingSubject(tmp_path / "target", target, speculation, tied=True)
    try:
        for prompt in PROMPTS:
            answer = subject.generate(prompt, Sampling(TOKENS, temperature=0))
            assert answer.token_ids == greedy(target, prompt, TOKENS)
            foretold = walk(drafter, target, prompt, answer.token_ids, LENGTH)
            assert foretold - LENGTH <= answer.speculated.accepted <= foretold + LENGTH
            assert foretold > TOKENS / 4
    finally:
        subject.close()


def test_vllm_reads_the_speculators_export(tmp_path: Path) -> None:
    drafter = new_drafter("eagle3", tied_target())
    target = tied_target().config
    export_speculators(
        drafter, tmp_path / "out", torch.float32, target="org/target", target_config=target, draft_tokens=5
    )
    given, _ = SpeculatorsConfig.get_config_dict(tmp_path / "out")
    assert SpeculatorsConfig.extract_vllm_speculative_config(given) == {"method": "eagle3", "num_speculative_tokens": 5}
    config = SpeculatorsConfig.from_pretrained(tmp_path / "out")
    assert config.architectures == ["Eagle3LlamaForCausalLM"]
    assert config.norm_before_residual is False
    assert config.eagle_aux_hidden_state_layer_ids == [0, 1, 2]
    assert (config.hidden_size, config.draft_vocab_size, config.head_dim) == (32, 40, 8)
