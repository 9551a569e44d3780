"""segtrain compare, from outside: differences, their intervals, and the line to noise."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

# counts of an image: tp, fp and fn of each class
GOOD, FAIR, BAD = ([[9, 8], [0, 1], [1, 0]], [[8, 8], [0, 2], [2, 0]], [[5, 8], [0, 5], [5, 0]])
EVERY = {"0.png": FAIR, "1.png": BAD}
BETTER = {"0.png": GOOD, "1.png": FAIR}
MIXED = {"0.png": BAD, "1.png": GOOD}


def write_run(
    run: Path,
    counts: dict[str, list[list[int]]],
    classes: tuple[str, ...] = ("road", "sign"),
    groups: dict[str, str] = {},
    split: str = "val",
    config: dict | None = None,
    order: int = 1,
) -> Path:
    """Write the files that compare reads; config: fields by dotted key, None for no config.yaml."""
    folder = run / "eval" / split
    folder.mkdir(parents=True)
    metrics = {"miou": 0.5, "classes": [{"name": name, "iou": 0.5} for name in classes]}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    columns = [f"{kind}/{name}" for kind in ("tp", "fp", "fn") for name in classes]
    with open(folder / "per_image.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "group", "miou", *columns])
        for image, of_image in list(counts.items())[::order]:
            numbers = [number for kind in of_image for number in kind]
            table.writerow([image, groups.get(image, image), "", *numbers])
    if config is not None:
        sections: dict = {}
        for key, value in config.items():
            section, name = key.split(".")
            sections.setdefault(section, {})[name] = value
        (run / "config.yaml").write_text(yaml.safe_dump(sections))
    return run


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    return [write_run(tmp_path / "a", EVERY), write_run(tmp_path / "b", BETTER)]


def compared(cli, *args: object) -> dict:
    answer = cli("compare", *args, "--json")
    assert answer.code == 0, answer.stderr
    return json.loads(answer.stdout)


def iou(tp: int, fp: int, fn: int) -> float:
    return tp / (tp + fp + fn)


def test_numbers_made_by_hand(cli, two: list[Path]):
    """Two images are drawn as (0,0), (0,1) or (1,1), so the interval's ends are the outer two."""
    found = compared(cli, *two)
    a, b = found["contenders"]
    (d,) = found["differences"]
    assert (found["images"], found["groups"], found["split"]) == (2, 2, "val")
    # of a: road 13 of 20, sign 16 of 23; twice image 0: 0.8 and 0.8; twice image 1: 5/10 and 8/13
    assert a["miou"] == pytest.approx((13 / 20 + 16 / 23) / 2)
    assert a["miou_ci"] == pytest.approx([(0.5 + 8 / 13) / 2, 0.8])
    assert [c["iou"] for c in a["classes"]] == pytest.approx([13 / 20, 16 / 23])
    # of b: road 17 of 20, sign 16 of 19; twice image 0: 0.9 and 8/9; twice image 1: 0.8 and 0.8
    assert b["miou"] == pytest.approx((17 / 20 + 16 / 19) / 2)
    assert b["miou_ci"] == pytest.approx([0.8, (0.9 + 8 / 9) / 2])
    assert d["miou"] == pytest.approx(b["miou"] - a["miou"])
    assert d["miou_ci"] == pytest.approx([(0.9 + 8 / 9) / 2 - 0.8, 0.8 - (0.5 + 8 / 13) / 2])
    road, sign = d["classes"]
    assert (road["name"], road["iou"]) == ("road", pytest.approx(17 / 20 - 13 / 20))
    assert road["iou_ci"] == pytest.approx([0.1, 0.3])
    assert (sign["name"], sign["iou"]) == ("sign", pytest.approx(16 / 19 - 16 / 23))
    assert sign["iou_ci"] == pytest.approx([8 / 9 - 0.8, 0.8 - 8 / 13])
    assert d["beyond_noise"] and road["beyond_noise"] and sign["beyond_noise"]
    assert d["sentence"] == (
        "b is above a by 0.1732 mIoU (95 % interval 0.0944 to 0.2423): more than the choice of "
        "images explains."
    )
    assert d["about_classes"] == "b minus a, classes beyond noise: road +0.2000, sign +0.1465."


