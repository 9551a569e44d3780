"""The import map: a corridor with one direction, cli -> verb -> leaves -> ground."""

import ast
import sys
from pathlib import Path

import pytest

import segtrain

ROOT = Path(segtrain.__file__).parent


def name_of(path: Path) -> str:
    """'data.masks' for segtrain/data/masks.py, 'losses' for its __init__, '' for segtrain's own."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


FILES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}

# '' is segtrain's version
GROUND = {
    "", "errors", "atomic", "processes", "fieldtypes", "config", "configfile",
    "dataconfig", "folders", "lossexpr", "progress"
}  # fmt: skip
LEAF_FOLDERS = ("data", "losses", "metrics", "render")
LEAVES = {name for name in FILES if name.split(".")[0] in LEAF_FOLDERS} | {
    "model", "optim", "inference", "runlog", "devices", "survive", "ranks"
}  # fmt: skip
# above the leaves, each line sees the lines before it that it names
TOOLS = {
    "checkpoint": {"model"},
    "pretrained": {"model", "checkpoint"},
    "plan": LEAVES | {"pretrained"},
    "feed": LEAVES | {"plan"},
    "sheets": LEAVES | {"plan"},
    "predictions": LEAVES,
    "tally": LEAVES | {"predictions"},
    "report": LEAVES | {"predictions", "tally"},
    "step": {"data.dataset", "devices", "losses", "losses.nll", "model", "survive"},
    "state": {"checkpoint", "losses", "metrics.confusion", "model", "plan", "runlog"},
    "endings": {"checkpoint", "data.sampling", "devices", "plan", "runlog", "state", "step"},
}
VERBS = {"fit", "evaluate", "predict", "check", "catalogue", "compare", "sweep"}


def allowed(name: str) -> set[str]:
    if name == "__main__":
        return {"cli"}
    if name == "cli":
        return GROUND | VERBS
    if name in VERBS:
        return GROUND | LEAVES | set(TOOLS)
    if name in TOOLS:
        return GROUND | TOOLS[name]
    if name in LEAVES:
        folder = name.split(".")[0]
        return GROUND | {other for other in LEAVES if other.startswith(f"{folder}.")} - {name}
    return GROUND - {name} if name else {"checkpoint"}  # segtrain.load, a lazy way in


def imports(node: ast.AST) -> set[str]:
    """Full names of all that the imports under a node name: modules and what is in them."""
    found = set()
    for statement in ast.walk(node):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            assert not statement.level, "imports are absolute"
            found |= {f"{statement.module}.{alias.name}" for alias in statement.names}
    return found


def inner_imports(node: ast.AST) -> set[str]:
    """Our own files among them, by their names in FILES."""
    ours = {name for name in imports(node) if name.split(".")[0] == "segtrain"}
    names = {name.removeprefix("segtrain").removeprefix(".") for name in ours}
    return {name if name in FILES else name.rpartition(".")[0] for name in names}


def outer_imports(node: ast.AST) -> set[str]:
    return {name.split(".")[0] for name in imports(node)} - {"segtrain"}


def at_the_top(name: str) -> ast.Module:
    """The module without its functions: what importing it imports."""
    body = [s for s in TREES[name].body if not isinstance(s, (ast.FunctionDef, ast.ClassDef))]
    return ast.Module(body, [])


def test_the_map_has_every_file():
    placed = GROUND | LEAVES | set(TOOLS) | VERBS | {"cli", "__main__"}
    assert set(FILES) == placed


@pytest.mark.parametrize("name", FILES)
def test_imports_go_one_way(name):
    assert inner_imports(TREES[name]) - allowed(name) == set()


@pytest.mark.parametrize("name", ["", "cli"])
def test_starting_is_instant(name):
    """The package and the command line bring in only the ground; the rest waits in functions."""
    assert inner_imports(at_the_top(name)) <= GROUND
    assert outer_imports(at_the_top(name)) <= set(sys.stdlib_module_names) | {"typer"}


@pytest.mark.parametrize("name", sorted(GROUND))
def test_the_ground_is_light(name):
    assert outer_imports(TREES[name]) <= set(sys.stdlib_module_names) | {"pydantic", "yaml", "rich"}


def test_no_cycles():
    # the ways in are left out: segtrain.load is called, not run, by an import
    edges = {name: inner_imports(TREES[name]) for name in FILES if name}
    while ends := [name for name, below in edges.items() if not below & edges.keys()]:
        for name in ends:
            del edges[name]
    assert edges == {}


@pytest.mark.parametrize(
    "library, within, only",
    [
        ("torch.distributed", "losses", {"losses.reduce"}),
        ("albumentations", "", {"data.transforms"}),
        ("cv2", "", {"data.augment", "data.transforms", "metrics.boundary", "metrics.regions"}),
        ("tifffile", "", {"data.images"}),
        ("pycocotools", "", {"data.coco"}),
        ("matplotlib", "", {"render.plots"}),
        ("jinja2", "", {"render.page"}),
        ("typer", "", {"cli"}),
    ],
)
def test_few_files_know_each_library(library, within, only):
    found = {
        name
        for name in FILES
        if name.startswith(within)
        and any(i == library or i.startswith(f"{library}.") for i in imports(TREES[name]))
    }
    assert found == only


def test_albumentations_is_told_before_it_is_imported():
    source = FILES["data.transforms"].read_text()
    assert source.index("NO_ALBUMENTATIONS_UPDATE") < source.index("import albumentations")


def test_no_file_is_called_utils():
    assert [name for name in FILES if name.split(".")[-1] in ("utils", "helpers", "common")] == []


def test_only_the_command_line_catches_everything():
    broad = {"Exception", "BaseException"}
    catching = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or broad & {getattr(x, "id", "") for x in ast.walk(node.type)})
    }
    assert catching == {"cli"}


@pytest.mark.parametrize("name", FILES)
def test_files_stay_short(name):
    assert len(FILES[name].read_text().splitlines()) <= 400
