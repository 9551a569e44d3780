"""The tables of the documents, written from the figures in results/.

A document holds a table between two markers, `<!-- table: NAME -->` and `<!-- end -->`; `fill`
writes the lines between them. `python docs/generate.py` does that for all documents.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

NETWORKS = {"unet/resnet18": "U-Net/ResNet-18", "deeplabv3plus/resnet50": "DeepLabV3+/ResNet-50"}
MARKED = re.compile(r"(<!-- table: (\w+) -->\n\n).*?(\n<!-- end -->)", re.DOTALL)


def fill(document: str) -> str:
    """Return the document with all of its tables up to date."""
    return MARKED.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], document)


def result(name: str) -> Any:
    file = Path(__file__).parent / "results" / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8"))


def table(header: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    head = [str(cell) for cell in header]
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def ratio(found: dict[str, Any]) -> str:
    low, high = found["spread"]
    return f"{found['median']:.2f}x ({low:.2f}-{high:.2f})"


def demo_losses() -> str:
    rows = []
    for loss, found in result("demo_losses")["summary"].items():
        iou = found["iou"]
        quoted = [found["miou_after_epoch_1"], found["miou"], iou["pole"], iou["sign"]]
        cells = [f"{each['mean']:.3f} ({each['min']:.3f}-{each['max']:.3f})" for each in quoted]
        rows.append([f"`{loss}`", *cells])
    header = ["loss", "mIoU after epoch 1", "mIoU", "pole (1.6 % of pixels)", "sign (0.4 %)"]
    return table(header, rows)


def compared(name: str, varied: str) -> str:
    found = result(name)
    against = {row["name"]: row for row in found["differences"]}
    labels, rows = label_groups(found), []
    several = any(len(row["seeds"]) > 1 for row in found["contenders"])
    for row in found["contenders"]:
        interval, seeds = (
            f"{low:.3f}-{high:.3f}" for low, high in (row["miou_ci"], row["miou_range"])
        )
        cells = [labels[row["name"]], f"{row['miou']:.3f} ({interval})", *[seeds] * several]
        if other := against.get(row["name"]):
            low, high = other["miou_ci"]
            cells.append(f"{other['miou']:+.3f} ({low:+.3f} to {high:+.3f})")
            cells.extend(["yes" if other["beyond_noise"] else "no"] * several)
        rows.append(cells + [""] * (3 + 2 * several - len(cells)))
    header = [varied, "mIoU (95 % interval)", *["seeds"] * several]
    header += [f"against {next(iter(labels.values()))}", *["beyond noise"] * several]
    return table(header, rows)


def label_groups(found: dict[str, Any]) -> dict[str, str]:
    """Return a label for each run group of a comparison: its loss as it was given, or its name."""
    names, losses = [row["name"] for row in found["contenders"]], found.get("losses", [])
    given = losses if len(losses) == len(names) else names
    return {name: f"`{text}`" for name, text in zip(names, given, strict=True)}


def camvid_classes(name: str) -> str:
    found = result(name)
    labels = label_groups(found)
    rows = [
        [labels[row["name"]], *(f"{each['iou']:.3f}" for each in row["classes"])]
        for row in found["contenders"]
    ]
    return table(["loss", *found["classes"]], rows)


def camvid_rare() -> str:
    """Return the rare classes' IoU with intervals, in bold where the difference is beyond noise."""
    found = result("camvid_losses")
    labels, rows = label_groups(found), []
    for row in found["rare"]:
        cells = []
        for each in row["classes"]:
            low, high = each["iou_ci"]
            cell = f"{each['iou']:.3f} ({low:.3f}-{high:.3f})"
            beyond = each.get("difference", {}).get("beyond_noise")
            cells.append(f"**{cell}**" if beyond else cell)
        rows.append([labels[row["name"]], *cells])
    return table(["loss", *(each["name"] for each in found["rare"][0]["classes"])], rows)


def samplers(view: str) -> str:
    found = result(f"camvid_samplers_{view}")["summary"]
    rows = [
        [f"`{name}`", *(f"{each['mean']:.3f}" for each in (row["miou"], *row["iou"].values()))]
        for name, row in found.items()
    ]
    return table(["sampler", "mIoU", *next(iter(found.values()))["iou"]], rows)


