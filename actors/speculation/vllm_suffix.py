"""The suffix drafter inside vLLM's worker: a proposer that vLLM makes by the name of its class (`custom_class`).

vLLM 0.32 hands it rows of token ids and neither request nor prompt. An answer is known again by its tokens: a row goes
on with the answer whose last tokens stand where it left off, first looked for in the same row, then in the others,
because rows move when answers end. A row that no answer goes on with has a new request: its prompt is the longest known
prompt that it begins with, so that a continued answer finds its group, or else all of it but what was sampled now.

Invariants:
- whatever is mistaken for whatever (two answers of equal length with equal last tokens may swap places), only drafts
  get worse: vLLM verifies each as the drafter's only guess;
- an answer that has no row any more is over. One that was only interrupted begins again, and is not counted twice;
- an error of its own costs drafts and no answer: from then on nothing is drafted, and `trouble` says why.

How many tokens are drafted is decided here up to vLLM's number of speculative tokens; the governor in the scheduler
(`actors.speculation.vllm_scheduler`) cuts drafts to the length of the step.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from actors.speculation.prompt_trees import Answer, PromptTrees, SuffixSettings
from learners.errors import first_line

if TYPE_CHECKING:
    from vllm.config import VllmConfig

Row = npt.NDArray[np.int32]
"""[context length] token ids of one request: prompt and answer, and beyond them anything."""
_TAIL = 32
"""Tokens by which an answer is known again."""


@dataclass(slots=True, eq=False)
class _Seen:
    """An answer as it stood at the last step: its place in the trees, its length with its prompt, its last tokens."""

    answer: Answer
    length: int
    tail: bytes

    def goes_on_in(self, row: Row, sampled_from: int) -> bool:
        return self.length <= sampled_from and _tail(row, self.length) == self.tail


class SuffixProposer:
    """See the module's docstring."""

    def __init__(self, vllm_config: "VllmConfig", budget: Callable[[int], int] | None = None) -> None:
        """
        Args:
            budget: most tokens to draft per answer, by how many answers run; None is vLLM's number of speculative
                tokens, which bounds it in any case.
        """
        self._longest = int(vllm_config.speculative_config.num_speculative_tokens)
        self._context_length = int(vllm_config.model_config.max_model_len)
        self._budget = budget or (lambda _: self._longest)
        self._trees = PromptTrees(SuffixSettings())
        self._prompt_lengths: dict[bytes, int] = {}
        self._seen: dict[int, _Seen] = {}
        """By row of the last step."""
        self.trouble: str | None = None

    def load_model(self, target: object) -> None:
        """Called by vLLM; there is no model."""

    def propose(
        self,
        sampled_token_ids: list[list[int]],
        num_tokens_no_spec: npt.NDArray[np.int32],
        token_ids_cpu: npt.NDArray[np.int32],
        slot_mappings: object = None,
    ) -> list[list[int]]:
        """A draft for each row.

        Args:
            sampled_token_ids: by row, what the step emitted; empty where a prompt is read in parts.
            num_tokens_no_spec: [rows] length of each sequence, what was emitted included.
            token_ids_cpu: [rows, context length].
        """
        if self.trouble is None:
            try:
                return self._drafts(sampled_token_ids, num_tokens_no_spec, token_ids_cpu)
            except Exception as error:  # noqa: BLE001 - whatever it is, the answers need no drafts; `trouble` reports it
                self.trouble = f"the drafter failed ({type(error).__name__}: {first_line(error)}): nothing is drafted"
                self._seen.clear()
        return [[] for _ in sampled_token_ids]

    def _drafts(
        self,
        sampled_token_ids: list[list[int]],
        num_tokens_no_spec: npt.NDArray[np.int32],
        token_ids_cpu: npt.NDArray[np.int32],
    ) -> list[list[int]]:
        lengths = {row: int(num_tokens_no_spec[row]) for row, sampled in enumerate(sampled_token_ids) if sampled}
        starts = {row: length - len(sampled_token_ids[row]) for row, length in lengths.items()}
        self._seen = self._known_again(token_ids_cpu, starts)
        room = min(self._longest, self._budget(len(lengths)))
        drafts: list[list[int]] = [[] for _ in sampled_token_ids]
        for row, length in lengths.items():
            seen = self._seen[row]
            self._trees.extend(seen.answer, token_ids_cpu[row, seen.length : length].tolist())
            seen.length, seen.tail = length, _tail(token_ids_cpu[row], length)
            drafts[row] = self._trees.draft(seen.answer, max(0, min(room, self._context_length - length - 1)))
        return drafts

    def _known_again(self, token_ids: npt.NDArray[np.int32], starts: dict[int, int]) -> dict[int, _Seen]:
        """The answer in each of these rows; those that are in none are over."""
        before, found = self._seen, {}
        for row, start in starts.items():
            if row in before and before[row].goes_on_in(token_ids[row], start):
                found[row] = before.pop(row)
        for row in starts.keys() - found.keys():
            moved = (r for r, seen in before.items() if seen.goes_on_in(token_ids[row], starts[row]))
            place = next(moved, None)
            found[row] = before.pop(place) if place is not None else self._begin(token_ids[row], starts[row])
        for seen in before.values():
            self._trees.end(seen.answer)
        return found

    def _begin(self, row: Row, start: int) -> _Seen:
        group, prompt_length = self._group(row, start)
        sequence = row[:start].tolist()
        answer = self._trees.begin(group, sequence[:prompt_length], sequence[prompt_length:])
        self._prompt_lengths[group] = prompt_length
        if len(self._prompt_lengths) > 2 * len(self._trees):
            self._prompt_lengths = {g: n for g, n in self._prompt_lengths.items() if g in self._trees}
        return _Seen(answer, start, _tail(row, start))

    def _group(self, row: Row, start: int) -> tuple[bytes, int]:
        """The longest known prompt that the row begins with, by a hash that grows along the row; else all of it."""
        digest = hashlib.blake2b(digest_size=16)
        known: tuple[bytes, int] | None = None
        hashed = 0
        for length in sorted({*self._prompt_lengths.values(), start}):
            if length > start:
                break
            digest.update(row[hashed:length].astype(np.int64).tobytes())
            hashed = length
            if self._prompt_lengths.get(digest.digest()) == length:
                known = digest.digest(), length
        return known or (digest.digest(), start)


def _tail(row: Row, length: int) -> bytes:
    return row[max(0, length - _TAIL) : length].tobytes()
