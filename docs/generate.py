"""Writes docs/config.md from segtrain/config.py, so that the manual can't go stale."""

from pathlib import Path

from segtrain.config import Config

HEADER = """# Every config field

Written by `python docs/generate.py` from `segtrain/config.py`. Any of them can stand in the YAML of
`--config` or in `--set key=value`; a flag wins over `--set`, that over the file, that over the
default. The sections stand in the order in which a batch meets them.
"""


def config_tables() -> str:
    parts = [HEADER]
    for section, field in Config.model_fields.items():
        parts.append(f"\n## {section}\n\n| field | default | meaning |\n| --- | --- | --- |\n")
        default = field.default
        for name, info in type(default).model_fields.items():
            value = getattr(default, name)
            shown = (
                "null"
                if value is None
                else str(value).lower()
                if isinstance(value, bool)
                else value
            )
            parts.append(f"| `{section}.{name}` | `{shown}` | {info.description} |\n")
    return "".join(parts)


if __name__ == "__main__":
    (Path(__file__).parent / "config.md").write_text(config_tables(), encoding="utf-8")
