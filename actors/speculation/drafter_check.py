"""Looks at a learned drafter's files, and at what is sent to replace them, before an engine loads either.

vLLM would say less, later, and in another process; some things it would not say at all.

Reads the checkpoint's `config.json` and safetensors files; needs neither vLLM nor transformers.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from actors.speculation.settings import LEARNED, SpeculationSettings
from learners.weights import WeightManifest

_FOLLOWING_STATES = 3
"""Hidden states of the target that an EAGLE-3 drafter reads side by side (arXiv 2503.01840), unless it says else."""


def check_drafter(target: str, speculation: SpeculationSettings) -> None:
    """Refuse a drafter that cannot draft for this target.

    Args:
        target: folder of the target's checkpoint.

    Raises:
        ValueError: one line with the reason: files that cannot be read, another vocabulary or width, values that are
            not finite.
    """
    if speculation.kind not in LEARNED or speculation.drafter is None:
        return
    place = f"speculation.drafter={speculation.drafter}"
    drafter_config, target_config = _config(speculation.drafter, place), _config(target, f"model={target}")
    same = ["vocab_size"] if speculation.kind == "draft_model" else ["vocab_size", "hidden_size"]
    for name in same:
        if drafter_config.get(name) != target_config.get(name):
            raise ValueError(
                f"{place}: its {name} is {drafter_config.get(name)}, and the target's is {target_config.get(name)}"
            )
    shapes = tensor_shapes(speculation.drafter)
    if speculation.kind == "eagle3":
        states = drafter_config.get("num_aux_hidden_states") or _FOLLOWING_STATES
        width = target_config.get("hidden_size") or 0
        given = shapes.get("fc.weight")
        if given not in (None, (width, width * states)):
            raise ValueError(f"{place}: fc.weight is {given}, and must be {(width, width * states)}")
    for name, tensor in _tensors(speculation.drafter):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{place}: {name} holds values that are not finite")


def check_manifest(folder: str, manifest: WeightManifest, shared: Collection[str]) -> None:
    """Refuse an update that the drafter would not load, or not wholly: vLLM passes over both in silence.

    Args:
        folder: of the checkpoint that the drafter started from.
        shared: parts, as ``"lm_head"``, that are the target's own.

    Raises:
        ValueError: names that are missing, unknown, of another shape, or the target's.
    """
    loaded = {
        name: shape
        for name, shape in tensor_shapes(folder).items()
        if name != "t2d" and not any(part in name.split(".") for part in shared)
    }
    sent = {spec.name: spec.shape for spec in manifest.tensors}
    wrong = {name for name, shape in sent.items() if loaded.get(name) != shape}
    missing = loaded.keys() - sent.keys() - {"d2t"}
    if wrong or missing:
        raise ValueError(
            f"drafter version {manifest.version} is not what the drafter loads: missing {sorted(missing)}, "
            f"unknown, of another shape or the target's own {sorted(wrong)}"
        )


def tensor_shapes(folder: str) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor in this checkpoint, by name.

    Raises:
        ValueError: there is no file, or one cannot be read.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in _files(folder):
        try:
            with safe_open(file, framework="pt") as tensors:
                shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ValueError(f"speculation.drafter={folder}: {file.name} cannot be read ({error})") from error
    if not shapes:
        raise ValueError(f"speculation.drafter={folder}: its files hold no tensors")
    return shapes


def _tensors(folder: str) -> Iterator[tuple[str, torch.Tensor]]:
    for file in _files(folder):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                yield name, tensors.get_tensor(name)


def _files(folder: str) -> list[Path]:
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise ValueError(f"speculation.drafter={folder}: there is no safetensors file in it")
    return files


def _config(folder: str, place: str) -> Mapping[str, int | None]:
    try:
        config = json.loads((Path(folder) / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{place}: its config.json cannot be read ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{place}: its config.json is no JSON object")
    return config
