"""The backend over DeepSpeed's ZeRO-2 and ZeRO-3, tested with DeepSpeed 0.19 over gloo on CPUs.

What DeepSpeed does of its own accord, and what is done about it here:
- it divides by a fixed number of micro-batches and, in ZeRO-3, by that of ranks: the caller owns the accumulation
  (`managed_gradient_accumulation`), ZeRO-2 sums, and the divisor that `update` is given takes ZeRO-3's ranks into
  account. The divisor travels as the loss scale, by which DeepSpeed divides gradients and norm before it clips;
- its masters are made of weights that were narrowed to the compute dtype before: the true ones are written over them;
- it makes optimizer state at the first step: a checkpoint of step 0 needs it before;
- it takes its process group for a copy of the world's with a timeout of its own: it is given the world's, so that the
  learner's deadline holds;
- on a CPU it compiles a shared-memory collective when it starts, and starts a program at every reduction to count
  sockets: it is told that no operator can be compiled, and that there is one;
- ZeRO-3 replaces `torch.nn.functional.linear` for the whole process unless it is told not to;
- its own checkpoints cannot be loaded by every other number of ranks: whole tensors are cut into rows instead, the
  same as FSDP2's, so that a run may go on over the other backend too.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from learners.logprobs import TokenLogprobs
from learners.optimizer import adamw, warm_up
from learners.packing import PackedSequences
from learners.policy import Policy, own_state
from learners.settings import TrainerSettings

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

BUCKET_ELEMENTS = 50_000_000
"""Gradients that are reduced at once: 200 MB in float32."""
MOMENTS = ("exp_avg", "exp_avg_sq")


class BackendError(RuntimeError):
    """The chosen backend cannot serve this learner; one line for the user."""


class ZeroBackend:
    """See `learners.backend`; what `parameters` and `training_state` give are copies.

    Raises:
        BackendError: DeepSpeed is not installed, or was set up for another device in this process; or parts of the
            policy are frozen.
    """

    def __init__(self, policy: Policy, trainer: TrainerSettings, mesh: DeviceMesh, dtype: torch.dtype) -> None:
        if not all(value.requires_grad for value in policy.parameters()):
            raise BackendError("trainer.backend=deepspeed trains whole models, but parts are frozen; set it to fsdp2")
        _prepare(mesh.device_type)
        from learners.zero_stages import stage_of

        self._policy = policy
        self._trainer = trainer
        self._mesh = mesh
        self._dtype = dtype
        self._parameters = dict(policy.model.named_parameters())
        true = {name: self._rows(value.detach()) for name, value in self._parameters.items()}
        self._adamw = adamw(list(self._parameters.values()), trainer)
        self._engine = _engine(policy, self._adamw, trainer, dtype)
        self._stage = stage_of(self._engine)
        self._steps = torch.zeros((), dtype=torch.int64)
        self._make_optimizer_state()
        self.accept_parameters(true)

    def forward(
        self,
        packed: PackedSequences,
        positions: Tensor | None = None,
        temperature: float = 1.0,
        moments: bool = False,
        attention: bool = False,
    ) -> TokenLogprobs:
        seen: TokenLogprobs = self._engine(packed, positions, temperature, moments, attention)
        return seen

    @torch.no_grad()
    def forward_only(
        self,
        packed: PackedSequences,
        positions: Tensor | None = None,
        temperature: float = 1.0,
        moments: bool = False,
        attention: bool = False,
    ) -> TokenLogprobs:
        try:
            return self.forward(packed, positions, temperature, moments, attention)
        finally:
            self._stage.release()

    def backward(self, loss: Tensor) -> None:
        self._engine.backward(loss)

    def begin_step(self) -> None:
        self._steps += 1
        for group in self._adamw.param_groups:
            group["lr"] = self._trainer.learning_rate * warm_up(self.steps, self._trainer)

    def update(self, divisor: float) -> float:
        averaged = dist.get_world_size() if self._engine.gradient_average else 1
        self._engine.optimizer.loss_scale = divisor / averaged
        self._engine.step()
        self._engine.optimizer.loss_scale = 1.0
        self.discard()
        return float(self._engine.get_global_grad_norm())

    def discard(self) -> None:
        self._stage.drop_gradients()

    @property
    def steps(self) -> int:
        return int(self._steps)

    @property
    def learning_rate(self) -> float:
        return float(self._adamw.param_groups[0]["lr"])

    def parameters(self) -> Mapping[str, Tensor]:
        return {name: self._rows(self._stage.read(value)) for name, value in self._parameters.items()}

    def accept_parameters(self, parameters: Mapping[str, Tensor]) -> None:
        for name, rows in parameters.items():
            self._stage.write(self._parameters[name], _whole(rows))
        self._stage.publish()

    def training_state(self) -> Mapping[str, Tensor]:
        masters = self.parameters()
        state = {
            f"model.{name}": masters.get(name, value.detach()) for name, value in own_state(self._policy.model).items()
        }
        state["optimizer.steps"] = self._steps
        # All pieces have made the same number of updates.
        made = self._adamw.state[self._stage.masters()[0]]["step"]
        for name, value in self._parameters.items():
            state[f"optimizer.step.{name}"] = made.clone()
            for key in MOMENTS:
                state[f"optimizer.{key}.{name}"] = self._rows(self._stage.read(value, key))
        return state

    def accept_training_state(self, state: Mapping[str, Tensor]) -> None:
        self.accept_parameters({name: state[f"model.{name}"] for name in self._parameters})
        for name, value in self._parameters.items():
            for key in MOMENTS:
                self._stage.write(value, _whole(state[f"optimizer.{key}.{name}"]), key)
        made = state[f"optimizer.step.{next(iter(self._parameters))}"]
        for piece in self._stage.masters():
            self._adamw.state[piece]["step"].copy_(made)

    def full_weights(self, *, keep: bool) -> dict[str, Tensor]:
        full = {}
        for name, value in own_state(self._policy.model).items():
            parameter = self._parameters.get(name)
            whole = value.detach().clone() if parameter is None else self._stage.weight(parameter)
            if keep:
                full[name] = whole.to(self._dtype) if whole.is_floating_point() else whole
        return full

    def _rows(self, whole: Tensor) -> Tensor:
        """This rank's, as FSDP2 deals them out; a copy."""
        rows = distribute_tensor(whole, self._mesh, [Shard(0)], src_data_rank=None)
        own = rows.to_local().clone()
        return DTensor.from_local(own, self._mesh, [Shard(0)], shape=whole.shape, stride=whole.stride())

    def _make_optimizer_state(self) -> None:
        for piece in self._stage.masters():
            self._adamw.state[piece] = {
                "step": torch.zeros((), dtype=torch.float32, device=piece.device),
                **{key: torch.zeros_like(piece, requires_grad=False) for key in MOMENTS},
            }
        link = getattr(self._engine.optimizer, "_lazy_init_hp_params_optimizer_state", None)
        if link is not None:
            # ZeRO-2 notes the place of each parameter's state in the flat one when the state is made.
            link()


