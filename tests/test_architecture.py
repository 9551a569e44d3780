"""Rules of the code base: imports down one staircase, instant start, short files and functions."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import segtrain

ROOT = Path(segtrain.__file__).parent

# from top to bottom; rooms of one floor don't see each other
STAIRCASE = """
__main__
cli
commands
training | export
evaluation | prediction
data
models | distributed | runs
config | render
losses | metrics
files
console
errors | version | private
"""
FLOORS = {
    room: floor
    for floor, rooms in enumerate(STAIRCASE.split("\n"))
    for room in rooms.split(" | ")
    if room
}
FACES = {"segtrain", "segtrain.config", "segtrain.losses"}  # the others' __init__.py are empty


def module_name(path: Path) -> str:
    """Return 'segtrain.data.masks' for segtrain/data/masks.py, 'segtrain' for its __init__.py."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


FILES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}


def room_of(module: str) -> str:
    """Return the folder or file of segtrain/ that a module is in; 'segtrain' for __init__.py."""
    return module.split(".")[1] if "." in module else module


def imported_names(node: ast.AST) -> set[str]:
    """Return the full names that the imports under a node name: modules and their members."""
    found = set()
    for statement in ast.walk(node):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            assert not statement.level, "imports are absolute"
            found |= {f"{statement.module}.{alias.name}" for alias in statement.names}
    return found


def inner_imports(module: str) -> set[str]:
    """Return the modules of segtrain that a module imports, at its top or within functions."""
    ours = {name for name in imported_names(TREES[module]) if name.split(".")[0] == "segtrain"}
    return {name if name in FILES else name.rpartition(".")[0] for name in ours}


def modules_importing(library: str, within: str = "segtrain") -> set[str]:
    return {
        module
        for module in FILES
        if module.startswith(within)
        and any(f"{name}.".startswith(f"{library}.") for name in imported_names(TREES[module]))
    }


def test_the_root_is_one_glance():
    entries = [entry for entry in ROOT.iterdir() if entry.name != "__pycache__"]
    assert len(entries) <= 22
    assert {room_of(module) for module in FILES} - {"segtrain"} == FLOORS.keys()


@pytest.mark.parametrize("module", sorted(FILES.keys() - {"segtrain"}))
def test_imports_go_down_the_staircase(module):
    room = room_of(module)
    beyond = {other for other in map(room_of, inner_imports(module)) if other != room}
    assert "segtrain" not in beyond, "the package's face is for users; import from its rooms"
    assert {other for other in beyond if FLOORS[other] <= FLOORS[room]} == set()


def test_no_cycles():
    edges = {module: inner_imports(module) for module in FILES.keys() - FACES}
    while ends := [module for module, below in edges.items() if not below & edges.keys()]:
        for module in ends:
            del edges[module]
    assert edges == {}


def test_only_faces_have_something_in_their_init():
    written = {m for m, path in FILES.items() if path.name == "__init__.py" and path.read_text()}
    assert written == FACES


@pytest.mark.parametrize("module", ["segtrain", "segtrain.cli.app", "segtrain.losses"])
def test_starting_is_instant(module):
    """Help and wrong options import no heavy library; each verb imports its own."""
    script = f"import sys, {module}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    heavy = {"torch", "numpy", "PIL", "cv2", "albumentations", "matplotlib", "lightning_fabric"}
    assert done.returncode == 0 and heavy & set(done.stdout.split()) == set()


