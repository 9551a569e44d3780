"""Segmentation network of segmentation-models-pytorch that normalises and pads images itself."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from segtrain.config import ModelConfig
from segtrain.errors import SegtrainError, UsageError, did_you_mean, first_line, translate_errors
from segtrain.models.names import UNIVERSAL, unknown_architecture, unknown_encoder
from segtrain.models.upsampling import UpsampledLogits, upsample, upsample_later

ARCHITECTURES = smp.MODEL_ARCHITECTURES_MAPPING
# without it a ViT accepts a single image size
DEFAULT_OPTIONS = {"dpt": {"dynamic_img_size": True}}
MIN_STRIDE = 32  # decoders such as DPT's need it where their encoder needs less
IMAGENET_MEAN = (123.675, 116.28, 103.53)  # of uint8 RGB
IMAGENET_STD = (58.395, 57.12, 57.375)
ANY_MEAN, ANY_STD = 127.5, 63.75  # of other channels than RGB: 0..255 becomes -2..2
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class SegmentationModel(nn.Module):
    """uint8 images (N,K,H,W) -> logits (N,C,H,W), C >= 2, for any H and W; 3 channels are RGB.

    The model does the normalisation (mean and std of 0..255 values, persistent buffers) and the
    padding to the encoder's stride, so that training, evaluation and prediction share them. With
    freeze_bn, batch norm uses its running statistics in training, too, and doesn't update them.
    """

    mean: Tensor
    std: Tensor
    by_rows = False  # set while inference asks for logits that are upsampled as they are read

    def __init__(
        self,
        network: smp.base.SegmentationModel,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        freeze_bn: bool = False,
    ):
        super().__init__()
        self.network, self.freeze_bn = network, freeze_bn
        self.upsampling, self.align_corners = take_upsampling(network)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor | UpsampledLogits:
        low, (height, width) = self.low_resolution(images), images.shape[-2:]
        upsampled = upsample_later if self.by_rows else upsample
        return upsampled(low, self.upsampling, self.align_corners, (height, width))

    def low_resolution(self, images: Tensor) -> Tensor:
        """Return logits (N,C,h,w) of the padded images before the head upsamples them."""
        return self.network(self.pad((images.float() - self.mean) / self.std))

    def pad(self, maps: Tensor, value: float = 0) -> Tensor:
        """Pad images (N,K,H,W) or targets (N,H,W), right and bottom, to the network's stride."""
        height, width = maps.shape[-2:]
        stride = max(MIN_STRIDE, self.network.encoder.output_stride)
        return F.pad(maps, (0, -width % stride, 0, -height % stride), value=value)

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

    def find_size_error(self, size: tuple[int, int]) -> str | None:
        """Return the network's error on images of (height, width), None where it has none."""
        padded = self.pad(self._blank(size).float())
        network = copy.deepcopy(self.network).eval()
        try:
            with translate_errors(first_line), torch.no_grad():
                network(padded)
        except SegtrainError as error:
            return str(error)
        return None

    def can_train_on_one(self, size: tuple[int, int]) -> bool:
        """Return whether a batch of one image of (height, width) can train the model.

        Batch norm after a global pooling (DeepLab, PSPNet) gets one value per channel and refuses.
        """
        probe = copy.deepcopy(self).train()  # a copy: training mode updates batch norm
        try:
            with torch.no_grad():
                probe(self._blank(size))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            return False
        return True

    def _blank(self, size: tuple[int, int]) -> Tensor:
        channels = self.mean.shape[1]
        return torch.zeros(1, channels, *size, dtype=torch.uint8, device=self.mean.device)

    @property
    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters())


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


def refuse_unknown_options(arch: str, options: dict[str, Any]) -> None:
    """Raise UsageError for options that smp would accept and ignore."""
    accepted = set(inspect.signature(ARCHITECTURES[arch]).parameters)
    accepted -= {"encoder_name", "encoder_weights", "in_channels", "classes", "kwargs"}
    unknown = sorted(options.keys() - accepted)
    if unknown:
        raise UsageError(
            f"model.options: {arch} has no {unknown[0]!r}{did_you_mean(unknown[0], accepted)}; "
            f"it takes {', '.join(sorted(accepted))}"
        )


def build_model(config: ModelConfig, num_classes: int) -> SegmentationModel:
    """Return the model with random weights. Raise UsageError if its parts don't fit."""
    arch, encoder = config.arch, config.encoder
    check_installed(arch, encoder)
    options = DEFAULT_OPTIONS.get(arch, {}) | config.options
    refuse_unknown_options(arch, config.options)

    def explain(error: Exception) -> str:
        reason = " ".join(str(error).split()) or type(error).__name__
        with_options = f" with {config.options}" if config.options else ""
        return f"model: {arch} cannot be built on {encoder}{with_options}: {reason}"

    with translate_errors(explain, UsageError):
        network = smp.create_model(
            arch,
            encoder,
            encoder_weights=None,
            in_channels=config.in_channels,
            classes=num_classes,
            **options,
        )
    rgb = config.in_channels == 3
    mean = config.mean or (IMAGENET_MEAN if rgb else [ANY_MEAN] * config.in_channels)
    std = config.std or (IMAGENET_STD if rgb else [ANY_STD] * config.in_channels)
    return SegmentationModel(network, mean, std, config.freeze_bn)