def _prepare(device_type: str) -> None:
    """Import DeepSpeed for this device.

    Raises:
        BackendError: see `ZeroBackend`.
    """
    os.environ.setdefault("DS_ACCELERATOR", device_type)
    index = torch.cuda.current_device() if device_type == "cuda" else 0
    # The place of this rank's device among those that its process sees.
    os.environ["LOCAL_RANK"] = str(index)
    try:
        import deepspeed
    except ImportError as error:
        raise BackendError(
            f"trainer.backend=deepspeed: the package deepspeed cannot be imported ({error}); install it with "
            f"`pip install 'paceline[deepspeed]'`, or set trainer.backend=fsdp2"
        ) from error
    served = deepspeed.get_accelerator().device_name()
    if served != device_type:
        raise BackendError(
            f"trainer.backend=deepspeed: DeepSpeed serves {served} in this process and not {device_type}; "
            f"set DS_ACCELERATOR={device_type}"
        )
    if device_type == "cpu":
        os.environ.setdefault("LOCAL_SIZE", "1")
        deepspeed.ops.__compatible_ops__ = {}
    deepspeed.utils.groups._WORLD_GROUP = dist.group.WORLD


def _engine(
    policy: Policy, optimizer: torch.optim.Optimizer, trainer: TrainerSettings, dtype: torch.dtype
) -> "DeepSpeedEngine":
    import deepspeed

    stage = trainer.zero_stage or 3
    bucket = min(BUCKET_ELEMENTS, sum(value.numel() for value in policy.parameters()))
    engine, *_ = deepspeed.initialize(
        model=policy,
        optimizer=optimizer,
        config={
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "managed_gradient_accumulation": False,
            "gradient_allreduce_op": "sum" if stage == 2 else "mean",
            "gradient_clipping": trainer.max_grad_norm,
            "communication_data_type": "fp32",
            "data_types": {"grad_accum_dtype": "fp32"},
            "bf16": {"enabled": dtype is torch.bfloat16, "check_grad_overflow": True},
            "steps_per_print": None,
            "zero_optimization": {
                "stage": stage,
                "overlap_comm": False,
                "reduce_bucket_size": bucket,
                "stage3_param_persistence_threshold": 0,
                "memory_efficient_linear": False,
            },
        },
    )
    if stage == 3:
        # The policy multiplies with the head's weight itself: see `Policy`.
        deepspeed.zero.register_external_parameter(policy, policy.model.get_output_embeddings().weight)
    return engine


def _whole(rows: Tensor) -> Tensor:
    return rows.full_tensor() if isinstance(rows, DTensor) else rows
