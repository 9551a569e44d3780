"""Segmentation network of segmentation-models-pytorch that normalises and pads images itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache
from warnings import catch_warnings, simplefilter

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from segtrain.config import ModelConfig
from segtrain.errors import SegtrainError, UsageError, first_line, translate_errors
from segtrain.models.encoders import (
    ARCHITECTURES,
    explain_combination,
    network_options,
    refuse_wrong_options,
)
from segtrain.models.names import UNIVERSAL, unknown_architecture, unknown_encoder
from segtrain.models.trial import (
    Padding,
    ShapeTrials,
    copy_shapes,
    find_error,
    find_padding,
    find_unreached,
)
from segtrain.models.tuning import Tuning
from segtrain.models.undrawn import Undrawn
from segtrain.models.upsampling import UpsampledLogits, upsample, upsample_later

STRIDE = 32  # of decoders; DPT's has it where the encoder's is less
IMAGENET_MEAN = (123.675, 116.28, 103.53)  # of uint8 RGB
IMAGENET_STD = (58.395, 57.12, 57.375)
ANY_MEAN, ANY_STD = 127.5, 63.75  # of other channels than RGB: 0..255 becomes -2..2
SHAPES: dict[tuple[str, int], SegmentationModel] = {}  # by structure and classes: shape_model
SHAPES_KEPT = 8
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class SegmentationModel(nn.Module):
    """uint8 images (N,K,H,W) -> logits (N,C,H,W), C >= 2, for any H and W; 3 channels are RGB.

    The model does the normalisation (mean and std of 0..255 values, persistent buffers) and the
    padding to sizes that the network takes, so that training, evaluation and prediction share them.
    With freeze_bn, batch norm uses its running statistics in training, too, and doesn't update
    them.
    """

    mean: Tensor
    std: Tensor
    padding = Padding(STRIDE, STRIDE)
    unreached: frozenset[str] = frozenset()  # parameters that freeze_unreached has found
    tuning: Tuning | None = None  # of the logits, not of those that a training reads
    by_rows = False  # set while inference asks for logits that are upsampled as they are read

    def __init__(
        self,
        network: smp.base.SegmentationModel,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        freeze_bn: bool = False,
    ):
        super().__init__()
        self.network, self.freeze_bn, self.trials = network, freeze_bn, ShapeTrials()
        self.upsampling, self.align_corners = take_upsampling(network)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor | UpsampledLogits:
        low, (height, width) = self.low_resolution(images), images.shape[-2:]
        if self.tuning:
            low = self.tuning.apply(low)
        upsampled = upsample_later if self.by_rows else upsample
        return upsampled(low, self.upsampling, self.align_corners, (height, width))

    def low_resolution(self, images: Tensor) -> Tensor:
        """Return logits (N,C,h,w) of the padded images before the head upsamples them."""
        return self.network(self.pad((images.float() - self.mean) / self.std))

    def pad(self, maps: Tensor, value: float = 0) -> Tensor:
        """Pad images (N,K,H,W) or targets (N,H,W), right and bottom, to a size of the network's."""
        height, width = maps.shape[-2:]
        right, bottom = self.padding.pad(width) - width, self.padding.pad(height) - height
        return F.pad(maps, (0, right, 0, bottom), value=value)

    def train(self, mode: bool = True) -> SegmentationModel:
        super().train(mode)
        if self.freeze_bn:
            for module in self.modules():
                if isinstance(module, BATCH_NORMS):
                    module.eval()
        return self

    def freeze_encoder(self) -> None:
        """Exclude the encoder from training, and keep it in evaluation mode."""
        self.frozen = {p for p in self.network.encoder.parameters() if p.requires_grad}
        self.network.freeze_encoder()  # from now on network.train() leaves the encoder's mode
        self.network.encoder.eval()  # smp freezes batch norm alone; this stops dropout as well

    def unfreeze_encoder(self) -> None:
        """Undo `freeze_encoder`; the next `train` sets the mode."""
        self.network.unfreeze_encoder()
        for parameter in self.network.encoder.parameters():
            parameter.requires_grad = parameter in self.frozen

    def synchronise_bn(self) -> None:
        """Compute batch norm over the images of all ranks, which must be GPUs."""
        # timm's conversion keeps the activation inside timm's norms; torch's own drops it
        self.network = convert_sync_batchnorm(self.network)

    def set_statistics(self, name: str, values: Sequence[float]) -> None:
        """Set the mean or std of each channel of 0..255 values."""
        buffer: Tensor = getattr(self, name)
        buffer.copy_(torch.tensor(values).view_as(buffer))

    def freeze_unreached(self) -> None:
        """Exclude the parameters from training that the logits don't depend on.

        Such are an encoder's stages below those that the decoder reads. They stay in the module.
        """
        if self.trials.unreached is None:
            network, least = copy_shapes(self.network).train(), self.padding.least
            # two images: batch norm may need two values a channel
            shape = (2, self.mean.shape[1], least, least)
            self.trials.unreached = find_unreached(network, shape)
        for name in self.trials.unreached:
            self.network.get_parameter(name).requires_grad_(False)
        self.unreached = frozenset(f"network.{name}" for name in self.trials.unreached)

    def find_size_error(
        self, sizes: Iterable[tuple[int, int]]
    ) -> tuple[tuple[int, int], str] | None:
        """Return the first of the sizes (height, width) that the network can't take, and why."""
        errors, channels = self.trials.size_errors, self.mean.shape[1]
        padded = {(self.padding.pad(h), self.padding.pad(w)): (h, w) for h, w in sizes}
        if padded.keys() - errors.keys():
            network = copy_shapes(self.network).eval()
        for size, given in padded.items():
            if size not in errors:
                errors[size] = find_error(network, size, channels, self.upsampling)
            if error := errors[size]:
                return given, error
        return None

    def can_train_on_one(self, size: tuple[int, int]) -> bool:
        """Return whether a batch of one image of (height, width) can train the model.

        Batch norm after a global pooling (DeepLab, PSPNet) gets one value per channel and refuses.
        """
        trial = copy_shapes(self).train()
        try:
            with torch.no_grad():
                trial(torch.empty(1, self.mean.shape[1], *size, dtype=torch.uint8, device="meta"))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            return False
        return True

    @property
    def parameter_count(self) -> int:
        """The number of parameters that the logits depend on, once freeze_unreached has run."""
        return sum(p.numel() for name, p in self.named_parameters() if name not in self.unreached)


