"""Training from a web server that is slow and fails, side by side with training from the disk.

    python benchmarks/bucket.py [--pairs N] [--repeats N] [--out FILE]

A server on the loopback waits 20 ms before each answer, fails 5 % of the requests (503) and cuts
1 % of the files short. Each repeat trains three times with 4 workers, in an order that turns: from
the disk, from the server into an empty cache, and from the server once more. The weights must be
equal to the bit; the seconds of all epochs but the first are compared, and the whole time of each
command is reported beside them. data.cache is none, so every pass reads files.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from machine import RESULTS, machine
from PIL import Image
from safetensors.torch import load_file

from segtrain.data.demo import scene
from segtrain.models.weights import hash_weights

RESULT = RESULTS / "bucket.json"
SIZE, EPOCHS, WORKERS = (256, 320), 5, 4
DELAY, FAILING, TRUNCATED = 0.02, 0.05, 0.01
GOAL = 1.2  # of the disk's time, after the first pass
OPTIONS = [
    *("--encoder", "tu-test_byobnet", "--weights", "none", "--device", "cpu", "--crop", "128x128"),
    *("--precision", "32", "--batch-size", "8", "--epochs", str(EPOCHS), "--workers", str(WORKERS)),
    *("--set", "model.options={encoder_depth: 3, decoder_channels: [8, 8, 4]}"),
]


class UnreliableServer(ThreadingHTTPServer):
    """Files of a folder, late; which requests fail is drawn from a seed."""

    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), partial(UnreliableHandler, directory=str(folder)))
        self.draws, self.lock = random.Random(0), threading.Lock()
        self.answers: Counter[str] = Counter()

    def handle_error(self, *_: object) -> None:  # a client that has got what it wanted
        pass

    def draw(self) -> str:
        with self.lock:
            value = self.draws.random()
            answer = "whole"
            if value < FAILING + TRUNCATED:
                answer = "failed" if value < FAILING else "truncated"
            self.answers[answer] += 1
        return answer


class UnreliableHandler(SimpleHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm, wbufsize = True, 1 << 16

    def log_message(self, *_: object) -> None:
        pass

    def send_head(self) -> Any:
        time.sleep(DELAY)
        self.answer = self.server.draw()  # type: ignore[attr-defined]
        if self.answer == "failed":
            return self.send_error(503)
        return super().send_head()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        content = source.read()
        if self.answer == "truncated":
            self.close_connection = True
            content = content[: len(content) // 2]
        outputfile.write(content)


def write_pairs(folder: Path, pairs: int) -> None:
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for index in range(pairs):
        for name, array in zip(("images", "masks"), scene(0, index, SIZE), strict=True):
            Image.fromarray(array).save(folder / name / f"{index:05d}.png")


def train(data: str, run: Path, cache: Path) -> dict[str, Any]:
    """Train in a process of its own; return its times and the digest of its weights."""
    command = [sys.executable, "-m", "segtrain", "fit", "--data", data, *OPTIONS]
    began = time.perf_counter()
    subprocess.run(
        [*command, "--out", str(run.parent), "--name", run.name],
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"SEGTRAIN_CACHE": str(cache), "OMP_NUM_THREADS": "1"},
    )
    whole = time.perf_counter() - began
    with open(run / "metrics.csv") as file:
        seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    weights = hash_weights(load_file(run / "checkpoints/last.safetensors"))
    return {"whole_s": whole, "later_epochs_s": sum(seconds[1:]), "weights": weights}


def summarise(values: list[float]) -> dict[str, Any]:
    spread = [round(min(values), 3), round(max(values), 3)]
    return {"median": round(statistics.median(values), 3), "spread": spread}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {"disk": [], "first": [], "again": []}
    answers: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_pairs(folder / "www/set", options.pairs)
        server = UnreliableServer(folder / "www")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/set"
        for repeat in range(options.repeats):
            cache = folder / f"cache-{repeat}"
            order = ["disk", "first", "again"] if repeat % 2 else ["first", "again", "disk"]
            for method in order:
                data, own = (str(folder / "www/set"), cache / "disk"), (address, cache / "remote")
                given = data if method == "disk" else own
                found[method].append(train(given[0], folder / f"runs/{method}-{repeat}", given[1]))
        server.shutdown()
        answers = server.answers
    runs = [run for of_method in found.values() for run in of_method]
    disk = [run["later_epochs_s"] for run in found["disk"]]
    ratios = {
        method: summarise(
            [run["later_epochs_s"] / of for run, of in zip(found[method], disk, strict=True)]
        )
        for method in ("first", "again")
    }
    content = {
        "command": f"python benchmarks/bucket.py --pairs {options.pairs} "
        f"--repeats {options.repeats}",
        "environment": machine(),
        "server": {"delay_s": DELAY, "failing": FAILING, "truncated": TRUNCATED},
        "answers": dict(answers),
        "training": {"pairs": options.pairs, "size": SIZE, "epochs": EPOCHS, "workers": WORKERS},
        "same_weights": len({run["weights"] for run in runs}) == 1,
        "later_epochs_s": {
            m: summarise([r["later_epochs_s"] for r in f]) for m, f in found.items()
        },
        "whole_s": {m: summarise([r["whole_s"] for r in f]) for m, f in found.items()},
        "later_epochs_ratio_to_disk": ratios,
        "goal": GOAL,
        "met": all(ratio["median"] <= GOAL for ratio in ratios.values()),
    }
    options.out.write_text(json.dumps(content, indent=1) + "\n")
    print(
        json.dumps({k: content[k] for k in ("same_weights", "later_epochs_ratio_to_disk", "met")})
    )


if __name__ == "__main__":
    main()
