"""Checkpoints of a sharded training state with torch.distributed.checkpoint, written whole or not at all.

All ranks call, all ranks write their shards into a draft folder on a file system they share; rank 0 renames
it when everybody is done. Tensors are saved by name as DTensors, so another number of ranks may load them.
"""

import os
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from learners.checkpoint_contents import ContentsReader
from learners.errors import CheckpointError, first_line
from learners.file_checksums import check_checksums, write_checksums

UNREADABLE = (
    OSError,
    EOFError,
    pickle.UnpicklingError,
    AttributeError,
    ImportError,
    LookupError,
    TypeError,
    ValueError,
)
"""What a damaged pickle may raise."""


def save_sharded(state: Mapping[str, Tensor], folder: Path, group: dist.ProcessGroup | None = None) -> None:
    """Write `folder`, which must not exist yet.

    Args:
        group: of all ranks, for the collectives of the write; None is the default group.

    Raises:
        CheckpointError: on every rank, where any rank failed; nothing is left behind.
    """
    leads = dist.get_rank() == 0
    draft = folder.parent / f".{folder.name}.partial"
    problem = ""
    if leads:
        problem = _open_draft(folder, draft)
    _agree(problem, folder, group)
    try:
        _write(state, draft, group)
    except CheckpointError as failure:
        if leads:
            shutil.rmtree(draft, ignore_errors=True)
        raise CheckpointError(f"cannot write the checkpoint {folder}: {failure}") from failure
    if leads:
        try:
            os.rename(draft, folder)
        except OSError as error:
            problem = str(error)
            shutil.rmtree(draft, ignore_errors=True)
    _agree(problem, folder, group)


def load_sharded(state: Mapping[str, Tensor], folder: Path) -> None:
    """Fill the tensors of `state` in place.

    Raises:
        CheckpointError: no checkpoint there, a damaged one, or one of another model: then nothing was filled.
    """
    if not (folder / ".metadata").is_file():
        raise CheckpointError(f"{folder} holds no checkpoint: name a folder that a run has written")
    check_checksums(folder)
    difference = _difference(_saved_shapes(folder), state)
    if difference:
        raise CheckpointError(f"the checkpoint {folder} is another model's or another recipe's: {difference}")
    try:
        dcp.load(dict(state), storage_reader=ContentsReader(folder))
    except CheckpointException as failure:
        raise CheckpointError(f"cannot read the checkpoint {folder}: {_reasons(failure)}") from failure


def _write(state: Mapping[str, Tensor], draft: Path, group: dist.ProcessGroup | None) -> None:
    try:
        dcp.save(dict(state), checkpoint_id=draft, process_group=group)
    except CheckpointException as failure:
        raise CheckpointError(_reasons(failure)) from failure
    write_checksums(draft, group)


def _saved_shapes(folder: Path) -> dict[str, torch.Size]:
    """Of each tensor in the checkpoint."""
    try:
        saved = ContentsReader(folder).read_metadata().state_dict_metadata
    except UNREADABLE as error:
        raise CheckpointError(f"the checkpoint {folder} is damaged: its .metadata cannot be read ({error})") from error
    return {name: entry.size for name, entry in saved.items() if isinstance(entry, TensorStorageMetadata)}


def _difference(saved: Mapping[str, torch.Size], state: Mapping[str, Tensor]) -> str:
    """What does not fit, in a few words; empty where all does. A tensor too many counts: it would be left out."""
    for name, tensor in state.items():
        if name not in saved:
            return f"it lacks {name}"
        if saved[name] != tensor.shape:
            return f"its {name} is {list(saved[name])}, and {list(tensor.shape)} is needed"
    extra = [name for name in saved if name not in state]
    return f"it has {extra[0]}, which nothing here takes" if extra else ""


def _reasons(failure: CheckpointException) -> str:
    return "; ".join(sorted({first_line(cause) for cause, _ in failure.failures.values()}))


def _open_draft(folder: Path, draft: Path) -> str:
    if folder.exists():
        return "it exists already"
    try:
        # A draft that lies there belongs to a run that died while writing.
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
    except OSError as error:
        return str(error)
    return ""


def _agree(problem: str, folder: Path, group: dist.ProcessGroup | None) -> None:
    """Rank 0's problem becomes everybody's; a collective."""
    word = [problem]
    dist.broadcast_object_list(word, src=0, group=group)
    if word[0]:
        raise CheckpointError(f"cannot write the checkpoint {folder}: {word[0]}")
