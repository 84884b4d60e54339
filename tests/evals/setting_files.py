"""Images and files that the settings of protocols name, for `settings_test`."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from ssl_jax.data.sources import ArraySource
from tests.evals.protocols.box_patches_test import squares as squares_with_boxes

NAMES = ("ant", "bee", "cow", "dog")


def squares(count, seed):
    """Pictures of four classes that are hard to distinguish, with names and captions."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    images = rng.integers(0, 200, (count, 16, 16, 3)) + 12 * labels[:, None, None, None]
    captions = [[f"a {NAMES[label]} of {i}"] for i, label in enumerate(labels)]
    source = ArraySource("squares", images.astype(np.uint8), labels, NAMES, captions)
    source.names = [f"{i}.png" for i in range(count)]
    return source


def files(folder):
    """Write the files that settings name."""
    texts = {
        "list": "\n".join(f"{i}.png" for i in range(9)),
        "superclasses": "ant,insect\nbee,insect\ncow,mammal\n",
        "swapped": "ant bee\nbee ant\ncow cow\ndog dog\n",
        "templates": "seven {} swim\n",
        "names": "\n".join(("mosquito", "wasp", "buffalo", "wolf")),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    paths = {name: str(folder / name) for name in texts}
    rng = np.random.default_rng(0)
    for number, name in enumerate(("masks", "masks2", "videos", "videos2")):
        side, inside = (16, "") if number < 2 else (64, "one")
        kinds = ("images", "masks") if number < 2 else ("frames", "masks")
        for i in range(4 if number < 2 else 6):
            mask = rng.integers(0, 3, (4, 4), np.uint8).repeat(side // 4, 0).repeat(side // 4, 1)
            image = rng.integers(0, 210, (side, side, 3)) + 20 * mask[..., None]
            for kind, array in zip(kinds, (image.astype(np.uint8), mask), strict=True):
                path = folder / name / kind / inside / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
            if number < 2:
                depths = 900 * (mask.astype(np.uint16) + 1)
                normals = (image // 2 + 99).astype(np.uint8)
                for kind, array in (("depth", depths), ("normals", normals)):
                    path = folder / name / kind / f"{i}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(array).save(path)
        paths[name] = str(folder / name)
    for number, name in enumerate(("boxes", "boxes2")):
        paths[name] = str(folder / name)
        squares_with_boxes(folder / name, "train", 4, 2 * number)
        squares_with_boxes(folder / name, "val", 4, 2 * number + 1)
    for number in (1, 2):
        paths |= write_shifted(folder, number, "" if number == 1 else str(number))
    for number, name in enumerate(("copies", "copies2", "oxford", "oxford2")):
        paths[name] = str(folder / name)
        write_pairs(folder / name, np.random.default_rng(number), retrieval=number > 1)
    return paths


def write_shifted(folder, seed, end):
    """Write test sets of the robustness protocols."""
    source = squares(40, 10 + seed)
    paths = {kind: str(folder / f"{kind}{end}") for kind in ("grounds", "cues", "corrupted")}
    few = source.labels < 2
    np.savez(folder / f"shift{end}.npz", images=source.arrays[few], labels=source.labels[few])
    for i, (image, label) in enumerate(zip(source.arrays, source.labels, strict=True)):
        name, other = NAMES[label], NAMES[(label + 1 + i // 4 % 3) % 4]
        for place in (
            f"{paths['grounds']}/mixed_{('same', 'rand')[i // 4 % 2]}/{name}/{i}.png",
            f"{paths['cues']}/{name}/{name}{i}-{other}{i}.png",
            f"{paths['corrupted']}/fog/1/{name}/{i}.png",
        ):
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place)
    return {f"{kind}{end}": path for kind, path in paths.items()} | {
        f"shift{end}": str(folder / f"shift{end}.npz")
    }


def write_pairs(folder, rng, retrieval):
    """Write eight images and an edited copy of each, as Copydays or as revisited Oxford."""
    kinds = ("jpg", "jpg") if retrieval else ("original", "strong")
    for i in range(8):
        first = rng.integers(0, 256, (8, 8, 3)).repeat(8, 0).repeat(8, 1)
        second = np.clip(first + rng.normal(0, 200, first.shape), 0, 255)
        names = (f"{i:04}00.jpg", f"{i:04}01.jpg")
        for kind, name, array in zip(kinds, names, (first, second), strict=True):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(folder / kind / name, quality=95)
    if retrieval:
        truth = [
            {"easy": [i], "hard": [(i + 1) % 8], "junk": [], "bbx": [4, 4, 40, 30]}
            for i in range(8)
        ]
        lists = {
            f"{kind}list": [f"{i:04}0{j}" for i in range(8)] for j, kind in enumerate(("im", "qim"))
        }
        (folder / "gnd.json").write_text(json.dumps(lists | {"gnd": truth}))
