"""Named chains of augmentation, as data: those of papers and their released code."""

from collections.abc import Mapping
from typing import Any

from ssl_jax.core.chain import Affine, Transform

_UNIT: Mapping[str, Any] = {"mean": (0.0,), "std": (1.0,)}  # SimCLR's code feeds [0, 1] as it is
_LAB: Mapping[str, Any] = {"mean": (50.0, 6.025, -6.6895), "std": (50.0, 92.208, 101.1675)}
_YCBCR: Mapping[str, Any] = {
    "mean": (116.151, 121.080, 132.342),
    "std": (109.500, 111.855, 111.964),
}
_STRONG_HUE = (0.4, 0.4, 0.4, 0.4)
_DIGITS: Mapping[str, Any] = {
    "jitter": (0.4, 0.0, 0.0, 0.0),
    "jitter_p": 1.0,
    "noise": 0.1,
    "mean": (0.305,),  # over the training digits
    "std": (0.376,),
}

RECIPES: dict[str, Transform] = {
    "none": Transform(**_UNIT),
    "flip": Transform(flip=0.5, **_UNIT),
    # Park et al. 2020; taesungp/contrastive-unpaired-translation, data/base_dataset.py.
    "cut": Transform(flip=0.5, mean=(0.5,), std=(0.5,)),
    # Chen et al. 2020; google-research/simclr, data_util.py; for CIFAR s = 0.5 without blur.
    "simclr": Transform(
        flip=0.5,
        jitter=(0.8, 0.8, 0.8, 0.2),
        jitter_p=0.8,
        jitter_kind="simclr",
        gray_p=0.2,
        blur_p=0.5,
        **_UNIT,
    ),
    "simclr_cifar": Transform(
        flip=0.5,
        jitter=(0.4, 0.4, 0.4, 0.1),
        jitter_p=0.8,
        jitter_kind="simclr",
        gray_p=0.2,
        **_UNIT,
    ),
    # Chen, Fan, Girshick, He 2020; facebookresearch/moco, --aug-plus.
    "moco_v2": Transform(
        flip=0.5,
        jitter=(0.4, 0.4, 0.4, 0.1),
        jitter_p=0.8,
        jitter_kind="torchvision",
        gray_p=0.2,
        blur_p=0.5,
    ),
    # The authors' CIFAR demo: without blur. SimSiam's on CIFAR too (2011.10566, appendix D).
    "moco_cifar": Transform(
        flip=0.5, jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8, jitter_kind="torchvision", gray_p=0.2
    ),
    # He et al. 2019; facebookresearch/moco.
    "moco_v1": Transform(
        flip=0.5,
        jitter=_STRONG_HUE,
        jitter_p=1.0,
        jitter_kind="torchvision",
        gray_p=0.2,
        gray_first=True,
    ),
    # Grill et al. 2020, table 6: the two views differ.
    "byol_1": Transform(
        flip=0.5,
        jitter=(0.4, 0.4, 0.2, 0.1),
        jitter_p=0.8,
        jitter_kind="byol",
        gray_p=0.2,
        blur_p=1.0,
        solarize_p=0.0,
    ),
    "byol_2": Transform(
        flip=0.5,
        jitter=(0.4, 0.4, 0.2, 0.1),
        jitter_p=0.8,
        jitter_kind="byol",
        gray_p=0.2,
        blur_p=0.1,
        solarize_p=0.2,
    ),
    # Caron et al. 2021; facebookresearch/dino: the two global views differ, and the local views
    # have a third chain. Barlow Twins and MoCo v3 use the two global chains, which are BYOL's with
    # PyTorch's jitter.
    "dino_1": Transform(
        flip=0.5,
        jitter=(0.4, 0.4, 0.2, 0.1),
        jitter_p=0.8,
        jitter_kind="torchvision",
        gray_p=0.2,
        blur_p=1.0,
    ),
    "dino_2": Transform(
        flip=0.5,
        jitter=(0.4, 0.4, 0.2, 0.1),
        jitter_p=0.8,
        jitter_kind="torchvision",
        gray_p=0.2,
        blur_p=0.1,
        solarize_p=0.2,
    ),
    "dino_local": Transform(
        flip=0.5,
        jitter=(0.4, 0.4, 0.2, 0.1),
        jitter_p=0.8,
        jitter_kind="torchvision",
        gray_p=0.2,
        blur_p=0.5,
    ),
    # Balestriero and LeCun 2025; README of rbalestr-lab/lejepa: one chain for all views.
    "lejepa": Transform(
        flip=0.5,
        jitter=(0.4, 0.4, 0.2, 0.1),
        jitter_p=0.8,
        jitter_kind="torchvision",
        gray_p=0.2,
        blur_p=0.5,
        solarize_p=0.2,
    ),
    # Amrani et al. 2021; elad-amrani/self-classifier: DINO's operations, distributed
    # differently over the views.
    "self_classifier_1": Transform(
        flip=0.5,
        jitter=(0.4, 0.4, 0.2, 0.1),
        jitter_p=0.8,
        jitter_kind="torchvision",
        gray_p=0.2,
        blur_p=0.1,
    ),
    "self_classifier_2": Transform(
        flip=0.5,
        jitter=(0.4, 0.4, 0.2, 0.1),
        jitter_p=0.8,
        jitter_kind="torchvision",
        gray_p=0.2,
        blur_p=1.0,
        solarize_p=0.2,
    ),
    # Caron et al. 2020; facebookresearch/swav: with a typo in the red channel's deviation.
    "swav": Transform(
        flip=0.5,
        jitter=(0.8, 0.8, 0.8, 0.2),
        jitter_p=0.8,
        jitter_kind="torchvision",
        gray_p=0.2,
        blur_p=0.5,
        std=(0.228, 0.224, 0.225),
    ),
    # solo-learn's CIFAR views: without blur, the second one solarized.
    "byol_cifar_1": Transform(
        flip=0.5, jitter=(0.4, 0.4, 0.2, 0.1), jitter_p=0.8, jitter_kind="torchvision", gray_p=0.2
    ),
    "byol_cifar_2": Transform(
        flip=0.5,
        jitter=(0.4, 0.4, 0.2, 0.1),
        jitter_p=0.8,
        jitter_kind="torchvision",
        gray_p=0.2,
        blur_p=0.0,
        solarize_p=0.2,
    ),
    # Wu et al. 2018; zhirongw/lemniscate.pytorch.
    "instdisc": Transform(
        flip=0.5,
        jitter=_STRONG_HUE,
        jitter_p=1.0,
        jitter_kind="torchvision",
        gray_p=0.2,
        gray_first=True,
    ),
    "instdisc_cifar": Transform(
        flip=0.0,
        jitter=_STRONG_HUE,
        jitter_p=1.0,
        jitter_kind="torchvision",
        gray_p=0.2,
        gray_first=True,
    ),
    # Tian et al. 2019; HobbitLong/CMC, train_CMC.py: L, ab or Y, CbCr by their half ranges.
    "cmc": Transform(flip=0.5, space="lab", **_LAB),
    "cmc_ycbcr": Transform(flip=0.5, space="ycbcr", **_YCBCR),
    # Zhang et al. 2016; colorizers/base_color.py of richzhang/colorization.
    "lab": Transform(flip=0.5, space="lab", mean=(50.0, 0.0, 0.0), std=(100.0, 110.0, 110.0)),
    # Larsson et al. 2016 and 2017; the grey value's mean is that of gustavla/self-supervision.
    "hue_chroma": Transform(
        flip=0.5, space="hue_chroma", mean=(0.4488, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    ),
    "mae": Transform(flip=0.5),  # SimMIM's too
    "normalize": Transform(),  # I-JEPA
    # Normalisation of public networks that do not use ImageNet's: Google's ViTs, and CLIP.
    "normalize_half": Transform(mean=(0.5,), std=(0.5,)),
    "normalize_clip": Transform(
        mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
    ),
    # Fine-tuning of MAE and BEiT: timm's rand-m9-mstd0.5-inc1.
    "finetune": Transform(flip=0.5, rand_augment=9.0),
    "finetune_beit": Transform(flip=0.5, rand_augment=9.0, mean=(0.5,), std=(0.5,)),
    # Ramesh et al. 2021; openai/DALL-E, utils.py: pixels x become 0.8 x + 0.1.
    "dalle": Transform(flip=0.5, mean=(-0.125,), std=(1.25,)),
    # Bao et al. 2021; microsoft/unilm, beit/datasets.py.
    "beit": Transform(flip=0.5, jitter=(0.4, 0.4, 0.4, 0.0), jitter_p=1.0, mean=(0.5,), std=(0.5,)),
    # Baevski et al. 2022; facebookresearch/data2vec_vision: the same, with ImageNet's statistics.
    "data2vec": Transform(flip=0.5, jitter=(0.4, 0.4, 0.4, 0.0), jitter_p=1.0),
    # Peng et al. 2022; microsoft/unilm, beit2/run_vqkd_training.py.
    "vqkd": Transform(flip=0.5, mean=(0.5,), std=(0.5,)),
    # Zhai et al. 2019: values in [-1, 1].
    "s4l": Transform(flip=0.5, mean=(0.5,), std=(0.5,)),
    "rotnet": Transform(flip=0.5),
    # Jigsaw and context prediction as Goyal et al. 2019 (VISSL) and Kolesnikov et al. 2019 train
    # them: two images in three are grey.
    "patches": Transform(flip=0.5, gray_p=0.66),
    # Misra and van der Maaten 2019; facebookresearch/vissl, for the image and for each patch,
    # without its block of posterize, sharpness, solarize and autocontrast.
    "pirl": Transform(flip=0.5, jitter=(0.4, 0.4, 0.4, 0.2), jitter_p=1.0, gray_p=0.2),
    "pirl_blur": Transform(
        flip=0.5, jitter=(0.8, 0.8, 0.8, 0.2), jitter_p=0.8, gray_p=0.2, blur_p=0.5
    ),
    # Henaff et al. 2019, for each patch, as far as the library has it: RandAugment in place of two
    # operations of AutoAugment, Inception's colours; without the elastic map and the histograms.
    "cpc_v2": Transform(
        rand_augment=9.0,
        jitter=(32 / 255, 0.5, 0.5, 0.2),
        jitter_p=0.8,
        jitter_kind="byol",
        gray_p=0.25,
        **_UNIT,
    ),
    # Small grey images, without flips, which change their meaning. Upright: small rotations only,
    # for RotNet.
    "digits": Transform(
        affine=Affine(rotation=0.35, log_scale=0.25, shear=0.3, shift=1.5 / 8), **_DIGITS
    ),
    "digits_upright": Transform(
        affine=Affine(rotation=0.15, log_scale=0.25, shear=0.3, shift=1.5 / 8), **_DIGITS
    ),
}