def test_a_copy_of_a_run_differs_by_nothing(cli, two: list[Path], tmp_path: Path):
    copy = shutil.copytree(two[0], tmp_path / "copy")
    (d,) = compared(cli, two[0], copy)["differences"]
    assert (d["miou"], d["miou_ci"], d["beyond_noise"]) == (0, [0, 0], False)
    assert (
        d["sentence"] == "copy and a: no difference beyond noise (95 % interval 0.0000 to 0.0000)."
    )
    assert d["about_classes"] == "copy and a: no class differs beyond noise."
    nothing = {"iou": 0, "iou_ci": [0, 0], "beyond_noise": False}
    assert d["classes"] == [{"name": name} | nothing for name in ("road", "sign")]


def test_better_here_and_worse_there_is_noise(cli, tmp_path: Path):
    runs = [write_run(tmp_path / "a", EVERY), write_run(tmp_path / "b", MIXED)]
    (d,) = compared(cli, *runs)["differences"]
    assert d["miou_ci"][0] < 0 < d["miou_ci"][1] and not d["beyond_noise"]
    assert "no difference beyond noise (95 % interval -0" in d["sentence"]


def test_the_order_of_runs_turns_signs(cli, two: list[Path]):
    (forth,) = compared(cli, *two)["differences"]
    (back,) = compared(cli, *two[::-1])["differences"]
    assert back["miou"] == -forth["miou"]
    assert back["miou_ci"] == pytest.approx([-end for end in forth["miou_ci"][::-1]])
    assert "a is below b by 0.1732" in back["sentence"] and back["beyond_noise"]
    assert "road -0.2000" in back["about_classes"]


def test_images_are_matched_by_name(cli, two: list[Path], tmp_path: Path):
    turned = write_run(tmp_path / "turned", BETTER, order=-1)
    straight, other = (compared(cli, two[0], run) for run in (two[1], turned))
    assert straight["contenders"][1]["miou_ci"] == other["contenders"][1]["miou_ci"]
    assert straight["differences"][0]["classes"] == other["differences"][0]["classes"]


def test_images_of_a_group_are_drawn_together(cli, tmp_path: Path):
    """Images 0 and 1 are one group, 2 another: the ends are those groups' own scores."""
    a = EVERY | {"2.png": FAIR}
    b = BETTER | {"2.png": FAIR}
    groups = {"0.png": "street", "1.png": "street"}
    runs = [write_run(tmp_path / n, c, groups=groups) for n, c in (("a", a), ("b", b))]
    found = compared(cli, *runs)
    assert (found["images"], found["groups"]) == (3, 2)
    (d,) = found["differences"]
    together = (iou(17, 0, 3) + iou(16, 3, 0) - iou(13, 0, 7) - iou(16, 7, 0)) / 2
    assert d["miou_ci"] == pytest.approx([0, together])


def test_one_group_has_no_interval(cli, tmp_path: Path):
    """All resamples are the same: an interval of no width would call anything beyond noise."""
    groups = {"0.png": "street", "1.png": "street"}
    runs = [write_run(tmp_path / n, c, groups=groups) for n, c in (("a", EVERY), ("b", BETTER))]
    found = compared(cli, *runs)
    (d,) = found["differences"]
    assert found["notes"][1] == "There is one image, or one group of images: no intervals."
    assert (d["miou_ci"], d["beyond_noise"]) == (None, False)
    assert not any(c["beyond_noise"] for c in d["classes"])
    assert d["sentence"] == "b minus a: +0.1732 mIoU; too few images for an interval."
    html = (Path("comparison") / "comparison.html").read_text()
    assert d["sentence"] in html


def test_a_class_that_is_nowhere_has_no_score(cli, tmp_path: Path):
    runs = []
    for name, counts in (("a", EVERY), ("b", BETTER)):
        three = {image: [[*kind, 0] for kind in of_image] for image, of_image in counts.items()}
        runs.append(write_run(tmp_path / name, three, ("road", "sign", "whale")))
    found = compared(cli, *runs)
    assert found["contenders"][0]["miou"] == pytest.approx((13 / 20 + 16 / 23) / 2)
    whale = found["differences"][0]["classes"][2]
    assert whale == {"name": "whale", "iou": None, "iou_ci": None, "beyond_noise": False}


# seeds


def seeded(tmp_path: Path, loss: str, *of_seeds: dict) -> list[Path]:
    return [
        write_run(tmp_path / f"{loss}-{seed}", counts,
                  config={"loss.expression": loss, "train.seed": seed})
        for seed, counts in enumerate(of_seeds)
    ]  # fmt: skip


