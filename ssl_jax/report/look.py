"""What an encoder makes of images: neighbours, a map, clusters, pictures of the method."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from ssl_jax.augment.recipes import pixels, prepare
from ssl_jax.data.copies import sample
from ssl_jax.data.decode import averaged
from ssl_jax.evals import features
from ssl_jax.evals.base import PIXELS, Images, Part
from ssl_jax.evals.checks import varied
from ssl_jax.evals.protocols.clustering import kmeans
from ssl_jax.objectives.base import Encoder, Objective, Picture
from ssl_jax.objectives.parts.pictures import prototypes
from ssl_jax.report import patches
from ssl_jax.report.patches import Grid
from ssl_jax.train.state import TrainState

FEATURES, RAW = "features", "raw pixels"
QUERIES, NEIGHBOURS = 10, 8
CHOICE = 256  # images that a method's pictures are chosen from
MOST_CLUSTERS, SAMPLES = 16, 24
COMPONENTS = 50  # that a map is made from
SHOWN = 8  # images in pictures of the patches
SIDE = 128  # pixels that are kept of an image to be shown


class Examples(NamedTuple):
    """Images (N, H, W, C) uint8, features (N, D), raw pixels (N, P), and classes (N,), -1 where
    there is none.
    """

    images: np.ndarray
    features: np.ndarray
    pixels: np.ndarray
    labels: np.ndarray


class Neighbours(NamedTuple):
    """Rows of the evaluation examples that are asked with, those of the nearest training examples
    (queries, k) of each, and the share of all evaluation examples' neighbours that are of their
    class, None without labels and of features that are all the same.
    """

    queries: np.ndarray
    nearest: np.ndarray
    same: float | None


class Cluster(NamedTuple):
    """Its number of training examples, rows of some of them, its most frequent class and the share
    of that; -1 and 0 without labels.
    """

    size: int
    rows: np.ndarray
    label: int
    purity: float


@dataclass(frozen=True)
class Look:
    """All that the page shows of an encoder at one step.

    Attributes:
      step: of the checkpoint.
      classes: their names.
      train, test: the examples that were looked at.
      neighbours: title -> by the features, and by raw pixels.
      maps: title -> places (N, 2) of the evaluation examples.
      grids: title -> picture.
    """

    step: int
    classes: tuple[str, ...]
    train: Examples
    test: Examples
    neighbours: dict[str, Neighbours]
    maps: dict[str, np.ndarray]
    clusters: list[Cluster]
    grids: dict[str, Grid]


def look(objective: Objective, state: TrainState, images: Images, step: int) -> Look:
    """Look at these images with the encoder of this state."""
    encoder = objective.encoder(state.params, state.extra)
    classes = images.class_names
    train, test = (
        examples(encoder, objective, images, part) for part in (images.train, images.test)
    )
    first = queries(test.labels)
    order = np.concatenate([first, np.setdiff1d(np.arange(len(test.labels)), first)])[:CHOICE]
    normalised = jax.jit(prepare, static_argnums=0)(images.view, test.images[order])
    key = jax.random.key(0)
    made = dict(jax.jit(objective.pictures)(state.params, state.extra, normalised, key))
    if encoder.clusters is not None:
        made["Prototypes"] = jax.jit(_prototypes)(encoder, normalised)
    made = jax.device_get(made)
    grids = {title: grid(picture, objective) for title, picture in made.items()}
    shown = test.images[order[:SHOWN]]
    grids |= patches.attention(encoder, normalised[:SHOWN], shown)
    grids |= patches.colours(encoder, normalised[:SHOWN], shown)
    return Look(
        step,
        classes,
        _small(train),
        _small(test),
        neighbours(train, test, first),
        {FEATURES: flat_map(test.features, True), RAW: flat_map(test.pixels, False)},
        clusters(train, images.train.source.num_classes),
        grids,
    )


def _prototypes(encoder: Encoder, images: jax.Array) -> Picture:
    """Of the first head, if there are several."""
    assert encoder.clusters is not None
    return prototypes(images, encoder.clusters.logits(encoder.features(images)["pooled"])[0])


def examples(encoder: Encoder, objective: Objective, images: Images, part: Part) -> Examples:
    """A part's images and features."""
    shown, index = images.whole(part)
    (found,), _ = features.extract(
        encoder, images.view, [objective.probe], images.batches(part), images.mesh
    )
    raw, _ = images.whole(part, min(images.view.size, PIXELS))
    known = images.labels(part, index)
    return Examples(shown, found, raw.reshape(len(raw), -1).astype(np.float32) / 255, known)


