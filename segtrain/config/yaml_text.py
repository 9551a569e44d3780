"""YAML text to values and back."""

from __future__ import annotations

import re
from typing import Any

import yaml

from segtrain.errors import UsageError, translate_errors

LINE_BREAK = re.compile("[\n\r\x85\u2028\u2029]")


class _UniqueKeyLoader(yaml.SafeLoader):
    """A loader that refuses a key given twice, of which YAML would silently take the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        mapping: Any = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in mapping.value:
            if (key.tag, key.value) in seen and isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                raise UsageError(f"line {line} gives {key.value!r} again; keep one of both")
            if isinstance(key, yaml.ScalarNode):
                seen.add((key.tag, key.value))
        return mapping


def parse_yaml(text: str, origin: str) -> Any:
    """Return the values of a text. Raise UsageError, which begins with `origin`."""
    # besides YAMLError PyYAML raises ValueError, IndexError and RecursionError, as for 2026-99-99
    with translate_errors(
        lambda error: (
            f"{origin}: not YAML; put quotes around special characters "
            f"({' '.join(str(error).split())})"
        ),
        UsageError,
    ):
        try:
            return yaml.load(text, _UniqueKeyLoader)
        except UsageError as error:
            raise UsageError(f"{origin}: {error}") from error


class _OneLineDumper(yaml.SafeDumper):
    """A dumper that escapes line breaks in text, which PyYAML would fold."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = '"' if LINE_BREAK.search(text) else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_OneLineDumper.add_representer(str, _OneLineDumper.represent_text)


def dump_yaml(content: Any, **options: Any) -> str:
    """Return readable YAML that loads as `content`; `options` are PyYAML's."""
    return yaml.dump(content, None, _OneLineDumper, sort_keys=False, allow_unicode=True, **options)
