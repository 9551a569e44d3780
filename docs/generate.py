"""Generate the parts of the documents that come from code and from benchmark results.

docs/config.md, docs/losses.md and docs/source-tree.md come from the code, tables of figures from
benchmarks/results/.
"""

import ast
import inspect
import runpy
from pathlib import Path

from segtrain.commands.losses import signature
from segtrain.config import Config
from segtrain.losses.arguments import ARGUMENTS

ROOT = Path(__file__).parents[1]
CONFIG_HEADER = """# Every config field

Written by `python docs/generate.py` from `segtrain/config/`. Set any of them in the YAML of
`--config` or with `--set KEY=VALUE`; an option wins over `--set`, `--set` over the file, the file
over the default. The sections are in the order in which a batch meets them.
"""

LOSSES_HEADER = """# Every loss

Written by `python docs/generate.py` from `segtrain/losses/`; `segtrain losses` prints it, too.
[choosing-a-loss.md](choosing-a-loss.md) says which to take. p is the softmax probability, t the
one-hot truth, m = -log p of the true class; sums run over the valid pixels of the whole batch and
all devices.
"""
TREE_HEADER = """# Every file

Written by `python docs/generate.py` from the first line of each file's docstring.
[architecture.md](architecture.md) says how they fit together.

"""


def config_tables() -> str:
    """Write a table for each config section: field, default, description."""
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
    """Write a section for each loss: signature, formula, explanation, source, arguments."""
    parts = [LOSSES_HEADER]
    for name, family in ARGUMENTS.items():
        text, _, arguments = inspect.getdoc(family).rpartition("\n\n")
        parts.append(f"\n## {name}\n\n    {signature(name)}\n    = {family.formula}\n\n")
        parts += [f"{' '.join(paragraph.split())}\n\n" for paragraph in text.split("\n\n")]
        parts.append(f"Source: {family.source}.\n")
        parts += [f"- {argument}\n" for argument in unwrap(arguments)]
    return "".join(parts)


def unwrap(arguments: str) -> list[str]:
    """Join the wrapped lines of each argument in a docstring's last paragraph."""
    found: list[str] = []
    for line in arguments.splitlines():
        if line.partition(":")[0].isidentifier():
            found.append(line)
        else:
            found[-1] += f" {line.strip()}"
    return found


def tree(folder: Path = ROOT / "segtrain", depth: int = 0) -> str:
    """List the files and folders of segtrain/, each file with the first line of its docstring."""
    lines = []
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name)):
        name = "  " * depth + path.name
        if path.is_dir() and any(path.glob("*.py")):
            lines += [f"{name}/\n", tree(path, depth + 1)]
        elif path.suffix == ".py" and (text := ast.get_docstring(ast.parse(path.read_text()))):
            lines.append(f"{name:32} {text.splitlines()[0]}\n")
    return "".join(lines)


def documents() -> dict[str, str]:
    """Return the text that each generated document should have, by its path in the repository."""
    fill = runpy.run_path(str(ROOT / "benchmarks/tables.py"))["fill"]
    pages = ("choosing-a-loss", "encoders", "export", "fine-tuning")
    pages = (*(f"docs/{page}.md" for page in pages), "benchmarks/README.md")
    return {
        "docs/config.md": config_tables(),
        "docs/losses.md": loss_pages(),
        "docs/source-tree.md": f"{TREE_HEADER}```text\n{tree()}```\n",
    } | {page: fill((ROOT / page).read_text(encoding="utf-8")) for page in pages}


if __name__ == "__main__":
    for page, text in documents().items():
        (ROOT / page).write_text(text, encoding="utf-8")
