"""Photos turned by EXIF: one whose mask is as stored proves it for all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK, scene
from PIL import Image

from segtrain.config import DataConfig
from segtrain.data.decoding import EXIF_ORIENTATION, turn_upright
from segtrain.data.findings import Finding, apply_fixes
from segtrain.data.images import ImageReader
from segtrain.data.inspection.survey import Survey, inspect_data_set
from segtrain.data.masks import MaskReader


def write_photos(
    root: Path,
    orientations: list[int],
    masks: str = "stored",
    size: tuple[int, int] = (48, 40),
    first: int = 0,
) -> Path:
    """Write photos with these EXIF orientations; masks "stored", "turned" or "tagged", too."""
    for index, orientation in enumerate(orientations, start=first):
        image, ids = scene(index, *size)
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = orientation
        for folder in ("images", "masks"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / f"images/{index}.png", exif=exif)
        ids = np.ascontiguousarray(turn_upright(ids, orientation)) if masks == "turned" else ids
        tag = {"exif": exif} if masks == "tagged" else {}
        Image.fromarray(ids).save(root / f"masks/{index}.png", **tag)
    return root


def exif_findings(root: Path, full: bool = True, **fields) -> list[Finding]:
    found = inspect_data_set(DataConfig(path=str(root), **fields), full=full)
    return [finding for finding in found.findings if finding.kind in ("exif", "size")]


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("orientations", [[6, 3] * 3, [8, 1, 2, 4, 1, 1], [5, 7, 6, 8, 5, 7]])
def test_one_mask_as_stored_refuses_all_turned_photos(tmp_path: Path, orientations, full: bool):
    root = write_photos(tmp_path, orientations)
    (finding,) = exif_findings(root, full)
    turned = [i for i, orientation in enumerate(orientations) if orientation != 1]
    assert finding.error and finding.fix == {"exif": False}
    assert sorted(finding.places) == [f"images/{i}.png (orientation {orientations[i]})"
                                      for i in turned]  # fmt: skip
    fixed = apply_fixes(DataConfig(path=str(root)), [finding])
    survey = inspect_data_set(fixed, full=full)
    assert isinstance(survey, Survey) and not any(f.error for f in survey.findings)
    for sample in survey.data_set.splits["train"]:
        image, ids = scene(int(sample.name))
        np.testing.assert_array_equal(survey.data_set.images(sample.image), image)
        np.testing.assert_array_equal(survey.data_set.masks(sample.mask), ids)


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("orientations, size", [
    ([3] * 6, (48, 40)), ([1, 2, 1, 4, 1, 1], (48, 40)), ([5, 6, 7, 8, 6, 6], (48, 48)),
])  # fmt: skip
def test_photos_of_which_nothing_proves_either_are_a_note(tmp_path, orientations, size, full):
    root = write_photos(tmp_path, orientations, size=size)
    (finding,) = exif_findings(root, full)
    assert not finding.error and not finding.fix
    count = sum(orientation != 1 for orientation in orientations)
    assert f"{count} photos" in finding.text and len(finding.places) == count
    assert "--preview" in finding.remedy and "data.exif" in finding.remedy
    assert exif_findings(root, full, exif=True) == exif_findings(root, full, exif=False) == []


@pytest.mark.parametrize("masks", ["turned", "tagged"])
def test_masks_that_are_turned_with_their_photos_are_right(tmp_path: Path, masks: str):
    assert exif_findings(write_photos(tmp_path, [6, 3, 8, 1, 2, 5], masks)) == []


def test_masks_that_alone_have_an_orientation_are_a_note(tmp_path: Path):
    root = write_photos(tmp_path, [3, 1, 3, 1, 1, 1], "tagged")
    for file in (root / "images").iterdir():
        Image.fromarray(np.array(Image.open(file))).save(file)
    (finding,) = exif_findings(root)
    assert not finding.error and set(finding.places) == {"masks/0.png", "masks/2.png"}


def test_upright_and_stored_masks_in_one_set_are_errors_of_their_files(tmp_path: Path):
    write_photos(tmp_path, [6, 8, 6, 6], "turned")
    write_photos(tmp_path, [6], first=4)
    findings = exif_findings(tmp_path)
    assert [(finding.kind, finding.error) for finding in findings] == [("size", True)]
    assert "images/4.png" in findings[0].places[0] and "EXIF" in findings[0].places[0]


def test_the_written_config_trains_on_photos_as_stored(cli, tmp_path: Path):
    write_photos(tmp_path / "set", [6, 3] * 3)
    assert cli("check", "set", "--write-config", "c.yaml").code == 1
    assert cli("fit", "--config", "c.yaml", "--dry-run", *QUICK).code == 0
    assert cli("fit", "--data", "set", "--dry-run", *QUICK).code == 1


def test_readers_agree_with_the_field(tmp_path: Path):
    root = write_photos(tmp_path, [6])
    image, ids = scene(0)
    config = DataConfig(exif=False)
    from segtrain.data.mask_options import MaskOptions

    masks = MaskReader(3, options=MaskOptions.of(config))
    np.testing.assert_array_equal(ImageReader.of(config, 3)(root / "images/0.png"), image)
    np.testing.assert_array_equal(masks(root / "masks/0.png"), ids)
