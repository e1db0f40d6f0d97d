"""A training step's speed against the limit of its model, its packing, its memory, and ranks that share rows.

    make bench NAME=learner          or   python -m tests.benchmarks.learner [--repeats 5] [--dtype float32]

Ways of reading one long-tailed batch, in random order within each repeat, after one uncounted turn each:
- `step`: `Learner.step`, everything included: packing, forward, loss, backward, gradient norm, AdamW, metrics.
- `limit, rectangle`: plain transformers forward and backward (SDPA, full logits, cross-entropy, weights in the compute
  type, no optimizer) over answers of one length, without padding. Their number and length give the same tokens and the
  same attention work (the sum of squared lengths) as the batch.
- `limit, one by one`: the same over the batch itself, an answer at a time.
- `padded`: the same over the batch in order, as many answers at a time as fit the token budget at the longest length,
  padded to the longest among them. Padding does not count as tokens.
The headline is the median over the repeats of the step's tokens/s divided by those of the faster limit in that repeat.
The limits keep no float32 masters and compute the head once, where the step computes its logits again in the backward
pass so as never to hold them all.

Packing efficiency is tokens divided by places for tokens in the rounds of all ranks: a rank that waits for a fuller
row counts as padding. Attention's padding is reported apart. Memory is measured in processes of their own
(`learner_memory`). Ranks that share rows run on the CPU, one thread each, over gloo, on answers of the longest length.
"""

import argparse
import functools
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, PreTrainedModel

from learners.attention import lay_out
from learners.batch import TrainBatch
from learners.packing import plan_micro_batches
from tests.benchmarks.learner_load import (
    CPU_SIZE,
    Size,
    make_batch,
    open_learner,
    size_for,
    tail_lengths,
    training_flops,
    write_model,
)
from tests.benchmarks.learner_memory import MIB, PeakMemory
from tests.benchmarks.report import Row, finish
from tests.learners.ranks import CPU, run_ranks, single_rank

TARGET = 0.85
PACKING_TARGET = 0.95
PACKING_RANKS = (1, 2, 8)
SHARING: Mapping[str, tuple[int, int]] = {"1 rank": (1, 1), "2 ranks, own rows": (2, 1), "2 ranks share rows": (2, 2)}
"""Ranks, and how many of them share a row."""
TIMEOUT_S = 900
PEAK_FLOPS: Mapping[str, float] = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12}
"""Dense bfloat16 peak by a part of the GPU's name, from the makers' data sheets (SXM)."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way to read a batch, and how many tokens it reads."""

    tokens: int
    read: Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="compute type; bfloat16 on a GPU, else float32"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    device = torch.device("cuda", 0) if torch.cuda.is_available() else CPU
    dtype = arguments.dtype or ("bfloat16" if device.type == "cuda" else "float32")
    size = size_for(device)
    lengths = tail_lengths(size, size.answers, arguments.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = write_model(folder / "model", size)
        say(f"{device.type}, {dtype}, {torch.get_num_threads()} threads; {len(lengths)} answers, {sum(lengths)} tokens")
        ratios, rows = compare_speed(model, size, lengths, dtype, device, arguments.repeats, arguments.seed)
        rows += packing_rows(size, arguments.seed)
        rows += memory_rows(model, dtype)
        small = model if size is CPU_SIZE else write_model(folder / "small", CPU_SIZE)
        rows += sharing_rows(small, folder, arguments.repeats)
    say(f"step / limit: median {median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}; wanted {TARGET}")
    finish(
        "learner",
        ratio=round(median(ratios), 3),
        unit="tokens/s of a training step / tokens/s of the model's plain forward and backward on unpadded tokens",
        rows=[*rows, {"ratios": [round(ratio, 3) for ratio in ratios]}],
        seed=arguments.seed,
    )


def compare_speed(
    model: str, size: Size, lengths: Sequence[int], dtype: str, device: torch.device, repeats: int, seed: int
) -> tuple[list[float], list[Row]]:
    """Step / faster limit of each repeat, and a row of tokens/s for each way."""
    batch = make_batch(lengths, size.vocabulary, seed)
    order = random.Random(seed)
    with single_rank(device):
        learner = open_learner(model, size, dtype, device)
        plain = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype), attn_implementation="sdpa")
        ways = plain_ways(plain.to(device), batch, size, device)
        ways["step"] = Way(batch.tokens, lambda: learner.step(batch))
        speeds: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(repeats + 1):
            for name in order.sample(list(ways), len(ways)):
                seconds = clock(ways[name].read, device)
                if turn:  # the first warms up
                    speeds[name].append(ways[name].tokens / seconds)
    limits = [max(pair) for pair in zip(speeds["limit, rectangle"], speeds["limit, one by one"], strict=True)]
    ratios = [mine / limit for mine, limit in zip(speeds["step"], limits, strict=True)]
    rows: list[Row] = []
    for name, values in speeds.items():
        rows.append(
            {"way": name, "tokens_per_s": [round(value, 1) for value in values], **use(name, values, size, lengths)}
        )
        say(f"{name}: {median(values):,.0f} tokens/s, from {min(values):,.0f} to {max(values):,.0f}")
    return ratios, rows