def test_seeds_of_one_config_are_one_run_group(cli, tmp_path: Path):
    best = {"0.png": [[10, 8], [0, 0], [0, 0]], "1.png": GOOD}
    ce, ohem = seeded(tmp_path, "ce", EVERY, EVERY), seeded(tmp_path, "ohem", BETTER, best)
    found = compared(cli, ce[0], ohem[0], ce[1], ohem[1])  # as a sweep has them: seed by seed
    assert [c["name"] for c in found["contenders"]] == ["ce", "ohem"]
    one = found["contenders"][1]
    assert (one["runs"], one["seeds"]) == ([str(run) for run in ohem], [0, 1])
    scores = [(17 / 20 + 16 / 19) / 2, (19 / 20 + 16 / 17) / 2]
    assert one["miou"] == pytest.approx(sum(scores) / 2)
    assert one["miou_range"] == pytest.approx(scores)
    # twice image 0: seed 0 has 0.9 and 8/9, seed 1 has 1 and 1; twice image 1: 0.8, 0.8; 0.9, 8/9
    ends = [(0.8 + (0.9 + 8 / 9) / 2) / 2, ((0.9 + 8 / 9) / 2 + 1) / 2]
    assert one["miou_ci"] == pytest.approx(ends)
    (d,) = found["differences"]
    assert (d["name"], d["against"], d["beyond_noise"]) == ("ohem", "ce", True)
    assert "only 2 images" in found["notes"][0]  # and none on one training each


def test_seeds_that_overlap_are_not_called_beyond_noise(cli, tmp_path: Path):
    ce = seeded(tmp_path, "ce", EVERY, BETTER)
    ohem = seeded(tmp_path, "ohem", BETTER, BETTER)
    (d,) = compared(cli, *ce, *ohem)["differences"]
    assert d["miou_ci"][0] > 0 and not d["beyond_noise"]
    assert d["sentence"] == (
        "ohem is above ce by 0.0866 mIoU (95 % interval 0.0472 to 0.1212), but the scores of their "
        "seeds overlap (ohem 0.8461 to 0.8461, ce 0.6728 to 0.8461): not beyond noise."
    )
    assert not any(c["beyond_noise"] for c in d["classes"])


def test_where_only_seeds_differ_they_are_compared(cli, tmp_path: Path):
    found = compared(cli, *seeded(tmp_path, "ce", EVERY, BETTER))
    assert [c["name"] for c in found["contenders"]] == ["seed=0", "seed=1"]
    assert found["differences"][0]["beyond_noise"]


def test_a_repeated_seed_is_another_run_group(cli, tmp_path: Path):
    """A run may be of a later commit, or evaluated in another way, which no config records."""
    again = write_run(tmp_path / "again", BETTER,
                      config={"loss.expression": "ce", "train.seed": 1})  # fmt: skip
    runs = [*seeded(tmp_path, "ce", EVERY, EVERY), again]
    found = compared(cli, *runs)
    assert [c["seeds"] for c in found["contenders"]] == [[0, 1], [1]]
    assert [c["name"] for c in found["contenders"]] == ["ce-0", "again"]
    assert found["notes"][0].startswith("One training of again: ")


# names


@pytest.mark.parametrize(
    "configs, names",
    [
        ([{"loss.expression": "ce"}, {"loss.expression": "ohem+ghm"}], ["ce", "ohem+ghm"]),
        ([{"loss.expression": "ce"}, {"loss.expression": "dice"}],  # of an older version
         ["ce", "dice(classes='all')"]),
        ([{"loss.expression": "ce"}, {"loss.expression": "ce", "optim.lr": 0.01}],
         ["lr=0.001", "lr=0.01"]),
        ([{"loss.expression": "ce"}, {"loss.expression": "ohem", "augment.hflip": 0.0}],
         ["ce, hflip=null", "ohem, hflip=0.0"]),
        ([{"optim.lr": 0.1}, {"optim.lr": 0.2, "loss.expression": "ce", "augment.crop": [64, 32]}],
         ["ohem, crop=null, lr=0.1", "ce, crop=64x32, lr=0.2"]),
        ([{"train.batch_size": 2}, {"eval.batch_size": 2}],
         ["train.batch_size=2, eval.batch_size=1", "train.batch_size=8, eval.batch_size=2"]),
        ([{"model.options": {"a": [1], "b": 1}}, {"model.options": {"a": [2], "b": 1}}],
         ["a=[1]", "a=[2]"]),
        ([{"optim.lr": 0.1}, {"optim.lr": 0.2, "train.epochs": 3, "augment.preset": "none",
                              "augment.hflip": 0.0, "train.batch_size": 2}], ["r0", "r1"]),
        ([{"loss.expression": "ce"}, {"loss.expression": "+".join(["0.125*ghm"] * 9)}],
         ["ce", "r1"]),
        ([{"loss.expression": "ce"}, {"loss.expression": "ohem"}, {"loss.expression": "ce"}],
         ["r0", "ohem", "r2"]),
        ([None, {"loss.expression": "ohem"}, {"loss.expression": "ce"}], ["r0", "ohem", "ce"]),
    ],
)  # fmt: skip
def test_a_run_group_is_named_by_what_differs(cli, tmp_path: Path, configs: list, names: list[str]):
    runs = [write_run(tmp_path / f"r{i}", EVERY, config=c) for i, c in enumerate(configs)]
    assert [c["name"] for c in compared(cli, *runs)["contenders"]] == names


