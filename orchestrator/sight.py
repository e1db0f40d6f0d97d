"""Whether the nodes that a run was given see its files: paths are handed from one node to another, files are not.

Engines and ranks read the model, ranks write the trained model and the checkpoints into the run directory, and with a
drafter that learns engines read that there. On one machine all of this is so; on several it takes a file system that
they share, and what lacks it is said before anything is started.
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.disk import existing
from orchestrator.errors import RunError, SettingError, last_line

ANSWER_S = 120.0
"""Of a node's first task: a worker process starts for it, with what came with the job."""
SHARE = "a folder that all nodes share"


def check_sight(nodes: Mapping[str, str], run_dir: Path, needed: Mapping[str, Sequence[Path]]) -> None:
    """Look from each node at what its actors need.

    Args:
        nodes: node id by the actor that has its place there.
        run_dir: the run's folder, which need not be there yet.
        needed: by actor, the paths that it reads or writes; `run_dir` stands for itself.

    Raises:
        SettingError: a node does not see one of them; it names the setting.
        RunError: a node does not answer.
    """
    own = ray.get_runtime_context().get_node_id()
    others = {actor: node for actor, node in nodes.items() if node != own and actor in needed}
    if not others:
        return
    with _marked(existing(run_dir)) as mark:
        asked = {actor: [str(mark if path == run_dir else path) for path in needed[actor]] for actor in others}
        looks = {actor: _on(node).remote(asked[actor]) for actor, node in others.items()}
        for actor, look in looks.items():
            try:
                unseen = ray.get(look, timeout=ANSWER_S)
            except (GetTimeoutError, RayError) as error:
                raise RunError(f"the node of {actor} runs no task: {last_line(error)}", "see `ray status`") from None
            for path, seen_as in zip(needed[actor], asked[actor], strict=True):
                if seen_as in unseen and path == run_dir:
                    raise SettingError("run_dir", f"the node of {actor} does not see {run_dir}", f"choose {SHARE}")
                if seen_as in unseen:
                    fix = f"give it as {SHARE}; hub models come to HF_HOME, which may be one"
                    raise SettingError("model", f"the node of {actor} does not see {path}", fix)


@contextmanager
def _marked(folder: Path) -> Iterator[Path]:
    """A file of this moment: a folder of the same name on another disk does not have it."""
    mark = folder / f".paceline-{secrets.token_hex(8)}"
    try:
        mark.touch()
    except OSError as error:
        raise SettingError("run_dir", f"{folder}: {error.strerror}", "choose a folder that can be written") from None
    try:
        yield mark
    finally:
        with suppress(OSError):
            mark.unlink()


def _on(node: str) -> "ray.remote_function.RemoteFunction":
    return ray.remote(num_cpus=0)(_unseen).options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))


def _unseen(paths: Sequence[str]) -> list[str]:
    return [path for path in paths if not Path(path).exists()]
