"""One decoding step of the torch engine: drafts, a forward pass over last tokens and drafts, verification.

Invariants:
- a step reads each sequence without KV in a pass of its own, and all others, with their drafts, in one ragged batch
  (or each by itself, where no answer may feel another);
- an answer whose KV does not stand is not drafted for in that step;
- a step without drafts is plain decoding: there is no second path.
"""

import time
from collections.abc import Collection
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from actors.engine import SpeculationStats
from actors.kv_slots import KvSlots
from actors.running_answer import RunningAnswer
from actors.speculation.drafter import NO_DRAFT, Draft, Observation, Speculation
from actors.speculation.speculator import Speculator
from actors.speculation.step_record import StepRecord
from actors.speculation.verification import verify


@dataclass(frozen=True, slots=True, eq=False)
class _Reading:
    """What the target says of one answer's tokens in a pass.

    Attributes:
        logits: [drafted + 1, vocabulary] after the sequence's last token and each drafted one.
        hidden: per layer that the drafter observes [tokens of the pass, width].
    """

    logits: torch.Tensor
    hidden: tuple[torch.Tensor, ...]


class TorchDecoder:
    """See the module's docstring."""

    def __init__(
        self, model: PreTrainedModel, slots: KvSlots, speculation: Speculation | None, *, alone: bool = False
    ) -> None:
        """
        Args:
            alone: each answer is read in a pass of its own, so that its bits depend on no other.
        """
        self._model = model
        self._slots = slots
        self._alone = alone
        self._speculator = Speculator(speculation, model) if speculation is not None else None
        self._layers = speculation.drafter.hidden_layers if speculation is not None else ()

    @torch.inference_mode()
    def step(self, running: list[RunningAnswer], version: int) -> None:
        """Each of these answers grows by at least one token.

        Args:
            version: of the model's weights.
        """
        start = time.perf_counter()
        if self._speculator is None:
            self._read_and_take(running, [NO_DRAFT] * len(running), version)
            return
        length = self._speculator.choose(len(running))
        drafts = self._speculator.drafts(running, length)
        prefill = sum(len(answer.sequence) for answer in running if not answer.cached)
        before = [answer.accepted for answer in running]
        observations = self._read_and_take(running, drafts, version)
        self._speculator.observe(observations)
        accepted = [answer.accepted - count for answer, count in zip(running, before, strict=True)]
        self._speculator.record(
            StepRecord(
                running=len(running),
                k=length,
                drafted=sum(len(draft.token_ids) for draft in drafts),
                accepted=sum(accepted),
                emitted=sum(len(observation.token_ids) for observation in observations),
                seconds=time.perf_counter() - start,
                prefill=prefill,
                by_position=tuple(sum(count > i for count in accepted) for i in range(length)),
            )
        )

    def take_stats(self) -> SpeculationStats:
        """Of the steps since the last call; empty where nothing speculates."""
        return self._speculator.take_stats() if self._speculator is not None else SpeculationStats()

    def keep_only(self, request_ids: Collection[str]) -> None:
        """All other answers are over."""
        if self._speculator is not None:
            self._speculator.keep_only(request_ids)

    def drop_kv(self) -> None:
        """All running answers are read anew: their `cached` is 0 from now on."""
        if self._speculator is not None:
            self._speculator.drafter.drop_kv()

    def _read_and_take(self, running: list[RunningAnswer], drafts: list[Draft], version: int) -> list[Observation]:
        observations = []
        for answer, draft, reading in zip(running, drafts, self._read(running, drafts), strict=True):
            first = answer.cached
            sampling = answer.request.sampling
            emitted = answer.take(verify(reading.logits, draft, sampling, answer.chance), version)
            read = answer.cached - first
            hidden = tuple(states[:read] for states in reading.hidden)
            observations.append(Observation(answer.request.request_id, emitted, first, read, hidden))
        return observations

    def _read(self, running: list[RunningAnswer], drafts: list[Draft]) -> list[_Reading]:
        readings: dict[int, _Reading] = {}
        for i, answer in enumerate(running):
            if not answer.cached:
                (readings[i],) = self._forward([answer], [answer.sequence], keep=1)
        cached = [i for i, answer in enumerate(running) if answer.cached]
        for batch in [[i] for i in cached] if self._alone else [cached] if cached else []:
            tokens = [[running[i].sequence[-1], *drafts[i].token_ids] for i in batch]
            longest = max(map(len, tokens))
            readings |= zip(batch, self._forward([running[i] for i in batch], tokens, keep=longest), strict=True)
        return [readings[i] for i in range(len(running))]

    def _forward(self, batch: list[RunningAnswer], tokens: list[list[int]], keep: int) -> list[_Reading]:
        """Read these tokens behind what is cached; logits after each of the last `keep` columns.

        Shorter rows are filled up with their own last token at its own place: read twice, it changes nothing.
        """
        slots = [answer.slot for answer in batch if answer.slot is not None]
        counts = [len(row) for row in tokens]
        positions, mask = self._slots.aim(slots, [answer.cached for answer in batch], counts)
        output = self._model(
            input_ids=torch.tensor([row + row[-1:] * (max(counts) - len(row)) for row in tokens]),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._slots,
            use_cache=True,
            logits_to_keep=keep,
            output_hidden_states=bool(self._layers),
        )
        return [
            _Reading(
                output.logits[i, :count] if count <= keep else output.logits[i],
                tuple(output.hidden_states[layer][i, :count] for layer in self._layers),
            )
            for i, count in enumerate(counts)
        ]
