import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file, save_file
from transformers import AutoModelForCausalLM

from learners.drafters.drafter import Drafter
from learners.drafters.drafter_files import (
    WEIGHTS,
    DrafterCard,
    load_drafter,
    load_training,
    save_drafter,
    save_training,
)
from learners.drafters.drafter_training import DrafterTrainer
from learners.drafters.errors import DrafterError
from learners.drafters.fingerprint import PairingFingerprint, identify
from learners.drafters.settings import DrafterSettings, DrafterTrainingSettings
from learners.drafters.speculators_export import export_speculators
from learners.drafters.target import DraftTarget
from tests.learners.drafters.builders import CPU, KINDS, new_drafter, target_model, tied_target, windows_of_target
from tests.learners.tiny import tokenizer

LAYER = {
    f"layers.0.{name}.weight"
    for name in (
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
        "post_attention_layernorm",
    )
}
NAMES = {
    "eagle": LAYER | {"fc.weight"},
    "eagle3": LAYER
    | {"fc.weight", "norm.weight", "lm_head.weight", "layers.0.input_layernorm.weight", "layers.0.hidden_norm.weight"},
}
"""As vLLM 0.32's llama_eagle.py and llama_eagle3.py have them, before `model.` and with q, k, v and gate, up apart."""


def card(drafter: Drafter, version: int = 4) -> DrafterCard:
    model = tied_target()
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    target = identify(model.config, shapes, tokenizer())
    return DrafterCard(PairingFingerprint.of(drafter.kind, drafter.reads, target), version)


def saved(kind: str, folder: Path) -> Drafter:
    drafter = new_drafter(kind, tied_target(), seed=3)
    save_drafter(drafter, card(drafter), folder, torch.float32)
    return drafter


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_drafter_comes_back(kind: str, tmp_path: Path) -> None:
    drafter = saved(kind, tmp_path / "drafter")
    loaded, its_card = load_drafter(tmp_path / "drafter", drafter.tables)
    assert its_card == card(drafter)
    assert loaded.reads == drafter.reads
    judged = [
        DrafterTrainer(one, DrafterTrainingSettings(dtype="float32"), CPU).evaluate(windows_of_target(), 3)
        for one in (drafter, loaded)
    ]
    assert judged[0] == judged[1]
    assert [path.name for path in tmp_path.iterdir()] == ["drafter"]


@pytest.mark.parametrize("kind", NAMES)
def test_the_tensors_are_named_as_vllm_loads_them(kind: str, tmp_path: Path) -> None:
    drafter = saved(kind, tmp_path / "drafter")
    assert set(load_file(tmp_path / "drafter" / WEIGHTS)) == NAMES[kind]
    width = drafter.config.hidden_size
    shapes = {name: tuple(tensor.shape) for name, tensor in drafter.trainable().items()}
    if kind == "eagle":
        assert shapes["fc.weight"] == (width, 2 * width)
        assert shapes["layers.0.self_attn.q_proj.weight"][1] == width
    else:
        assert shapes["fc.weight"] == (width, 3 * width)
        assert shapes["layers.0.self_attn.q_proj.weight"][1] == 2 * width


def test_a_draft_model_is_an_ordinary_checkpoint(tmp_path: Path) -> None:
    drafter = saved("draft_model", tmp_path / "drafter")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "drafter")
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert model.config.num_hidden_layers == 1
    own = dict(model.named_parameters())
    assert own.keys() == drafter.trainable().keys()
    assert all(torch.equal(own[name], tensor) for name, tensor in drafter.trainable().items())
    # ... and may be what a drafter starts from.
    model.save_pretrained(tmp_path / "given")
    target = DraftTarget.of_model(tied_target())
    settings = DrafterSettings(kind="draft_model", checkpoint=str(tmp_path / "given"))
    begun = type(drafter).build(target, settings, drafter.tables)
    assert all(torch.equal(begun.trainable()[name], tensor) for name, tensor in own.items())


def test_the_wire_dtype_is_declared_and_used(tmp_path: Path) -> None:
    drafter = new_drafter("eagle", tied_target())
    save_drafter(drafter, card(drafter), tmp_path / "drafter", torch.bfloat16)
    assert json.loads((tmp_path / "drafter" / "config.json").read_text())["dtype"] == "bfloat16"
    assert {tensor.dtype for tensor in load_file(tmp_path / "drafter" / WEIGHTS).values()} == {torch.bfloat16}
    loaded, _ = load_drafter(tmp_path / "drafter", drafter.tables, torch.bfloat16)
    assert loaded.dtype == torch.bfloat16


def test_targets_are_read_from_their_folder_tensor_by_tensor(tmp_path: Path) -> None:
    for tied in (True, False):
        model = target_model(tied=tied)
        folder = tmp_path / str(tied)
        model.save_pretrained(folder, max_shard_size="20KB")
        tables = DraftTarget.of_folder(folder).tables(torch.float32, CPU)
        assert torch.equal(tables.embedding, model.get_input_embeddings().weight)
        assert torch.equal(tables.head, model.get_output_embeddings().weight)
        assert (tables.head is tables.embedding) == tied


