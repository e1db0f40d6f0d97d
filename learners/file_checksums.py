"""Checksums of a checkpoint's files, computed by all ranks together: each reads its share of them.

A disk may give back other bits than it took, and torch does not look. CRC-32 sees every change of up to 32 bits in a
row, and misses one in four billion others.
"""

import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist

from learners.errors import CheckpointError

SUMS = "checksums.json"
_PIECE = 16 * 2**20


def write_checksums(folder: Path, group: dist.ProcessGroup | None) -> None:
    """Note the checksums of all files in `folder`; a collective of `group`.

    Raises:
        CheckpointError: on every rank, where a file could not be read or the note not be written.
    """
    sums, problem = _sums(sorted(file for file in folder.iterdir() if file.is_file()), group)
    if not problem and dist.get_rank() == 0:
        try:
            (folder / SUMS).write_text(json.dumps(sums), encoding="utf-8")
        except OSError as error:
            problem = str(error)
    word = [problem]
    dist.broadcast_object_list(word, src=0, group=group)
    if word[0]:
        raise CheckpointError(word[0])


def check_checksums(folder: Path) -> None:
    """Compare all files with what was noted; a collective.

    Raises:
        CheckpointError: on every rank, where a file is missing or differs.
    """
    try:
        noted: dict[str, int] = json.loads((folder / SUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the checkpoint {folder} is damaged: its {SUMS} cannot be read ({error})") from error
    found, problem = _sums([folder / name for name in sorted(noted)], None)
    wrong = [name for name in sorted(noted) if found.get(name) != noted[name]]
    if problem or wrong:
        raise CheckpointError(f"the checkpoint {folder} is damaged: {problem or f'{wrong[0]} has other bytes'}")


def _sums(files: Sequence[Path], group: dist.ProcessGroup | None) -> tuple[dict[str, int], str]:
    """By file name, and the first problem on any rank; a collective."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    try:
        own: tuple[dict[str, int], str] = ({file.name: _crc(file) for file in files[rank::ranks]}, "")
    except OSError as error:
        own = ({}, str(error))
    parts: list[tuple[dict[str, int], str]] = [own] * ranks
    dist.all_gather_object(parts, own, group=group)
    sums = {name: value for part, _ in parts for name, value in part.items()}
    return sums, next((problem for _, problem in parts if problem), "")


def _crc(file: Path) -> int:
    value = 0
    with file.open("rb") as stream:
        while piece := stream.read(_PIECE):
            value = zlib.crc32(piece, value)
    return value
