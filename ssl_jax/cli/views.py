"""`ssl-jax views`: draw a picture of the network's inputs, each original beside its views.

ssl-jax views --config=simclr:imagenet --data=folder:/images --output=views.png
ssl-jax views --data=folder:/images --output=views.png

Without --config it shows the views of the config that `ssl-jax train` chooses for the images.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import jax
import numpy as np

from ssl_jax.augment.recipes import augment, pixels
from ssl_jax.core.config import flag
from ssl_jax.core.errors import UserError
from ssl_jax.core.files import replacing
from ssl_jax.core.ranges import Count
from ssl_jax.data.decode import to_channels, viewable
from ssl_jax.data.pipeline import eval_arrays
from ssl_jax.run import auto
from ssl_jax.run import flags as command_line
from ssl_jax.run.configs import configured, override
from ssl_jax.run.console import terminal
from ssl_jax.run.experiment import Experiment

SIDE, GAP = 96, 4  # pixels of a view in the picture, and between views


@dataclass(frozen=True, kw_only=True)
class Flags(command_line.ConfigFlags):
    config: str = flag(
        "METHOD:RECIPE (simclr:digits) or PATH.py:RECIPE; by default what train would choose", ""
    )
    data: str = flag(
        "images: digits, folder:DIR, npz:FILE, ... (docs/data.md); by default the config's", ""
    )
    output: Path = flag("the picture to write, a .png")
    examples: Count = flag("number of images", 12)


def main(argv: list[str]) -> int:
    flags = command_line.parse(argv, __doc__, Flags)
    if not flags.config and not flags.data:
        raise UserError(
            "--config is missing: name a method and recipe, --config=simclr:digits, or only your "
            "images, --data=folder:/path"
        )
    output = flags.output
    if output.suffix.lower() != ".png":
        raise UserError(f"--output={output}: expected a name that ends in .png")
    overrides = [*flags.overrides, ("train.batch_size", flags.examples)]
    console = terminal()
    if flags.config:
        config = configured(flags.config, overrides, flags.data)
    else:
        config, reasons = auto.choose(flags.data, *auto.requested(overrides))
        console.print("no --config: the views that train chooses for these images")
        for key in ("objective.name", "objective.view"):
            console.print(f"  {reasons[key]}", markup=False)
        override(config, overrides)
    experiment = Experiment.from_config(config)
    success, data = cv2.imencode(".png", contact_sheet(experiment)[..., ::-1])
    if not success:
        raise UserError("the picture is too large for a PNG; set fewer --examples")
    try:
        with replacing(output) as temporary:  # cv2 accepts only UTF-8 names
            temporary.write_bytes(data.tobytes())
    except OSError as e:
        raise UserError(f"cannot write --output={output}: {e.strerror}") from None
    inputs = experiment.objective.inputs()
    views = sum(view.count for view in inputs.views)
    last = ", then an image on the first view's background" if inputs.matched else ""
    for line in experiment.survey.lines:
        console.print(line)
    console.print(
        f"{output}: {flags.examples} images, the original and {views} view(s) of each in a row"
        f"{last}"
    )
    return 0


def contact_sheet(experiment: Experiment) -> np.ndarray:
    """Draw one row per example of step 0, the original, its views and, if the method has one, its
    background-matched negative: (height, width, 3) uint8.
    """
    inputs, spec = experiment.objective.inputs(), experiment.spec
    host = next(experiment.batches(0, 1))
    key = jax.random.key(experiment.train.seed)
    made = jax.device_get(jax.jit(augment, static_argnums=0)(inputs, host, key))
    index = np.asarray(host["index"])
    originals, _ = next(
        eval_arrays(
            experiment.source, SIDE, rows=index, channels=spec.channels, batch=spec.global_batch
        )
    )
    rows = []
    for i in range(len(index)):
        tiles = [_tile(originals[i])]
        for view, group in zip(inputs.views, made["views"], strict=True):
            tiles += [_tile(image) for image in pixels(view, group[i])]
        if inputs.matched:
            tiles.append(_tile(pixels(inputs.views[0], made["matched"][i])))
        rows.append(np.concatenate(tiles, axis=1))
    return np.concatenate(rows, axis=0)


def _tile(image: np.ndarray) -> np.ndarray:
    """Resize an (h, w, C) image to SIDE pixels, with a white edge: (SIDE + GAP, SIDE + GAP, 3)."""
    image = np.ascontiguousarray(viewable(image))
    image = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
    image = to_channels(image.reshape(SIDE, SIDE, -1), 3)
    return np.pad(image, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)
