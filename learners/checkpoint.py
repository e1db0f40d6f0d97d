"""Checkpoints of a sharded training state with torch.distributed.checkpoint, written whole or not at all.

All ranks call, all ranks write their shards into a draft folder on a file system they share; rank 0 renames
it when everybody is done. Tensors are saved by name as DTensors, so another number of ranks may load them.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message is one line for the user."""


def save_sharded(state: Mapping[str, Tensor], folder: Path) -> None:
    """Write `folder`, which must not exist yet.

    Raises:
        CheckpointError: on every rank, where any rank failed; nothing is left behind.
    """
    leads = dist.get_rank() == 0
    draft = folder.parent / f".{folder.name}.partial"
    problem = ""
    if leads:
        problem = _open_draft(folder, draft)
    _agree(problem, folder)
    try:
        dcp.save(dict(state), checkpoint_id=draft)
    except CheckpointException as failure:
        if leads:
            shutil.rmtree(draft, ignore_errors=True)
        reasons = "; ".join(sorted({str(cause) for cause, _ in failure.failures.values()}))
        raise CheckpointError(f"cannot write the checkpoint {folder}: {reasons}") from failure
    if leads:
        try:
            os.rename(draft, folder)
        except OSError as error:
            problem = str(error)
            shutil.rmtree(draft, ignore_errors=True)
    _agree(problem, folder)


def load_sharded(state: Mapping[str, Tensor], folder: Path) -> None:
    """Fill the tensors of `state` in place.

    Raises:
        CheckpointError: no checkpoint there, or one of another model.
    """
    if not (folder / ".metadata").is_file():
        raise CheckpointError(f"{folder} holds no checkpoint: name a folder that a run has written")
    try:
        dcp.load(dict(state), checkpoint_id=folder)
    except CheckpointException as failure:
        reasons = "; ".join(sorted({str(cause) for cause, _ in failure.failures.values()}))
        raise CheckpointError(f"cannot read the checkpoint {folder}: {reasons}") from failure


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


def _agree(problem: str, folder: Path) -> None:
    """Rank 0's problem becomes everybody's; a collective."""
    word = [problem]
    dist.broadcast_object_list(word, src=0)
    if word[0]:
        raise CheckpointError(f"cannot write the checkpoint {folder}: {word[0]}")
