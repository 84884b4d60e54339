"""Video object segmentation without training: the first frame's mask is propagated by similarity of
features (the protocol of DINO, 2104.14294, and before it Jabri et al., 2006.14613).
"""

import functools
from collections.abc import Mapping, Sequence
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
from ssl_jax.data.masks import nearest, read_image, read_mask
from ssl_jax.data.scene_folders import pairs
from ssl_jax.evals import features
from ssl_jax.evals.base import Protocol, Subject, group_by
from ssl_jax.evals.checks import NotMeasurable
from ssl_jax.evals.davis import boundary_accuracy, region_similarity
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array

MULTIPLE = 64  # the longer side is a multiple of it, as in the release
SINGLE = 255  # number of the only object, or else of pixels that are not scored


@dataclass(frozen=True, kw_only=True)
class Propagation(Protocol):
    """J and F of masks that are propagated through videos, and of copies of the first mask.

    Attributes:
      data: folder with frames/SEQUENCE/NAME.jpg and masks/SEQUENCE/NAME.png; without it nothing is
        measured.
      size: the frames' shorter side is resized to it, the longer one to a multiple of 64 below.
      stage: stage of the backbone; -1 is the last.
      context: frames before the current one to propagate from, beside the first.
      radius: a token is compared with a square of so many tokens to each side, in each of those
        frames.
      k: number of most similar tokens, over all of those frames, that vote.
      temperature: they vote for their masks with weights exp(cosine / temperature).
      patch: side of the patches that raw pixels are split into.
    """

    titles: ClassVar[Mapping[str, str]] = {
        "propagation_jf": "propagated masks, J&F",
        "propagation_j": "propagated masks, J (regions)",
        "propagation_f": "propagated masks, F (outlines)",
        "propagation_copy_first_jf": "copies of the first mask, J&F",
    }
    scores: ClassVar[tuple[str, ...]] = ("propagation",)

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
        """Return whether it has videos; raw pixels are measured too."""
        return bool(self.data)

    def measure(self, subject: Subject) -> dict[str, float]:
        videos = read_videos(Path(self.data).expanduser())
        objects = max(len(video.objects) for video in videos)
        size = subject.images.mesh.size
        scores, copies = [], []
        for same_shape in group_by(videos, lambda video: video.shape):
            for batch in (same_shape[i : i + size] for i in range(0, len(same_shape), size)):
                tracks = self.follow(subject, batch, objects)
                for video, masks in zip(batch, tracks, strict=True):
                    scores.append(video.score(masks))
                    copies.append(video.score([video.first] * len(masks)))
        j, f = np.concatenate(scores).mean(0)
        copied = np.concatenate(copies).mean()
        numbers = {"j": j, "f": f, "jf": (j + f) / 2, "copy_first_jf": copied}
        return {f"propagation_{name}": float(value) for name, value in numbers.items()}

    def follow(
        self, subject: Subject, videos: Sequence["Video"], objects: int
    ) -> list[list[np.ndarray]]:
        """Propagate the masks (H, W) to each frame of each video. The videos have one shape and up
        to `objects` objects, and are at most as many as the devices.
        """
        images = subject.images
        placed = sharding.batch_sharding(images.mesh)
        rows = sharding.local_rows(images.mesh, images.mesh.size)
        mine = [videos[min(row, len(videos) - 1)] for row in rows]
        side = resized(videos[0].shape, self.size)

        def maps(number: int) -> Array:
            options = side, images.channels, images.train.source.value_range
            frames = np.stack([video.frame(number, *options) for video in mine])
            frames = to_global(frames, placed)
            return features.maps(subject.encoder, images.view, self.stage, self.patch, frames)

        first_maps = maps(0)
        starts = np.stack([video.start(first_maps.shape[1:3], objects) for video in mine])
        memory, finite = _begin(first_maps, to_global(starts, placed), self.context)
        if not gather(finite).all():  # else no token votes, and all is background
            raise NotMeasurable("propagation: features of the frames are not finite")
        out = [[video.first] for video in videos]
        options = (side, self.radius, self.k, self.temperature)
        for number in range(1, max(len(video.files) for video in videos)):
            distributed.tick()
            memory, places = _advance(memory, maps(number), *options)
            for video, masks, place in zip(videos, out, gather(places), strict=False):
                if number < len(video.files):
                    numbers = np.concatenate([[0], video.objects]).astype(np.uint8)
                    masks.append(numbers[nearest(place, *video.shape)])
        return out


