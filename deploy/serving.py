"""What a judge that is a service of its own is told; free of Ray, so that manifests can be made without it."""

from pydantic import Field

from orchestrator.topology import JudgePlaces
from rewards.models.settings import ModelSettings
from rewards.section import Section

KEY_VARIABLE = "PACELINE_JUDGE_KEY"
"""Environment variable with the key that whoever asks must bear."""


class JudgeArguments(Section):
    """Arguments of the Serve application `deploy.judge_service:app`."""

    model: ModelSettings
    places: JudgePlaces = JudgePlaces()
    replicas: int = Field(1, ge=1)
