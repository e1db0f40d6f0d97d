"""What a drafter was made for: the fingerprint that it carries, and whether a target has the same.

A drafter of another tokenizer, size or model line drafts tokens that are never accepted, which costs time and says
nothing (one report of such a pair found an acceptance length of 1.00). So pairs are checked before they are used.

The lineage names the line of weights: a hash of the first target checkpoint's configuration and of its tensors' names
and shapes. Training does not change it: whoever checkpoints a trained target carries it on (`identify`'s `lineage`).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Self

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from learners.drafters.errors import DrafterError

_PASSING = frozenset(
    {"transformers_version", "dtype", "torch_dtype", "_name_or_path", "use_cache", "output_attentions"}
)
"""Keys of a configuration that say how a checkpoint was written or loaded, not what the model is."""


@dataclass(frozen=True, slots=True)
class TargetIdentity:
    """A target, as far as a drafter must match it.

    Attributes:
        tokenizer: hash of its vocabulary, merges and splitting rules.
        layers: its decoder blocks.
        vocabulary: rows of its embedding.
    """

    tokenizer: str
    lineage: str
    hidden_size: int
    vocabulary: int
    layers: int


@dataclass(frozen=True, slots=True)
class PairingFingerprint:
    """The target that a drafter was made for, and the hidden states that it reads of it."""

    kind: str
    tokenizer: str
    lineage: str
    hidden_size: int
    vocabulary: int
    layer_ids: tuple[int, ...]

    @classmethod
    def of(cls, kind: str, reads: Sequence[int], target: TargetIdentity) -> Self:
        return cls(kind, target.tokenizer, target.lineage, target.hidden_size, target.vocabulary, tuple(reads))

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "layer_ids": list(self.layer_ids)}

    @classmethod
    def from_json(cls, given: Mapping[str, object]) -> Self:
        """Raises: DrafterError: a field is missing or of another type."""
        layer_ids = given.get("layer_ids")
        words = [given.get(name) for name in ("kind", "tokenizer", "lineage")]
        sizes = [given.get(name) for name in ("hidden_size", "vocabulary")]
        if (
            not isinstance(layer_ids, list)
            or not all(isinstance(value, int) for value in (*sizes, *layer_ids))
            or not all(isinstance(word, str) for word in words)
        ):
            raise DrafterError("the drafter's fingerprint lacks a field")
        kind, tokenizer, lineage = (str(word) for word in words)
        hidden_size, vocabulary = (int(str(size)) for size in sizes)
        return cls(kind, tokenizer, lineage, hidden_size, vocabulary, tuple(layer_ids))


def identify(
    config: PretrainedConfig,
    shapes: Mapping[str, Sequence[int]],
    tokenizer: PreTrainedTokenizerBase,
    lineage: str | None = None,
) -> TargetIdentity:
    """Args:
    shapes: of the target's tensors, under their names in its checkpoint.
    lineage: carried on from the checkpoint that this target was trained from; None where it is the first.
    """
    return TargetIdentity(
        tokenizer=hash_tokenizer(tokenizer),
        lineage=lineage or first_lineage(config, shapes),
        hidden_size=config.hidden_size,
        vocabulary=config.vocab_size,
        layers=config.num_hidden_layers,
    )


def hash_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of what turns text into ids and back; padding, truncation and chat templates do not count."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return _hash(sorted(tokenizer.get_vocab().items()))
    rules = json.loads(backend.to_str())
    return _hash({key: value for key, value in rules.items() if key not in ("padding", "truncation")})


def first_lineage(config: PretrainedConfig, shapes: Mapping[str, Sequence[int]]) -> str:
    """The lineage of a checkpoint that begins one."""
    lasting = {key: value for key, value in config.to_dict().items() if key not in _PASSING}
    return _hash([lasting, sorted((name, list(shape)) for name, shape in shapes.items())])


def mismatch(drafter: PairingFingerprint, target: TargetIdentity) -> str | None:
    """Why this drafter must not draft for this target, in one line; None where it may."""
    differences = (
        ("tokenizer", drafter.tokenizer, target.tokenizer),
        ("hidden size", drafter.hidden_size, target.hidden_size),
        ("vocabulary", drafter.vocabulary, target.vocabulary),
        ("lineage", drafter.lineage, target.lineage),
    )
    for what, its, wanted in differences:
        if its != wanted:
            return f"the drafter was made for a target of another {what} ({its}, this one has {wanted})"
    beyond = [layer for layer in drafter.layer_ids if layer >= target.layers]
    if beyond:
        return f"the drafter reads hidden states of layer {beyond[0]}, the target has {target.layers} layers"
    return None


def _hash(value: object) -> str:
    """16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
