"""Every command, setting, snippet and link of the README and of the pages in docs/ works.

The segtrain commands of fenced blocks run, made small by SMALL, in a folder where STAND_INS replace
the files that they name; commands and settings in running text must exist. Output that a page
shows belongs in a ```text block.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import typer
from conftest import ANY_NETWORK, QUICK, run_cli, write_pairs
from PIL import Image
from safetensors.torch import save_file
from stand_in_trackers import install_stand_ins
from torch.distributed.run import get_args_parser

import segtrain
from segtrain.cli.app import app
from segtrain.config import Config
from segtrain.config.loading import load_config
from segtrain.config.schema import list_keys
from segtrain.losses.build import FAMILIES
from segtrain.losses.spec import parse_loss

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / page for page in ("README.md", "data/README.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES += [ROOT / "benchmarks/README.md", *sorted((ROOT / "docs").glob("*.md"))]
VERBS = typer.main.get_command(app).commands
ON_CPU = ["--device", "cpu"]
SMALL = {  # added to the commands of each verb
    "fit": QUICK,
    "eval": [*ON_CPU, "--workers", "0"],
    "predict": ON_CPU,
    "tune": [*ON_CPU, "--workers", "0", "--set", "data.val_fraction=0.5"],  # several images
    "check": [],
    "export": ["--proof", "1", "--max-drop", "1"],
    "losses": [],
    "encoders": [],
    "compare": [],
    "sweep": ["--dry-run"],  # each run would be a process
}
OWN_NETWORK = [*ANY_NETWORK, "--crop", "64x64"]  # instead, where fit is given its network
RESUMED = [*ON_CPU, "--workers", "0", "--epochs", "2"]  # instead, where fit resumes
ONE_DEVICE = ["--dry-run", "--devices", "1", "--nodes", "1"]  # tests/faults starts real ranks
STAND_INS = {  # replacements of the words in a command that name files
    r"/datasets/camvid": "camvid",
    r"/datasets/\w+|DATA": "pairs",
    r"(runs/[\w.-]+|RUN)(/metrics.csv|/checkpoints/.*|/export/.*)?": "run",
    r"[\w/-]+\.(png|jpe?g|tiff?)": "image",
    r"\w+/\*\.\w+|photos/?": "images",
    r"masks/": "masks",
    r"road\.onnx": "exported",
    r"road-unet": "hub",
    r"convnext_atto\.safetensors": "convnext_atto",
    r"\w+\.safetensors": "checkpoint",
    r"(?!configs/)[\w/-]+\.yaml": "config",
    r"resnet50": "resnet18",
}
SHELL = ("", "sh", "bash", "console")
NOT_OURS = {
    "git",
    "cd",
    "docker",
    "pip",
    "source",
    "bash",
    "srun",
    "sbatch",
    "tensorboard",
    "wandb",
}
# options of other programs
FOREIGN = {"--shm-size", "--node-rank", "--master-addr", "--max-restarts", "--signal"}
FILES = "txt|csv|json|py|safetensors"
KEY = rf"(?<![\w/.-])((?:{'|'.join(Config.model_fields)})\.(?!{FILES})[a-z_.]+)(?![a-z_.(])"


def blocks(*languages: str) -> list[Any]:
    """Return the fenced blocks of these languages as parameters, named by page and first words."""
    fenced = [
        (page, *block)
        for page in PAGES
        for block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.M | re.S)
    ]
    return [
        pytest.param(text, id=f"{page.relative_to(ROOT)}: {text.strip()[:60]}")
        for page, language, text in fenced
        if language in languages
    ]


def inline(pattern: str) -> list[str]:
    """Return each inline code that contains the pattern, once."""
    prose = "".join(re.sub(r"^```.*?^```", "", p.read_text(), flags=re.M | re.S) for p in PAGES)
    codes = dict.fromkeys(re.findall(r"`([^`]+)`", prose))
    return [code for code in codes if re.search(pattern, code)]


def lines_of(block: str) -> list[list[str]]:
    """Split the commands of a shell block into words; in a block with prompts, only those."""
    lines = re.sub(r"\\\n", " ", block).splitlines()
    lines = [line[2:] for line in lines if line.startswith("$ ")] or lines
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def recipe(target: str) -> list[list[str]] | None:
    """Return the lines that make runs for a target, prerequisites aside; None without it."""
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)*)", (ROOT / "Makefile").read_text(), re.M)
    return [shlex.split(line) for line in found[1].splitlines()] if found else None


def commands() -> Iterator[list[str]]:
    """Yield the arguments of each segtrain command in the shell blocks and their targets."""
    for words in (words for block in blocks(*SHELL) for words in lines_of(*block.values)):
        for line in recipe(words[1]) or [] if words[0] == "make" else [words]:
            names = [word.rpartition("/")[2] for word in line]
            if "segtrain" in names[:-1]:  # the last one is the folder of a cd
                arguments = line[names.index("segtrain") + 1 :]
                yield arguments[: arguments.index(">")] if ">" in arguments else arguments


@pytest.fixture(scope="module")
def home(tmp_path_factory, converted_once) -> Path:
    """Make two data sets, a tiny run and scored masks."""
    home = tmp_path_factory.mktemp("reader")
    write_pairs(home / "pairs")
    for file in (home / "pairs/masks").iterdir():
        mask = np.array(Image.open(file))
        mask[:2, :4] = 3  # a rare class, which rare-crop needs
        Image.fromarray(mask).save(file)
    for first, split in ((0, "train"), (6, "val")):
        write_pairs(home / "camvid", images=split, masks=f"{split}annot", first=first)
    for file in (home / "camvid").rglob("*.png"):
        file.rename(file.with_stem(f"0001TP_{file.stem:>06}"))
    done = run_cli("fit", "--data", home / "pairs", "--out", home, "--name", "run", *SMALL["fit"])
    assert done.code == 0, done.stderr
    done = run_cli("eval", home / "run", *SMALL["eval"])
    assert done.code == 0, done.stderr
    exported = home / "run/export/RUN.onnx"
    for path, format in ((exported, "onnx"), (home / "hub", "hf")):
        more = ["--format", format, "--out", path, *SMALL["export"]]
        done = run_cli("export", home / "run", *more)
        assert done.code == 0, done.stderr
    done = run_cli("eval", exported, *SMALL["eval"])
    assert done.code == 0, done.stderr
    shutil.copytree(home / "pairs/masks", home / "masks")
    scored = ["--predictions", home / "masks", "--data", home / "pairs"]
    done = run_cli("eval", *scored, *SMALL["eval"])
    assert done.code == 0, done.stderr
    return home


@pytest.fixture
def reader(home: Path, tmp_path: Path, monkeypatch) -> Path:
    """Enter the folder of a reader: the clone's configs, a data set in data/, a run."""
    monkeypatch.chdir(tmp_path)
    Path("configs").symlink_to(ROOT / "configs")
    Path("data").symlink_to(home / "pairs")
    shutil.copytree(home / "run", "runs/NAME")
    Path("runs/latest").symlink_to("NAME")
    install_stand_ins(tmp_path, monkeypatch)
    return home