def loading() -> str:
    rows = []
    for case in result("data_cpu")["cases"]:
        height, width = case["size"]
        for found in case["pairs_per_second"]:
            rows.append([
                f"{case['images']} {width}x{height} {case['format']}",
                found["workers"],
                f"{found['plain']['median']:.0f}",
                *(ratio(found[method]["ratio"]) for method in ("files", "ram", "disk")),
                f"{case['share_of_reading']['files']:.0%}",
            ])  # fmt: skip
    header = [
        "images",
        "workers",
        "plain, pairs/s",
        "from files",
        "cached in RAM",
        "cached on disk",
    ]
    return table([*header, "decode of ours from files"], rows)


def step() -> str:
    rows, in_32 = [], {}
    for case in (
        case for n in ("1_thread", "2_threads") for case in result(f"train_cpu_{n}")["cases"]
    ):
        found = case["contenders"]
        speed, network = found["segtrain"]["images_per_second"]["median"], case["model"]
        if case["precision"] == "32":
            in_32[network, case["threads"]] = speed
        over = found["segtrain"]["seconds_over_bare"]
        low, high = over["spread"]
        peaks = ", ".join(f"{found[n]['peak_mib']:.0f}" for n in ("plain", "lightning", "segtrain"))
        rows.append([
            f"{NETWORKS[network]}, {case['batch_size']}",
            case["threads"],
            case["precision"],
            f"{speed:.2f} images/s, {speed / in_32[network, case['threads']]:.2f}x",
            f"{found['plain']['images_per_second']['median']:.2f} images/s",
            ratio(found["lightning"]["against_plain"]),
            ratio(found["segtrain"]["against_plain"]),
            f"{over['median']:.3f} ({low:.3f}-{high:.3f})",
            ratio(case["loading"]["against_bare"]),
            f"{peaks} MiB",
        ])  # fmt: skip
    header = ["network, batch", "threads", "precision", "segtrain, and against 32"]
    header += ["plain", "lightning / plain", "segtrain / plain"]
    header += ["time of segtrain / bare", "from files / bare", "peak: plain, lightning, segtrain"]
    return table(header, rows)


# the least gain in time by number of classes and upsampling; with dice it is 1
GOALS = {(2, 1): 1.5, (2, 4): 1.3, (19, 1): 1.0, (19, 4): 1.8, (150, 1): 1.0}


def loss_cost() -> str:
    rows = []
    for threads, file in ((1, "losses_cpu_1_thread"), (2, "losses_cpu_2_threads")):
        sizes: dict[tuple, list[dict[str, Any]]] = {}
        for case in result(file)["cases"]:
            size = "x".join(map(str, case["shape"])), case["upsample"], case["dtype"]
            sizes.setdefault(size, []).append(case)
        for size, cases in sizes.items():
            goal = GOALS.get((cases[0]["shape"][1], cases[0]["upsample"]))
            costs = [
                against(lowest_gain(cases, layout, more), goal if not more else 1.0, 2)
                for more in ("", ", with dice")
                for layout in ("contiguous", "channels_last")
            ]
            smaller = 7.0 if goal == 1.8 else None
            less = against(min(gain(case, "peak_mib", "") for case in cases), smaller, 1)
            as_fit = next(case for case in cases if case["layout"] == "channels_last")
            took = as_fit["methods"]["fused"]["ms"]
            rows.append(
                [*size, threads, f"{took:.0f} ms", f"{goal}x" if goal else "none", *costs, less]
            )
    header = ["logits at full size", "upsample", "dtype", "threads", "`ohem`", "goal", "contiguous"]
    header += ["channels_last", "with dice: contiguous", "channels_last", "memory less"]
    return table(header, rows)


def against(found: float, goal: float | None, digits: int) -> str:
    """Return a ratio, with a star where it misses its goal."""
    text = f"{found:.{digits}f}x"
    return text if goal is None or found >= goal else f"{text}*"


def gain(case: dict[str, Any], cost: str, more: str) -> float:
    """Return the reference's cost over ours."""
    return case["methods"][f"reference{more}"][cost] / case["methods"][f"fused{more}"][cost]


def lowest_gain(cases: list[dict[str, Any]], layout: str, more: str) -> float:
    """Return the lower of the two gains, on untrained and on trained logits."""
    return min(gain(case, "ms", more) for case in cases if case["layout"] == layout)


