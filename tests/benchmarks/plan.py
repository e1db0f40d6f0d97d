"""Plan against measured memory, case by case: `make bench NAME=plan`.

Each role of a 134 M-parameter model runs in processes of its own (`tests.benchmarks.role_memory`). Prints a line as
each case ends, and then the table of docs/plan.md. `--bases` measures what idle processes hold instead, which
`orchestrator.planning.processes` states.
"""

import argparse
import tempfile
from pathlib import Path

from orchestrator.planning.memory import MIB
from orchestrator.recipe import load_recipe
from tests.benchmarks.role_memory import CASES, VLLM_IMPORTS, foreseen, idle_bytes, measure, write_recipe

BASES = {
    "learner": "import learners.learner",
    "rollout actor": "import actors.vllm_engine, actors.rollout",
    "vLLM engine": VLLM_IMPORTS,
    "torch engine": "import actors.torch_engine",
    "drafter's trainer": "import actors.drafter_trainer, learners.drafters.drafter_training",
    "reward child": "import rewards.scoring_child, math_verify",
    "driver": "import orchestrator.run",
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", choices=CASES, metavar="CASE", help="these alone")
    parser.add_argument("--bases", action="store_true")
    arguments = parser.parse_args()
    if arguments.bases:
        print_bases()
        return
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (role, sections) in CASES.items():
            if arguments.only and name not in arguments.only:
                continue
            file = write_recipe(Path(folder), **sections)
            recipe = load_recipe(str(file))
            plan = foreseen(role, recipe)
            found = measure(role, file, recipe.topology.learner.ranks)
            stages = ", ".join(f"{stage} {size / MIB:,.0f}" for stage, size in found.stages.items())
            print(f"{name}: plan {plan / MIB:,.0f} MiB, measured {found.peak / MIB:,.0f} ({stages})", flush=True)
            lines.append(f"| {name} | {plan / MIB:,.0f} | {found.peak / MIB:,.0f} | {plan / found.peak:.2f} |")
    print("\n| role | plan, MiB | measured, MiB | plan / measured |\n|---|---|---|---|")
    print("\n".join(lines))


def print_bases() -> None:
    for name, imports in BASES.items():
        print(f"{name}: {idle_bytes(imports) / MIB:,.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
