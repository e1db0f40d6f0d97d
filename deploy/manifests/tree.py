"""Manifests as YAML: keys in the order in which they are written here, texts of several lines as blocks."""

from collections.abc import Iterable, Mapping

import yaml

Tree = Mapping[str, object]
"""A manifest, or a part of one."""
WIDTH = 120


class _Dumper(yaml.SafeDumper):
    """Writes what occurs twice twice, since anchors are hard to patch and to read."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def as_yaml(manifests: Iterable[Tree], heading: str) -> str:
    """One document each, behind the heading's lines as comments."""
    lines = "".join(f"# {line}".rstrip() + "\n" for line in heading.splitlines())
    documents = [yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, width=WIDTH) for manifest in manifests]
    return lines + "---\n" + "---\n".join(documents)
