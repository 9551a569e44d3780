"""Tensors of a weights file matched with those of a module: by name, or as timm loads them."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import takewhile
from typing import Any

import torch
from timm.layers import Conv2dSame
from timm.models import adapt_input_conv
from torch import Tensor, nn

from segtrain.console import quiet
from segtrain.errors import SegtrainError, first_line, shorten, translate_errors
from segtrain.models.names import UNIVERSAL, stored_sizes

# of classifiers' heads, and what timm computes anew: a segmentation network leaves them out
LEFT_OUT = re.compile(
    r"(fc|classifier|head|head_dist|last_linear|_fc|AuxLogits|aux\d?)\."
    r"|(.*\.)?(attn_mask|relative_position_index|relative_coords_table|mask_token)$",
    re.IGNORECASE,
)
COUNTERS = "num_batches_tracked"
WRAPPERS = ("module", "_orig_mod", "model", "encoder", "backbone", "net")  # of whole networks
# first filters of EfficientNets and their kin by torchvision's names, and by those of TensorFlow's
TORCHVISION, TENSORFLOW = "features.0.0.weight", "_conv_stem.weight"
# timm's names of those whose batch norms have an eps of 1e-3 in torchvision
EPS_OF_TORCHVISION = re.compile(r"efficientnet_b[567]|efficientnetv2|mobilenetv3")
# how torch and timm name a tensor of another shape
MISSHAPEN = re.compile(r"(?:size mismatch for|Pretrained) (\S+?)(?:: | weight shape)")
# torchvision's ConvNeXt as timm's filter knows it, by Facebook's names
CONVNEXT: dict[str, str | Callable[[re.Match[str]], str]] = {
    r"^features\.0\.(\d)\.": r"downsample_layers.0.\1.",
    r"^features\.([246])\.(\d)\.": lambda m: f"downsample_layers.{int(m[1]) // 2}.{m[2]}.",
    r"^features\.([1357])\.(\d+)\.": lambda m: f"stages.{int(m[1]) // 2}.{m[2]}.",
    r"\.layer_scale$": ".gamma",
    r"\.block\.0\.": ".dwconv.",
    r"\.block\.2\.": ".norm.",
    r"\.block\.3\.": ".pwconv1.",
    r"\.block\.5\.": ".pwconv2.",
    r"^classifier\.0\.": "norm.",
    r"^classifier\.2\.": "head.",
}


@dataclass(frozen=True)
class Match:
    """Tensors of a file under the names of a module, and what keeps them from it."""

    weights: dict[str, Tensor]
    missing: list[str]  # names of the module
    unknown: list[str]  # names of the file, without those left out
    left_out: list[str]  # a classifier's head, and what is beside the network in the file
    misshapen: list[str] = field(default_factory=list)
    prefix: str = ""  # of the names in the file
    form: str = ""  # how they were matched, where they are other names
    resampled: list[str] = field(default_factory=list)  # by timm, to other sizes of images

    @property
    def fits(self) -> bool:
        return self.fault_count == 0

    @property
    def fault_count(self) -> int:
        return len(self.missing) + len(self.unknown) + len(self.misshapen)

    def describe_faults(self) -> str:
        faults = {
            "missing": self.missing,
            "unknown": self.unknown,
            "of another shape or type": self.misshapen,
        }
        return "; ".join(
            f"{len(names)} {fault} ({shorten(names)})" for fault, names in faults.items() if names
        )


def match_prefixes(
    tensors: Mapping[str, Tensor], module: nn.Module, in_channels: int, free: tuple[str, ...] = ()
) -> list[Match]:
    """Return matches with a module under each prefix of its names that the file has.

    A first convolution of RGB adapts to other numbers of channels, as for weights of the hub.
    Tensors whose names begin with one of `free` may be missing or of another shape.
    """
    expected = module.state_dict()
    anchor = max((key for key in expected if not key.endswith(COUNTERS)), key=len)
    prefixes = {key.removesuffix(anchor) for key in tensors if f".{key}".endswith(f".{anchor}")}
    return [
        _match_under(prefix, tensors, expected, in_channels, free)
        for prefix in sorted(prefixes or {""})
    ]


def _match_under(
    prefix: str,
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    in_channels: int,
    free: tuple[str, ...],
) -> Match:
    own, beside = _split(tensors, prefix)
    weights = {
        key: tensor if key.startswith(free) else _adapt(tensor, expected[key], in_channels)
        for key, tensor in own.items()
        if key in expected
    }
    misshapen = [
        key
        for key, tensor in weights.items()
        if tensor.shape != expected[key].shape
        or tensor.is_floating_point() != expected[key].is_floating_point()
    ]
    rest = [key for key in own if key not in expected]
    return Match(
        weights={k: t for k, t in weights.items() if k not in misshapen},
        missing=sorted(
            key
            for key in expected.keys() - own.keys()
            if not key.endswith(COUNTERS) and not key.startswith(free)
        ),
        unknown=[key for key in rest if not LEFT_OUT.match(key)],
        left_out=[key for key in rest if LEFT_OUT.match(key)] + beside,
        misshapen=[key for key in misshapen if not key.startswith(free)],
        prefix=prefix,
    )


def _split(tensors: Mapping[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors under a prefix, without it, and the names of the others."""
    own = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
    return own, [key for key in tensors if not key.startswith(prefix)]