def use(name: str, speeds: Sequence[float], size: Size, lengths: Sequence[int]) -> dict[str, float]:
    """TFLOP/s of the model's own work, and their share of the GPU's peak; nothing on a CPU."""
    if not torch.cuda.is_available():
        return {}
    done = training_flops(size, lengths) * median(speeds) / sum(lengths)
    device = torch.cuda.get_device_name()
    peak = next((flops for part, flops in PEAK_FLOPS.items() if part in device), None)
    return {"tflops": round(done / 1e12, 1), **({} if peak is None else {"mfu": round(done / peak, 3)})}


def plain_ways(model: PreTrainedModel, batch: TrainBatch, size: Size, device: torch.device) -> dict[str, Way]:
    answers = [list(item.prompt_ids + item.response_ids) for item in batch.sequences]
    lengths = [len(answer) for answer in answers]
    alike = round(sum(length * length for length in lengths) / sum(lengths))
    count, at_once = max(1, round(sum(lengths) / alike)), max(1, size.token_budget // alike)
    flat = [token for answer in answers for token in answer] * 2
    rectangle = [flat[place * alike : (place + 1) * alike] for place in range(count)]
    fit = max(1, size.token_budget // size.longest)
    chosen = {
        "limit, rectangle": [rectangle[start : start + at_once] for start in range(0, count, at_once)],
        "limit, one by one": [[answer] for answer in answers],
        "padded": [answers[start : start + fit] for start in range(0, len(answers), fit)],
    }
    return {
        name: Way(
            sum(len(answer) for group in groups for answer in group),
            functools.partial(forward_backward, model, groups, device),
        )
        for name, groups in chosen.items()
    }


def forward_backward(model: PreTrainedModel, groups: Sequence[Sequence[Sequence[int]]], device: torch.device) -> None:
    """Of cross-entropy over all tokens, a group of answers at a time, right-padded where lengths differ."""
    model.zero_grad(set_to_none=True)
    for group in groups:
        longest = max(map(len, group))
        ids = torch.tensor([[*answer, *[0] * (longest - len(answer))] for answer in group], device=device)
        real = torch.tensor([[1] * len(answer) + [0] * (longest - len(answer)) for answer in group], device=device)
        mask = None if bool(real.all()) else real
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
        targets = ids[:, 1:].masked_fill(real[:, 1:] == 0, -100)
        cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum").backward()


def clock(work: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def packing_rows(size: Size, seed: int) -> list[Row]:
    """Of a batch of 512 answers for each number of ranks."""
    lengths = tail_lengths(size, 512, seed)
    rows: list[Row] = []
    for ranks in PACKING_RANKS:
        plan = plan_micro_batches(lengths, size.token_budget, ranks)
        loads = [[sum(lengths[index] for index in row) for row in rounds] for rounds in plan]
        places = sum(ranks * max(turn) for turn in zip(*loads, strict=True))
        layouts = [lay_out([lengths[index] for index in row], CPU) for rounds in plan for row in rounds if row]
        slots = sum(count * length for layout in layouts for count, length in layout.groups)
        row = {
            "packing_ranks": ranks,
            "efficiency": round(sum(lengths) / places, 4),
            "budget_filled": round(sum(lengths) / (ranks * len(plan[0]) * size.token_budget), 4),
            "attention_slots_used": round(sum(lengths) / slots, 4),
        }
        rows.append(row)
        say(f"packing on {ranks} ranks: {row['efficiency']:.3f} of the places hold tokens; wanted {PACKING_TARGET}")
    return rows


def memory_rows(model: str, dtype: str) -> list[Row]:
    """Peak growth of a step with and without computing layers again, each in a process of its own."""
    rows: list[Row] = []
    for option in ([], ["--checkpointing"]):
        command = [sys.executable, "-m", "tests.benchmarks.learner_memory", model, dtype, *option]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
        row = {"activation_checkpointing": bool(option), **json.loads(done.stdout.splitlines()[-1])}
        rows.append(row)
        say(f"peak memory of a step, activation_checkpointing={bool(option)}: +{row['peak_growth_mib']:,.0f} MiB")
    return rows


def sharing_rows(model: str, folder: Path, repeats: int) -> list[Row]:
    """Long answers on one rank, on two with rows of their own, and on two that share each row."""
    rows: list[Row] = []
    for turn in range(repeats):
        for name, (ranks, shared) in random.Random(turn).sample(list(SHARING.items()), len(SHARING)):
            place = folder / f"ranks-{turn}-{name}"
            seen = run_ranks(ranks, long_step, model, shared, folder=place, deadline_s=TIMEOUT_S)
            rows.append({"sharing": name, **seen[0]})
    for name in SHARING:
        own = [row for row in rows if row["sharing"] == name]
        speed, memory = (median(float(str(row[key])) for row in own) for key in ("tokens_per_s", "peak_growth_mib"))
        say(f"{name}: {speed:,.0f} tokens/s, step +{memory:,.0f} MiB on a rank")
    return rows


def long_step(rank: int, ranks: int, model: str, shared: int) -> dict[str, float]:
    """Tokens/s of all ranks together, and this one's peak growth, over two rows of the longest answers."""
    size = CPU_SIZE
    learner = open_learner(model, size, "float32", CPU, rank, ranks, sequence_parallel=shared)
    learner.step(make_batch([64] * ranks, size.vocabulary, seed=1))
    batch = make_batch([size.longest] * (2 * size.token_budget // size.longest), size.vocabulary, seed=0)
    memory = PeakMemory(CPU)
    seconds = clock(lambda: learner.step(batch), CPU)
    return {
        "tokens_per_s": round(batch.tokens / seconds, 1),
        "peak_growth_mib": round(memory.growth() / MIB, 1),
    }


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