def scoring() -> str:
    found = result("evaluate_cpu_1_thread")["scoring"]
    names = {"bare": "bare forward passes", "validate": "`validate`",
             "files": "`validate` from files", "eval": "`eval`"}  # fmt: skip
    rows = []
    for key, name in names.items():
        cells = [name, f"{found['ms_per_image'][key]['median']:.0f}", ""]
        if over := found["over_bare"].get(key):
            shares = (over["median"], *over["spread"])
            cells[2] = "{} % ({} to {})".format(*(f"{100 * share:+.1f}" for share in shares))
        rows.append(cells)
    return table(["", "ms an image", "over bare"], rows)


def upsampling() -> str:
    rows = []
    for row in result("evaluate_cpu_1_thread")["upsampling"]:
        whole, by_rows = (row["methods"][name] for name in ("at once", "by rows"))
        peaks = [f"{each['peak_mb']:.0f} MB" for each in (whole, by_rows)]
        speed = f"{whole['ms'] / by_rows['ms']:.2f}x"
        rows.append([row["classes"], f"`{row['pass']}`", *peaks, speed])
    header = ["classes", "pass", "peak at once", "peak by rows", "speed by rows / at once"]
    return table(header, rows)


# those that a training runs: bf16 in channels_last, and a round of the k-th largest
KERNELS = {
    "nll_kernel, ohem, C=2 x1 bf16 NHWC": "loss",
    "nll_kernel, ohem, C=19 x1 bf16 NHWC": "loss",
    "grad_kernel, ohem, C=19 x1 bf16 NHWC": "gradient",
    "nll_kernel, ohem, C=19 x4 bf16 NHWC": "loss",
    "grad_upsampled_kernel, ohem, C=19 x4 bf16 NHWC": "gradient",
    "digit_counts_kernel, ohem, C=2 x1 fp32 NCHW": "k-th largest",
}


def kernels() -> str:
    content, rows = result("kernels_sm90"), []
    for version in (key for key in content if key.startswith("triton ")):
        before, now = (content[version][when] for when in ("before", "now"))
        for kernel, part in KERNELS.items():
            size = kernel.split(", ")[2].split()
            cells = [
                " to ".join(dict.fromkeys(str(rows[kernel][column]) for rows in (before, now)))
                for column in ("instr", "loop", "regs", "spilled", "fences", "loads")
            ]
            rows.append([version.split()[1], part, " ".join(size[:2]), *cells])
    header = ["Triton", "kernel", "classes, upsample", "instructions", "of the longest inner loop"]
    return table([*header, "registers", "bytes spilled", "fences", "loads"], rows)


def encoders() -> str:
    found = result("encoders")["encoders"]
    archs = list(dict.fromkeys(arch for row in found.values() for arch in row["architectures"]))
    rows = []
    for name, row in found.items():
        takers = row["architectures"]
        others = [arch for arch in archs if arch not in takers]
        if not takers:
            rows.append([f"`{name}`", *[""] * 5, "none"])
            continue
        listed = "all" if not others else f"all but {', '.join(others)}"
        statistics = " ".join(f"{value:.0f}" for value in (*row["mean"], *row["std"]))
        rows.append([
            f"`{name}`",
            f"{row['parameters'] / 1e6:.1f} M",
            " ".join(map(str, row["strides"])),
            f"{row['step']}n" + (f", from {row['least']}" if row["least"] > row["step"] else ""),
            STATISTICS.get(statistics, statistics) if row["imagenet"] else "no weights",
            row["licence"],
            listed if len(others) < len(archs) / 2 else ", ".join(takers),
        ])  # fmt: skip
    header = ["encoder", "parameters", "strides", "sides", "weights' mean, std", "licence"]
    return table([*header, "architectures"], rows)


# of 0..255, rounded
STATISTICS = {"124 116 104 58 57 57": "ImageNet's", "128 128 128 128 128 128": "127.5"}


def pretrained() -> str:
    """Return the scores of CamVid in 25 minutes, from scratch and from ImageNet's weights."""
    found, rows = result("camvid_pretrained"), []
    for stage, label in (("scratch", "`configs/camvid.yaml`"), ("full", PRETRAINED)):
        for seed, run in found.get(stage, {}).items():
            if seed != "command":
                low, high = run["miou_ci"]
                ious = (f"{run['iou'][name]:.3f}" for name in RARE)
                cells = [run["steps"], f"{run['miou']:.3f} ({low:.3f}-{high:.3f})", *ious]
                rows.append([label, seed.removeprefix("seed "), *cells])
    return table(["config", "seed", "steps", "mIoU (95 % interval)", *RARE], rows)


