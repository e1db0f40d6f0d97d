"""The figure of a drafter's life in docs/speculation.md, from a run's own files.

    paceline train quickstart speculation=adaptive run_dir=RUN
    python -m tests.benchmarks.drafter_life_figure RUN [--out docs/figures/speculation-life.svg]

Acceptance length of the five-second stretches in which drafts were verified, and when a version was published.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from orchestrator.analysis.speculation_report import read_speculation

STRETCH_S = 5.0
LEAST_DRAFTS = 10
"""Of a stretch that is drawn: fewer say nothing."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/figures/speculation-life.svg"))
    arguments = parser.parse_args()
    events = read_speculation(arguments.run)
    began = events.speculated[0].time
    drafts: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for event in events.speculated:
        count = drafts[int((event.time - began) / STRETCH_S)]
        count[0] += sum(phase.drafts for phase in event.phases)
        count[1] += sum(phase.accepted for phase in event.phases)
    drawn = {stretch: 1 + kept / tried for stretch, (tried, kept) in drafts.items() if tried >= LEAST_DRAFTS}
    plt.rcParams.update({"svg.hashsalt": "paceline", "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
    axes.plot([(n + 0.5) * STRETCH_S for n in drawn], list(drawn.values()), "o-", color="#0072B2", markersize=3)
    for study in events.studied:
        if study.published is not None:
            axes.axvline(study.ended - began, color="#E69F00", linestyle="--")
            axes.annotate(f"version {study.published}", (study.ended - began, 1), (3, 2), textcoords="offset points")
    axes.set(xlabel="seconds since the first draft could be made", ylabel="tokens a pass while drafting")
    figure.savefig(arguments.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
