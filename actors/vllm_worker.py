"""What runs inside vLLM's worker process: the transfer engines `paceline_gloo` and `paceline_nccl`.

vLLM imports this module in every worker, because `WeightWorker` is named as its `worker_extension_cls`; importing
it registers the engines and readies the process.

Invariants:
- the checksum of each tensor is taken of the bytes as they arrived, before anything is loaded;
- over gloo nothing is loaded until all tensors are there, so a failed transfer leaves the old weights whole
  (`torn_weights`); over NCCL tensors are loaded as they come, so a failed transfer costs the engine;
- after an update every copy that the backend keeps of a weight is new, a tied head's packed copy included;
- an update of the drafter leaves the target's weights alone, also when it fails: what both share goes by the target.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from vllm.config import VllmConfig
from vllm.config.weight_transfer import WeightTransferConfig
from vllm.distributed.weight_transfer import WeightTransferEngine, WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.distributed.weight_transfer.nccl_common import uid_init_process_group
from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_consumer
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.platforms import current_platform
from vllm.v1.spec_decode.llm_base_proposer import SpecDecodeBaseProposer
from vllm.v1.worker.cpu_model_runner import CPUModelRunner
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from actors.engine import ChannelAddress, WeightStream
from actors.speculation.vllm_cpu_remedy import repair_verification
from actors.speculation.vllm_drafting import DeferredDrafting
from actors.speculation.vllm_suffix import SuffixProposer
from actors.speculation.vllm_verification import verify_drafts_alone
from actors.vllm_launch import TIED_HEAD_REMEDY
from actors.weight_channel import NCCL_ID_KEY
from actors.weight_receiver import GlooReceiver
from actors.weight_rendezvous import Rendezvous, WeightTransferError
from learners.weights import TensorSpec, WeightManifest, checksum


@dataclass
class JoinInfo(WeightTransferInitInfo):
    """`ChannelAddress`, as plain fields: vLLM sends it to the workers as a dict."""

    backend: str
    host: str
    port: int
    world_size: int
    timeout_s: float

    @property
    def address(self) -> ChannelAddress:
        return ChannelAddress(
            "nccl" if self.backend == "nccl" else "gloo", self.host, self.port, self.world_size, self.timeout_s
        )


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """`WeightManifest`, as plain fields."""

    version: int
    names: list[str]
    dtypes: list[str]
    shapes: list[list[int]]

    @property
    def manifest(self) -> WeightManifest:
        specs = zip(self.names, self.dtypes, self.shapes, strict=True)
        return WeightManifest(self.version, tuple(TensorSpec(n, d, tuple(s)) for n, d, s in specs))


class AttestingTransferEngine(WeightTransferEngine[JoinInfo, UpdateInfo]):
    """What both transfer engines share: an update session that remembers what arrived."""

    init_info_cls = JoinInfo
    update_info_cls = UpdateInfo

    def __init__(
        self, config: WeightTransferConfig, vllm_config: VllmConfig, device: torch.device, model: torch.nn.Module
    ) -> None:
        super().__init__(config, vllm_config, device, model)
        self.received: dict[str, int] = {}
        self.torn: WeightStream | None = None

    def start_weight_update(self) -> None:
        self.received = {}
        if self.torn == "drafter":
            self.torn = None

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        if current_platform.is_cpu() and self.vllm_config.additional_config.get(TIED_HEAD_REMEDY, True):
            repack_tied_heads(self.model)
        self.torn = None

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """From here to `finish_weight_update` the model is between two versions.

        A failure costs the model its weights. If that is the drafter, what it shares with the target gets its own back.
        """
        self.torn = "target" if self.model is self._default_model else "drafter"
        initialize_layerwise_reload(self.model)
        try:
            yield
        except BaseException:
            if self.torn == "drafter":
                finalize_layerwise_reload(self.model, self.model_config)
            raise

    def load(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Note what arrived, and hand it to the model's own loader."""
        named = list(tensors)
        self.received |= {name: checksum(tensor) for name, tensor in named}
        self.model.load_weights(named)

    def rank(self) -> int:
        """This worker's rank on the channel; the sender is 0."""
        return int(self.parallel_config.data_parallel_index * self.parallel_config.world_size) + int(
            self.parallel_config.rank + 1
        )


class GlooTransferEngine(AttestingTransferEngine):
    """Receives over gloo into CPU memory."""

    _receiver: GlooReceiver | None = None

    def init_transfer_engine(self, init_info: JoinInfo) -> None:
        self.shutdown()
        self._receiver = GlooReceiver(init_info.address, self.rank())

    def update_weights(self, update_info: dict[str, object]) -> None:
        # The base class ends with an accelerator's synchronize, which a CPU build does not have.
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: UpdateInfo) -> None:
        if self._receiver is None:
            raise WeightTransferError("no weight channel is open")
        tensors = self._receiver.receive(update_info.manifest)
        with self.loading():
            self.load((name, tensor.to(self.device)) for name, tensor in tensors)

    def shutdown(self) -> None:
        self._receiver = None


