"""Video object segmentation without training: the first frame's mask is carried along by the
similarity of features (the protocol of DINO, 2104.14294, and before it Jabri et al., 2006.14613).
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core import distributed, sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.placement import gather, to_global
from ssl_jax.core.ranges import Count, Integer, Positive
from ssl_jax.data.levels import Range
from ssl_jax.data.masks import nearest, pairs, read_image, read_mask
from ssl_jax.evals import features
from ssl_jax.evals.base import Protocol, Subject, grouped
from ssl_jax.evals.davis import boundary_accuracy, region_similarity

Array = jax.Array

MULTIPLE = 64  # of which the longer side is one, as in the release
SINGLE = 255  # the only object's number, or else a pixel that is not scored


@dataclass(frozen=True, kw_only=True)
class Propagation(Protocol):
    """J and F of masks that are propagated through videos; and of the first mask left as it is.

    Attributes:
      data: a folder with frames/SEQUENCE/NAME.jpg and masks/SEQUENCE/NAME.png; without it nothing
        is measured.
      size: the frames' shorter side is resized to it, the longer one to a multiple of 64 below.
      stage: of the backbone; -1 is the last.
      context: frames before the present one that are looked at, beside the first.
      radius: a token looks at a square of so many tokens to each side, in each of those frames.
      k: the most similar of all those tokens are kept.
      temperature: they vote for their masks with weights exp(cosine / temperature).
      patch: side of the patches that raw pixels are measured by.
    """

    labels = False
    of_pixels = ("patch",)

    data: str = ""
    size: Count = 480
    stage: Integer = -1
    context: Count = 7
    radius: Count = 12
    k: Count = 5
    temperature: Positive = 0.1
    patch: Count = 8

    needs: ClassVar[str] = "a folder of videos (data)"

    def applies(self, subject: Subject) -> bool:
        """Whether it has videos; raw pixels are measured too."""
        return bool(self.data)

    def measure(self, subject: Subject) -> dict[str, float]:
        videos = read_videos(Path(self.data))
        objects = max(len(video.objects) for video in videos)
        size = subject.images.mesh.size
        scores, copies = [], []
        for same in grouped(videos, lambda video: video.shape):
            for some in (same[i : i + size] for i in range(0, len(same), size)):
                found = self.follow(subject, some, objects)
                for video, masks in zip(some, found, strict=True):
                    scores.append(video.score(masks))
                    copies.append(video.score([video.first] * len(masks)))
        j, f = np.concatenate(scores).mean(0)
        copied = np.concatenate(copies).mean()
        numbers = {"j": j, "f": f, "jf": (j + f) / 2, "copy_first_jf": copied}
        return {f"propagation_{name}": float(value) for name, value in numbers.items()}

    def follow(
        self, subject: Subject, videos: Sequence["Video"], objects: int
    ) -> list[list[np.ndarray]]:
        """The masks (H, W) of each frame of each video. They are of one shape, at most as many as
        there are devices, and have up to so many objects.
        """
        images = subject.images
        placed = sharding.batch_sharding(images.mesh)
        rows = sharding.local_rows(images.mesh, images.mesh.size)
        mine = [videos[min(row, len(videos) - 1)] for row in rows]
        side = resized(videos[0].shape, self.size)

        def maps(number: int) -> Array:
            how = side, images.channels, images.train.source.value_range
            frames = np.stack([video.frame(number, *how) for video in mine])
            frames = to_global(frames, placed)
            return features.maps(subject.encoder, images.view, self.stage, self.patch, frames)

        seen = maps(0)
        starts = np.stack([video.start(seen.shape[1:3], objects) for video in mine])
        memory = _begin(seen, to_global(starts, placed), self.context)
        out = [[video.first] for video in videos]
        how = (side, self.radius, self.k, self.temperature)
        for number in range(1, max(len(video.files) for video in videos)):
            distributed.tick()
            memory, places = _advance(memory, maps(number), *how)
            for video, masks, place in zip(videos, out, gather(places), strict=False):
                if number < len(video.files):
                    numbers = np.concatenate([[0], video.objects]).astype(np.uint8)
                    masks.append(numbers[nearest(place, *video.shape)])
        return out


class Video(NamedTuple):
    """Frames and masks.

    Attributes:
      files: of each frame, its image and its mask.
      first: the first mask (H, W).
      objects: numbers of the objects in it.
    """

    files: list[tuple[Path, Path]]
    first: np.ndarray
    objects: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return self.first.shape  # type: ignore[return-value]

    def frame(
        self, number: int, side: tuple[int, int], channels: int, value_range: Range = ()
    ) -> np.ndarray:
        """This frame, or the last one, at (height, width): (height, width, channels) uint8."""
        path = self.files[min(number, len(self.files) - 1)][0]
        image = read_image(path, channels, value_range)
        if image.shape[:2] != self.shape:
            raise UserError(f"{path}: {image.shape[:2]} pixels, the first mask {self.shape}")
        return cv2.resize(image, side[::-1], interpolation=cv2.INTER_LINEAR).reshape(*side, -1)

    def start(self, grid: tuple[int, int], objects: int) -> np.ndarray:
        """The first mask on a grid (h, w), one-hot: (h, w, 1 + objects) float32."""
        small = nearest(self.first, *grid)
        out = np.zeros((*grid, 1 + objects), np.float32)
        out[..., 1 : 1 + len(self.objects)] = small[..., None] == self.objects
        out[..., 0] = 1 - out.sum(-1)
        return out

    def score(self, masks: Sequence[np.ndarray]) -> np.ndarray:
        """(objects, 2): J and F of each object. As officially, means over all frames but the first,
        which was given, and the last.
        """
        out = []
        for number in range(1, len(self.files) - 1):
            true = read_mask(self.files[number][1])
            if true.shape != self.shape:
                raise UserError(f"{self.files[number][1]}: {true.shape}, the first {self.shape}")
            scored = (true != SINGLE) | (SINGLE in self.objects)
            each = [(masks[number] == one, true == one) for one in self.objects]
            each = [(seen & scored, real) for seen, real in each]
            out.append([(region_similarity(*one), boundary_accuracy(*one)) for one in each])
        return np.mean(out, 0)


def read_videos(folder: Path) -> list[Video]:
    """The videos of a folder with frames/SEQUENCE/NAME.jpg and masks/SEQUENCE/NAME.png, by name.

    A mask's numbers are objects, 0 none. Where 255 stands with others it is not scored; alone it is
    the object. Objects that come after the first frame are not followed, and not scored.

    Raises:
      UserError: there is none, or one of less than three frames, or without an object in the first.
    """
    names = sorted(path.name for path in (folder / "masks").glob("*") if path.is_dir())
    if not names:
        raise UserError(f"{folder}: expected videos as frames/SEQUENCE/*.jpg, masks/SEQUENCE/*.png")
    out = []
    for name in names:
        files = pairs(folder / "frames" / name, folder / "masks" / name)
        first = read_mask(files[0][1])
        objects = np.setdiff1d(first, [0])
        objects = objects[objects != SINGLE] if len(objects) > 1 else objects
        if len(files) < 3 or not len(objects):
            raise UserError(
                f"{folder}: {name} has {len(files)} frames with masks and {len(objects)} objects "
                "in the first; needs 3 and 1"
            )
        out.append(Video(files, first, objects))
    return out


def resized(shape: tuple[int, int], size: int) -> tuple[int, int]:
    """(height, width) with the shorter side `size`, the longer one cut to a multiple of 64."""
    longer = max(shape) * size // min(shape) // MULTIPLE * MULTIPLE
    if longer < 1:
        raise UserError(f"propagation: size = {size} leaves less than {MULTIPLE} pixels")
    return (size, longer) if shape[0] <= shape[1] else (longer, size)


class Memory(NamedTuple):
    """Of B videos the first frame and a ring of those before the present one.

    Attributes:
      features: (B, 1 + context, h, w, D), of length 1.
      masks: (B, 1 + context, h, w, C), soft.
      frames: that were seen.
    """

    features: Array
    masks: Array
    frames: Array


def propagate(
    target: Array,
    features: Array,
    masks: Array,
    valid: Array,
    radius: Count = 12,
    k: Count = 5,
    temperature: Positive = 0.1,
) -> Array:
    """Soft masks (h, w, C) of a frame: the mean of the masks of the k tokens most similar to each
    of its tokens, by weights exp(cosine / temperature); of equal similarity to the k-th all count.

    Args:
      target: (h, w, D) features of length 1.
      features, masks: (n, h, w, D) and (n, h, w, C) of other frames.
      valid: (n,) bool, which of them to look at; one at least.
      radius: see `Propagation`.
    """
    height, width = features.shape[1:3]
    rows = min(radius, height - 1)
    edge = ((rows, rows), (0, 0), (0, 0), (0, 0))
    features, masks = (jnp.pad(x.swapaxes(0, 1), edge) for x in (features, masks))
    column = jnp.arange(width)
    near = jnp.abs(column[:, None] - column) <= radius

    def row(i: Array) -> Array:
        # Only the rows in reach: the similarities of all tokens of a large frame fill the memory.
        seen_features, seen_masks = (
            jax.lax.dynamic_slice_in_dim(x, i, 2 * rows + 1).reshape(-1, x.shape[-1])
            for x in (features, masks)
        )
        source = i - rows + jnp.arange(2 * rows + 1)
        inside = (source >= 0) & (source < height)
        seen = (inside[:, None, None] & valid[:, None] & near[:, None, None]).reshape(width, -1)
        cosine = jnp.matmul(target[i], seen_features.T, precision="highest")
        cosine = jnp.where(seen, cosine, -jnp.inf)
        # Without the barrier XLA's CPU compiler sorts all of them: a frame took 13 times as long.
        best = jax.lax.optimization_barrier(jax.lax.top_k(cosine, min(k, seen.shape[1]))[0])
        weight = jnp.where(cosine >= best[:, -1:], jnp.exp(cosine / temperature), 0)
        return weight @ seen_masks / jnp.sum(weight, 1, keepdims=True)

    return jax.lax.map(row, jnp.arange(height))


@functools.partial(jax.jit, static_argnums=2)
def _begin(maps: Array, masks: Array, context: int) -> Memory:
    ring = ((0, 0), (0, context), (0, 0), (0, 0), (0, 0))
    return Memory(jnp.pad(_unit(maps)[:, None], ring), jnp.pad(masks[:, None], ring), jnp.int32(1))


@functools.partial(jax.jit, static_argnums=(2, 3, 4), donate_argnums=0)
def _advance(
    memory: Memory,
    maps: Array,
    side: tuple[Count, Count],
    radius: Count,
    k: Count,
    temperature: Positive,
) -> tuple[Memory, Array]:
    """The memory with a new frame's features (B, h, w, D), and the frame's masks (B, height, width)
    uint8: 0 or 1 + an object's place.
    """
    maps, slots = _unit(maps), memory.masks.shape[1]
    valid = jnp.arange(slots) < memory.frames

    def masks_of(target: Array, features: Array, masks: Array) -> Array:
        return propagate(target, features, masks, valid, radius, k, temperature)

    soft = jax.vmap(masks_of)(maps, memory.features, memory.masks)
    slot = 1 + (memory.frames - 1) % (slots - 1)
    memory = Memory(
        memory.features.at[:, slot].set(maps),
        memory.masks.at[:, slot].set(soft),
        memory.frames + 1,
    )
    batch, _, _, channels = soft.shape
    large = jax.image.resize(soft, (batch, *side, channels), "linear")
    low, high = (f(large, (1, 2), keepdims=True) for f in (jnp.min, jnp.max))
    large = (large - low) / jnp.maximum(high - low, 1e-12)
    return memory, jnp.argmax(large, -1).astype(jnp.uint8)


def _unit(x: Array) -> Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
