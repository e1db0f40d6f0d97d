"""A tiny target, answers that it sampled itself, and windows captured from its own forward pass."""

from collections.abc import Sequence
from functools import cache

import torch
from transformers import PreTrainedModel

from learners.attention import PACKED
from learners.drafters.capture import HiddenCapture
from learners.drafters.drafter import Drafter
from learners.drafters.kinds import DRAFTERS
from learners.drafters.settings import CaptureSettings, DrafterSettings
from learners.drafters.target import DraftTarget
from learners.drafters.windows import Window
from learners.packing import pack
from learners.policy import Policy
from tests.learners.tiny import tiny_model

KINDS = ("eagle", "eagle3", "draft_model")
CPU = torch.device("cpu")
LAYERS = 3
ALL_LAYERS = tuple(range(LAYERS + 1))


def target_model(*, tied: bool = True, seed: int = 0) -> PreTrainedModel:
    model = tiny_model(tied=tied, seed=seed, num_hidden_layers=LAYERS)
    with torch.no_grad():  # Sharp distributions: a language with something to learn.
        model.base_model.norm.weight.mul_(4)
    model.config._attn_implementation = PACKED
    return model


def new_drafter(kind: str, model: PreTrainedModel, seed: int = 0) -> Drafter:
    target = DraftTarget.of_model(model)
    return DRAFTERS[kind].build(target, DrafterSettings(kind=kind, seed=seed), target.tables(torch.float32, CPU))


def sampled(model: PreTrainedModel, *, count: int, length: int, seed: int = 0) -> list[list[int]]:
    """Token sequences from the target's own distribution at temperature 1."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(model.config.vocab_size, (count, 1), generator=generator)
    usual, model.config._attn_implementation = model.config._attn_implementation, "sdpa"
    with torch.inference_mode():
        while tokens.shape[1] < length:
            logits = model(input_ids=tokens, use_cache=False, logits_to_keep=1).logits[:, -1]
            tokens = torch.cat([tokens, torch.multinomial(logits.softmax(-1), 1, generator=generator)], 1)
    model.config._attn_implementation = usual
    return [row.tolist() for row in tokens]


def captured(
    model: PreTrainedModel, sequences: Sequence[Sequence[int]], *, window_length: int = 32, layers: Sequence[int] = ()
) -> list[Window]:
    """All windows of these sequences, float32, of all the target's layers unless some are named."""
    tokens = sum(len(sequence) for sequence in sequences)
    settings = CaptureSettings(tokens_per_pass=max(tokens, window_length), window_length=window_length, dtype="float32")
    capture = HiddenCapture(model, layers or ALL_LAYERS, settings)
    packed = pack(sequences)
    with capture.watch(packed, [str(index) for index in range(len(sequences))], version=1) as windows, torch.no_grad():
        Policy(model)(packed)
    return windows


@cache
def tied_target() -> PreTrainedModel:
    return target_model()


@cache
def windows_of_target(count: int = 24, length: int = 33, seed: int = 0) -> tuple[Window, ...]:
    """Whole sequences that the tied target sampled, as windows."""
    return tuple(whole_windows(tied_target(), sampled(tied_target(), count=count, length=length, seed=seed)))


def whole_windows(model: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> list[Window]:
    """Each sequence as one window, with the states of transformers' own forward pass."""
    return [
        Window(str(index), torch.tensor(tokens), torch.arange(len(tokens)), plain_hidden(model, tokens), 1, len(tokens))
        for index, tokens in enumerate(sequences)
    ]


def plain_hidden(model: PreTrainedModel, sequence: Sequence[int]) -> dict[int, torch.Tensor]:
    """[L, H] of each layer, and of the last norm as -1, from transformers' own forward pass over one sequence."""
    usual, model.config._attn_implementation = model.config._attn_implementation, "sdpa"
    with torch.no_grad():
        output = model.base_model(input_ids=torch.tensor([list(sequence)]), output_hidden_states=True, use_cache=False)
    model.config._attn_implementation = usual
    # transformers' last entry stands behind the norm.
    states = dict(enumerate(state[0] for state in output.hidden_states[:-1]))
    return {**states, -1: output.last_hidden_state[0]}
