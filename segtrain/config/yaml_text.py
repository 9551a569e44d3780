"""YAML text to values and back."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from segtrain.errors import UsageError, translate_errors
from segtrain.files.whole import refuse_special

LINE_BREAK = re.compile("[\n\r\x85\u2028\u2029]")
LONGEST_TEXT = 4_000_000  # characters; PyYAML reads about 100,000 a second
DEEPEST = 50  # lists and mappings within each other
MOST_VALUES = 1_000_000  # with each alias counted as what it stands for
# PyYAML reads 010 as 8 and 1:30 as 90, which hardly anyone means
OTHER_BASES = re.compile(r"[-+]?(0[0_]*[1-9][0-9_]*|[0-9_]+(:[0-9_]+)+(\.[0-9_]*)?)")
LONGEST_NUMBER = 100  # characters
TOO_DEEP = f"has lists or mappings in more than {DEEPEST} levels"
MERGE = "tag:yaml.org,2002:merge"
_pipes: dict[Path, str] = {}  # what was read of them: a command may need it twice


class _Loader(yaml.SafeLoader):
    """A loader that refuses what YAML would read in silence, and what would fill the memory.

    That is a key given twice, of which PyYAML takes the last, numbers of base 8 or 60, deep
    nesting, and aliases within aliases. Dates are text: no field takes any.
    """

    def __init__(self, text: str):
        super().__init__(text)
        self.depth = 0
        self.extents: dict[yaml.Node, tuple[int, int]] = {}  # values in a collection, its levels

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > DEEPEST:
            raise self._refuse(parent, TOO_DEEP)
        node: Any = super().compose_node(parent, index)  # of an alias, the node that it names
        self.depth -= 1
        if not isinstance(node, yaml.ScalarNode) and node not in self.extents:
            self.extents[node] = self._measure(node)
        return node

    def _measure(self, node: Any) -> tuple[int, int]:
        if node.end_mark is None:
            raise self._refuse(node, "has an alias for what it is in")
        mapping = isinstance(node, yaml.MappingNode)
        items = [*chain.from_iterable(node.value)] if mapping else node.value
        extents = [self.extents.get(item, (1, 0)) for item in items]
        size, depth = sum(size for size, _ in extents) + 1, max((d for _, d in extents), default=0)
        if size > MOST_VALUES or depth >= DEEPEST:
            too_many = f"has more than {MOST_VALUES:,} values"
            raise self._refuse(node, too_many if size > MOST_VALUES else TOO_DEEP)
        return size, depth + 1

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        mapping: Any = super().compose_mapping_node(anchor)
        seen = set()
        for node, _ in mapping.value:
            if isinstance(node, yaml.ScalarNode):
                # as Python compares them: 1, 0x1 and true are one key
                key = node.value if node.tag == MERGE else self.construct_object(node)
                if key in seen:
                    raise self._refuse(node, f"gives {node.value:.60} again; keep one of both")
                seen.add(key)
        return mapping

    def construct_number(self, node: Any) -> float:
        if OTHER_BASES.fullmatch(node.value):
            raise self._refuse(
                node, f"{node.value:.60} may mean several numbers; write it otherwise, or in quotes"
            )
        if len(node.value) > LONGEST_NUMBER:
            raise self._refuse(node, f"{node.value:.60}... is no number that a field takes")
        integer = node.tag.endswith(":int")
        return self.construct_yaml_int(node) if integer else self.construct_yaml_float(node)

    def _refuse(self, node: Any, text: str) -> UsageError:
        return UsageError(f"line {node.start_mark.line + 1} {text}")


# no sets, whose order is left to chance, nor other types that no field takes
_Loader.yaml_constructors = {None: _Loader.construct_undefined}
for _name in ("null", "bool", "str", "seq", "map", "int", "float"):
    _number = _name in ("int", "float")
    _Loader.add_constructor(
        f"tag:yaml.org,2002:{_name}",
        _Loader.construct_number if _number else getattr(_Loader, f"construct_yaml_{_name}"),
    )
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse_yaml(text: str, origin: str) -> Any:
    """Return the values of a text. Raise UsageError, which begins with `origin`."""
    if len(text) > LONGEST_TEXT:
        raise UsageError(f"{origin}: longer than {LONGEST_TEXT:,} characters")
    # besides YAMLError PyYAML raises ValueError and IndexError
    with translate_errors(
        lambda error: (
            f"{origin}: not YAML; put quotes around special characters ({_locate(error)})"
        ),
        UsageError,
    ):
        try:
            return yaml.load(text, _Loader)
        except UsageError as error:
            raise UsageError(f"{origin}: {error}") from error


def _locate(error: Exception) -> str:
    """Return PyYAML's error with its line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return " ".join(str(error).replace('in "<unicode string>", ', "").split())


def read_yaml_text(file: Path) -> str:
    """Return the text of a file. Raise UsageError where it can't be read, or is no text."""
    if file in _pipes:
        return _pipes[file]
    try:
        refuse_special(file)  # a pipe that nobody writes to would never end
        with open(file, encoding="utf-8-sig") as opened:
            text = opened.read(LONGEST_TEXT + 1)  # parse_yaml refuses more
            if not file.is_file():
                _pipes[file] = text
    except FileNotFoundError as error:
        raise UsageError(f"{file}: no such file") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: cannot be read as UTF-8 text ({error})") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: cannot be read ({error})") from error
    return text


class _OneLineDumper(yaml.SafeDumper):
    """A dumper that escapes line breaks in text, which PyYAML would fold."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = '"' if LINE_BREAK.search(text) else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_OneLineDumper.add_representer(str, _OneLineDumper.represent_text)


def dump_yaml(content: Any, **options: Any) -> str:
    """Return readable YAML that loads as `content`; `options` are PyYAML's."""
    return yaml.dump(content, None, _OneLineDumper, sort_keys=False, allow_unicode=True, **options)
