"""Write what the documents take from elsewhere, so that it can't go stale.

docs/config.md, docs/losses.md and the tree of docs/architecture.md come from the code, the tables
of README.md and benchmarks/README.md from the figures in benchmarks/results/.
"""

import ast
import inspect
import re
import runpy
from pathlib import Path

from segtrain.commands.losses import signature
from segtrain.config import Config
from segtrain.losses import FAMILIES

ROOT = Path(__file__).parents[1]
CONFIG_HEADER = """# Every config field

Written by `python docs/generate.py` from `segtrain/config/`. Any of them can stand in the YAML
of `--config` or in `--set key=value`; a flag wins over `--set`, that over the file, that over the
default. The sections stand in the order in which a batch meets them.
"""


LOSSES_HEADER = """# Every loss

Written by `python docs/generate.py` from `segtrain/losses/`; `segtrain losses` prints it, too. p is
the softmax probability, t the one-hot truth, m = -log p of the true class; sums run over the valid
pixels of the whole batch and all devices.
"""


def config_tables() -> str:
    parts = [CONFIG_HEADER]
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


def loss_pages() -> str:
    parts = [LOSSES_HEADER]
    for name, family in FAMILIES.items():
        text, _, arguments = inspect.getdoc(family).rpartition("\n\n")
        parts.append(f"\n## {name}\n\n`{signature(name)}`\n\n{text}\n\n")
        parts.append(f"    {family.formula}\n\nSource: {family.source}.\n\n")
        parts += [f"- {line}\n" if line[0] != " " else f"  {line}\n" for line in wrapped(arguments)]
    return "".join(parts)


def wrapped(arguments: str) -> list[str]:
    """An argument a line, the lines that go on with one indented."""
    lines = arguments.splitlines()
    return [line if line.split(":")[0].isidentifier() else f" {line}" for line in lines]


def tree(folder: Path = ROOT / "segtrain", depth: int = 0) -> str:
    """Files and folders of segtrain/, each file with the first line of its docstring."""
    lines = []
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name)):
        name = "  " * depth + path.name
        if path.is_dir() and any(path.glob("*.py")):
            lines += [f"{name}/\n", tree(path, depth + 1)]
        elif path.suffix == ".py" and (text := ast.get_docstring(ast.parse(path.read_text()))):
            lines.append(f"{name:32} {text.splitlines()[0]}\n")
    return "".join(lines)


def with_tree(page: str) -> str:
    marked = r"(<!-- tree -->\n\n```text\n).*?(```\n\n<!-- end -->)"
    return re.sub(marked, lambda found: found[1] + tree() + found[2], page, flags=re.DOTALL)


def documents() -> dict[str, str]:
    """Every generated document: its path in the repository, and the text that it should have."""
    fill = runpy.run_path(str(ROOT / "benchmarks/tables.py"))["fill"]
    filled = {"docs/architecture.md": with_tree, "README.md": fill, "benchmarks/README.md": fill}
    return {"docs/config.md": config_tables(), "docs/losses.md": loss_pages()} | {
        page: write((ROOT / page).read_text(encoding="utf-8")) for page, write in filled.items()
    }


if __name__ == "__main__":
    for page, text in documents().items():
        (ROOT / page).write_text(text, encoding="utf-8")
