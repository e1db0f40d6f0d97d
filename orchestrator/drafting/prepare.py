"""The drafter with which a run begins: a checkpoint that fits the target, or a new one made for it.

Invariant: the folder that comes back holds a drafter that was checked against this target, version 0, in the engines'
dtype; the engines and the trainer start from the same files.
"""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from orchestrator.drafting.settings import SpeculationSection
from orchestrator.errors import SettingError

FIX = "name another drafter, or leave speculation.checkpoint out to start a new one"


def prepare_drafter(
    section: SpeculationSection, model: Path, tokenizer: PreTrainedTokenizerBase, folder: Path, dtype: str
) -> Path | None:
    """Write the first drafter to `folder`; None for kinds without weights.

    Args:
        folder: must not exist yet.
        dtype: ``"bfloat16"`` or ``"float32"``.

    Raises:
        SettingError: the target has no drafter of this kind, or the checkpoint cannot be read or is another target's.
    """
    if section.drafter == "suffix":
        return None
    import torch

    from learners.drafters import kinds  # noqa: F401 - importing it registers all kinds
    from learners.drafters.drafter import DRAFTERS
    from learners.drafters.drafter_files import DrafterCard, load_drafter, save_drafter
    from learners.drafters.errors import DrafterError
    from learners.drafters.fingerprint import PairingFingerprint, identify, mismatch
    from learners.drafters.settings import DrafterSettings
    from learners.drafters.target import DraftTarget

    try:
        target = DraftTarget.of_folder(model)
        tables = target.tables(torch.float32, torch.device("cpu"))
        shapes = {name: tuple(tensor.shape) for name, tensor in target.tensors.items()}
        identity = identify(target.config, shapes, tokenizer)
        if section.checkpoint is None:
            # A kind refuses knobs that are not its own.
            settings = DrafterSettings(kind=section.drafter)
            if section.drafter == "eagle3" and section.fused_layers is not None:
                settings = DrafterSettings(kind=section.drafter, fused_layers=section.fused_layers)
            if section.drafter == "draft_model":
                settings = DrafterSettings(kind=section.drafter, draft_layers=section.draft_layers)
            drafter = DRAFTERS[section.drafter].build(target, settings, tables)
            fingerprint = PairingFingerprint.of(section.drafter, drafter.reads, identity)
        else:
            drafter, card = load_drafter(Path(section.checkpoint), tables)
            fingerprint = card.fingerprint
            if fingerprint.kind != section.drafter:
                kind = fingerprint.kind
                raise SettingError("speculation.drafter", f"the checkpoint holds a drafter of kind {kind}", FIX)
            reason = mismatch(fingerprint, identity)
            if reason is not None:
                raise SettingError("speculation.checkpoint", f"{section.checkpoint}: {reason}", FIX)
        save_drafter(drafter, DrafterCard(fingerprint, 0), folder, getattr(torch, dtype))
    except DrafterError as error:
        raise SettingError("speculation", str(error), FIX) from error
    return folder
