"""The figures of docs/asynchrony.md, each drawn from real runs on this machine.

    python -m tests.benchmarks.asynchrony_figures [--out docs/figures] [--only NAME ...] [--runs FOLDER]

Every run trains the quickstart's model through vLLM for a few steps, with answer lengths replayed from one log-normal
sample as in the `longtail` benchmark, and a reward that does not see the length. A figure names the settings in which
its runs differ; figures share the runs that they have in common. With `--runs` the runs are kept, and those that are
there already are not made again. Nothing is drawn that was not read from a run's own files.
"""

import argparse
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from orchestrator.analysis.lineage import Lineage, TrajectoryLife, read_lineage
from orchestrator.analysis.occupancy import load_of
from orchestrator.data.starter import ensure_starter
from orchestrator.run_events import Span
from tests.benchmarks.longtail import LONGEST, draw_lengths
from tests.benchmarks.whole_run import read_run, train_quickstart

Times = np.ndarray[tuple[int], np.dtype[np.float64]]
STEPS = 12
SEED = 0
REPLAYED = (
    "rollout.replay_lengths={lengths}",
    f"rollout.max_response_tokens={LONGEST}",
    "reward.terms=[{{name: 'tests.benchmarks.parity_reward:even_digits'}}]",
    "algorithm.drop_zero_variance=false",
    "data.eval_size=0",
    f"trainer.steps={STEPS}",
)
SYNCHRONOUS, ASYNCHRONOUS, TIGHT = "rollout.max_staleness=0", "rollout.max_staleness=2", "rollout.max_staleness=1"
BLUE, ORANGE, GREEN, RED, SKY, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#BBBBBB"
"""Colours that readers with any colour vision can tell apart (Okabe and Ito)."""
POINTS = 300
"""Of a curve over time: about as many as its picture has columns."""
ENGINES = (SKY, GREEN)
DOING = {"trains": BLUE, "publishes": ORANGE, "waits": GREY}
STYLE = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "svg.hashsalt": "paceline",
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True, slots=True)
class Ran:
    """A finished run: the life of each answer, and the metrics of each step."""

    lineage: Lineage
    steps: Sequence[Mapping[str, float]]

    def mean(self, metric: str) -> float:
        """Mean over the steps but the first three: at the start nothing is stale."""
        return fmean(row[metric] for row in self.steps[3:])

    @property
    def training(self) -> Span:
        """From the first prompt to the last gradient step."""
        training = self.lineage.training
        assert training is not None
        return training

    @property
    def trained(self) -> list[TrajectoryLife]:
        """The answers that a step used."""
        return [answer for answer in self.lineage.answers if answer.step is not None]

    @property
    def samples_per_s(self) -> float:
        """Trained answers per second of training; the pipeline's filling and emptying are not taken out."""
        return len(self.trained) / self.training.seconds


class Runs:
    """Makes runs of the model in this folder, each once, and keeps them in `folder`."""

    def __init__(self, folder: Path, model: Path) -> None:
        self._folder, self._model = folder, model
        self._lengths = folder / "lengths.txt"
        self._lengths.write_text("\n".join(map(str, draw_lengths(SEED))) + "\n", encoding="utf-8")

    @property
    def lengths(self) -> list[int]:
        """The lengths that answers are given."""
        return [int(line) for line in self._lengths.read_text(encoding="utf-8").split()]

    def replayed(self, *changes: str) -> Ran:
        """A run with replayed lengths and these settings."""
        settings = [*(setting.format(lengths=self._lengths) for setting in REPLAYED), *changes]
        key = "\n".join([self._model.name, *settings]).replace(str(self._folder), "")
        name = hashlib.sha256(key.encode()).hexdigest()[:12]
        run_dir = self._folder / name
        if not is_complete(run_dir):
            shutil.rmtree(run_dir, ignore_errors=True)  # what an interrupted run left
            print(f"{name}: {' '.join(changes)}", flush=True)
            given = [f"model={self._model}", f"seed={SEED}", *settings]
            train_quickstart(given, run_dir)
        return Ran(read_lineage(run_dir), read_run(run_dir).steps)


def is_complete(run_dir: Path) -> bool:
    summary = run_dir / "summary.json"
    return summary.exists() and json.loads(summary.read_text(encoding="utf-8"))["status"] == "completed"


