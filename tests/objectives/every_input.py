"""A method that asks for all that a batch may hold, and its config; for the contract's tests.

Its data are made here: 40 images with masks, and a stream of 32 labelled clips of sound and frames.
"""

import tempfile
import wave
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import cv2
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.inputs import Inputs, OneCrop, TwoCrops
from ssl_jax.losses.cross_entropy import cross_entropy
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Objective, View


@dataclass(frozen=True)
class EveryInput(Objective):
    """Two views of a masked image whose features differ as their places do; a stream's classes."""

    view: TwoCrops = View((8, 12), count=2, recipe="digits")
    clip: OneCrop = View((8, 12), recipe="digits")

    def inputs(self) -> Inputs:
        clips = Inputs((self.clip,), label=True, frames=2, sound=12, placement=True)
        return Inputs((self.view,), placement=True, masks=True, streams=(("clips", clips),))

    @cached_property
    def networks(self):
        return self.backbone_and(head=mlp_head(self.feature_dim, (2,)))

    def loss(self, params, extra, batch, key, step):
        images = jnp.where(batch["masks"][0][..., None] > 0, batch["views"][0], 0)
        rows, count = images.shape[:2]
        clips = batch["clips"]
        frames = clips["frames"].mean((1, 4), keepdims=True) / 255 + clips["views"][0]
        folded = jnp.concatenate([images, frames], axis=1).reshape(-1, *images.shape[2:])
        nets = self.networks.bind(params, extra["stats"])
        out = nets.head(nets.backbone(folded).pooled).reshape(rows, count + 1, 2)
        centres = batch["placement"][0] @ jnp.array([0.5, 0.5, 1], out.dtype)
        apart = (out[:, 0] - out[:, 1]) - (centres[:, 0] - centres[:, 1])
        logits = out[:, 2] + clips["sound"].mean(1, keepdims=True)
        loss = jnp.mean(apart**2) + jnp.mean(cross_entropy(logits, clips["label"]))
        return loss, Aux({"stats": nets.stats})


make = EveryInput.make


@cache
def data() -> Mapping[str, str]:
    """Write the data once per process."""
    folder = Path(tempfile.mkdtemp())
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (40, 10, 14, 3)).astype(np.uint8)
    np.savez(folder / "images.npz", images=images, masks=images[..., 0] > 99)
    for i in range(32):
        clip = Path(str(i % 2), str(i))
        (folder / "frames" / clip).mkdir(parents=True)
        for t in range(3):
            frame = draw.integers(0, 256, (10, 14, 3)).astype(np.uint8)
            cv2.imwrite(str(folder / "frames" / clip / f"{t}.png"), frame)
        (folder / "audio" / clip).parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(folder / "audio" / f"{clip}.wav"), "wb") as track:
            track.setparams((1, 2, 100, 0, "NONE", ""))
            track.writeframes(draw.integers(-(2**15), 2**15, 30).astype("<i2").tobytes())
    return {"images": f"npz:{folder / 'images.npz'}", "clips": f"frames:{folder / 'frames'}"}


def get_config(recipe: str = "digits") -> dict[str, Any]:
    return {
        "objective": {"name": __file__},
        "backbone": {"name": "resnet_small"},
        "data": {"train": data()["images"], "streams": {"clips": data()["clips"]}},
        "optim": {"name": "adamw", "lr": 1e-3},
        "mesh": {},
        "train": {"steps": 4, "batch_size": 16},
        "checkpoint": {},
        "evals": {},
    }