def test_each_verb_imports_what_it_needs():
    """One after the other in a process, as users have it, who have no torchmetrics."""
    never = {"albumentations", "scipy", "onnx", "onnxruntime", "openvino", "pycocotools", "jinja2"}
    trained = {"timm", "segmentation_models_pytorch", "tensorboard", "matplotlib"}
    must_not = {
        "check": {"torch", "matplotlib"} | never,
        "predict": trained | never,
        "fit": {"matplotlib"} | never,
        "export": {"matplotlib"} | never,
    }
    script = f"""
import importlib, sys
sys.modules["torchmetrics"] = None  # Fabric imports it where the tests have installed it
for verb, heavy in {must_not}.items():
    importlib.import_module(f"segtrain.commands.{{verb}}")
    print(verb, *heavy & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == list(must_not), done.stdout + done.stderr


@pytest.mark.parametrize(
    "library, within, only",
    [
        ("torch.distributed", "segtrain.losses", {"losses.reduce"}),
        ("albumentations", "segtrain", {"data.loading.transforms", "export.hub"}),
        ("onnx", "segtrain", {"export.onnx_graph", "export.quantise"}),
        (
            "cv2",
            "segtrain",
            {
                "data.decoding",
                "data.loading.augment",
                "data.loading.copy_paste",
                "data.loading.transforms",
                "data.quick",
                "losses.border",
                "metrics.boundary",
                "metrics.regions",
                "prediction.vectors",
            },
        ),
        (
            "tifffile",
            "segtrain",
            {
                f"data.{name}"
                for name in ("georeference", "raster", "tiff", "tiff_parts", "tiled_tiff")
            },
        ),
        ("wandb", "segtrain", {"runs.tracker_process"}),
        ("mlflow", "segtrain", {"runs.tracker_process"}),
        ("pycocotools", "segtrain", {"data.regions"}),
        ("matplotlib", "segtrain", {"render.fonts", "render.plots"}),
        ("jinja2", "segtrain", {"render.templating"}),
    ],
)
def test_few_files_know_each_library(library, within, only):
    assert modules_importing(library, within) == {f"segtrain.{name}" for name in only}


def test_only_the_command_line_knows_typer():
    assert {room_of(module) for module in modules_importing("typer")} == {"cli"}


def test_albumentations_is_configured_before_it_is_imported():
    source = FILES["segtrain.data.loading.transforms"].read_text()
    assert source.index("NO_ALBUMENTATIONS_UPDATE") < source.index("import albumentations")


def test_no_cupboards():
    cupboards = {"utils", "util", "helpers", "common", "misc"}
    assert {module for module in FILES if module.split(".")[-1] in cupboards} == set()


def test_only_two_places_catch_everything():
    """The command line, and translate_errors around calls into third-party code."""
    broad = {"Exception", "BaseException"}
    catching = {
        room_of(module)
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or broad & {getattr(x, "id", "") for x in ast.walk(node.type)})
    }
    assert catching == {"cli", "errors"}


PRINTING = {"print", "Console", "echo", "secho", "print_exc", "print_exception", "pprint"}
STREAMS = {"sys.stdout.write", "sys.stderr.write", "os.write", "logging.info", "logging.warning"}


def printing_calls(tree: ast.Module) -> set[str]:
    calls = {ast.unparse(n.func): n for n in ast.walk(tree) if isinstance(n, ast.Call)}
    return {
        name
        for name, call in calls.items()
        if (name in STREAMS or name.split(".")[-1] in PRINTING)
        and not any(keyword.arg == "file" and name != "print" for keyword in call.keywords)
    }


def test_only_the_console_prints():
    """There names of files and classes are made safe; a fixed text needs none of it."""
    printing = {module: printing_calls(tree) for module, tree in TREES.items()}
    assert {module for module, calls in printing.items() if calls} == {
        "segtrain.console",
        "segtrain.cli.interrupts",  # before the console is imported
    }


def test_one_call_opens_images():
    """It names the formats; Pillow's and OpenCV's other readers never see a file."""
    readers = re.compile(r"(.*\.)?(Image\.open|imread|imageio\..*|io\.(read|decode)_image)")
    calls = {
        (module, ast.unparse(node))
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and readers.fullmatch(ast.unparse(node.func))
    }
    assert calls == {("segtrain.data.formats", "Image.open(source, formats=FORMATS)")}
    assert "PIL.Image.open" not in set().union(*map(imported_names, TREES.values()))


def test_logging_only_silences_libraries_or_makes_them_safe():
    silencers = {"segtrain.console", "segtrain.distributed.fabric", "segtrain.data.tiff"}
    assert modules_importing("logging") == silencers
    source = FILES["segtrain.distributed.fabric"].read_text()
    assert source.count("logging.getLogger(") == source.count(".setLevel(") == 1


def test_every_file_says_what_it_holds():
    silent = {m for m, tree in TREES.items() if tree.body and not ast.get_docstring(tree)}
    assert silent == set()


def test_docstrings_say_what_is_done_or_what_a_thing_is():
    """They begin with a verb or a noun: a question word leaves the reader to find the subject."""
    nodes = [node for tree in TREES.values() for node in ast.walk(tree)]
    documented = [n for n in nodes if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
    lines = [(ast.get_docstring(node) or "").split("\n")[0] for node in documented]
    riddles = r"(What|Whether|How|Of|Where|Which|Returns|Raises|Reads|Writes|Yields)\b"
    assert [line for line in lines if re.match(riddles, line)] == []


def test_a_name_stands_for_one_thing():
    """Classes, types and functions of two files share no name.

    A verb is one in cli/, its options, and one in commands/; the two kernels of a pass are twins.
    """
    files: dict[str, set[str]] = {}
    for module, tree in TREES.items():
        if room_of(module) == "cli" or module.startswith("segtrain.losses.kernels"):
            continue
        for node in tree.body:
            names = [node.name] if isinstance(node, ast.ClassDef | ast.FunctionDef) else []
            if isinstance(node, ast.Assign):
                named = [target.id for target in node.targets if isinstance(target, ast.Name)]
                names = [name for name in named if name[0].isupper() and not name.isupper()]
            for name in names:
                if not name.startswith("_"):
                    files.setdefault(name, set()).add(module)
    assert {name: modules for name, modules in files.items() if len(modules) > 1} == {}


def test_a_function_takes_few_arguments():
    """Values that travel together are one object; public signatures and kernels are exempt."""
    allowed = {"segtrain.losses.build.build_loss", "segtrain.losses.region.__init__"}
    many = set()
    for module, tree in TREES.items():
        if room_of(module) == "cli" or module.startswith("segtrain.losses.kernels.triton"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                names = [arg.arg for arg in (*node.args.args, *node.args.kwonlyargs)]
                if len([name for name in names if name not in ("self", "cls", "ctx")]) > 6:
                    many.add(f"{module}.{node.name}")
    assert many == allowed


@pytest.mark.parametrize("module", FILES)
def test_files_and_functions_stay_short(module):
    """Signatures aside: a verb's is the list of its options. A Triton kernel is one program."""
    functions = (n for n in ast.walk(TREES[module]) if isinstance(n, ast.FunctionDef))
    lengths = {f.name: f.end_lineno - f.body[0].lineno + 1 for f in functions}
    longest = 80 if module.startswith("segtrain.losses.kernels.triton") else 60
    assert len(FILES[module].read_text().splitlines()) <= 400
    assert {name: length for name, length in lengths.items() if length > longest} == {}


def test_tests_mirror_the_rooms():
    """tests/ROOM/ holds a room's tests, tests/ itself those of the whole program."""
    of_the_whole = {"faults"}
    tests = Path(__file__).parent
    folders = {path.parent.relative_to(tests) for path in tests.glob("*/**/test_*.py")}
    rooms = {path.parent.relative_to(ROOT) for path in FILES.values()}
    assert {str(folder) for folder in folders - rooms} == of_the_whole


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_the_pages_have_the_staircase(page):
    assert f"```text{STAIRCASE}```" in (ROOT.parent / page).read_text()


def test_the_files_that_the_architecture_names_exist():
    page = (ROOT.parent / "docs/architecture.md").read_text()
    named = set(re.findall(r"`([a-z_]+/[\w/]+\.(?:py|html|csv))`", page))
    assert len(named) > 30
    places = (ROOT, ROOT.parent)
    assert {n for n in named if not any((place / n).exists() for place in places)} == set()