def take_upsampling(network: smp.base.SegmentationModel) -> tuple[int, bool]:
    """Remove the last upsampling from a network's head; return its factor and align_corners.

    The model upsamples instead, or a loss that reads low-resolution logits. The factor is 1 where
    there is none to remove; one before an activation stays.
    """
    head = network.segmentation_head
    if not isinstance(head, nn.Sequential) or not isinstance(head[1], nn.Upsample):
        return 1, False
    last, scale = head[1], head[1].scale_factor
    plain = isinstance(getattr(head[2], "activation", head[2]), nn.Identity)
    if not plain or last.mode != "bilinear" or not isinstance(scale, float) or scale % 1:
        return 1, False
    head[1] = nn.Identity()
    return int(scale), bool(last.align_corners)


def check_installed(arch: str, encoder: str) -> None:
    """Raise UsageError where smp has no such architecture or encoder."""
    if arch not in ARCHITECTURES:
        raise unknown_architecture(arch, list(ARCHITECTURES))
    if encoder.startswith(UNIVERSAL):
        if not timm.is_model(encoder.removeprefix(UNIVERSAL)):
            raise unknown_encoder(encoder, timm.list_models())
    elif encoder not in smp.encoders.get_encoder_names():
        raise unknown_encoder(encoder, smp.encoders.get_encoder_names())


def build_model(config: ModelConfig, num_classes: int) -> SegmentationModel:
    """Return the model with random weights. Raise UsageError if its parts don't fit."""
    check_installed(config.arch, config.encoder)
    refuse_wrong_options(config)

    def works(other: ModelConfig) -> bool:
        return try_model(other, num_classes) is not None

    with translate_errors(lambda error: explain_combination(config, error, works), UsageError):
        return assemble_model(config, num_classes)


def shape_model(config: ModelConfig, num_classes: int) -> SegmentationModel:
    """Return the model on the meta device; all callers share one, and change nothing of it.

    Raise UsageError if its parts don't fit, and for the few encoders that can't be built there.
    """
    key = name_structure(config), num_classes
    if key not in SHAPES:
        with torch.device("meta"), Undrawn():
            model = build_model(config, num_classes)
        if len(SHAPES) == SHAPES_KEPT:
            del SHAPES[next(iter(SHAPES))]
        SHAPES[key] = model
    return SHAPES[key]


def try_model(config: ModelConfig, num_classes: int) -> SegmentationModel | None:
    """Return a model without weights, which takes no memory; None where it can't be built."""
    for device in ("meta", "cpu"):  # a few can't be built on the first
        try:
            with translate_errors(first_line), catch_warnings(), torch.device(device), Undrawn():
                simplefilter("ignore")
                return assemble_model(config, num_classes)
        except SegtrainError as error:
            if device not in str(error):
                break
    return None


def create_network(config: ModelConfig, num_classes: int) -> smp.base.SegmentationModel:
    """Return smp's network with random weights. Raise whatever the libraries do."""
    return smp.create_model(
        config.arch,
        config.encoder,
        encoder_weights=None,
        in_channels=config.in_channels,
        classes=num_classes,
        **network_options(config),
    )


def assemble_model(config: ModelConfig, num_classes: int) -> SegmentationModel:
    """Return the model with random weights. Raise whatever the libraries do if it can't be."""
    network = create_network(config, num_classes)
    rgb = config.in_channels == 3
    mean = config.mean or (IMAGENET_MEAN if rgb else [ANY_MEAN] * config.in_channels)
    std = config.std or (IMAGENET_STD if rgb else [ANY_STD] * config.in_channels)
    model = SegmentationModel(network, mean, std, config.freeze_bn)
    model.trials = share_trials(name_structure(config), num_classes)
    if model.trials.padding is None:
        stride = math.lcm(STRIDE, network.encoder.output_stride)
        trial = copy_shapes(network).eval()
        padding = find_padding(trial, config.in_channels, stride, model.upsampling)
        model.trials.padding = padding
        model.trials.size_errors[padding.least, padding.least] = None
    model.padding = model.trials.padding
    return model


def name_structure(config: ModelConfig) -> str:
    """Return a text that differs between networks of other modules or sizes of tensors."""
    options = config.options, config.encoder_options
    return repr((config.arch, config.encoder, config.in_channels, *options))


@cache
def share_trials(structure: str, num_classes: int) -> ShapeTrials:
    """Return the one ShapeTrials of all networks of a structure in this process."""
    return ShapeTrials()