def ideas(network: str) -> str:
    """Return the screening of what changes a training from ImageNet's weights."""
    found, rows = result("camvid_pretrained")["screening"][network], []
    start = next(iter(found.values()))
    for name, run in found.items():
        own = run["settings"][len(start["settings"]) if network == "FPN" else 5 :]
        settings = " ".join(f"`{setting}`" for setting in own)
        difference = f"{run['miou'] - start['miou']:+.3f}" if run is not start else ""
        ious = (f"{run['iou'][rare]:.3f}" for rare in RARE)
        rows.append([name, settings, f"{run['miou']:.3f}", difference, *ious])
    return table(["idea", "setting", "mIoU", "against the first", *RARE], rows)


def export_speed() -> str:
    """Return mIoU and milliseconds of a network in torch and in exported files."""
    rows, found = [], result("export")["rows"]
    for name, row in found.items():
        proof, ms = row["proof"], row["ms"]
        drop = proof["miou"] - proof.get("exported_miou", proof["miou"])
        size = f"{row['bytes'] / 1e6:.1f} MB" if "bytes" in row else ""
        speed = found["torch 32"]["ms"]["median"] / ms["median"]
        share = f"{proof['pixel_share']:.1e}" if "pixel_share" in proof else ""
        cells = [f"{proof['miou'] - drop:.4f}", share, f"{ms['median']:.0f} ({ms['least']:.0f})"]
        rows.append([name, *cells, f"{speed:.2f}x", size])
    return table(
        ["program, precision", "mIoU", "pixels of another class", "ms", "speed", "size"], rows
    )


def export_formats() -> str:
    """Return which architectures are exported to which formats, how exactly and how fast."""
    rows, reasons = [], dict[str, int]()
    for name, by_format in result("export_matrix")["rows"].items():
        cells = []
        for row in by_format.values():
            if "difference" in row:
                cells.append(f"{row['difference']:.0e}, {row['seconds']:.0f} s")
            else:
                number = reasons.setdefault(row["refused"], len(reasons) + 1)
                cells.append(f"refused ({number})")
        rows.append([f"`{name}`", *cells])
    # no link to "args" of a traced call
    notes = [f"{number}. {reason.replace('](', '] (')}" for reason, number in reasons.items()]
    return "\n".join([table(["network", "onnx", "openvino", "pt2"], rows), "", *notes])


def tuning() -> str:
    """Return what the choices of `segtrain tune` gain, and which are kept."""
    rows = []
    for run in result("tune")["runs"]:
        origin = [run["data"], f"`{run['network']}`", run["seed"], run["groups"]]
        for choice in run["choices"]:
            low, high = choice["interval"]
            scores = [f"{choice[when]:.4f}" for when in ("before", "after")]
            gain = f"{choice['gain']:+.4f} ({low:+.4f} to {high:+.4f})"
            kept = "yes" if choice["stored"] else "no"
            rows.append([*origin, choice["name"], choice["score"], *scores, gain, kept])
    header = ["data", "network", "seed", "groups", "choice", "score", "before", "after"]
    return table([*header, "gain (95 % interval)", "kept"], rows)


PRETRAINED = "`configs/camvid-pretrained.yaml`"
RARE = ["pole", "sign", "fence", "pedestrian", "bicyclist"]
TABLES = {
    "pretrained": pretrained,
    "export_speed": export_speed,
    "tuning": tuning,
    "export_formats": export_formats,
    "ideas": lambda: ideas("U-Net"),
    "ideas_fpn": lambda: ideas("FPN"),
    "demo_losses": demo_losses,
    "camvid_losses": lambda: compared("camvid_losses", "loss"),
    "camvid_rare": camvid_rare,
    "camvid_classes": lambda: camvid_classes("camvid_losses"),
    "camvid_screening": lambda: compared("camvid_screening", "loss"),
    "camvid_screening_classes": lambda: camvid_classes("camvid_screening"),
    "camvid_precision": lambda: compared("camvid_precision", "precision"),
    "samplers_frames": lambda: samplers("frames"),
    "samplers_crops": lambda: samplers("crops"),
    "loading": loading,
    "step": step,
    "loss_cost": loss_cost,
    "scoring": scoring,
    "upsampling": upsampling,
    "kernels": kernels,
    "encoders": encoders,
}
