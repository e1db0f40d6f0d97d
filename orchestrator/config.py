"""The recipe: one YAML file, one frozen pydantic model. Each package owns its section; this module joins them."""

from typing import Literal

from pydantic import Field

from actors.settings import RolloutSettings, WeightSyncSettings
from learners.settings import AlgorithmSettings, Section, TrainerSettings
from orchestrator.data.prompts import DataSettings
from orchestrator.drafting.settings import SpeculationSection
from orchestrator.policies.keep import KeepSettings
from orchestrator.policies.pairs import PairSettings
from orchestrator.stages.kinds import RolloutKind
from orchestrator.storage.settings import StorageSettings
from orchestrator.topology import Topology
from rewards.settings import RewardSettings

STARTER = "starter"
"""The model of this name is made on the spot."""


class EvalSettings(Section):
    """Held-out accuracy: share of answers whose first reward term is at least `correct_at`."""

    every: int = Field(0, ge=0)
    """Steps between evaluations; 0 evaluates at the start and the end alone."""
    temperature: float = Field(0.0, ge=0)
    """0 is greedy."""
    samples: int = Field(1, ge=1)
    """Answers per held-out prompt."""
    correct_at: float = 1.0


class TrackingSettings(Section):
    wandb: bool = False
    """Log to Weights & Biases; `WANDB_MODE=offline` works without a network."""
    tensorboard: bool = False
    project: str = "paceline"
    samples_every: int = Field(5, ge=1)
    """Steps between the batches whose answers are written to samples/."""


class RaySettings(Section):
    address: str | None = None
    """Cluster to join; None starts Ray on this machine for the length of the run."""
    object_store_mb: int = Field(256, ge=80)
    """Object store of the Ray started here; a joined cluster keeps its own."""
    room_timeout_s: float = Field(300.0, gt=0)
    """How long a cluster may take to have room for the topology: until others have ended, or nodes have come."""
    grows: bool = False
    """Nodes come as they are wanted. Off: a topology that is beyond the nodes of today is refused at once."""
    metrics_port: int | None = Field(None, ge=1024, le=65535)
    """Where the Ray started here answers Prometheus; None takes any free port. A joined cluster keeps its own."""


class Recipe(Section):
    name: str
    kind: RolloutKind = "rl"
    """What is made of the answers: see `orchestrator.stages.kinds`."""
    seed: int = 0
    deterministic: bool = False
    """Two runs of this recipe on machines of one kind, or a run and its resumed half, make the same bits. Synchronous
    runs alone; slower, because no answer may feel what is computed beside it."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    topology: Topology = Topology()
    """How many of each role there are, and what each takes of the machine or the cluster."""
    model: str
    """Folder, address in storage (`s3://...`) or Hugging Face id of a causal LM; `starter` makes and caches the small
    model of the quickstart."""
    run_dir: str | None = None
    """Where the run is written, a folder or an address in storage (`s3://bucket/runs/mine`); None makes
    runs/<name>-<time>. What exists is never overwritten."""
    storage: StorageSettings = StorageSettings()
    data: DataSettings
    rollout: RolloutSettings = RolloutSettings()
    reward: RewardSettings
    algorithm: AlgorithmSettings = AlgorithmSettings()
    keep: KeepSettings | None = None
    """Of `kind: rejection`: the answers that are trained on."""
    pairs: PairSettings | None = None
    """Of `kind: preference`: the answers that are compared."""
    trainer: TrainerSettings = TrainerSettings()
    weight_sync: WeightSyncSettings = WeightSyncSettings()
    speculation: SpeculationSection | None = None
    """None decodes token by token. One word stands for settings: `adaptive`, `suffix` or `off`."""
    eval: EvalSettings = EvalSettings()
    tracking: TrackingSettings = TrackingSettings()
    ray: RaySettings = RaySettings()
