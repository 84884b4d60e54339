"""Folders of images with masks, in the layouts of the usual data sets."""

from pathlib import Path

from ssl_jax.core.errors import UserError
from ssl_jax.data.fragments import split_fragment

EXPECTED = (
    "images/ and masks/; or, with #PART, images/PART and annotations/PART (ADE20K), "
    "leftImg8bit/PART and gtFine/PART (Cityscapes), or ImageSets/Segmentation/PART.txt (VOC)"
)
CITY_IMAGE, CITY_MASK = "_leftImg8bit.png", "_gtFine_labelTrainIds.png"


def scene_pairs(folder: str) -> list[tuple[Path, Path]]:
    """Return the image and the mask of each scene, sorted; images without a mask are skipped.

    FOLDER holds `images/NAME.jpg` and `masks/NAME.png`. `FOLDER#PART` is a part in the layout of
    ADE20K, Cityscapes (masks of train ids) or PASCAL VOC; see `EXPECTED`.

    Raises:
      UserError: a folder of another layout, or no pair.
    """
    root, part, _ = split_fragment("scenes", folder, ())
    if not part:
        return pairs(root / "images", root / "masks")
    if Path(part).name != part or part == "..":
        raise UserError(f"{folder}: {part!r} after '#' is no name of a part")
    listed = root / "ImageSets" / "Segmentation" / f"{part}.txt"
    if listed.is_file():
        return _voc(root, listed)
    if (root / "leftImg8bit" / part).is_dir():
        return _cityscapes(root, part)
    if (root / "annotations" / part).is_dir():
        return pairs(root / "images" / part, root / "annotations" / part)
    raise UserError(f"{folder}: expected {EXPECTED}")


def pairs(images: Path, masks: Path) -> list[tuple[Path, Path]]:
    """Pair the images and masks of equal stem in two folders, sorted; skip images without a mask.

    Raises:
      UserError: a missing folder, or no pair.
    """
    for folder in (images, masks):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; expected {EXPECTED}")
    mask_of = {path.stem: path for path in masks.iterdir() if path.suffix.lower() == ".png"}
    files = [(p, mask_of[p.stem]) for p in sorted(images.iterdir()) if p.stem in mask_of]
    if not files:
        raise UserError(f"{images}: no image NAME.* has a mask {masks}/NAME.png")
    return files


def _cityscapes(root: Path, part: str) -> list[tuple[Path, Path]]:
    images = sorted((root / "leftImg8bit" / part).glob(f"*/*{CITY_IMAGE}"))
    files = [
        (image, root / "gtFine" / part / image.parent.name / _city_mask(image)) for image in images
    ]
    files = [(image, mask) for image, mask in files if mask.is_file()]
    if not files:
        raise UserError(
            f"{root}: no CITY/NAME{CITY_IMAGE} in leftImg8bit/{part} has a mask "
            f"gtFine/{part}/CITY/NAME{CITY_MASK}"
        )
    return files


def _city_mask(image: Path) -> str:
    return image.name.removesuffix(CITY_IMAGE) + CITY_MASK


def _voc(root: Path, listed: Path) -> list[tuple[Path, Path]]:
    stems = listed.read_text("utf-8-sig").split()
    if wrong := next((stem for stem in stems if Path(stem).name != stem), None):
        raise UserError(f"{listed}: {wrong[:80]!r} is no name of an image")
    files = [
        (root / "JPEGImages" / f"{stem}.jpg", root / "SegmentationClass" / f"{stem}.png")
        for stem in stems
    ]
    files = [(image, mask) for image, mask in files if mask.is_file()]
    if not files:
        raise UserError(f"{listed}: no image of it has a mask in {root / 'SegmentationClass'}")
    return files
