"""vLLM's scheduler with a governor inside: chooses the draft length of every step, and measures what came of it.

Named as vLLM's `scheduler_cls`, so it runs in the engine's process, next to the step it governs: no message passes
between a step and the choice for the next one.

What a step drafts is verified by the next step, so a step's record holds the length chosen for it and the drafts of the
step before; the governor learns from steady steps, where both are the same.

Invariants:
- only declared lengths are scheduled, and none but 0 once the governor has failed (`GuardedGovernor`); a drafter that
  gives more tokens than were asked for is cut, by the length alone and never by what was drawn;
- a step's seconds run from its own start or the end of the step before, whichever is later: no pause and no idle time;
- the records that nobody fetches are bounded, the oldest go first.
"""

import time
from collections import OrderedDict, deque
from dataclasses import asdict

from vllm.platforms import current_platform
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.engine.core import EngineCore
from vllm.v1.outputs import DraftTokenIds, ModelRunnerOutput

from actors.speculation.drafting_note import DraftingNote
from actors.speculation.guarded_governor import GuardedGovernor
from actors.speculation.settings import LEARNED, SpeculationSettings
from actors.speculation.step_governor import StepGovernor, make_governor
from actors.speculation.step_record import StepRecord
from actors.vllm_launch import DRAFTS_OF_ANSWER, SPECULATION

_STEPS_KEPT = 4096
_ANSWERS_KEPT = 8192


class _GovernedLookup:
    """Stands where vLLM keeps its table of draft lengths by batch size, and asks the governor instead."""

    def __init__(self, governor: StepGovernor) -> None:
        self._governor = governor
        self.chosen = 0

    def __getitem__(self, running: int) -> int:
        self.chosen = self._governor.choose(running, time.monotonic()).k
        return self.chosen


class _AnswerCount:
    """Drafted and accepted tokens of one answer, and whose drafts they were."""

    __slots__ = ("accepted", "drafted", "versions")

    def __init__(self) -> None:
        self.drafted = self.accepted = 0
        self.versions: set[int] = set()


