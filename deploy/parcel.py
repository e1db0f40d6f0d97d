"""What travels to the cluster with a job: the recipe as it was resolved, and the files of this machine that it names.

    recipe.yaml       the recipe, with paths as the cluster sees them
    paceline_job.py   the job's first step (`deploy.job_entry`), and paceline_job.json, what that is told
    files/            data, models and drafters that the recipe names by a relative path
    my_module.py ...  the user's modules that the recipe names, those beside them that these import, and what else the
                      user names
    orchestrator/ ... Paceline's own source, where it is asked for

A relative path is a file of this machine and travels; an absolute one, or an address, is the cluster's own. What the
environment holds, tokens and keys above all, never travels.
"""

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from deploy.user_modules import files_of_module
from orchestrator.config import STARTER
from orchestrator.data.examples import SHIPPED
from orchestrator.errors import SettingError
from orchestrator.recipe import Tree
from orchestrator.stages.overlay import value_at
from orchestrator.stages.recipes import HANDED

LIMIT_MIB = 100.0
"""Of a parcel, where the caller does not say: Ray keeps it in the head's memory, and refuses 500 MiB."""
FILES = "files"
PACKAGES = ("deploy", "orchestrator", "actors", "learners", "rewards")
"""Paceline's own."""
UNSENT = ("__pycache__", ".git", ".venv")
DATA = ("data.path", "examples.path")
MODELS = (
    "model",
    "algorithm.reference.model",
    "algorithm.teacher.model",
    "speculation.checkpoint",
    "trainer.optimizer_from",
)
"""Settings that may name a folder; a Hugging Face id looks like a relative path, and is one if there is a folder."""
_FUNCTION = re.compile(r"(?P<module>[A-Za-z_][\w.]*):[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class Parcel:
    """Attributes:
    tree: the recipe's settings as the cluster reads them.
    files: what is sent beside it: the place in the parcel, and the file here.
    """

    tree: Tree
    files: tuple[tuple[str, Path], ...]

    @property
    def nbytes(self) -> int:
        return sum(source.stat().st_size for _, source in self.files)

    def listing(self) -> Iterator[str]:
        """A line for each file: its size and its place."""
        for place, source in self.files:
            yield f"{source.stat().st_size:>12,}  {place}"

    def write(self, folder: Path) -> None:
        """Copy the files into a folder."""
        for place, source in self.files:
            target = folder / place
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def pack(
    tree: Tree, root: Path, *, also: Sequence[str] = (), with_source: bool = False, limit_mib: float = LIMIT_MIB
) -> Parcel:
    """What a job of this recipe needs.

    Args:
        tree: the resolved recipe, which may be one of several stages.
        root: the folder that relative paths and the user's modules are in.
        also: further files and folders below it, which keep their places.
        with_source: Paceline's own source travels too.

    Raises:
        SettingError: a file or module that the recipe names is not here, or all is too large.
    """
    packer = _Packer(root)
    packed = packer.recipe(tree)
    for path in also:
        packer.further(path)
    if with_source:
        packer.source()
    parcel = Parcel(packed, tuple(sorted(packer.files.items())))
    mib = parcel.nbytes / 2**20
    if mib > limit_mib:
        place, largest = max(parcel.files, key=lambda entry: entry[1].stat().st_size)
        raise SettingError(
            packer.named[place],
            f"the job would carry {mib:,.0f} MiB, {largest.stat().st_size / 2**20:,.0f} of them in {largest}, and "
            f"{limit_mib:g} are allowed",
            "put it where the cluster reaches it and give the absolute path, or raise --limit-mib",
        )
    return parcel


class _Packer:
    """Goes through a recipe, notes what it names, and writes the places in the parcel in their stead."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, Path] = {}
        self.files: dict[str, Path] = {}
        self.named: dict[str, str] = {}
        """The setting by which a file came in, for errors."""

    def recipe(self, tree: Tree) -> Tree:
        stages = tree.get("stages")
        if isinstance(stages, list):
            return {**tree, "stages": [self._stage(stage, f"stages.{stage['name']}.") for stage in stages]}
        return self._stage(tree, "")

    def further(self, path: str) -> None:
        """A file or folder that the user names, in its place."""
        source = self._root / path
        if not _is_ours(path) or ".." in Path(path).parts or not source.exists():
            raise SettingError("--also", f"{path} is nothing below {self._root}", "give a relative path of this folder")
        place = Path(path).as_posix()
        if source.is_dir():
            self._folder(place, source, "--also")
        else:
            self._file(place, source, "--also")

    def source(self) -> None:
        """Paceline's packages as they are installed here."""
        for package in PACKAGES:
            spec = find_spec(package)
            assert spec is not None, "it is at work"
            self._folder(package, Path(next(iter(spec.submodule_search_locations or ()))), "--with-source")

    def _stage(self, tree: Tree, prefix: str) -> Tree:
        for setting in DATA:
            path = value_at(tree, setting)
            if isinstance(path, str) and _is_ours(path) and not path.startswith(SHIPPED):
                if not (self._root / path).exists():
                    reason = f"there is no {path} here"
                    raise SettingError(
                        prefix + setting, reason, "give a file of this folder, or an absolute path there"
                    )
                tree = _with(tree, setting, self._sent(path, prefix + setting))
        for setting in (*MODELS, *_served(tree)):
            name = value_at(tree, setting)
            if isinstance(name, str) and _is_ours(name) and name != STARTER and not name.startswith(HANDED):
                if (self._root / name).is_dir():
                    tree = _with(tree, setting, self._sent(name, prefix + setting))
                elif name.startswith("."):
                    reason = f"there is no folder {name} here"
                    raise SettingError(prefix + setting, reason, "give one, or an absolute path on the cluster")
        for setting, text in _strings(tree):
            if (found := _FUNCTION.fullmatch(text)) is not None and text.partition(":")[0] + ":" != HANDED:
                self._module(found["module"], prefix + setting)
        return tree

    def _sent(self, name: str, setting: str) -> str:
        """The place in the parcel of a file or folder, which is sent once."""
        source = (self._root / name).resolve()
        place, number = f"{FILES}/{source.name}", 1
        while self._folders.get(place, source) != source:
            number += 1
            place = f"{FILES}/{number}-{source.name}"
        self._folders[place] = source
        if source.is_dir():
            self._folder(place, source, setting)
        else:
            self._file(place, source, setting)
        return place

    def _folder(self, place: str, source: Path, setting: str) -> None:
        for path in sorted(source.rglob("*")):
            inside = path.relative_to(source)
            if path.is_file() and not set(inside.parts) & set(UNSENT):
                self._file(f"{place}/{inside.as_posix()}", path, setting)

    def _file(self, place: str, source: Path, setting: str) -> None:
        self.files[place], self.named[place] = source, setting

    def _module(self, module: str, setting: str) -> None:
        """A module of the user's, and what it needs; what is installed is the cluster's matter."""
        if module.partition(".")[0] in PACKAGES:
            return
        files = files_of_module(module, self._root)
        for path in files:
            self._file(path.relative_to(self._root).as_posix(), path, setting)
        if not files and setting.endswith(".name") and find_spec(module.partition(".")[0]) is None:
            reason = f"there is no module {module} in {self._root}, nor is it installed"
            raise SettingError(setting, reason, "start in the folder that it is in, or mend the name")


def _is_ours(path: str) -> bool:
    """Whether a path is one of this machine: neither absolute nor an address."""
    return not (Path(path).is_absolute() or path.startswith("~") or "://" in path)


def _served(tree: Tree) -> list[str]:
    """The settings of models for rewards that the run serves."""
    models = value_at(tree, "reward.models")
    names = models if isinstance(models, dict) else {}
    return [f"reward.models.{name}.model" for name, model in names.items() if not model.get("url")]


def _with(tree: Tree, setting: str, value: str) -> Tree:
    key, _, rest = setting.partition(".")
    if not rest:
        return {**tree, key: value}
    inner = tree[key]
    assert isinstance(inner, dict), "a setting was found there"
    return {**tree, key: _with(inner, rest, value)}


def _strings(value: object, setting: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a recipe, with the name of its setting."""
    if isinstance(value, str):
        yield setting, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _strings(inner, f"{setting}.{key}".lstrip("."))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _strings(inner, f"{setting}[{place}]")
