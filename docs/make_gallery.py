"""Writer of the pictures of docs/gallery.md: `python docs/make_gallery.py [NAME ...]`.

Each picture comes from a run of a shipped recipe on embedded data, made short by the settings in
`RUNS`, and from what `ssl-jax report` shows of it. The runs stay in --workdir (by default
/tmp/ssl_jax_gallery), so a second call only draws. Without names all pictures are made.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ssl_jax import cli
from ssl_jax.cli import report
from ssl_jax.data.decode import to_channels
from ssl_jax.report.look import FEATURES, RAW, Look
from ssl_jax.report.patches import Grid
from ssl_jax.report.run import Run
from ssl_jax.run import flags as command_line

IMAGES = Path(__file__).parent / "images" / "gallery"
TILE, GAP, HEAD, ROWS = 72, 4, 16, 6
SCALE = 0.35  # of the font
GREEN, RED, WHITE, INK = (0, 150, 60), (210, 40, 40), (255, 255, 255), (40, 40, 40)
COLOURS = cv2.applyColorMap(np.arange(20, 245, 24, np.uint8)[:, None], cv2.COLORMAP_TURBO)[
    :, 0, ::-1
]

NO_EVALS = "--config.evals.every=-1"  # nothing that is drawn needs the scores


class Sample(NamedTuple):
    """A run and what is drawn of it: words of `ssl-jax train`, and the names of pictures by the
    titles that they have in the report ("neighbours" and "map" are those sections of it).
    """

    train: tuple[str, ...]
    pictures: dict[str, str]


RUNS = {
    "simclr": Sample(
        ("--config=simclr:digits", "--config.train.steps=300"),
        {"neighbours": "neighbours", "map": "map"},
    ),
    "mae": Sample(
        ("--config=mae:digits", "--config.train.steps=800"),
        {"Reconstructions": "reconstructions"},
    ),
    "jigsaw": Sample(
        ("--config=jigsaw:digits", "--config.train.steps=300"),
        {"Solved puzzles": "puzzles"},
    ),
    "split_brain": Sample(
        ("--config=split_brain:photos", "--config.train.steps=200"),
        {"Cross-channel predictions": "cross_channel"},
    ),
    "dino": Sample(
        ("--config=dino:digits_vit", "--config.train.steps=300"),
        {"Attention": "attention", "Features of the patches": "patches"},
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(RUNS)}")
    parser.add_argument("--workdir", type=Path, default=Path("/tmp/ssl_jax_gallery"))
    arguments = parser.parse_args()
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or RUNS:
        folder = arguments.workdir / name
        if code := cli.run(["train", f"--workdir={folder}", *RUNS[name].train, NO_EVALS]):
            raise SystemExit(code)
        look = looked_at(folder)
        for title, file in RUNS[name].pictures.items():
            picture = draw(look, title)
            cv2.imwrite(str(IMAGES / f"{file}.png"), picture[..., ::-1])
            print(f"{IMAGES / file}.png: {picture.shape[1]} x {picture.shape[0]}")
            if title in look.grids:
                print(look.grids[title].caption)


def looked_at(folder: Path) -> Look:
    """Return what the report shows of a run."""
    run = Run.read(folder, folder.name)
    words = [f"--workdir={folder}", "--examples=300"]
    report.examine(run, folder, command_line.parse(words, report.__doc__, report.Flags))
    assert run.look is not None
    return run.look


def draw(look: Look, title: str) -> np.ndarray:
    """Draw one section of the report, (height, width, 3) uint8."""
    if title == "map":
        return np.hstack([scatter(look.maps[name], look.test.labels) for name in (RAW, FEATURES)])
    if title != "neighbours":
        return grid(look.grids[title])
    near = look.neighbours[FEATURES]
    images = [
        [look.test.images[query], *look.train.images[rows]]
        for query, rows in zip(near.queries, near.nearest, strict=True)
    ]
    truth = np.tile(look.test.labels[near.queries][:, None], (1, len(images[0])))
    labels = np.hstack([truth[:, :1], look.train.labels[near.nearest]])
    columns = ("image", *(f"{i + 1}." for i in range(len(images[0]) - 1)))
    return grid(Grid("", columns, images, labels, truth))


def grid(shown: Grid) -> np.ndarray:
    """Draw rows of images below the names of the columns; right and wrong answers in a frame."""
    rows = []
    for i, images in enumerate(shown.images[:ROWS]):
        tiles = [tile(image) for image in images]
        if shown.predicted is not None and shown.truth is not None:
            answers = zip(tiles, shown.predicted[i], shown.truth[i], strict=True)
            tiles = [
                framed(each, GREEN if answer == truth else RED) if truth >= 0 else each
                for each, answer, truth in answers
            ]
        rows.append(np.hstack([padded(each) for each in tiles]))
    return np.vstack([head(shown.columns, rows[0].shape[1]), *rows])


def tile(image: np.ndarray) -> np.ndarray:
    """Enlarge an image (h, w, C) to TILE pixels, without smoothing."""
    square = cv2.resize(np.ascontiguousarray(image), (TILE, TILE), interpolation=cv2.INTER_NEAREST)
    return to_channels(square.reshape(TILE, TILE, -1), 3)


def padded(image: np.ndarray) -> np.ndarray:
    return np.pad(image, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)


def framed(image: np.ndarray, colour: Sequence[int]) -> np.ndarray:
    return cv2.rectangle(image.copy(), (0, 0), (TILE - 1, TILE - 1), colour, 3)


def head(columns: Sequence[str], width: int) -> np.ndarray:
    """Draw the names of the columns, each as wide as a tile at most."""
    strip = np.full((HEAD if columns else 0, width, 3), 255, np.uint8)
    font = cv2.FONT_HERSHEY_SIMPLEX
    for i, name in enumerate(columns):
        place = (i * (TILE + GAP) + 2, HEAD - 5)
        (needed, _), _ = cv2.getTextSize(name, font, SCALE, 1)
        scale = SCALE * min(1.0, (TILE - 8) / needed)
        cv2.putText(strip, name, place, font, scale, INK, 1, cv2.LINE_AA)
    return strip


def scatter(places: np.ndarray, labels: np.ndarray, side: int = 320) -> np.ndarray:
    """Draw positions (N, 2) in [0, 1], each in the colour of its class, as a digit if it is one."""
    picture = np.full((side, side, 3), WHITE, np.uint8)
    for (x, y), label in zip(12 + places * (side - 24), labels, strict=True):
        place, colour = (int(x) - 4, int(y) + 4), COLOURS[label % len(COLOURS)].tolist()
        font = cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(picture, str(label), place, font, SCALE, colour, 1, cv2.LINE_AA)
    return picture


if __name__ == "__main__":
    main()