class Video(NamedTuple):
    """Frames and masks.

    Attributes:
      files: image and mask of each frame.
      first: first mask (H, W).
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
        """Read this frame, or the last one, at (height, width): (height, width, channels) uint8."""
        path = self.files[min(number, len(self.files) - 1)][0]
        image = read_image(path, channels, value_range)
        if image.shape[:2] != self.shape:
            raise UserError(
                f"{path}: expected the first mask's {self.shape} pixels, got {image.shape[:2]}"
            )
        return cv2.resize(image, side[::-1], interpolation=cv2.INTER_LINEAR).reshape(*side, -1)

    def start(self, grid: tuple[int, int], objects: int) -> np.ndarray:
        """Return the first mask on a grid (h, w), one-hot: (h, w, 1 + objects) float32."""
        small = nearest(self.first, *grid)
        out = np.zeros((*grid, 1 + objects), np.float32)
        out[..., 1 : 1 + len(self.objects)] = small[..., None] == self.objects
        out[..., 0] = 1 - out.sum(-1)
        return out

    def score(self, masks: Sequence[np.ndarray]) -> np.ndarray:
        """Return J and F of each object, (objects, 2). As in the official code, they are means over
        all frames but the first, whose mask is the input, and the last.
        """
        out = []
        for number in range(1, len(self.files) - 1):
            true = read_mask(self.files[number][1])
            if true.shape != self.shape:
                raise UserError(
                    f"{self.files[number][1]}: expected the first mask's {self.shape} pixels, got "
                    f"{true.shape}"
                )
            scored = (true != SINGLE) | (SINGLE in self.objects)
            mask_pairs = [((masks[number] == i) & scored, true == i) for i in self.objects]
            out.append([(region_similarity(*p), boundary_accuracy(*p)) for p in mask_pairs])
        return np.mean(out, 0)


def read_videos(folder: Path) -> list[Video]:
    """Read the videos of a folder with frames/SEQUENCE/NAME.jpg and masks/SEQUENCE/NAME.png, by
    name.

    A mask's numbers are objects, 0 for none. Beside other numbers 255 is not scored; alone it is
    the object. Objects that appear after the first frame are neither propagated nor scored.

    Raises:
      UserError: there is no video, or one has fewer than three frames, or no object in the first.
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
                f"{folder}: {name}: expected at least 3 frames with masks and 1 object in the "
                f"first, got {len(files)} and {len(objects)}"
            )
        out.append(Video(files, first, objects))
    return out


def resized(shape: tuple[int, int], size: int) -> tuple[int, int]:
    """Return (height, width) with the shorter side `size`, the longer cut to a multiple of 64."""
    longer = max(shape) * size // min(shape) // MULTIPLE * MULTIPLE
    if longer < 1:
        raise UserError(f"propagation: size = {size} leaves less than {MULTIPLE} pixels")
    return (size, longer) if shape[0] <= shape[1] else (longer, size)