def test_seeds_in_folders_of_a_sweep_are_named_without_the_seed(cli, tmp_path: Path):
    long = "+".join(["0.125*ghm"] * 9)
    runs = [
        write_run(tmp_path / f"{name}-seed{seed}", EVERY,
                  config={"loss.expression": loss, "train.seed": seed})
        for seed in (0, 1)
        for name, loss in (("ce", "ce"), ("nine", long))
    ]  # fmt: skip
    found = compared(cli, *runs)
    assert [c["name"] for c in found["contenders"]] == ["ce", "nine"]
    assert [c["fields"] for c in found["contenders"]] == [
        {"loss.expression": "ce"}, {"loss.expression": long}
    ]  # fmt: skip


def test_folders_of_one_name_are_named_by_path(cli, tmp_path: Path):
    runs = [write_run(tmp_path / folder / "run", EVERY) for folder in ("a", "b")]
    assert [c["name"] for c in compared(cli, *runs)["contenders"]] == [str(run) for run in runs]


# refused


def changed(counts: dict, image: str, of_image: list) -> dict:
    return counts | {image: of_image}


@pytest.mark.parametrize(
    "other, words",
    [
        ({"classes": ("road", "pole")}, ["classes", "road, pole"]),
        ({"counts": EVERY | {"2.png": BAD}}, ["different images", "2.png is in other", "1 such"]),
        ({"counts": {"0.png": FAIR}}, ["different images", "1.png is in a"]),
        ({"counts": changed(EVERY, "1.png", [[5, 8], [0, 5], [6, 0]])},
         ["different masks", "1.png has 11 and 10 pixels of road"]),
        ({"groups": {"1.png": "0.png"}}, ["different groups", "is in '0.png' and in '1.png'"]),
    ],
    ids=["classes", "more images", "fewer images", "truth", "groups"],
)  # fmt: skip
def test_runs_that_cannot_be_paired_are_refused(cli, tmp_path: Path, other: dict, words: list[str]):
    write_run(tmp_path / "a", EVERY)
    write_run(tmp_path / "other", **({"counts": BETTER} | other))
    answer = cli("compare", "a", "other")
    assert answer.code == 2
    assert [word for word in words if word not in answer.error] == []
    assert not Path("comparison").exists()


def test_a_false_positive_more_is_no_other_truth(cli, tmp_path: Path):
    write_run(tmp_path / "a", EVERY)
    write_run(tmp_path / "b", changed(EVERY, "1.png", [[5, 8], [3, 5], [5, 0]]))
    assert cli("compare", "a", "b").code == 0


@pytest.mark.parametrize(
    "args, words",
    [
        (["a"], ["two different runs"]),
        (["a", "./a"], ["two different runs"]),
        (["a", "b", "a"], ["a: given twice"]),
        (["a", "nowhere"], ["nowhere: no such folder"]),
        (["a", "empty"], ["empty: not scored on val", "segtrain eval empty"]),
        (["a", "b", "--split", "test"], ["a: not scored on test", "segtrain eval a --split test"]),
        (["a", "old"], ["old/eval/val", "tp/road", "segtrain eval old"]),
        (["a", "damaged"], ["damaged/eval/val", "segtrain eval damaged"]),
        (["a", "twice"], ["twice/eval/val/per_image.csv", "image twice"]),
        ([], ["RUN"]),
    ],
    ids=" ".join,
)
def test_wrong_runs_are_one_line(cli, two: list[Path], tmp_path: Path, args, words):
    (tmp_path / "empty").mkdir()
    for name, text in (("old", "image,group,miou\n0.png,0.png,0.5\n"), ("damaged", None)):
        table = write_run(tmp_path / name, EVERY) / "eval/val/per_image.csv"
        if text:
            table.write_text(text)
        else:
            (table.parent / "metrics.json").write_text("{")
    table = write_run(tmp_path / "twice", EVERY) / "eval/val/per_image.csv"
    table.write_text(table.read_text() + table.read_text().splitlines()[1] + "\n")
    answer = cli("compare", *args)
    assert answer.code == (1 if "twice" in args else 2)
    assert [word for word in words if word not in answer.error] == []