class NcclTransferEngine(AttestingTransferEngine):
    """Receives over NCCL into GPU memory, packed as vLLM's own engine does, and loads while the next chunk flies."""

    _rendezvous: Rendezvous | None = None

    def init_transfer_engine(self, init_info: JoinInfo) -> None:
        self.shutdown()
        rendezvous = Rendezvous.join(init_info.address)
        token = bytes.fromhex(rendezvous.store.get(NCCL_ID_KEY).decode())
        device = torch.accelerator.current_device_index()
        self._group = uid_init_process_group(token, self.rank(), init_info.world_size, device)
        self._rendezvous = rendezvous

    def receive_weights(self, update_info: UpdateInfo) -> None:
        if self._rendezvous is None:
            raise WeightTransferError("no weight channel is open")
        manifest = update_info.manifest
        self._rendezvous.expect(manifest, self.rank())
        with self.loading():
            packed_nccl_broadcast_consumer(
                iterator=((spec.name, (list(spec.shape), getattr(torch, spec.dtype))) for spec in manifest.tensors),
                group=self._group,
                src=0,
                post_unpack_func=self.load,
                device=self.device,
            )
        self._rendezvous.confirm(self.rank())

    def shutdown(self) -> None:
        if self._rendezvous is not None:
            self._group.destroy()
            self._rendezvous = None


class WeightWorker:
    """Mixed into vLLM's worker: what the engine asks of it through `collective_rpc`."""

    weight_transfer_engine: AttestingTransferEngine
    model_runner: GPUModelRunner
    drafting: DeferredDrafting | None = None

    def defer_drafting(self, retained_bytes: int) -> bool:
        """Make steps without drafts nearly free, where this is the model runner that `DeferredDrafting` knows."""
        runner = self.model_runner
        if isinstance(runner, CPUModelRunner) and isinstance(runner.drafter, SpecDecodeBaseProposer):
            self.drafting = DeferredDrafting(runner, retained_bytes)
        return self.drafting is not None

    def read_along(self, always: bool) -> None:
        """Let the drafter read along in every step, as in vLLM itself; for tests and measurements of the difference."""
        if self.drafting is not None:
            self.drafting.defer = not always

    def drafting_trouble(self) -> str | None:
        """Why nothing is drafted although it is asked for; None while all is well."""
        drafter = self.drafting or getattr(self.model_runner, "drafter", None)
        return drafter.trouble if isinstance(drafter, DeferredDrafting | SuffixProposer) else None

    def drafter_renewed(self, trouble: str | None) -> None:
        """The drafter has new weights, or, if there was trouble, a mixture of old and new ones."""
        if self.drafting is not None:
            self.drafting.weights_renewed(trouble)

    def shared_with_target(self) -> list[str]:
        """The drafter's parts, of ``"embed_tokens"`` and ``"lm_head"``, that are the target's own."""
        target = {id(module) for module in self.model_runner.get_model().modules()}
        drafter = self.model_runner.get_draft_model().named_modules()
        shared = {name.rpartition(".")[2] for name, module in drafter if id(module) in target}
        return sorted(shared & {"embed_tokens", "lm_head"})

    def received_checksums(self) -> dict[str, int]:
        """Checksum of each tensor of the last update, as it arrived at this worker."""
        return self.weight_transfer_engine.received

    def torn_weights(self) -> WeightStream | None:
        """Which model holds a mixture of two sets of weights, if the last update failed half-way."""
        return self.weight_transfer_engine.torn


def _share_lacking_part(share: Callable[[SpecDecodeBaseProposer, torch.nn.Module], None], own: str) -> None:
    """Let a drafter share a part with the target only if its checkpoint lacks that part.

    vLLM also shares a part that merely equals the target's at the start, as the copied head of a fresh EAGLE-3 drafter
    does. The head would then be no longer the drafter's, and an update of the drafter would overwrite the target's.
    """

    def share_if_lacking(proposer: SpecDecodeBaseProposer, target: torch.nn.Module) -> None:
        if not getattr(proposer.model, own, False):
            share(proposer, target)

    setattr(SpecDecodeBaseProposer, share.__name__, share_if_lacking)


def repack_tied_heads(model: torch.nn.Module) -> None:
    """Renew the packed copy that the CPU backend keeps of an output head that shares the embedding's weight.

    A layer-wise reload repacks a layer when its weights are loaded. A tied head has none of its own: its weight is
    the embedding's, so it is new, while the matrix product goes on with the packed copy of the old one.
    """
    embeddings = {
        module.weight.data_ptr()
        for module in model.modules()
        if isinstance(module, VocabParallelEmbedding) and not isinstance(module, ParallelLMHead)
    }
    for module in model.modules():
        if isinstance(module, ParallelLMHead) and module.weight.data_ptr() in embeddings:
            dispatch_cpu_unquantized_gemm(module, remove_weight=False)


if torch.cpu._is_amx_tile_supported():
    # vLLM's bfloat16 attention uses AMX tiles, for which Linux wants a process to ask. Nothing in vLLM asks: the first
    # large matrix product does so in passing. The profiling run used to be that product, and is skipped.
    torch.cpu._init_amx()
WeightTransferEngineFactory.register_engine("paceline_gloo", GlooTransferEngine)
WeightTransferEngineFactory.register_engine("paceline_nccl", NcclTransferEngine)
_share_lacking_part(SpecDecodeBaseProposer._maybe_share_embeddings, "has_own_embed_tokens")
_share_lacking_part(SpecDecodeBaseProposer._maybe_share_lm_head, "has_own_lm_head")
if current_platform.is_cpu():
    repair_verification()
    verify_drafts_alone()
