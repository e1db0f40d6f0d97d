"""Drafting inside vLLM's worker, on the CPU: nearly free while nothing is drafted, harmless when the drafter is broken.

vLLM 0.32 runs the drafter's forward pass in every step, also when no draft is wanted, so that the drafter's KV keeps
up with the target's. `DeferredDrafting` replaces `propose_draft_token_ids` of vLLM's model runner: in a step that wants
no draft it keeps what the drafter would have read (the target's hidden states, by reference, and the token ids), and
the drafter reads all of it in one packed pass before the next draft. Prompts that fill a block of the KV cache are read
by the drafter at once: such blocks are shared through the prefix cache, and the answer that computed them may be over
before the first draft.

Invariants:
- a drafted token was drafted over the same drafter KV that vLLM's own way would have written, apart from rounding. Two
  things leave gaps in it, which cost acceptance alone: a request that waits, preempted, while the drafter catches up
  for the others; and, as in vLLM itself, the last few tokens before the end of the context;
- what waits never exceeds the bound in bytes: at the bound the drafter reads it. What waits for an answer that
  ended is dropped, and so is what a recomputation or preemption made obsolete;
- exactness depends on none of this: the target verifies every draft;
- logits of the drafter that are not finite never become a draft. From then on nothing is drafted, and `trouble` says
  why, until new drafter weights come; then the drafter's KV, which may hold such values, is blanked;
- an error of the drafter's own pass costs drafts and no answer: it is trouble of the same sort.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from vllm.config import CUDAGraphMode
from vllm.forward_context import set_forward_context
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.spec_decode.llm_base_proposer import SpecDecodeBaseProposer
from vllm.v1.spec_decode.metadata import SpecDecodeMetadata
from vllm.v1.worker.cpu_model_runner import CPUModelRunner

from learners.errors import first_line

NO_DRAFTS = "nothing is drafted until it gets new weights"
NOT_FINITE = f"the drafter computed logits that are not finite: {NO_DRAFTS}"


@dataclass(slots=True)
class _Waiting:
    """One request's positions that the drafter has not read: `start`, `start + 1`, ... and where their rows lie."""

    start: int
    rows: list[int] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.start + len(self.rows)