class _Governed(Scheduler):
    """What both schedulers share; see the module's docstring."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        settings = SpeculationSettings(**self.vllm_config.additional_config[SPECULATION])
        self._detachable = settings.kind in LEARNED and current_platform.is_cpu()
        governor = make_governor(settings, detachable=self._detachable, on_cpu=current_platform.is_cpu())
        self._governor = GuardedGovernor(governor, settings.lengths)
        self._lookup = _GovernedLookup(self._governor)
        # vLLM disables its own table for drafters that choose their length themselves; here it governs them as well.
        self.dynamic_sd_lookup = self._lookup
        self._started: deque[float] = deque()
        self._ended = 0.0
        self._behind: dict[str, int] = {}
        self._records: deque[StepRecord] = deque(maxlen=_STEPS_KEPT)
        self._answers: OrderedDict[str, _AnswerCount] = OrderedDict()
        self._drafter_version = self._drafted_by = self._target_updates = 0

    def schedule(self, *args: object, **kwargs: object) -> SchedulerOutput:
        self._started.append(time.monotonic())
        output = super().schedule(*args, **kwargs)
        output.drafting = DraftingNote(attached=self._governor.attached or not self._detachable)
        return output

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        accepted = self._note_drafts(scheduler_output, model_runner_output)
        behind = self._note_behind(scheduler_output, model_runner_output)
        outputs: dict[int, EngineCoreOutputs] = super().update_from_output(scheduler_output, model_runner_output)
        for output in (one for client in outputs.values() for one in client.outputs if one.finished):
            output.kv_transfer_params = {DRAFTS_OF_ANSWER: self.take_answer(output.request_id)}
        started, now = self._started.popleft(), time.monotonic()
        seconds, self._ended = now - max(started, self._ended), now
        running = len(scheduler_output.num_scheduled_tokens)
        if running:
            drafted = sum(len(draft) for draft in scheduler_output.scheduled_spec_decode_tokens.values())
            record = StepRecord(
                running,
                scheduler_output.num_spec_tokens_to_schedule,
                drafted,
                sum(accepted),
                sum(len(tokens) for tokens in model_runner_output.sampled_token_ids),
                seconds,
                attached=_reads_along(scheduler_output),
                catch_up_s=scheduler_output.drafting.catch_up_s,
                behind=behind,
                prefill=scheduler_output.total_num_scheduled_tokens - running - drafted,
                by_position=tuple(sum(n > i for n in accepted) for i in range(max(accepted, default=0))),
                drafter_staleness=self._target_updates,
            )
            self._records.append(record)
            self._governor.observe(record)
        self._drafted_by = self._drafter_version
        return outputs

    def update_draft_token_ids(self, draft_token_ids: DraftTokenIds) -> None:
        length = self._lookup.chosen
        cut = [draft[:length] for draft in draft_token_ids.draft_token_ids]
        super().update_draft_token_ids(DraftTokenIds(draft_token_ids.req_ids, cut))

    def take_answer(self, request_id: str) -> list[int]:
        """[drafted, accepted, drafter versions...] of an answer that ended; it is forgotten."""
        count = self._answers.pop(request_id, None) or _AnswerCount()
        return [count.drafted, count.accepted, *sorted(count.versions)]

    def take_records(self) -> list[dict[str, object]]:
        """The fields of each step's record since the last call, in order; of very many, the newest."""
        records = [asdict(record) for record in self._records]
        self._records.clear()
        return records

    def governor_trouble(self) -> str | None:
        """Why the governor lets nothing be drafted; None while all is well."""
        return self._governor.trouble

    def note_target_update(self) -> None:
        self._target_updates += 1
        self._governor.target_updated()

    def note_drafter_update(self, version: int) -> None:
        self._drafter_version, self._target_updates = version, 0
        self._governor.drafter_updated()

    def _note_drafts(self, scheduled: SchedulerOutput, output: ModelRunnerOutput) -> list[int]:
        """Accepted tokens of each answer that had a draft; each answer's count is kept."""
        accepted: list[int] = []
        for request_id, draft in scheduled.scheduled_spec_decode_tokens.items():
            index = output.req_id_to_index[request_id]
            tokens = output.sampled_token_ids[index] if output.sampled_token_ids else ()
            accepted.append(max(len(tokens) - 1, 0))
            count = self._answers.setdefault(request_id, _AnswerCount())
            count.versions.add(self._drafted_by)
            count.drafted += len(draft)
            count.accepted += accepted[-1]
        while len(self._answers) > _ANSWERS_KEPT:
            self._answers.popitem(last=False)
        return accepted

    def _note_behind(self, scheduled: SchedulerOutput, output: ModelRunnerOutput) -> int:
        """Tokens that the drafter lacks after this step, over its answers. Prompts that fill a block it has read."""
        if _reads_along(scheduled):
            self._behind.clear()
            return 0
        drafts = scheduled.scheduled_spec_decode_tokens
        behind = {}
        for request_id, read in scheduled.num_scheduled_tokens.items():
            behind[request_id] = self._behind.get(request_id, 0)
            if read == 1 + len(drafts.get(request_id, ())):
                behind[request_id] += len(output.sampled_token_ids[output.req_id_to_index[request_id]])
            elif read < self.block_size:
                behind[request_id] += read
        self._behind = behind
        return sum(behind.values())


def _reads_along(scheduled: SchedulerOutput) -> bool:
    """Whether the drafter's pass ran in this step."""
    return bool(scheduled.drafting.attached) or scheduled.num_spec_tokens_to_schedule > 0


class GovernedScheduler(_Governed):
    """For engines whose steps follow one another, as on the CPU."""


class GovernedAsyncScheduler(_Governed, AsyncScheduler):
    """For engines that schedule a step while the one before runs, as on a GPU."""


def _speculation(core: EngineCore, question: str, arguments: list[int | str]) -> object:
    """The way to the scheduler: vLLM's utility calls reach the methods of its core only."""
    return getattr(core.scheduler, question)(*arguments)


EngineCore.speculation = _speculation