CONTENTS = {
    "empty": b"",
    "cut": b'{"a": [1, ',
    "a list": b"[1, 2]",
    "other types": b'{"command": [1], "classes": [{"name": 1}], "data": 1}',
    "bytes": b"\xff\0",
    "deep": b"[" * 100_000,
}
FILES = ["eval/val/metrics.json", "eval/val/per_image.csv", "config.yaml", "environment.json"]
# an empty config is valid: all defaults
DAMAGED = [(f, c) for f in FILES for c in CONTENTS if (f, c) != ("config.yaml", "empty")]


@pytest.mark.parametrize("count", ["-1", "9" * 30, "0"])
def test_impossible_counts_are_refused(cli, two: list[Path], count):
    columns = "image,group,tp/road,tp/sign,fp/road,fp/sign,fn/road,fn/sign"
    for run in two:
        row = ",".join(["0.png", "0.png", *[count] * 6])
        (run / "eval/val/per_image.csv").write_text(f"{columns}\n{row}\n")
    answer = cli("compare", *two)
    assert answer.code in (1, 2) and str(two[0] / "eval/val") in answer.error


@pytest.mark.parametrize("file, content", DAMAGED)
def test_a_damaged_file_is_one_line_that_names_its_folder(cli, two: list[Path], file, content):
    (two[1] / file).write_bytes(CONTENTS[content])
    answer = cli("compare", *two)
    assert answer.code in (1, 2) and str((two[1] / file).parent) in answer.error
    assert len(answer.stderr.splitlines()) == 1
    assert not Path("comparison").exists()


# what is printed and written