class Backlog:
    """What the drafter has not read yet, of all requests: rows of inputs, and which positions they belong to."""

    def __init__(self) -> None:
        self._waiting: dict[str, _Waiting] = {}
        self._inputs: list[torch.Tensor] = []
        self._hidden: list[Sequence[torch.Tensor]] = []
        self.rows = 0
        """Rows held, those of requests that ended included: they go with the next `clear`."""

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._waiting

    def add(self, spans: Sequence[tuple[str, int, int]], inputs: torch.Tensor, hidden: Sequence[torch.Tensor]) -> None:
        """Append rows; `spans` names request, first position and count of each run of them."""
        row = self.rows
        for request_id, start, count in spans:
            waiting = self._waiting.get(request_id)
            if waiting is None or waiting.end != start:
                waiting = self._waiting[request_id] = _Waiting(start)
            waiting.rows.extend(range(row, row + count))
            row += count
        self._inputs.append(inputs)
        self._hidden.append(hidden)
        self.rows = row

    def forget(self, request_id: str) -> None:
        self._waiting.pop(request_id, None)

    def rewind(self, request_id: str, position: int) -> None:
        """The target computes this request anew from `position` on: what waits from there is obsolete."""
        waiting = self._waiting.get(request_id)
        if waiting is not None and position < waiting.end:
            del waiting.rows[max(position - waiting.start, 0) :]
            if not waiting.rows:
                del self._waiting[request_id]

    def of(self, request_id: str) -> tuple[int, list[int]]:
        """First position and rows of what waits for this request."""
        waiting = self._waiting[request_id]
        return waiting.start, waiting.rows

    def gather(self, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """[len(rows)] inputs and [len(rows), width] hidden states, the drafter's layers side by side."""
        index = torch.tensor(rows)
        inputs = torch.cat(self._inputs)[index]
        layers = [torch.cat(steps)[index] for steps in zip(*self._hidden, strict=True)]
        return inputs, torch.cat(layers, dim=-1) if layers else None

    def clear(self) -> None:
        """Drop all, also of requests that are not running at the moment."""
        self._waiting.clear()
        self._inputs.clear()
        self._hidden.clear()
        self.rows = 0


@dataclass(frozen=True, slots=True)
class _Step:
    """What a step of the target computed, as far as the drafter reads it."""

    scheduled: SchedulerOutput
    request_ids: list[str]
    starts: list[int]
    counts: list[int]
    sampled: torch.Tensor
    hidden: Sequence[torch.Tensor]
    metadata: CommonAttentionMetadata

    @property
    def prefilling(self) -> frozenset[int]:
        """Indices of requests that read more than a token and its draft."""
        if self.scheduled.total_num_scheduled_tokens == len(self.request_ids):
            return frozenset()
        drafts = self.scheduled.scheduled_spec_decode_tokens
        return frozenset(i for i, r in enumerate(self.request_ids) if self.counts[i] > 1 + len(drafts.get(r, ())))


class DeferredDrafting:
    """Replaces the runner's `propose_draft_token_ids`; see the module's docstring.

    Attributes:
        trouble: why nothing is drafted although drafts are asked for; None while all is well.
        defer: off, vLLM's own way: the drafter reads along in every step.
    """

    def __init__(self, runner: CPUModelRunner, retained_bytes: int) -> None:
        self._runner = runner
        self._proposer: SpecDecodeBaseProposer = runner.drafter
        self._propose_as_vllm = runner.propose_draft_token_ids
        self._compute_logits = self._proposer.model.compute_logits
        self._retained_bytes = retained_bytes
        self._backlog = Backlog()
        self.trouble: str | None = None
        self.defer = True
        runner.propose_draft_token_ids = self.propose
        self._proposer.model.compute_logits = self._checked_logits

    def propose(
        self,
        scheduler_output: SchedulerOutput,
        sampled_token_ids: torch.Tensor,
        sampling_metadata: SamplingMetadata,
        hidden_states: torch.Tensor,
        sample_hidden_states: torch.Tensor,
        aux_hidden_states: list[torch.Tensor] | None,
        spec_decode_metadata: SpecDecodeMetadata | None,
        common_attn_metadata: CommonAttentionMetadata,
        slot_mappings: object,
    ) -> torch.Tensor | list[list[int]]:
        """[requests, drafted tokens], as vLLM's own method returns them; without any, as drafters on the host do."""
        if self.trouble is not None:
            return _nothing(common_attn_metadata)
        step = self._step(scheduler_output, sampled_token_ids, hidden_states, aux_hidden_states, common_attn_metadata)
        for request_id in scheduler_output.finished_req_ids:
            self._backlog.forget(request_id)
        for request_id, start in zip(step.request_ids, step.starts, strict=True):
            self._backlog.rewind(request_id, start)
        wanted = scheduler_output.num_spec_tokens_to_schedule > 0 or scheduler_output.drafting.attached
        if self.defer and not wanted and self._postpone(step):
            return _nothing(common_attn_metadata)
        started = time.monotonic()
        try:
            if self._read_backlog(step):
                scheduler_output.drafting.catch_up_s = time.monotonic() - started
            drafts = self._propose_as_vllm(
                scheduler_output,
                sampled_token_ids,
                sampling_metadata,
                hidden_states,
                sample_hidden_states,
                aux_hidden_states,
                spec_decode_metadata,
                common_attn_metadata,
                slot_mappings,
            )
        except Exception as error:  # noqa: BLE001 - a drafter's model may raise anything; `trouble` reports it
            self.trouble = f"the drafter failed ({type(error).__name__}: {first_line(error)}): {NO_DRAFTS}"
        if self.trouble is not None:
            self._runner._draft_probs = None
            self._backlog.clear()
            return _nothing(common_attn_metadata)
        return drafts

    def weights_renewed(self, trouble: str | None) -> None:
        """The drafter has other weights; with this trouble, if any. Without, a broken drafter gets another chance."""
        if self.trouble is not None:
            layers = self._runner.compilation_config.static_forward_context
            for name in self._proposer._draft_attn_layer_names:
                layers[name].kv_cache.zero_()
        self.trouble = trouble
        if trouble is not None:
            self._backlog.clear()

    def _postpone(self, step: _Step) -> bool:
        """Let the requests of a step without drafts wait; False where the drafter must read along now."""
        if self._runner.discard_request_mask.np[: len(step.request_ids)].any():
            return False  # A prompt in pieces, which this engine never makes.
        prefilling = step.prefilling
        shared = [i for i in sorted(prefilling) if step.starts[i] + step.counts[i] >= self._proposer.block_size]
        if any(step.request_ids[i] in self._backlog for i in prefilling):
            return False  # A request that was preempted, and came back to its own cached blocks.
        waiting = self._waiting(step, prefilling, set(shared)) if prefilling or step.sampled.shape[1] > 1 else None
        added = len(step.request_ids) if waiting is None else len(waiting[1])
        row_bytes = 8 + sum(layer.shape[1] * layer.itemsize for layer in step.hidden)
        if (self._backlog.rows + added) * row_bytes > self._retained_bytes:
            return False
        if shared:
            self._read_prompts(step, shared)
        if waiting is None:
            spans = [(r, start, 1) for r, start in zip(step.request_ids, step.starts, strict=True)]
            inputs = step.sampled[:, 0] if self._shifted else self._runner.input_ids.gpu[: len(spans)].clone()
            self._backlog.add(spans, inputs, step.hidden)
        elif waiting[1]:
            spans, rows, followers = waiting
            index = torch.tensor(rows)
            inputs = torch.tensor(followers) if self._shifted else self._runner.input_ids.gpu[index]
            self._backlog.add(spans, inputs, [layer[index] for layer in step.hidden])
        return True

    def _waiting(
        self, step: _Step, prefilling: Collection[int], without: Collection[int]
    ) -> tuple[list[tuple[str, int, int]], list[int], list[int]]:
        """Spans of the requests, the rows of what they keep of this step, and the token behind each row."""
        spans: list[tuple[str, int, int]] = []
        rows: list[int] = []
        followers: list[int] = []
        row = 0
        for i, sampled in enumerate(step.sampled.tolist()):
            end = row + step.counts[i]
            if i not in without:
                kept = [token for token in sampled if token >= 0]
                if i in prefilling:
                    kept = self._runner.input_ids.gpu[row + 1 : end].tolist() + kept[:1]
                spans.append((step.request_ids[i], step.starts[i], len(kept)))
                rows.extend(range(row, row + len(kept)))
                followers += kept
            row = end
        return spans, rows, followers

    def _read_prompts(self, step: _Step, requests: Sequence[int]) -> None:
        """The drafter reads these requests' part of the step now."""
        firsts = np.concatenate([[0], np.cumsum(step.counts)])
        tokens = self._runner.input_ids.gpu
        inputs: list[torch.Tensor] = []
        spans: list[tuple[int, int, int]] = []
        rows: list[int] = []
        for i in requests:
            first, end = int(firsts[i]), int(firsts[i + 1])
            spans.append((i, step.starts[i], end - first))
            rows.extend(range(first, end))
            if self._shifted:
                inputs += [tokens[first + 1 : end], step.sampled[i, :1].to(tokens.dtype)]
            else:
                inputs.append(tokens[first:end])
        index = torch.tensor(rows)
        hidden = torch.cat([layer[index] for layer in step.hidden], dim=-1) if step.hidden else None
        self._read(step.metadata, spans, torch.cat(inputs), hidden)

    def _read_backlog(self, step: _Step) -> bool:
        """The drafter reads all that waits for the requests of this step, in passes of bounded size. Whether it did."""
        if self._backlog.rows == 0:
            return False
        spans: list[tuple[int, int, int]] = []
        rows: list[int] = []
        for i, request_id in enumerate(step.request_ids):
            if request_id not in self._backlog:
                continue
            start, waiting = self._backlog.of(request_id)
            while waiting:
                taken = waiting[: self._proposer.max_num_tokens - len(rows)]
                spans.append((i, start, len(taken)))
                rows += taken
                start, waiting = start + len(taken), waiting[len(taken) :]
                if len(rows) == self._proposer.max_num_tokens:
                    self._read(step.metadata, spans, *self._backlog.gather(rows))
                    spans, rows = [], []
        if rows:
            self._read(step.metadata, spans, *self._backlog.gather(rows))
        self._backlog.clear()
        return True

    def _read(
        self,
        metadata: CommonAttentionMetadata,
        spans: Sequence[tuple[int, int, int]],
        inputs: torch.Tensor,
        hidden: torch.Tensor | None,
    ) -> None:
        """One pass of the drafter that writes its KV; each span is (index in the step, first position, count)."""
        proposer = self._proposer
        counts = np.array([count for _, _, count in spans], dtype=np.int64)
        firsts = np.array([first for _, first, _ in spans], dtype=np.int64)
        bounds = np.concatenate([[0], np.cumsum(counts)])
        places = np.repeat(firsts - bounds[:-1], counts) + np.arange(bounds[-1])
        positions = torch.from_numpy(places)
        blocks = metadata.block_table_tensor[[index for index, _, _ in spans]]
        owners = torch.from_numpy(np.repeat(np.arange(len(spans)), counts))
        slots = blocks[owners, positions // proposer.block_size].to(torch.int64) * proposer.block_size
        slots += positions % proposer.block_size
        starts = torch.from_numpy(bounds.astype(np.int32))
        lengths = torch.from_numpy((firsts + counts).astype(np.int32))
        packed = CommonAttentionMetadata(
            query_start_loc=starts,
            query_start_loc_cpu=starts,
            seq_lens=lengths,
            seq_lens_cpu_upper_bound=lengths,
            num_reqs=len(spans),
            num_actual_tokens=len(places),
            max_query_len=int(counts.max()),
            max_seq_len=int(lengths.max()),
            block_table_tensor=blocks,
            slot_mapping=slots,
            causal=True,
        )
        _, by_layer = proposer.build_per_group_and_layer_attn_metadata(packed)
        given = {"input_ids": inputs.to(torch.int32), "positions": positions, "inputs_embeds": None}
        if hidden is not None:
            combines = proposer.method == "eagle3"
            given["hidden_states"] = proposer.model.combine_hidden_states(hidden) if combines else hidden
        with set_forward_context(
            by_layer,
            proposer.vllm_config,
            num_tokens=len(places),
            cudagraph_runtime_mode=CUDAGraphMode.NONE,
            slot_mapping=dict.fromkeys(proposer._draft_attn_layer_names, slots),
        ):
            proposer.model(**given)

    def _step(
        self,
        scheduled: SchedulerOutput,
        sampled: torch.Tensor,
        hidden_states: torch.Tensor,
        aux_hidden_states: list[torch.Tensor] | None,
        metadata: CommonAttentionMetadata,
    ) -> _Step:
        batch = self._runner.input_batch
        request_ids = list(batch.req_ids)
        starts = batch.num_computed_tokens_cpu[: len(request_ids)].tolist()
        counts = [scheduled.num_scheduled_tokens[request_id] for request_id in request_ids]
        hidden: Sequence[torch.Tensor] = ()
        if self._shifted:
            layers = aux_hidden_states if self._runner.use_aux_hidden_state_outputs else [hidden_states]
            hidden = [layer[: scheduled.total_num_scheduled_tokens] for layer in layers or ()]
        return _Step(scheduled, request_ids, starts, counts, sampled, hidden, metadata)

    def _checked_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The drafter's logits; a token outside its vocabulary has minus infinity, no other value is infinite."""
        logits: torch.Tensor = self._compute_logits(hidden_states)
        if not bool(torch.isfinite(logits.amax(dim=-1)).all()):
            self.trouble = NOT_FINITE
            logits = torch.zeros_like(logits)
        return logits

    @property
    def _shifted(self) -> bool:
        """Whether the drafter reads hidden states, each with the token behind it; a draft model reads tokens alone."""
        return bool(self._proposer.pass_hidden_states_to_model)


def _nothing(metadata: CommonAttentionMetadata) -> list[list[int]]:
    """An empty draft for each request."""
    return [[] for _ in range(metadata.batch_size())]
