"""A run's drafter in the `speculators` format, for servers that load a drafter by its path alone."""

from pathlib import Path

from orchestrator.errors import SettingError
from orchestrator.run_layout import MODEL, TRAINED_DRAFTER


def export_drafter(run: Path, out: Path, *, target: str | None, draft_tokens: int) -> str:
    """Write the drafter that served at the end of a run.

    Args:
        run: folder of a finished run.
        out: folder to write; it must not exist yet.
        target: model that a server shall load beside the drafter, as a folder or hub id; None is the run's own.
        draft_tokens: that a server shall draft at a time.

    Returns:
        The name of the target in the written folder.

    Raises:
        SettingError: no such drafter or model, a kind that has no such format, or a folder that cannot be written.
    """
    import torch
    from transformers import AutoConfig

    from learners.drafters import kinds  # noqa: F401 - importing it registers all kinds
    from learners.drafters.drafter_files import load_drafter
    from learners.drafters.errors import DrafterError
    from learners.drafters.speculators_export import export_speculators
    from learners.drafters.target import DraftTarget

    model, drafter = run / MODEL, run / TRAINED_DRAFTER
    for folder in (model, drafter):
        if not folder.is_dir():
            raise SettingError("run", f"{folder} is not there", "name a finished run whose drafter learned")
    named = target or str(model.resolve())
    try:
        tables = DraftTarget.of_folder(model).tables(torch.float32, torch.device("cpu"))
        loaded, _ = load_drafter(drafter, tables)
        config = AutoConfig.from_pretrained(model)
        export_speculators(loaded, out, torch.bfloat16, target=named, target_config=config, draft_tokens=draft_tokens)
    except (DrafterError, OSError) as error:
        raise SettingError("out", str(error), "see docs/speculation.md for what can be exported") from error
    return named