def test_the_table_fits_80_columns(cli, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    long = "ohem(thresh=0.65, n_min_factor=8)+ghm"
    runs = [*seeded(tmp_path, "ce", EVERY, EVERY), *seeded(tmp_path, long, BETTER)]
    answer = cli("compare", *runs, "--out", "here/it is")
    assert answer.code == 0, answer.stderr
    lines = answer.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["mIoU", "95", "%", "difference", "95", "%"]
    assert lines[1].split() == ["ce", "0.6728", "0.5577", "to", "0.8000"]
    assert lines[2].split()[1:] == "0.8461 0.8000 to 0.8944 +0.1732 0.0944 to 0.2423".split()
    text = " ".join(answer.stdout.split())
    assert "ce: seeds from 0.6728 to 0.6728" in text
    assert f"{long} is above ce by 0.1732 mIoU (95 % interval 0.0944 to 0.2423): more than" in text
    assert "2 classes and 1 comparison, about one interval in twenty excludes 0 by chance" in text
    assert lines[-1] == "wrote here/it is/comparison.html"
    assert {file.name for file in Path("here/it is").iterdir()} == {
        "comparison.html", "comparison.json"
    }  # fmt: skip


def test_names_are_text_and_no_markup(cli, tmp_path: Path):
    runs = [write_run(tmp_path / name, EVERY, ("[red]", "[/b]")) for name in ("[bold]", "[u]")]
    answer = cli("compare", *runs, "--out", "[i]")
    assert answer.code == 0, answer.stderr
    assert all(f"\n{run.name} " in answer.stdout for run in runs)
    assert answer.stdout.endswith("wrote [i]/comparison.html\n")


def test_json_alone_is_printed(cli, two: list[Path]):
    answer = cli("compare", *two, "--json")
    assert json.loads(answer.stdout) == json.loads(Path("comparison/comparison.json").read_text())


def test_several_are_summed_up(cli, tmp_path: Path):
    runs = [write_run(tmp_path / n, c) for n, c in zip("abc", (EVERY, BETTER, MIXED), strict=True)]
    found = compared(cli, *runs)
    assert found["headline"] == "Beyond noise, minus a: b +0.1732 mIoU. Within noise: c."
    assert [d["against"] for d in found["differences"]] == ["a", "a"]
    assert found["notes"][-1].endswith("excludes 0 by chance: 0.2 of 4.")


def test_the_page_is_complete_and_loads_nothing(cli, tmp_path: Path):
    classes = ("road", "<b>sign</b>")
    runs = []
    for loss, counts in (("ce", EVERY), ("ohem", BETTER)):
        config = {"loss.expression": loss, "train.epochs": 7 if loss == "ce" else 8}
        runs.append(write_run(tmp_path / loss, counts, classes, config=config))
        environment = {
            "command": ["/bin/segtrain", "fit", "--loss", loss, "--out", "my runs"],
            "git_commit": f"c0ffee-{loss}", "segtrain": "0.1", "started": "2026-11-01T10:00:00",
        }  # fmt: skip
        (runs[-1] / "environment.json").write_text(json.dumps(environment))
    (d,) = compared(cli, *runs)["differences"]
    html = Path("comparison/comparison.html").read_text()
    for text in (
        d["sentence"], d["about_classes"].replace("<b>sign</b>", "&lt;b&gt;sign&lt;/b&gt;"),
        "segtrain fit --loss ohem --out &#39;my runs&#39;", "c0ffee-ohem", "2026-11-01T10:00:00",
        "train.epochs", "&lt;b&gt;sign&lt;/b&gt;", "+0.2000", "0.1000 to 0.3000", "beyond noise",
    ):  # fmt: skip
        assert text in html
    assert "<b>sign" not in html
    assert "http://" not in html and "https://" not in html and "<script" not in html


def many(tmp_path: Path) -> list[Path]:
    """Runs of 2 losses, 3 learning rates, 4 crops and 2 seeds."""
    runs = []
    for seed in (0, 1):
        for index in range(24):
            loss, lr = ("ce", "ohem")[index // 12], (0.1, 0.01, 0.001)[index // 4 % 3]
            config = {"loss.expression": loss, "optim.lr": lr, "train.seed": seed,
                      "augment.crop": [32, 32 * (index % 4 + 1)]}  # fmt: skip
            counts = (EVERY, BETTER, MIXED)[index % 3]
            runs.append(write_run(tmp_path / f"{index}-{seed}", counts, config=config))
    return runs


def test_many_groups_stay_readable(cli, tmp_path: Path):
    runs = many(tmp_path)
    answer = cli("compare", *runs)
    assert answer.code == 0, answer.stderr
    assert len(answer.stdout.splitlines()) < 40
    assert "ohem, crop=32x128, lr=0.001 " in answer.stdout
    found = json.loads(Path("comparison/comparison.json").read_text())
    assert [len(group["runs"]) for group in found["contenders"]] == [2] * 24
    assert found["contenders"][23]["fields"] == {
        "loss.expression": "ohem", "optim.lr": 0.001, "augment.crop": [32, 128]
    }  # fmt: skip
    assert found["headline"].startswith("Beyond noise, minus ce, crop=32x32, lr=0.1: ")
    assert len(found["headline"]) < 700
    html = Path("comparison/comparison.html").read_text()
    assert html.count("<summary>In words</summary>") == 2
    scores = html[html.index('id="scores"') : html.index('id="classes"')]
    assert '<th scope="col">augment.crop</th>' in scores and "<td>32x128</td>" in scores


def test_the_page_in_a_browser(cli, chromium: Browser, tmp_path: Path):
    runs = [*seeded(tmp_path, "ce", EVERY, EVERY), *seeded(tmp_path, "ohem", BETTER, BETTER)]
    for loss, counts in (("focal", MIXED), ("ghm", BETTER), ("dice", BETTER), ("topk", BETTER)):
        runs += seeded(tmp_path, loss, counts)  # wider than a phone, marks to the right end
    assert cli("compare", *runs).code == 0
    for scheme in ("light", "dark"):
        page = chromium.new_page(viewport={"width": 390, "height": 800}, color_scheme=scheme)
        page.goto(Path("comparison/comparison.html").resolve().as_uri())
        assert page.evaluate("performance.getEntriesByType('resource').length") == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        # the dots lie to the right and left of 0 as the numbers beside them say
        offsets = {}
        for row, name in ((1, "ohem"), (2, "focal")):
            plot = page.locator(f"#differences li:nth-child({row}) svg")
            zero = plot.locator("> line").bounding_box()
            dot = plot.locator("circle").bounding_box()
            offsets[name] = dot["x"] + dot["width"] / 2 - zero["x"] - zero["width"] / 2
        assert offsets["ohem"] > 20 and offsets["focal"] > 5
        found = Axe().run(page).response["violations"]
        assert [(v["id"], [n["html"] for n in v["nodes"]]) for v in found] == []
        page.close()