def stand_in(word: str, home: Path) -> str:
    """Create the file or folder that the word names, and return its name here."""
    kind = next((kind for pattern, kind in STAND_INS.items() if re.fullmatch(pattern, word)), None)
    path, image = Path(word.removeprefix("/")), home / "pairs/images/000.png"
    if kind == "resnet18":
        return kind
    if kind is None or path.exists():
        return word
    if kind == "run":
        depth = 2 if path.parts[0] == "runs" else 1
        shutil.copytree(home / "run", Path(*path.parts[:depth]))
        return word
    if kind in ("masks", "hub"):
        shutil.copytree(home / kind, path)
        return word
    if kind == "images":
        path = (path if "*" in word else path / "*.png").with_name(f"photo{path.suffix or '.png'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind in ("pairs", "camvid"):
        path.symlink_to(home / kind)
    elif kind == "config":
        path.write_text(f"data: {{path: {home / 'pairs'}}}")
    elif kind == "convnext_atto":
        save_file(timm.create_model(kind).state_dict(), path)
    elif kind == "exported":
        shutil.copy(home / "run/export/RUN.onnx", path)
    elif kind == "checkpoint":
        shutil.copy(home / "run/checkpoints/best.safetensors", path)
    else:
        shutil.copy(image, path)
    return word.removeprefix("/")


def made_small(arguments: list[str]) -> list[str]:
    """Add the options that make a command run within seconds."""
    given, verb = set(arguments), arguments[0]
    assert verb in SMALL, f"give {verb} a line in SMALL, and what it reads in STAND_INS"
    if verb != "fit":
        return arguments + SMALL[verb]
    small = RESUMED if "--resume" in given else SMALL["fit"]
    own = {"--arch", "--encoder", "configs/camvid-pretrained.yaml"}
    small = OWN_NETWORK if own & given else small
    if "--weights" in given:
        at = small.index("--weights")
        small = small[:at] + small[at + 2 :]
    return arguments + small + (ONE_DEVICE if {"--devices", "--nodes"} & given else [])


@pytest.mark.parametrize("command", dict.fromkeys(map(shlex.join, commands())))
def test_the_command_runs(command: str, reader: Path):
    arguments = [stand_in(word, reader) for word in shlex.split(command)]
    answer = run_cli(*made_small(arguments))
    assert answer.code == 0, answer.stderr or answer.stdout


@pytest.mark.parametrize("block", blocks(*SHELL) + inline(r"^make \w|^\S*python \w.*\.py"))
def test_the_programs_exist(block: str):
    for words in lines_of(block):
        program = next(word for word in words if not re.match(r"[A-Z_]+=", word))
        if program == "make":
            assert recipe(words[1]) is not None, f"the Makefile has no target {words[1]}"
        elif program == "torchrun":  # exits for an unknown option
            get_args_parser().parse_args(words[1:])
        elif program.endswith("python"):
            assert words[1] == "-m" or (ROOT / words[1]).is_file()
        elif not program.endswith("segtrain"):
            assert program in NOT_OURS, "output belongs in a ```text block, others in NOT_OURS"


@pytest.mark.parametrize("block", blocks("yaml"))
def test_the_yaml_is_a_config(block: str, tmp_path: Path):
    (tmp_path / "some.yaml").write_text(block)
    load_config(tmp_path / "some.yaml")


@pytest.mark.parametrize("code", blocks("python") + inline(r"^segtrain\.\w+\(.*\)$"))
def test_the_python_runs(code: str, reader: Path, monkeypatch):
    for word in re.findall(r'"([\w./-]+)"', code):
        stand_in(word, reader)
    given = {  # names that a snippet takes from the reader's own code
        "segtrain": segtrain,
        "logits": torch.randn(2, 19, 32, 32),
        "coarse_logits": torch.randn(2, 19, 8, 8),
        "target": torch.randint(0, 19, (2, 32, 32)),
        "images": torch.zeros(2, 3, 32, 32, dtype=torch.uint8),
    }
    exec(code, given)


@pytest.mark.parametrize("code", inline(r"segtrain [a-z]|--[a-z]|^(fit|eval|predict|check) -"))
def test_the_options_exist(code: str):
    named = re.search(r"\bsegtrain ([a-z]+)|^(fit|eval|predict|check) -", code)
    known = {"--help"} if named else {"--help", "--debug", "--version"} | FOREIGN
    for verb in [named[1] or named[2]] if named else VERBS:
        assert verb in VERBS, f"there is no segtrain {verb}"
        known |= {option for parameter in VERBS[verb].params for option in parameter.opts}
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", code)) <= known


@pytest.mark.parametrize("code", inline(r"--loss \S|^segtrain losses \w"))
def test_the_loss_exists(code: str):
    words = shlex.split(code)
    expression = words[words.index("--loss" if "--loss" in words else "losses") + 1]
    for loss in expression.split(",") if "sweep" in words else [expression]:
        parse_loss(loss).check_classes(3)


def test_the_tables_of_losses_name_losses():
    text = "".join(page.read_text() for page in PAGES)
    tables = "".join(re.findall(r"^\| loss \|.*\n((?:\|.*\n)+)", text, re.M))
    names = re.findall(r"`([\w+]+)`", "".join(re.findall(r"^\|[^|]+", tables, re.M)))
    assert {part for name in names for part in name.split("+")} == set(FAMILIES)


@pytest.mark.parametrize("code", inline(KEY))
def test_the_setting_exists_and_takes_the_value(code: str):
    for key, value in re.findall(KEY + r"(?:(?:=|: )(.+))?", code):
        found = [known for known in list_keys() if f"{key}.".startswith(f"{known}.")]
        assert found, f"there is no {key}"
        shells = value.rstrip('"')  # --set "key=value"
        load_config(sets=[f"{key}={shells}"] if shells else [])


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M
    )
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path):
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)", page.read_text()):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_reached_from_the_readme():
    reached, left = {PAGES[0]}, [PAGES[0]]
    while left:
        page = left.pop()
        links = re.findall(r"\]\((?!https?:)([^)#\s]+\.md)", page.read_text())
        new = {(page.parent / link).resolve() for link in links} - reached
        reached |= new
        left += new
    assert reached >= set(PAGES)