class FrameMemory(NamedTuple):
    """The first frame of B videos, and a ring of the frames before the current one.

    Attributes:
      features: (B, 1 + context, h, w, D), of length 1.
      masks: (B, 1 + context, h, w, C), soft.
      frames: number of frames so far.
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
    """Return the soft masks (h, w, C) of a frame: per token the mean of the masks of the k most
    similar tokens, with weights exp(cosine / temperature); all that tie with the k-th count.

    Args:
      target: (h, w, D) features of length 1.
      features, masks: (n, h, w, D) and (n, h, w, C) of other frames.
      valid: (n,) bool, the frames to use; at least one.
      radius: see `Propagation`.
    """
    expected = "propagate: target (h, w, D), features (n, h, w, D), masks (n, h, w, C), valid (n)"
    check_shapes(expected, target, features, masks, valid)
    height, width = features.shape[1:3]
    rows = min(radius, height - 1)
    edge = ((rows, rows), (0, 0), (0, 0), (0, 0))
    features, masks = (jnp.pad(x.swapaxes(0, 1), edge) for x in (features, masks))
    column = jnp.arange(width)
    in_reach = jnp.abs(column[:, None] - column) <= radius

    def row(i: Array) -> Array:
        # Only the rows in reach: the similarities of all tokens of a large frame fill the memory.
        near_features, near_masks = (
            jax.lax.dynamic_slice_in_dim(x, i, 2 * rows + 1).reshape(-1, x.shape[-1])
            for x in (features, masks)
        )
        source = i - rows + jnp.arange(2 * rows + 1)
        inside = (source >= 0) & (source < height)
        reachable = inside[:, None, None] & valid[:, None] & in_reach[:, None, None]
        reachable = reachable.reshape(width, -1)
        cosine = jnp.matmul(target[i], near_features.T, precision="highest")
        cosine = jnp.where(reachable, cosine, -jnp.inf)
        # Without the barrier XLA's CPU compiler sorts all of them: a frame took 13 times as long.
        best = jax.lax.optimization_barrier(jax.lax.top_k(cosine, min(k, reachable.shape[1]))[0])
        weight = jnp.where(cosine >= best[:, -1:], jnp.exp(cosine / temperature), 0)
        return weight @ near_masks / jnp.sum(weight, 1, keepdims=True)

    return jax.lax.map(row, jnp.arange(height))


@functools.partial(jax.jit, static_argnums=2)
def _begin(maps: Array, masks: Array, context: int) -> tuple[FrameMemory, Array]:
    """Return the memory of the first frame, and whether its features are finite (B,)."""
    ring = ((0, 0), (0, context), (0, 0), (0, 0), (0, 0))
    memory = FrameMemory(
        jnp.pad(l2_normalize(maps, floor="norm")[:, None], ring),
        jnp.pad(masks[:, None], ring),
        jnp.int32(1),
    )
    return memory, jnp.isfinite(maps).all((1, 2, 3))


@functools.partial(jax.jit, static_argnums=(2, 3, 4), donate_argnums=0)
def _advance(
    memory: FrameMemory,
    maps: Array,
    side: tuple[Count, Count],
    radius: Count,
    k: Count,
    temperature: Positive,
) -> tuple[FrameMemory, Array]:
    """Add a frame's features (B, h, w, D) to the memory; return it and the frame's masks (B,
    height, width) uint8: 0, or 1 + an object's place.
    """
    maps, slots = l2_normalize(maps, floor="norm"), memory.masks.shape[1]
    valid = jnp.arange(slots) < memory.frames

    def masks_of(target: Array, features: Array, masks: Array) -> Array:
        return propagate(target, features, masks, valid, radius, k, temperature)

    soft = jax.vmap(masks_of)(maps, memory.features, memory.masks)
    slot = 1 + (memory.frames - 1) % (slots - 1)
    memory = FrameMemory(
        memory.features.at[:, slot].set(maps),
        memory.masks.at[:, slot].set(soft),
        memory.frames + 1,
    )
    batch, _, _, channels = soft.shape
    large = jax.image.resize(soft, (batch, *side, channels), "linear")
    low, high = (f(large, (1, 2), keepdims=True) for f in (jnp.min, jnp.max))
    large = (large - low) / jnp.maximum(high - low, 1e-12)
    return memory, jnp.argmax(large, -1).astype(jnp.uint8)
