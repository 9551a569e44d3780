"""Record of a sweep's folder, sweep.json: the config of each run as it was asked for.

A run's own config.yaml has what the training made of it: the crop for null, weights for auto.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segtrain.config import Config
from segtrain.config.differences import LOSS, SEED, format_field, name_fields
from segtrain.config.loading import compare_configs, load_config, make_config
from segtrain.errors import SegtrainError, UsageError, translate_errors
from segtrain.files.locks import lock_path
from segtrain.files.whole import save_json
from segtrain.losses.spec import parse_loss
from segtrain.runs.folder import CONFIG, safe_name

FILE = Path("sweep.json")
LONGEST_NAME = 80  # bytes of a run's folder, without its seed
OPEN: tuple[Any, ...] = (None, "auto", {}, [])  # values that a training may replace
RESOLVED = {LOSS, "data.path", "model.weights", "train.monitor"}  # those that it rewrites


@dataclass(frozen=True)
class SweepRecord:
    """The configs of the runs in a sweep's folder."""

    base: Config  # of its first run; in older records, as given
    runs: dict[str, Config] = field(default_factory=dict)  # by folder name

    def list_varying(self) -> set[str]:
        """Return the fields in which the runs may differ."""
        changed = (compare_configs(self.base, config) for config in self.runs.values())
        return {LOSS, SEED}.union(*changed)


def identify_training(config: Config) -> str:
    """Return a text that is the same for all spellings of a config."""
    loss = config.loss
    fields = config.model_dump(mode="json")
    fields["loss"]["expression"] = parse_loss(loss.expression, loss.thresh, loss.n_min_factor).terms
    return json.dumps(fields, default=repr)


def name_run(config: Config, values: Mapping[str, Any], taken: Collection[str] = ()) -> str:
    """Return 'ohem-lr=0.001-seed0': the loss, values of other fields by dotted key, and the seed.

    With a hash of the config where the name is long, or another run's.
    """
    others = {key: value for key, value in values.items() if key not in (LOSS, SEED)}
    parts = [safe_name(config.loss.expression)]
    for key, name in name_fields(others).items():
        value = safe_name(format_field(key, others[key])).strip("_")
        parts.append(f"{name}={value or 'none'}")
    name, seed = "-".join(parts), f"-seed{config.train.seed}"
    stem = name.encode()[:LONGEST_NAME].decode(errors="ignore")
    if stem + seed in taken or others and stem != name:
        unseeded = config.train.model_copy(update={"seed": 0})
        text = identify_training(config.model_copy(update={"train": unseeded}))
        stem += f"-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return stem + seed


def find_folder(
    out: Path, config: Config, values: Mapping[str, Any], known: Mapping[str, str]
) -> str:
    """Return the folder name of a training: where it was trained, else a new one.

    values: of the fields that differ between runs, besides loss and seed; known: names by what
    `identify_training` returns. Raise UsageError where another training has the name.
    """
    if folder := known.get(identify_training(config)):
        return folder
    taken = known.values()
    # of `segtrain fit`, a dry run's command, or an older sweep
    plain, full = name_run(config, {}), name_run(config, values, taken)
    exact = {".".join(key.split(".")[:2]) for key in values}
    if plain not in taken and (out / plain / CONFIG).is_file():
        if not compare_trained(out / plain, config, exact):
            return plain
    if (out / full / CONFIG).is_file() and (found := compare_trained(out / full, config)):
        listed = "; ".join(f"{key} is {old}, not {new}" for key, (old, new) in found.items())
        raise UsageError(f"--out {out}: {full} is another training: {listed}; use another --out")
    return full


def compare_trained(run: Path, config: Config, exact: Collection[str] = ()) -> dict[str, Any]:
    """Return the fields in which a run was not trained as `config` asks, with both values.

    What the config leaves open is not compared, except the fields `exact`. Of a damaged run none
    are returned: its training will name it.
    """
    changed: dict[str, tuple[Any, Any]] = {}
    with suppress(SegtrainError):
        changed = compare_configs(load_config(run / CONFIG), config)
    return {
        key: (trained, asked)
        for key, (trained, asked) in changed.items()
        if key in exact or key not in RESOLVED and asked not in OPEN
    }


def refuse_other_base(out: Path, record: SweepRecord, configs: Sequence[Config]) -> None:
    """Raise UsageError where the runs in the folder differ in a field that no sweep has varied."""
    varied = (compare_configs(configs[0], config) for config in configs)
    changed = compare_configs(record.base, configs[0])
    may_vary = record.list_varying().union(*varied)
    if listed := [
        f"{key} was {old}, now {new}" for key, (old, new) in changed.items() if key not in may_vary
    ]:
        raise UsageError(f"--out {out}: its runs differ: {'; '.join(listed)}; use another --out")


def read_sweep_record(out: Path) -> SweepRecord | None:
    """Return the record of a folder, None where it has none. Raise UsageError."""
    file = out / FILE
    if not file.exists():
        return None
    with translate_errors(lambda e: f"{file}: unreadable ({e}); use another --out", UsageError):
        content = json.loads(file.read_text(encoding="utf-8"))
        base = make_config(content["base"], str(file))
        listed = content["runs"] if "runs" in content else _list_older(out)
        runs = {name: _change(base, values, str(file)) for name, values in listed.items()}
    return SweepRecord(base, runs)


def _list_older(out: Path) -> dict[str, dict[str, Any]]:
    """Return loss and seed by folder name, in which alone the runs of older records differ."""
    listed = {}
    for file in sorted(out.glob(f"*/{CONFIG}")):
        with suppress(SegtrainError):
            config = load_config(file)
            if file.parent.name == name_run(config, {}):
                listed[file.parent.name] = {LOSS: config.loss.expression, SEED: config.train.seed}
    return listed


def _change(base: Config, values: dict[str, Any], origin: str) -> Config:
    sections = base.model_dump(mode="json")
    for key, value in values.items():
        section, _, name = key.partition(".")
        sections[section][name] = value
    return make_config(sections, origin)


def save_sweep_record(out: Path, runs: Mapping[str, Config]) -> None:
    """Add runs by folder name to the record, which another sweep may have written meanwhile.

    The first is the base of a new record.
    """
    with suppress(OSError):  # else `save_json` says why
        out.mkdir(parents=True, exist_ok=True)
    with lock_path(out, wait=True):
        record = read_sweep_record(out) or SweepRecord(next(iter(runs.values())))
        changed = {
            name: {key: new for key, (_, new) in compare_configs(record.base, config).items()}
            for name, config in {**record.runs, **runs}.items()
        }
        save_json(out / FILE, {"base": record.base.model_dump(mode="json"), "runs": changed})