def test_broken_files_are_named_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "drafter"
    drafter = saved("eagle", folder)
    # Read, not mapped: a mapped file must not be cut short.
    whole = load((folder / WEIGHTS).read_bytes())
    breaks = {
        "corrupt": lambda: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:200]),
        "not finite": lambda: save_file(whole | {"fc.weight": whole["fc.weight"] * torch.nan}, folder / WEIGHTS),
        "a shape": lambda: save_file(whole | {"fc.weight": whole["fc.weight"][:, :3].clone()}, folder / WEIGHTS),
        "a tensor more": lambda: save_file(whole | {"extra": torch.zeros(1)}, folder / WEIGHTS),
        "a tensor less": lambda: save_file({"fc.weight": whole["fc.weight"]}, folder / WEIGHTS),
        "gone": lambda: (folder / WEIGHTS).unlink(),
    }
    for name, break_it in breaks.items():
        break_it()
        with pytest.raises(DrafterError, match=str(folder / WEIGHTS)) as caught:
            load_drafter(folder, drafter.tables)
        assert "\n" not in str(caught.value), name


@pytest.mark.parametrize(
    ("file", "content"), [("config.json", "{"), ("config.json", "{}"), ("drafter.json", "{}"), ("drafter.json", "[]")]
)
def test_broken_descriptions_are_named_in_one_line(file: str, content: str, tmp_path: Path) -> None:
    drafter = saved("eagle3", tmp_path / "drafter")
    (tmp_path / "drafter" / file).write_text(content)
    with pytest.raises(DrafterError, match=str(tmp_path / "drafter" / file)) as caught:
        load_drafter(tmp_path / "drafter", drafter.tables)
    assert "\n" not in str(caught.value)


def test_a_taken_folder_is_left_alone(tmp_path: Path) -> None:
    drafter = saved("eagle", tmp_path / "drafter")
    with pytest.raises(DrafterError, match="exists"):
        save_drafter(drafter, card(drafter), tmp_path / "drafter", torch.float32)
    assert [path.name for path in tmp_path.iterdir()] == ["drafter"]


def test_a_training_checkpoint_holds_what_is_trained_alone(tmp_path: Path) -> None:
    trainer = DrafterTrainer(new_drafter("eagle", tied_target()), DrafterTrainingSettings(dtype="float32"), CPU)
    trainer.micro_step(windows_of_target()[:4])
    save_training(trainer.state(), card(trainer.drafter), tmp_path / "state")
    state, its_card = load_training(tmp_path / "state")
    assert its_card == card(trainer.drafter)
    other = DrafterTrainer(new_drafter("eagle", tied_target(), seed=8), DrafterTrainingSettings(dtype="float32"), CPU)
    other.restore(state)
    assert all(torch.equal(value, other.state()[name]) for name, value in trainer.state().items())
    trained = sum(value.nbytes for value in trainer.drafter.parameters())
    size = (tmp_path / "state" / "state.safetensors").stat().st_size
    assert size < 3 * trained + 10_000  # Weights and two moments, and names.


def test_the_speculators_export_has_what_vllms_reader_asks_for(tmp_path: Path) -> None:
    """The fields and the way they are read are those of vLLM 0.32's transformers_utils/configs/speculators."""
    drafter = new_drafter("eagle3", tied_target(), seed=2)
    export_speculators(
        drafter,
        tmp_path / "out",
        torch.float32,
        target="org/target",
        target_config=tied_target().config,
        draft_tokens=5,
    )
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["speculators_model_type"] == "eagle3"
    assert config["speculators_config"]["proposal_methods"][0]["speculative_tokens"] == 5
    assert config["speculators_config"]["verifier"]["name_or_path"] == "org/target"
    assert config["eagle_aux_hidden_state_layer_ids"] == [0, 1, 2]
    assert config["norm_before_residual"] is False
    layer = config["transformer_layer_config"]
    assert (layer["model_type"], layer["num_hidden_layers"], layer["head_dim"]) == ("llama", 1, 8)
    # Round trip: the nested layer and the drafter's own fields describe the same drafter.
    described = {**layer, "eagle_aux_hidden_state_layer_ids": config["eagle_aux_hidden_state_layer_ids"]}
    again = type(drafter).open(described, drafter.tables)
    tensors = load_file(tmp_path / "out" / WEIGHTS)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        name: tuple(tensor.shape) for name, tensor in again.trainable().items()
    }
    with pytest.raises(DrafterError, match="no eagle drafter in the speculators format"):
        export_speculators(
            new_drafter("eagle", tied_target()),
            tmp_path / "eagle",
            torch.float32,
            target="org/target",
            target_config=tied_target().config,
            draft_tokens=5,
        )
    assert not (tmp_path / "eagle").exists()
