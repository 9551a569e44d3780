"""Transforms of albumentations: arguments take effect, padding and labels stay intact."""

import warnings

import numpy as np
import pytest

from segtrain.config import AugmentConfig
from segtrain.data.loading.augment import MEAN_COLOUR, PRESETS, STRONG, Augmentation
from segtrain.data.loading.sampling import Draw
from segtrain.data.loading.transforms import TRANSFORMS, _build
from segtrain.errors import UsageError

SHAPE = (32, 40, 3)
FILL = {"fill": MEAN_COLOUR, "fill_mask": 255}


def augmentation(*transforms, lb_ignore: int = 255, seed: int = 0, crop=(32, 40)) -> Augmentation:
    config = AugmentConfig(scale=(1, 1), transforms=list(transforms))
    return Augmentation(config, crop, lb_ignore, seed)


def pair(height: int = 32, width: int = 40, dtype=np.uint8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return image, rng.integers(1, 4, (height, width)).astype(dtype)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("preset", PRESETS)
def test_the_library_takes_every_argument_of_the_presets(preset, channels):
    """An argument that albumentations renames, or ignores with a warning, fails here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Augmentation(AugmentConfig(preset=preset), (32, 40), 255, 0, channels)


@pytest.mark.parametrize("name", STRONG)
def test_the_library_keeps_the_arguments_of_the_presets(name):
    transform = _build({name: STRONG[name]}, SHAPE, FILL)
    kept = transform.get_transform_init_args() | {"p": transform.p}
    for key, value in STRONG[name].items():
        both_axes = {"x": value, "y": value}
        about_zero = (-value, value) if np.isscalar(value) else value
        assert kept[key] in (value, about_zero, both_axes)


@pytest.mark.parametrize("entry", [
    {"Affine": {"translate_percent": [0.3, 0.3]}}, {"Affine": {"rotate": [-40, 40]}},
    {"Rotate": {}}, {"SafeRotate": {}}, {"Perspective": {"fit_output": True}},
    {"GridDistortion": {}}, {"OpticalDistortion": {"distort_limit": [0.5, 0.6]}},
    {"ElasticTransform": {"alpha": 300, "sigma": 10}}, {"ThinPlateSpline": {}},
    {"CropAndPad": {"px": [-4, 4]}},
])  # fmt: skip
@pytest.mark.parametrize("lb_ignore", [255, -1, 300])
def test_geometric_transforms_pad_with_mean_and_ignore(entry, lb_ignore):
    (name, args), = entry.items()  # fmt: skip
    image, mask = pair(dtype=np.uint8 if lb_ignore == 255 else np.int16)
    change = augmentation({name: args | {"p": 1}}, lb_ignore=lb_ignore)
    padded = 0
    for index in range(20):
        got, labels = change(image, mask, Draw(0, index))
        assert labels.dtype == mask.dtype and set(np.unique(labels)) <= {1, 2, 3, lb_ignore}
        assert (got[labels == lb_ignore] == MEAN_COLOUR).all()
        padded += (labels == lb_ignore).sum()
    assert padded > 0


def test_padding_is_the_mean_after_noise_and_colours():
    """20 of 32 rows are padding, which RandomBrightnessContrast and noise would change."""
    image, mask = pair(12, 40)
    shift = {"RandomBrightnessContrast": {"brightness_limit": [0.4, 0.5], "p": 1}}
    change = augmentation(shift, {"GaussNoise": {"p": 1}}, {"VerticalFlip": {"p": 0.5}})
    for index in range(5):
        got, labels = change(image, mask, Draw(0, index))
        assert (labels == 255).sum() == 20 * 40
        assert (got[labels == 255] == MEAN_COLOUR).all()
        assert got[labels != 255].mean() > image.mean() + 40


def test_ignored_pixels_of_the_mask_keep_their_image():
    image, mask = pair()
    mask[:5] = 255
    got, labels = augmentation({"VerticalFlip": {"p": 1}})(image, mask, Draw(0, 0))
    assert np.array_equal(got, image[::-1]) and np.array_equal(labels, mask[::-1])


def test_holes_are_ignored_unless_configured_otherwise():
    image, mask = pair()
    holes = {"num_holes_range": [1, 1], "hole_height_range": [8, 8], "hole_width_range": [6, 6]}
    got, labels = augmentation({"CoarseDropout": holes | {"p": 1}})(image, mask, Draw(0, 0))
    hole = labels == 255
    assert hole.sum() == 8 * 6 and (got[hole] == MEAN_COLOUR).all()
    assert np.array_equal(got[~hole], image[~hole])
    kept = {"CoarseDropout": holes | {"p": 1, "fill_mask": None}}
    got, labels = augmentation(kept)(image, mask, Draw(0, 0))
    assert np.array_equal(labels, mask) and (got == 0).all(2).sum() >= 48


def test_lists_choose_among_transforms():
    choice = {"OneOf": {"transforms": ["HorizontalFlip", {"VerticalFlip": {"p": 1}}], "p": 1}}
    image, mask = pair()
    got = [augmentation(choice)(image, mask, Draw(0, index))[1] for index in range(20)]
    flips = {np.flip(mask, axis).tobytes() for axis in (0, 1)}
    assert {labels.tobytes() for labels in got} == flips


@pytest.mark.parametrize("entry, words", [
    ("HorizontlFlip", "HorizontlFlip is not a transform of albumentations .*mean HorizontalFlip"),
    ("BasicTransform", "BasicTransform is not a transform"),
    ({"RandomGamma": {"gama_limit": [80, 120]}},
     "RandomGamma has no argument 'gama_limit'; did you mean gamma_limit.*takes gamma_limit, p$"),
    ({"GaussNoise": {"var_limit": [10, 50]}}, "GaussNoise has no argument 'var_limit'.*std_range"),
    ({"HorizontalFlip": {"strict": False}}, "HorizontalFlip has no argument 'strict'"),
    ({"RandomGamma": {"gamma_limit": "much"}}, "RandomGamma: gamma_limit.*got 'much'"),
    ({"HorizontalFlip": {"p": 1.5}}, "HorizontalFlip: p: .*less than or equal to 1, got 1.5"),
    ({"Posterize": {"num_bits": [[1, 2], [3, 4]]}}, "Posterize: float.* must be .*, not 'tuple'"),
    ({"RandomCrop": {"width": 10}}, "RandomCrop: height: Field required$"),
    ({"HorizontalFlip": {}, "Blur": {}}, "expected a name or .*Blur"),
    ({"Rotate": {"border_mode": 4}}, "Rotate: border_mode is always 0, not 4: images are padded"),
    ({"Rotate": {"fill": 0}}, "Rotate: fill is always .*not 0"),
    ({"Rotate": {"fill_mask": 0}}, "Rotate: fill_mask is always 255, not 0"),
    ({"Affine": {"mask_interpolation": 1}}, "Affine: mask_interpolation is always 0, not 1"),
    ({"Resize": {"height": 20, "width": 20}}, r"Resize .* into uint8 \(20, 20, 3\)"),
    ("Transpose", r"Transpose .*uint8 \(32, 40, 3\) into uint8 \(40, 32, 3\)"),
    ("Normalize", "Normalize .* into float32"),
    ("ToFloat", "ToFloat .* into float32"),
    ("ToTensorV2", r"ToTensorV2 .* into torch.uint8 \(3, 32, 40\)"),
    ({"Crop": {"x_max": 500}}, "Crop fails on a .* image: Values for crop"),
    ("FDA", "FDA fails on a .* image"),
    ("Morphological", "Morphological changes mask values"),
    ({"CoarseDropout": {"fill_mask": 0}}, "CoarseDropout changes mask values"),
    ({"CoarseDropout": {"fill_mask": 1}}, "CoarseDropout changes mask values"),
    ({"PixelDropout": {"mask_drop_value": 2}}, "PixelDropout changes mask values"),
    ({"OneOf": {"transforms": ["Blur", "Blurr"]}}, "Blurr is not a transform"),
    ({"OneOf": {"transforms": ["Blur", "Morphological"]}}, "Morphological changes mask values"),
    ({"OneOf": {"transforms": [3]}}, "expected a name or .*got 3"),
    ({"OneOf": {"transform": ["Blur"]}}, "OneOf has no argument 'transform'; did you mean trans"),
])  # fmt: skip
def test_unusable_transforms_are_named(entry, words):
    with pytest.raises(UsageError, match=words) as caught:
        augmentation("HorizontalFlip", entry)
    assert str(caught.value).startswith("augment.transforms: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("args", [
    {"border_mode": 0}, {"fill": list(MEAN_COLOUR), "fill_mask": 255}, {"mask_interpolation": 0},
])  # fmt: skip
def test_fixed_arguments_may_be_given_explicitly(args):
    augmentation({"Affine": args})


def test_a_transform_that_is_random_beyond_its_seed_is_refused(monkeypatch):
    class Restless(TRANSFORMS["NoOp"]):
        def apply(self, img, **params):
            return img + np.random.default_rng().integers(256, size=img.shape, dtype=np.uint8)

    monkeypatch.setitem(TRANSFORMS, "Restless", Restless)
    with pytest.raises(UsageError, match="Restless is random beyond its seed"):
        augmentation("Restless")


def test_every_transform_works_or_is_refused_in_a_line():
    """Each name of the library, without arguments: a UsageError, or pairs that training can use."""
    image, mask = pair()
    usable = 0
    for name in sorted(TRANSFORMS):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                change = augmentation({name: {}})
        except UsageError as error:
            assert name in str(error) and "\n" not in str(error)
            continue
        got, labels = change(image, mask, Draw(0, 0))
        assert got.dtype == np.uint8 and got.shape == SHAPE, name
        assert set(np.unique(labels)) <= {1, 2, 3, 255}, name
        usable += 1
    assert usable > 50
