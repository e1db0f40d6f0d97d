"""Which files a module of the user's own needs: itself, its packages, and whatever beside it that these import.

Found by reading the syntax tree, so that nothing of the user's runs here. What is imported by a name made up at run
time is not found; whoever does that sends the files by name.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from orchestrator.errors import SettingError


def files_of_module(module: str, root: Path) -> set[Path]:
    """The files below `root` that `import module` reads; none where the module is not there.

    Raises:
        SettingError: one of them is not Python.
    """
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        for path in _files_on_the_way(name, root):
            if path not in found:
                found.add(path)
                package = path.parent.relative_to(root).parts
                waiting += _imported(path, package)
    return found


def _files_on_the_way(module: str, root: Path) -> Iterator[Path]:
    """Of `a.b.c`: the packages a and b, and c, as far as they are files here."""
    folder = root
    for part in module.split("."):
        if (package := folder / part / "__init__.py").is_file():
            yield package
        elif (alone := folder / f"{part}.py").is_file():
            yield alone
            return
        folder /= part


def _imported(path: Path, package: tuple[str, ...]) -> list[str]:
    """Full names of what a file imports; in `from a import b`, b may be a module as well."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise SettingError(str(path), f"is not Python: {error}", "mend it") from None
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            names += [f"{base}.{alias.name}".lstrip(".") for alias in node.names]
    return names
