"""Lists of data sets, for `ssl-jax evaluate --suite=suites:NAME`.

The `tfds:` sets are read where TensorFlow Datasets has prepared them as ArrayRecord files
(docs/data.md); none is downloaded. A missing set is reported, and the others are measured.
"""

from configs import common

ALL = 10_000_000  # examples


def get_config(suite: str = "digits") -> dict:
    return common.pick(
        suite,
        digits=digits,
        kornblith=kornblith,
        vtab=vtab,
        robustness=robustness,
        robustness_digits=robustness_digits,
    )


def digits() -> dict:
    """scikit-learn's digits, without a download, with decreasing numbers of training images."""
    return {
        "digits": {"data": "digits"},
        "digits_300": {"data": "digits", "max_train": 300},
        "digits_100": {
            "data": "digits",
            "max_train": 100,
            "metric": "mean_per_class",
            "settings": {"logistic": {"holdout": 0.2}},
        },
    }


def kornblith() -> dict:
    """Nine of the twelve sets of Kornblith et al. (1805.08974, SimCLR, BYOL), for --eval=logistic.

    Birdsnap and FGVC Aircraft (mean per class) are not in TFDS: add them as folders. So is VOC 2007
    with its several labels per image: {"data": "voc:VOCdevkit/VOC2007", "metric": "11point"}.
    """
    return {
        "food101": _tfds("food101", test="validation"),
        "cifar10": _tfds("cifar10"),
        "cifar100": _tfds("cifar100"),
        "sun397": _tfds("sun397/standard-part1-120k"),
        "cars": _tfds("cars196"),
        "dtd": _tfds("dtd", more="validation"),
        "pets": _tfds("oxford_iiit_pet", metric="mean_per_class"),
        "caltech101": _tfds("caltech101", metric="mean_per_class"),
        "flowers102": _tfds("oxford_flowers102", more="validation", metric="mean_per_class"),
    }


def vtab() -> dict:
    """Twelve of the nineteen tasks of VTAB-1k (1910.04867), for --eval=logistic: 1000 training
    images per task, 200 of them to choose the penalty. They are the first 1000 of TFDS, which is
    shuffled; VTAB takes 800 and 200 from two splits.

    Tasks whose label is derived from annotations (Clevr, KITTI), or has another name than "label"
    (dSprites, SmallNORB), are left out. VTAB itself fine-tunes the whole network.
    """
    sets = {
        "caltech101": _tfds("caltech101", first=1000),
        "cifar100": _tfds("cifar100", first=1000),
        "dtd": _tfds("dtd", first=1000),
        "flowers102": _tfds("oxford_flowers102", first=1000),
        "pets": _tfds("oxford_iiit_pet", first=1000),
        "sun397": _tfds("sun397", first=1000),
        "svhn": _tfds("svhn_cropped", first=1000),
        "patch_camelyon": _tfds("patch_camelyon", first=1000),
        "eurosat": _tfds("eurosat", first=1000, test="train[80%:]"),
        "resisc45": _tfds("resisc45", first=1000, test="train[80%:]"),
        "retinopathy": _tfds("diabetic_retinopathy_detection/btgraham-300", first=1000),
        "dmlab": _tfds("dmlab", first=1000),
    }
    return {k: data | {"settings": {"logistic": {"holdout": 0.2}}} for k, data in sets.items()}


def robustness() -> dict:
    """ImageNet and its robustness sets, as unpacked in the current folder, for
    --eval=shifts,corruptions,backgrounds,cue_conflict; docs/protocols.md describes the two files
    of classes. One classifier serves all sets.

    Leave out of --eval what is missing, and set the names of the folders by a copy of this entry.
    """
    sets = ("imagenet-a", "imagenet-r", "imagenet-sketch", "imagenetv2-matched-frequency")
    return {
        "imagenet": {
            "data": "folder:imagenet/train",
            "eval_data": "folder:imagenet/val",
            "max_train": ALL,
            "max_eval": ALL,
            "settings": {
                "shifts": {
                    "sets": tuple(f"folder:{name}" for name in sets),
                    "classifier": "dino",
                    "examples": ALL,
                },
                "corruptions": {
                    "data": "imagenet-c",
                    "baseline": "alexnet",
                    "classifier": "dino",
                    "examples": ALL,
                },
                "backgrounds": {
                    "data": "bg_challenge",
                    "classes": "in_to_in9.json",
                    "classifier": "dino",
                    "examples": ALL,
                },
                "cue_conflict": {
                    "data": "folder:style-transfer-preprocessed-512",
                    "classes": "entry_classes.txt",
                    "classifier": "dino",
                },
            },
        }
    }


def robustness_digits() -> dict:
    """The digits, corrupted by NumPy and inverted, without a download; for
    --eval=shifts,corruptions.
    """
    sets = ("digits:photos", "digits:inverted")
    return {
        "digits": {
            "data": "digits",
            "settings": {"shifts": {"sets": sets}, "corruptions": {"data": "shifted_digits"}},
        }
    }


def _tfds(
    name: str, first: int = 0, more: str = "", test: str = "test", metric: str = "top1"
) -> dict:
    """Describe a set: all or the `first` training images, plus the split `more`; all of `test`."""
    data = f"tfds:{name}:train" + (f"[:{first}]" if first else "")
    return {
        "data": f"mix:{data}+tfds:{name}:{more}" if more else data,
        "eval_data": f"tfds:{name}:{test}",
        "metric": metric,
        "max_train": ALL,
        "max_eval": ALL,
    }
