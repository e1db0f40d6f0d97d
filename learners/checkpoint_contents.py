"""Reads the table of contents of a sharded checkpoint, and runs nothing that stands in it.

torch writes the table (`.metadata`) as a pickle and reads it by `pickle.load`, which calls whatever the file names:
who can change a checkpoint in storage would run code in the learner. Here a name is looked up in a list of what torch
itself writes for tensors, and any other is refused. Entries that are no tensors are not on the list: torch would read
them by `torch.load(weights_only=False)`. The shards hold tensors alone, which torch reads with `weights_only=True`.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

WRITTEN: Mapping[str, frozenset[str]] = {
    "torch.distributed.checkpoint.metadata": frozenset(
        (
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        )
    ),
    "torch.distributed.checkpoint.filesystem": frozenset(("_StorageInfo",)),
    "torch.serialization": frozenset(("_get_layout",)),
    "torch": frozenset(("Size",)),
    "pathlib": frozenset(("PosixPath", "PurePosixPath")),
    "pathlib._local": frozenset(("PosixPath", "PurePosixPath")),
}
"""What torch writes for tensors, by module; and any dtype."""


class _Contents(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if name in WRITTEN.get(module, ()):
            return super().find_class(module, name)
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no table of tensors does: it is refused unrun")


class ContentsReader(dcp.FileSystemReader):
    """Reads a checkpoint's tensors, its table of contents by the list above."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._table = folder / ".metadata"

    def read_metadata(self, *args: object, **kwargs: object) -> Metadata:
        """Raises: OSError, pickle.UnpicklingError and what else a damaged pickle may raise."""
        with self._table.open("rb") as file:
            metadata = _read(file)
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


def _read(file: IO[bytes]) -> Metadata:
    table = _Contents(file).load()
    if not isinstance(table, Metadata):
        raise pickle.UnpicklingError("it holds no table of tensors")
    return table