def queries(labels: np.ndarray) -> np.ndarray:
    """The first example of each of some classes; without labels, some examples."""
    known, first = np.unique(labels, return_index=True)
    first = first[known >= 0]
    rows = first if len(first) else np.arange(len(labels))
    return rows[sample(np.zeros(len(rows)), QUERIES)]


def neighbours(train: Examples, test: Examples, rows: np.ndarray) -> dict[str, Neighbours]:
    """The nearest training examples, by the cosine of features and of raw pixels."""
    count, asked = min(NEIGHBOURS, len(train.labels)), test.labels >= 0
    labelled = asked.any() and (train.labels >= 0).any()
    found = {}
    for title, here, there in (
        (FEATURES, test.features, train.features),
        (RAW, test.pixels, train.pixels),
    ):
        near = nearest(here, there, count)
        right = train.labels[near[asked]] == test.labels[asked, None]
        share = float(right.mean()) if labelled and varied(there) else None
        found[title] = Neighbours(rows, near[rows], share)
    return found


def nearest(queries: np.ndarray, among: np.ndarray, count: int) -> np.ndarray:
    """(M, count) rows of `among` (N, D) of largest cosine with each query (M, D), largest first."""
    cosines = _unit(queries) @ _unit(among).T
    return np.argsort(-cosines, axis=1, kind="stable")[:, :count]


def flat_map(points: np.ndarray, normalise: bool) -> np.ndarray:
    """(N, 2) in [0, 1]: t-SNE (van der Maaten and Hinton 2008) of the first principal components,
    from the first two as the start, as Kobak and Berens (2019) advise.
    """
    points = _unit(points) if normalise else points
    parts = min(COMPONENTS, *points.shape)
    if parts < 2 or len(points) < 5 or not np.ptp(points, axis=0).max() > 0:
        return np.full((len(points), 2), 0.5)  # nothing to see: collapsed, or too few
    points = PCA(parts, svd_solver="full").fit_transform(points)
    method = TSNE(perplexity=min(30, (len(points) - 1) / 3), init="pca", random_state=0)
    # So few points: threads would wait for each other longer than they work.
    with threadpool_limits(1):
        found = method.fit_transform(points)
    low, high = found.min(0), found.max(0)
    return (found - (low + high) / 2) / max(np.max(high - low), 1e-12) + 0.5


def clusters(train: Examples, classes: int) -> list[Cluster]:
    """k-means clusters of the standardised features, the largest first."""
    count = min(classes or QUERIES, MOST_CLUSTERS, len(train.labels))
    of = kmeans(train.features, count, restarts=3, standardize=True)
    found, draw = [], np.random.default_rng(0)
    for number in range(count):
        rows = np.flatnonzero(of == number)
        known = train.labels[rows][train.labels[rows] >= 0]
        sizes = np.bincount(known, minlength=1)
        best = int(sizes.argmax()) if len(known) else -1
        purity = float(sizes.max() / len(known)) if len(known) else 0.0
        some = np.sort(draw.permutation(rows)[:SAMPLES])
        found.append(Cluster(len(rows), some, best, purity))
    return sorted(found, key=lambda cluster: -cluster.size)


def grid(picture: Picture, objective: Objective) -> Grid:
    """A method's picture, un-normalised."""
    shown = pixels(objective.inputs().views[0], np.asarray(picture.images))
    return Grid(
        picture.caption,
        picture.columns,
        [list(row) for row in shown],
        None if picture.prediction is None else np.asarray(picture.prediction),
        None if picture.truth is None else np.asarray(picture.truth),
        picture.answers,
    )


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def _small(examples: Examples) -> Examples:
    """Images no larger than they are shown."""
    if examples.images.shape[1] <= SIDE:
        return examples
    return examples._replace(images=np.stack([reduced(image, SIDE) for image in examples.images]))


def reduced(image: np.ndarray, side: int) -> np.ndarray:
    """A square image (h, w, c), not larger than `side`."""
    return image if len(image) <= side else averaged(image, side, side)


def labels_of(names: Sequence[str], label: int) -> str:
    """The name of a class, "" for none."""
    return names[label] if 0 <= label < len(names) else ""
