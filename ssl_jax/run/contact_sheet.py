"""Picture of the network's inputs: originals beside their augmented views."""

from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment.recipes import augment, pixels
from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.files import replacing
from ssl_jax.data.decode import to_channels, viewable
from ssl_jax.data.pipeline import eval_arrays
from ssl_jax.run.experiment import Experiment

SIDE, GAP = 96, 4  # pixels of a view in the picture, and between views


def write_contact_sheet(experiment: Experiment, examples: int, output: Path, name: str) -> None:
    """Draw the first `examples` images of step 0 and write the picture to `output`, a .png.

    Args:
      name: what messages call the file.

    Raises:
      UserError: too large a picture, or a file that cannot be written.
    """
    success, data = cv2.imencode(".png", contact_sheet(experiment, examples)[..., ::-1])
    if not success:
        raise UserError("the picture is too large for a PNG; set fewer --examples")
    try:
        with replacing(output) as temporary:  # cv2 accepts only UTF-8 names
            temporary.write_bytes(data.tobytes())
    except OSError as e:
        raise UserError(f"cannot write {name}: {e.strerror}") from None


def contents(experiment: Experiment, examples: int) -> str:
    """Describe what the picture shows."""
    inputs = experiment.objective.inputs()
    views = sum(view.count for view in inputs.views)
    last = ", then an image on the first view's background" if inputs.matched else ""
    return f"{examples} images, the original and {views} view(s) of each in a row{last}"


def contact_sheet(experiment: Experiment, examples: int) -> np.ndarray:
    """Draw one row per example, the first of step 0: the original, its views as the step draws
    them and, if the method has one, its background-matched negative: (height, width, 3) uint8.
    """
    inputs, spec = experiment.objective.inputs(), experiment.spec
    batches = experiment.batches(0, 1, rows=np.arange(min(examples, spec.global_batch)))
    host = next(batches)
    batches.close()
    step = rng.step_key(jnp.uint32(experiment.train.seed), jnp.int32(0))
    key = rng.named(step, "augment")
    made = jax.device_get(jax.jit(augment, static_argnums=0)(inputs, host, key))
    index = np.asarray(host["index"])
    originals, _ = next(
        eval_arrays(experiment.source, SIDE, rows=index, channels=spec.channels, batch=len(index))
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