# --- parts of figures ------------------------------------------------------------------------------------------------


def lanes(title: str, runs: Mapping[str, Ran]) -> Figure:
    """For each run what its engines hold and what its learner does, all on one scale of time."""
    ratios = [height for _ in runs for height in (3.0, 0.55)]
    figure, axes = plt.subplots(
        2 * len(runs), 1, sharex=True, figsize=(8, 0.6 + 1.75 * len(runs)), height_ratios=ratios
    )
    for number, (name, ran) in enumerate(runs.items()):
        engine_lane(axes[2 * number], ran)
        axes[2 * number].set_title(f"{name} ({ran.training.seconds:.0f} s)")
        learner_lane(axes[2 * number + 1], ran)
    axes[-1].set_xlim(0, max(ran.training.seconds for ran in runs.values()) * 1.01)
    axes[-1].set_xlabel("seconds since the first prompt")
    engines = max((ran.lineage.engines for ran in runs.values()), key=len)
    marks = [
        *(Patch(color=colour, label=f"answers on {name}") for name, colour in zip(engines, ENGINES, strict=False)),
        *(Patch(color=colour, label=f"learner {doing}") for doing, colour in DOING.items()),
    ]
    figure.legend(
        handles=marks, loc="outside lower center", ncols=len(marks), frameon=False, handlelength=1.2, columnspacing=1
    )
    figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=10.5)
    return figure


def engine_lane(axes: Axes, ran: Ran) -> None:
    """Answers on each engine over time, engines stacked."""
    times = np.linspace(ran.training.start, ran.training.end, POINTS)
    loads = np.array([held(ran.lineage, engine, times) for engine in ran.lineage.engines])
    changes = np.any(np.diff(loads, axis=1, prepend=-1) != 0, axis=0)  # keeps the file small
    axes.stackplot(times[changes] - times[0], loads[:, changes], colors=ENGINES, step="post", linewidth=0)
    axes.set_ylabel("answers")
    axes.set_ylim(0, None)


def held(lineage: Lineage, engine: str, times: Times) -> list[int]:
    """How many answers this engine held right after each of these times."""
    spans = (Span(leg.submitted_at, leg.finished_at) for a in lineage.answers for leg in a.legs if leg.worker == engine)
    loads = load_of(spans)
    places = np.searchsorted([load.start for load in loads], times, side="right") - 1
    return [loads[p].answers if p >= 0 and t < loads[p].end else 0 for p, t in zip(places, times, strict=True)]


def learner_lane(axes: Axes, ran: Ran) -> None:
    start = ran.training.start
    for doing, colour in DOING.items():
        spans = [event.span for event in ran.lineage.learner if event.doing == doing and event.began >= start]
        axes.broken_barh([(span.start - start, span.seconds) for span in spans], (0, 1), color=colour, linewidth=0)
    axes.set_yticks([0.5], ["learner"])
    axes.set_ylim(0, 1)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def bars(title: str, rows: Sequence[str], panels: Mapping[str, tuple[Sequence[float], str]]) -> Figure:
    """Horizontal bars, one panel for each measure (values in the order of `rows`, and how they are written)."""
    figure, axes = plt.subplots(1, len(panels), sharey=True, figsize=(8, 0.95 + 0.34 * len(rows)), squeeze=False)
    for place, (measure, (values, written)) in zip(axes[0], panels.items(), strict=True):
        place.barh(range(len(rows)), values, color=BLUE, height=0.6)
        for row, value in enumerate(values):
            place.annotate(f"{value:{written}}", (value, row), (3, 0), textcoords="offset points", va="center")
        place.set_title(measure)
        place.set_xlim(0, max(*values, 1e-9) * 1.5)
        place.set_xticks([])
        place.spines["bottom"].set_visible(False)
    axes[0][0].set_yticks(range(len(rows)), rows)
    axes[0][0].invert_yaxis()
    figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=10.5)
    return figure


# --- the figures -----------------------------------------------------------------------------------------------------


def staleness(runs: Runs) -> Figure:
    shown = {f"max_staleness {bound}": runs.replayed(f"rollout.max_staleness={bound}") for bound in (0, 1, 2)}
    return lanes(f"{STEPS} steps of 128 answers, one engine", shown)


