"""Drafters on disk: folders that vLLM loads as they are, and training checkpoints. Whole or not at all.

A drafter's folder holds `config.json` and `model.safetensors` in vLLM's layout of its kind (the trainable tensors
alone: vLLM shares the target's embedding and head where they are not there), and `drafter.json`, which vLLM ignores:
the fingerprint of its target and its version. A training checkpoint holds the trainer's `state` beside the same
`drafter.json`.
"""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from learners.drafters.drafter import Drafter
from learners.drafters.errors import DrafterError
from learners.drafters.fingerprint import PairingFingerprint
from learners.drafters.kinds import DRAFTERS
from learners.drafters.target import TargetTables
from learners.errors import first_line

WEIGHTS = "model.safetensors"
_CONFIG = "config.json"
_CARD = "drafter.json"
_STATE = "state.safetensors"


@dataclass(frozen=True, slots=True)
class DrafterCard:
    """What a folder says of its drafter. `version` counts its publications."""

    fingerprint: PairingFingerprint
    version: int


def save_drafter(drafter: Drafter, card: DrafterCard, folder: Path, dtype: torch.dtype) -> None:
    """Write a drafter as vLLM loads it.

    Args:
        folder: must not exist yet.

    Raises:
        DrafterError: the folder is taken, or the disk refused.
    """
    config = {**drafter.describe(), "dtype": str(dtype).removeprefix("torch.")}
    with publish(folder) as draft:
        write_weights(drafter, draft, dtype)
        (draft / _CONFIG).write_text(_pretty(config), encoding="utf-8")
        _write_card(draft, card)


def load_drafter(folder: Path, tables: TargetTables, dtype: torch.dtype = torch.float32) -> tuple[Drafter, DrafterCard]:
    """Read what `save_drafter` wrote, onto the device of `tables`.

    Whether it fits the target is the caller's question: `learners.drafters.fingerprint.mismatch`.

    Raises:
        DrafterError: a file is missing, corrupt or of another layout, or holds values that are not finite; one line
            that names the file.
    """
    card = read_card(folder)
    kind = DRAFTERS[card.fingerprint.kind]
    try:
        drafter = kind.open(_read_json(folder / _CONFIG), tables)
    except (DrafterError, TypeError, ValueError, KeyError) as error:
        raise DrafterError(
            f"{folder / _CONFIG}: no configuration of an {kind.kind} drafter ({first_line(error)})"
        ) from error
    fill(drafter, read_weights(folder / WEIGHTS), folder / WEIGHTS)
    return drafter.cast(dtype).to(tables.embedding.device), card


def read_card(folder: Path) -> DrafterCard:
    """Raises: DrafterError: no readable card; one line that names the file."""
    file = folder / _CARD
    given = _read_json(file)
    version, fingerprint = given.get("version"), given.get("fingerprint")
    if not isinstance(version, int) or not isinstance(fingerprint, dict):
        raise DrafterError(f"{file}: the card of a drafter names its version and its fingerprint")
    try:
        return DrafterCard(PairingFingerprint.from_json(fingerprint), version)
    except DrafterError as error:
        raise DrafterError(f"{file}: {error}") from error


def save_training(state: Mapping[str, Tensor], card: DrafterCard, folder: Path) -> None:
    """Write a trainer's `state`. Only what is trained is in it, so it is small.

    Raises:
        DrafterError: the folder is taken, or the disk refused.
    """
    with publish(folder) as draft:
        save_file(_independent(state), draft / _STATE)
        _write_card(draft, card)


def load_training(folder: Path) -> tuple[dict[str, Tensor], DrafterCard]:
    """Read what `save_training` wrote, for the trainer's `restore`.

    Raises:
        DrafterError: a file is missing or corrupt, or holds values that are not finite; one line that names the file.
    """
    return read_weights(folder / _STATE), read_card(folder)


def read_weights(file: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, checked to be finite.

    Raises:
        DrafterError: one line that names the file.
    """
    try:
        # Not mapped: the file may be replaced or cut short while its tensors live.
        tensors: dict[str, Tensor] = load(file.read_bytes())
    except (OSError, SafetensorError) as error:
        raise DrafterError(f"{file}: not a readable weight file ({first_line(error)})") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise DrafterError(f"{file}: {name} holds values that are not finite")
    return tensors


@torch.no_grad()
def fill(drafter: Drafter, tensors: Mapping[str, Tensor], source: Path | str) -> None:
    """Copy tensors, by the names of `Drafter.trainable`, into the drafter: all or none.

    Args:
        source: where they come from, for messages.

    Raises:
        DrafterError: a name or a shape differs.
    """
    mine = drafter.trainable()
    for name in sorted(mine.keys() | tensors.keys()):
        if name not in mine:
            raise DrafterError(f"{source}: {name} is no tensor of an {drafter.kind} drafter")
        if name not in tensors or tensors[name].shape != mine[name].shape:
            raise DrafterError(f"{source}: no tensor {name} of shape {tuple(mine[name].shape)}")
    for name, tensor in mine.items():
        tensor.copy_(tensors[name])


@contextlib.contextmanager
def publish(folder: Path) -> Iterator[Path]:
    """A draft folder to write into, which becomes `folder` in one rename when the context ends well.

    Raises:
        DrafterError: the folder exists, or the disk refused; nothing is left behind.
    """
    if folder.exists():
        raise DrafterError(f"{folder} exists: name another folder for the drafter")
    draft = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        draft.mkdir(parents=True)
        yield draft
        os.rename(draft, folder)
    except (OSError, SafetensorError) as error:
        raise DrafterError(f"cannot write {folder}: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_weights(drafter: Drafter, folder: Path, dtype: torch.dtype) -> None:
    tensors = {name: tensor.detach().to(dtype) for name, tensor in drafter.trainable().items()}
    save_file(_independent(tensors), folder / WEIGHTS, metadata={"format": "pt"})


def _independent(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU and contiguous, as the file format wants them."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _write_card(folder: Path, card: DrafterCard) -> None:
    content = {"version": card.version, "fingerprint": card.fingerprint.to_json()}
    (folder / _CARD).write_text(_pretty(content), encoding="utf-8")


def _read_json(file: Path) -> dict[str, object]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DrafterError(f"{file}: not a readable JSON file ({first_line(error)})") from error
    if not isinstance(content, dict):
        raise DrafterError(f"{file}: not a JSON object")
    return content


def _pretty(content: Mapping[str, object]) -> str:
    return json.dumps(content, indent=2, sort_keys=True) + "\n"