def _adapt(tensor: Tensor, expected: Tensor, in_channels: int) -> Tensor:
    """Return filters (K,3,h,w) of RGB for another number of channels; other tensors as they are."""
    if tensor.shape == expected.shape or tensor.dim() != 4 or tensor.shape[1] != 3:
        return tensor
    if expected.shape != (len(tensor), in_channels, *tensor.shape[2:]):
        return tensor
    return adapt_input_conv(in_channels, tensor)


def find_encoders(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the encoders, as --encoder takes them, whose weights have the sizes of a file's."""
    size = count_elements(tensors)
    names = [name for name, known in stored_sizes().items() if known == size]
    if TENSORFLOW in tensors:
        names = [name for name in names if name.startswith("tf_")]
    elif TORCHVISION in tensors:
        names = [name for name in names if not name.startswith("tf_")]
    return [UNIVERSAL + name for name in names]


def count_elements(tensors: Mapping[str, Tensor]) -> int:
    """Return how many elements the filters and matrices have, without those of a classifier."""
    prefix = max(_list_wrappers(tensors), key=len)
    return sum(
        tensor.numel()
        for key, tensor in tensors.items()
        if tensor.dim() > 1 and not LEFT_OUT.match(key.removeprefix(prefix))
    )


Names = dict[str, Tensor]


def _keep_names(tensors: Names, _: nn.Module) -> Names:
    return tensors


def _rename_convnext(tensors: Names, _: nn.Module) -> Names | None:
    """Return tensors of torchvision's ConvNeXt under Facebook's names, which timm knows."""
    if TORCHVISION not in tensors:
        return None
    renamed = {}
    for key, tensor in tensors.items():
        for pattern, replacement in CONVNEXT.items():
            key = re.sub(pattern, replacement, key)
        # a scale of each channel is (C,1,1) there, and (C,) here
        renamed[key] = tensor.flatten() if key.endswith(".gamma") else tensor
    return renamed


def _take_order(tensors: Names, whole: Any) -> Names | None:
    """Return tensors under the names of a network that has the same shapes in the same order.

    EfficientNets of TensorFlow pad as it does, and torchvision's don't: neither is taken for the
    other. Where batch norms of torchvision have an eps of their own, the variances make up for it.
    """
    expected = {key: t for key, t in whole.state_dict().items() if not _is_counter(key, t)}
    given = [tensor for key, tensor in tensors.items() if not _is_counter(key, tensor)]
    pads_as_tensorflow = any(isinstance(module, Conv2dSame) for module in whole.modules())
    if (TORCHVISION if pads_as_tensorflow else TENSORFLOW) in tensors:
        return None
    if [_squeeze(t.shape) for t in given] != [_squeeze(t.shape) for t in expected.values()]:
        return None
    # a matrix and filters of one pixel are the same
    pairs = zip(expected.items(), given, strict=True)
    named = {key: tensor.view(to.shape) for (key, to), tensor in pairs}
    if TORCHVISION in tensors and EPS_OF_TORCHVISION.match(whole.pretrained_cfg["architecture"]):
        for name, module in whole.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                named[f"{name}.running_var"] = named[f"{name}.running_var"] + 1e-3 - module.eps
    return named


def _is_counter(name: str, tensor: Tensor) -> bool:
    """Return whether a tensor counts batches, as each batch norm does since torch 0.4.1."""
    return name.endswith(COUNTERS) or (tensor.dim() == 0 and not tensor.is_floating_point())


def _squeeze(shape: torch.Size) -> list[int]:
    """Return the sides of a shape that are not 1."""
    return [side for side in shape if side != 1]


# how a file's names become those that timm knows, tried in this order
FORMS = {"": _keep_names, "by torchvision's names": _rename_convnext, "by their order": _take_order}


def match_loading(tensors: Mapping[str, Tensor], encoder: nn.Module) -> list[Match]:
    """Return matches with an encoder of smp that renames tensors as it loads them."""
    found = []
    for prefix in _list_wrappers(tensors):
        own, beside = _split(tensors, prefix)
        loaded = copy.deepcopy(encoder)
        # smp's renaming raises anything on other files
        with suppress(SegtrainError), translate_errors(first_line):
            loaded.load_state_dict({k: t for k, t in own.items() if not _is_counter(k, t)})
            left_out = [key for key in own if LEFT_OUT.match(key)] + beside
            found.append(Match(loaded.state_dict(), [], [], left_out, prefix=prefix))
    return found


Build = Callable[..., nn.Module]  # with arguments of timm's create_model


def match_timm(
    tensors: Mapping[str, Tensor], create: Build, in_channels: int, build: Build
) -> list[Match]:
    """Return matches of a file with a network of timm's.

    `create` makes the network, and `build` the encoder, with timm's arguments for the weights, as
    timm loads them: renamed, resampled, and silent on what doesn't fit. So marks are loaded first,
    which show what of the encoder comes from the file, and what of the file is used.
    """
    with quiet("timm"), torch.random.fork_rng(devices=[]):  # new networks draw initial weights
        whole = create()
        tried: list[Match] = []
        for form, rename in FORMS.items():
            for prefix in _list_wrappers(tensors):
                own, beside = _split(tensors, prefix)
                renamed = rename(own, whole) or {}
                # weights of RGB adapt, others are for images of as many channels
                for channels in dict.fromkeys((3, in_channels)) if renamed else ():
                    load = partial(create, pretrained=True, in_chans=channels)
                    if match := _match_marked(renamed, load, build):
                        left_out = match.left_out + beside
                        tried.append(replace(match, left_out=left_out, prefix=prefix, form=form))
                        if match.fits:
                            break
                if form and any(match.fits for match in tried):
                    return tried
            if any(match.fits for match in tried):
                break
    return tried


def _match_marked(tensors: dict[str, Tensor], load: Build, build: Build) -> Match | None:
    floats = [key for key, tensor in tensors.items() if tensor.is_floating_point()]
    marks = {key: float(number) for number, key in enumerate(floats, start=1)}
    try:
        # timm's filters raise anything where names are not those that they rename
        with translate_errors(str):
            marked = build(**_pretrained(_fill(tensors, dict.fromkeys(floats, torch.nan))))
            whole = load(**_pretrained(_fill(tensors, marks)))
            loaded = build(**_pretrained(tensors)).state_dict()
    except SegtrainError as error:
        misshapen = MISSHAPEN.findall(str(error))
        return Match({}, [], [], [], misshapen) if misshapen else None
    missing = [
        key
        for key, tensor in marked.state_dict().items()
        if tensor.is_floating_point() and not tensor.isnan().all()
    ]
    known = whole.state_dict()
    # random weights, of which a classifier keeps a million, lie below the marks
    used = {mark for t in known.values() for mark in t[t >= 1].unique_consecutive().tolist()}
    # one that timm has under two names, for a shared layer, is used under one
    rest = [k for k in floats if marks[k] not in used and (k not in known or LEFT_OUT.match(k))]
    return Match(
        weights={key: tensor for key, tensor in loaded.items() if key not in missing},
        # a ViT of smp keeps its classifier, which no output reaches
        missing=[key for key in missing if not LEFT_OUT.match(key.removeprefix("model."))],
        unknown=[key for key in rest if not LEFT_OUT.match(key)],
        left_out=[key for key in rest if LEFT_OUT.match(key)],
        resampled=[
            key
            for key, tensor in tensors.items()
            if any(
                _is_resampled(tensor, to)
                for to in (known.get(key), loaded.get(f"model.{key}"))
                if to is not None and not LEFT_OUT.match(key)
            )
        ],
    )


def _is_resampled(tensor: Tensor, to: Tensor) -> bool:
    """Return whether a tensor became one of another size, in more than channels of images."""
    if tensor.dim() == 4 and to.dim() == 4:
        return tensor.shape[2:] != to.shape[2:]
    return tensor.numel() != to.numel()


def _pretrained(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the argument with which timm loads tensors as its own pretrained weights.

    Of other classes than the network's: so it leaves the classifier out, of any number of them.
    """
    return {"pretrained_cfg_overlay": {"state_dict": dict(tensors), "num_classes": -1}}


def _fill(tensors: Mapping[str, Tensor], marks: Mapping[str, float]) -> dict[str, Tensor]:
    """Return tensors of the same names and shapes; those with a mark hold it everywhere."""
    return {
        key: torch.full(t.shape, marks[key]) if key in marks else t for key, t in tensors.items()
    }


def _list_wrappers(names: Iterable[str]) -> list[str]:
    """Return the prefixes that a wrapped network's names may have, '' first."""
    prefixes = {""}
    for name in names:
        parts = list(takewhile(WRAPPERS.__contains__, name.split(".")))
        prefixes |= {".".join(parts[:n]) + "." for n in range(1, len(parts) + 1)}
    return sorted(prefixes, key=len)