def stream(runs: Runs) -> Figure:
    return lanes(
        f"{STEPS} synchronous steps: the learner on whole batches, and on groups as they finish",
        {
            "stream: false": runs.replayed(SYNCHRONOUS),
            "stream: true": runs.replayed(SYNCHRONOUS, "trainer.stream=true"),
        },
    )


def partial(runs: Runs) -> Figure:
    return lanes(
        f"{STEPS} steps, max_staleness 2: weights that arrive in the middle of answers, and between them",
        {
            "partial: true": runs.replayed(ASYNCHRONOUS),
            "partial: false": runs.replayed(ASYNCHRONOUS, "rollout.partial=false"),
        },
    )


def kv_policy(runs: Runs) -> Figure:
    names = ("keep", "recompute", "abort_resume")
    rans = [runs.replayed(ASYNCHRONOUS, *([] if name == "keep" else [f"rollout.kv_policy={name}"])) for name in names]
    return bars(
        "An answer in progress at a weight update (max_staleness 2)",
        names,
        {
            "pause of the engine,\nms (median)": ([1e3 * median(pauses(ran.lineage)) for ran in rans], ".0f"),
            "computed anew, tokens\nper token sampled": (
                [0.0, *(tokens_before_updates(ran.lineage) for ran in rans[1:])],
                ".2f",
            ),
            "engine_gap of fresh\ntokens, nats": (
                [ran.mean("learner/engine_gap") for ran in rans],
                ".1e",
            ),
            "samples/s": ([ran.samples_per_s for ran in rans], ".0f"),
        },
    )


def pauses(lineage: Lineage) -> list[float]:
    """Seconds for which an engine sampled nothing, of each update in training."""
    return [s.paused.seconds for s in lineage.syncs if s.paused is not None and s.version > 0]


def tokens_before_updates(lineage: Lineage) -> float:
    """Tokens in front of each change of version within an answer, per token sampled."""
    before = sum(sum(s.tokens for s in a.segments[:n]) for a in lineage.answers for n in range(1, len(a.segments)))
    return before / sum(answer.tokens for answer in lineage.answers)


def late(runs: Runs) -> Figure:
    names = ("wait", "train", "drop", "baseline_only")
    rans = [runs.replayed(TIGHT, *([] if name == "wait" else [f"rollout.late={name}"])) for name in names]
    return bars(
        "Answers that become older than max_staleness 1",
        names,
        {
            "samples/s": ([ran.samples_per_s for ran in rans], ".0f"),
            "late answers\nin a batch": ([ran.mean("late/answers") for ran in rans], ".1%"),
            "prompts\ndropped": ([share(ran, "dropped") for ran in rans], ".1%"),
            "greatest\nstaleness": ([max(row["staleness/max"] for row in ran.steps) for ran in rans], ".0f"),
            "length trained /\nsubmitted": ([ran.steps[-1]["length_bias/mean_ratio"] for ran in rans], ".2f"),
        },
    )


def share(ran: Ran, end: str) -> float:
    """Share of the dispatched prompts that ended so."""
    return sum(group.end == end for group in ran.lineage.groups) / len(ran.lineage.groups)


def over_sampling(runs: Runs) -> Figure:
    rounds = {
        "resume, prompts 1.5": (TIGHT, "{prompts: 1.5, leftovers: resume}"),
        "long_round, prompts 1.5": (SYNCHRONOUS, "{prompts: 1.5, leftovers: long_round}"),
        "drop, prompts 1.5": (SYNCHRONOUS, "{prompts: 1.5, leftovers: drop}"),
        "drop, answers 1.5": (SYNCHRONOUS, "{answers: 1.5, leftovers: drop}"),
    }
    rans = {"off (null)": runs.replayed(SYNCHRONOUS)}
    rans |= {name: runs.replayed(bound, f"rollout.over_sampling={value}") for name, (bound, value) in rounds.items()}
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), width_ratios=(3, 2))
    lengths, colours = np.arange(LONGEST + 1), (BLUE, SKY, GREEN, ORANGE, RED)
    left.plot(lengths, longer(runs.lengths, lengths), color="black", linewidth=4, alpha=0.25, label="asked for")
    means: list[float] = []
    for ran, colour, dashes in zip(rans.values(), colours, ("-", "--", ":", "-", "-"), strict=True):
        trained = [answer.tokens for answer in ran.trained]
        left.plot(lengths, longer(trained, lengths), color=colour, linewidth=1.6, linestyle=dashes)
        means.append(fmean(trained))
    left.set(yscale="log", ylim=(1e-3, 1.05), xlabel="length t, tokens", ylabel="share of answers longer than t")
    left.legend(frameon=False, loc="upper right")
    left.set_title("lengths trained on")
    right.barh(range(len(rans)), means, color=colours, height=0.6)
    for row, mean in enumerate(means):
        right.annotate(f"{mean:.0f}", (mean, row), (3, 0), textcoords="offset points", va="center")
    right.axvline(fmean(runs.lengths), color="black", linewidth=4, alpha=0.25)
    right.set_yticks(range(len(rans)), list(rans))
    right.invert_yaxis()
    right.set_xlabel("tokens")
    right.set_title("mean length trained on")
    return figure


