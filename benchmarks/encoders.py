"""Encoders of smp, and one of each family of timm's: what each is, and whether it runs.

    python benchmarks/encoders.py

Each is built with random weights in the first architecture that takes it, and forwards an image
of 97x131. results/encoders.json has what is known of each, and docs/encoders.md its table. No
hub is asked.
"""

from __future__ import annotations

import gc
import json
from typing import Any

import segmentation_models_pytorch as smp
import torch
from machine import RESULTS, machine

from segtrain.commands.encoders import find_licence, find_model, find_strides
from segtrain.config import ModelConfig
from segtrain.models.encoders import ARCHITECTURES
from segtrain.models.imagenet import has_imagenet
from segtrain.models.names import UNIVERSAL
from segtrain.models.normalisation import find_normalisation
from segtrain.models.segmentation import build_model

SIZE = (97, 131)  # height, width
FAMILIES = """
beit_base_patch16_224 botnet26t_256 caformer_s18 cait_xxs24_224 coat_lite_tiny coatnet_0_rw_224
convformer_s18 convmixer_768_32 convnext_atto convnext_tiny.dinov3_lvd1689m convnextv2_atto
crossvit_tiny_240 cspdarknet53 cspresnet50 darknet53 davit_tiny deit_tiny_patch16_224
deit3_small_patch16_224 densenet121 dla34 dm_nfnet_f0 dpn48b eca_resnet33ts edgenext_xx_small
efficientformer_l1 efficientformerv2_s0 efficientnet_b0 efficientnetv2_rw_t efficientvit_b0
efficientvit_m0 ese_vovnet19b_dw eva02_tiny_patch14_224 fastvit_t8 fbnetc_100 focalnet_tiny_srf
gcresnet33ts gcvit_xxtiny gernet_s ghostnet_050 ghostnetv2_100 hardcorenas_a hgnet_tiny hgnetv2_b0
hiera_tiny_224 hrnet_w18_small inception_next_atto inception_v3 lcnet_035 levit_128s mambaout_femto
maxvit_tiny_tf_224 maxvit_rmlp_pico_rw_256 mixer_b16_224 mixnet_s mnasnet_small mobilenetv1_100
mobilenetv2_050 mobilenetv3_small_050 mobilenetv4_conv_small mobileone_s0 mobilevit_xxs
mobilevitv2_050 mvitv2_tiny nest_tiny nextvit_small nf_resnet50 pit_ti_224 poolformer_s12 pvt_v2_b0
rdnet_tiny regnetx_002 regnety_002 repghostnet_050 repvgg_a0 repvit_m0_9 res2net50_14w_8s
resmlp_12_224 resnest14d resnet18 resnet18d resnetv2_50 resnetv2_50x1_bit resnext50_32x4d rexnet_100
sam2_hiera_tiny samvit_base_patch16 selecsls42b semnasnet_075 sequencer2d_s seresnet18
shvit_s1 skresnet18 spnasnet_100 starnet_s050 swiftformer_xs swin_s3_tiny_224
swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 swinv2_tiny_window8_256 tf_efficientnet_b0
tf_efficientnet_lite0 tf_efficientnetv2_b0 tf_mobilenetv3_small_075 tiny_vit_5m_224 tinynet_e
tnt_s_legacy_patch16_224 tresnet_m twins_pcpvt_small vgg11_bn visformer_tiny vit_tiny_patch16_224
vit_small_patch14_dinov2 vit_small_patch16_dinov3 vitamin_small_224 volo_d1_224 wide_resnet50_2
xception41 xcit_nano_12_p16_224
""".split()


def describe(name: str) -> dict[str, Any]:
    """Build an encoder in all architectures that take it, run it in the first of them."""
    models = {arch: model for arch in ARCHITECTURES if (model := find_model(arch, name))}
    if not models:
        return {"architectures": []}
    arch, model = next(iter(models.items()))
    encoder, (least, step) = model.network.encoder, model.padding
    reading = find_normalisation(name, {})
    found = {
        "architectures": list(models),
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "strides": find_strides(model),
        "least": least,
        "step": step,
        "imagenet": has_imagenet(name),
        "mean": [round(value, 2) for value in reading.mean],
        "std": [round(value, 2) for value in reading.std],
        "licence": find_licence(name),
        "run_in": arch,
    }
    with torch.inference_mode():
        images = torch.randint(0, 256, (1, 3, *SIZE), dtype=torch.uint8)
        logits = build_model(ModelConfig(arch=arch, encoder=name), num_classes=2).eval()(images)
    found["runs"] = logits.shape == (1, 2, *SIZE) and bool(logits.isfinite().all())
    return found


def main() -> None:
    encoders = {}
    for name in [*smp.encoders.get_encoder_names(), *(UNIVERSAL + name for name in FAMILIES)]:
        encoders[name] = describe(name)
        print(name, encoders[name], flush=True)
        find_model.cache_clear()
        gc.collect()
    content = {
        "command": "python benchmarks/encoders.py",
        "environment": machine(),
        "size": SIZE,
        "encoders": encoders,
    }
    (RESULTS / "encoders.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