def longer(sample: Sequence[int], than: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> list[float]:
    """Share of the sample that is longer than each of these lengths; NaN where none is, for the logarithmic axis."""
    ordered = np.sort(sample)
    shares = 1 - np.searchsorted(ordered, than, side="right") / len(ordered)
    return [float(share) if share > 0 else float("nan") for share in shares]


def tail(runs: Runs) -> Figure:
    two = (SYNCHRONOUS, "topology.rollout.workers=2", "rollout.max_running=64")
    return lanes(
        f"{STEPS} synchronous steps on two engines",
        {
            "consolidate: true": runs.replayed(*two),
            "consolidate: false": runs.replayed(*two, "rollout.consolidate=false"),
        },
    )


def kv_pressure(runs: Runs) -> Figure:
    small = (ASYNCHRONOUS, "rollout.kv_cache_gib=0.006")
    return lanes(
        f"{STEPS} steps with a KV cache of 6 MiB, room for 3,100 tokens",
        {
            "kv_high 0.9": runs.replayed(*small),
            "kv_high 1.0, never lowers the limit": runs.replayed(*small, "rollout.kv_high=1.0"),
        },
    )


def correction(runs: Runs) -> Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2))
    presets = {"tis": (BLUE, "o"), "icepop": (GREEN, "^"), "seq_tis": (ORANGE, "s")}
    for preset, (colour, mark) in presets.items():
        ran = runs.replayed("rollout.max_staleness=4", f"algorithm.correction={{preset: {preset}}}")
        ages = [row["learner/staleness_mean"] for row in ran.steps]
        stale = [(row, age) for row, age in zip(ran.steps, ages, strict=True) if row["learner/stale_fraction"] > 0]
        left.scatter(
            [a for _, a in stale], [row["learner/policy_gap_stale"] for row, _ in stale], c=colour, marker=mark
        )
        right.scatter(ages, [row["learner/correction_ess"] for row in ran.steps], c=colour, marker=mark, label=preset)
    left.set(ylabel="nats", xlabel="mean staleness of the batch's tokens, versions", ylim=(0, None))
    left.set_title("policy_gap_stale")
    right.set(ylim=(0, 1.03), xlabel="mean staleness of the batch's tokens, versions", ylabel="share of the tokens")
    right.set_title("correction_ess")
    right.legend(frameon=False, loc="lower left")
    return figure


FIGURES: Mapping[str, Callable[[Runs], Figure]] = {
    "staleness": staleness,
    "stream": stream,
    "partial": partial,
    "kv-policy": kv_policy,
    "late": late,
    "over-sampling": over_sampling,
    "tail": tail,
    "kv-pressure": kv_pressure,
    "correction": correction,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    parser.add_argument("--only", nargs="*", choices=FIGURES, help="figures to draw; default all")
    parser.add_argument("--runs", type=Path, help="keep the runs in this folder, and use those that it has")
    arguments = parser.parse_args()
    model = ensure_starter(None, lambda report: None)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, plt.rc_context(STYLE):
        folder = arguments.runs or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        runs = Runs(folder, model)
        for name in arguments.only or FIGURES:
            figure = FIGURES[name](runs)
            path = arguments.out / f"asynchrony-{name}.svg"
            figure.savefig(path, metadata={"Date": None})
            plt.close(figure)
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
