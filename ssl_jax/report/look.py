"""Views of an encoder's features: neighbours, a map, clusters, pictures of the method."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from ssl_jax.augment.recipes import pixels, prepare
from ssl_jax.data.copies import sample
from ssl_jax.data.decode import averaged
from ssl_jax.evals import features
from ssl_jax.evals.base import PIXELS
from ssl_jax.evals.checks import varied
from ssl_jax.evals.images import Images, Part
from ssl_jax.evals.neighbours import nearest
from ssl_jax.evals.protocols.clustering import kmeans
from ssl_jax.objectives.base import Encoder, Objective, Picture
from ssl_jax.objectives.parts.pictures import prototypes
from ssl_jax.report import patches
from ssl_jax.report.patches import Grid
from ssl_jax.training.state import TrainState

FEATURES, RAW = "features", "raw pixels"
QUERIES, NEIGHBOURS = 10, 8
CHOICE = 256  # images from which a method's pictures are chosen
MOST_CLUSTERS, SAMPLES = 16, 24
COMPONENTS = 50  # principal components from which a map is made
SHOWN = 8  # images in pictures of the patches
SIDE = 128  # side in pixels to which images are reduced


class Examples(NamedTuple):
    """Images (N, H, W, C) uint8, features (N, D), raw pixels (N, P), and classes (N,), -1 for
    unlabelled images; of data with several labels per image a table (N, C) of bools besides.
    """

    images: np.ndarray
    features: np.ndarray
    pixels: np.ndarray
    labels: np.ndarray
    table: np.ndarray | None = None

    def text(self, row: int, names: Sequence[str]) -> str:
        """Return the names of an image's classes, "" without."""
        if self.table is None:
            return labels_of(names, int(self.labels[row]))
        return ", ".join(names[int(c)] for c in np.flatnonzero(self.table[row]))


def alike(
    queries: Examples, rows: np.ndarray, database: Examples, columns: np.ndarray
) -> np.ndarray:
    """Compare the classes of the images `rows` (n,) with those of `columns` (n, k): (n, k) int8. 1
    if two have the same class, or share one of several, 0 if not, -1 if one of them has none.
    """
    if queries.table is None or database.table is None:
        first, second = queries.labels[rows, None], database.labels[columns]
        return np.where(np.minimum(first, second) < 0, -1, first == second).astype(np.int8)
    first, second = queries.table[rows, None], database.table[columns]
    labelled = first.any(-1) & second.any(-1)
    return np.where(labelled, (first & second).any(-1), -1).astype(np.int8)


class Neighbours(NamedTuple):
    """Nearest neighbours of some evaluation examples.

    Attributes:
      queries: rows of these evaluation examples.
      nearest: (queries, k) rows of their nearest training examples.
      same: the share of all evaluation examples' neighbours that have the same class, or share one
        of several; None without labels, or if all features are equal.
    """

    queries: np.ndarray
    nearest: np.ndarray
    same: float | None


class Cluster(NamedTuple):
    """A cluster: its number of training examples, the rows of some of them, its most frequent class
    (-1 without labels) and that class's share (0 without labels).
    """

    size: int
    rows: np.ndarray
    label: int
    purity: float


@dataclass(frozen=True)
class Look:
    """Everything that the page shows of an encoder at one step.

    Attributes:
      step: step of the checkpoint.
      classes: names of the classes.
      train, test: the examples.
      neighbours: title -> neighbours, by features and by raw pixels.
      maps: title -> positions (N, 2) of the evaluation examples.
      clusters: clusters of the training examples, the largest first.
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
    """Compute everything that the page shows of these images and the encoder of this state.

    Images of the further training sets are those of `images.streams`.
    """
    encoder = objective.encoder(state.params, state.extra)
    classes = images.class_names
    train, test = (
        examples(encoder, objective, images, part) for part in (images.train, images.test)
    )
    first = queries(test.labels)
    order = np.concatenate([first, np.setdiff1d(np.arange(len(test.labels)), first)])[:CHOICE]
    normalised = jax.jit(prepare, static_argnums=0)(images.view, test.images[order])
    key = jax.random.key(0)
    pictures = dict(jax.jit(objective.pictures)(state.params, state.extra, normalised, key))
    if images.streams:
        thumbs = {
            n: images.whole(Part(s, sample(np.zeros(len(s)), SHOWN)))[0]
            for n, s in images.streams.items()
        }
        streams = {n: jax.jit(prepare, static_argnums=0)(images.view, x) for n, x in thumbs.items()}
        pictures |= jax.jit(objective.stream_pictures)(state.params, state.extra, streams, key)
    if encoder.clusters is not None:
        pictures["Prototypes"] = jax.jit(_prototypes)(encoder, normalised)
    pictures = jax.device_get(pictures)
    grids = {title: grid(picture, objective) for title, picture in pictures.items()}
    thumbnails = test.images[order[:SHOWN]]
    grids |= patches.attention(encoder, normalised[:SHOWN], thumbnails)
    grids |= patches.colours(encoder, normalised[:SHOWN], thumbnails)
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
    """Return the picture of the prototypes; of several heads, of the first."""
    assert encoder.clusters is not None
    return prototypes(images, encoder.clusters.logits(encoder.features(images).pooled)[0])


def examples(encoder: Encoder, objective: Objective, images: Images, part: Part) -> Examples:
    """Return a part's images, features, pixels and labels."""
    pictures, index = images.whole(part)
    (selected,), _ = features.extract(
        encoder, images.view, [objective.probe], images.batches(part), images.mesh
    )
    raw, _ = images.whole(part, min(*images.view.sides, PIXELS))
    labels = images.labels(part, index)
    table = images.targets(part, index) == 1 if images.multi else None
    flat = raw.reshape(len(raw), -1).astype(np.float32) / 255
    return Examples(pictures, selected, flat, labels, table)


def queries(labels: np.ndarray) -> np.ndarray:
    """Return the rows of the first example of each of `QUERIES` classes; without labels, of
    `QUERIES` examples.
    """
    classes, first = np.unique(labels, return_index=True)
    first = first[classes >= 0]
    rows = first if len(first) else np.arange(len(labels))
    return rows[sample(np.zeros(len(rows)), QUERIES)]


def neighbours(train: Examples, test: Examples, rows: np.ndarray) -> dict[str, Neighbours]:
    """Find the nearest training examples, by the cosine of features and of raw pixels."""
    count, everything = min(NEIGHBOURS, len(train.labels)), np.arange(len(test.labels))
    out = {}
    for title, queries, candidates in (
        (FEATURES, test.features, train.features),
        (RAW, test.pixels, train.pixels),
    ):
        _, near = nearest(candidates, queries, count)
        same = alike(test, everything, train, near)
        has_class = (same >= 0).any(axis=1)
        scorable = has_class.any() and varied(candidates)
        share = float((same[has_class] == 1).mean()) if scorable else None
        out[title] = Neighbours(rows, near[rows], share)
    return out


def flat_map(points: np.ndarray, normalise: bool) -> np.ndarray:
    """Return positions (N, 2) in [0, 1]: t-SNE (van der Maaten and Hinton 2008) of the first
    principal components, initialised with the first two, as Kobak and Berens (2019) advise.
    """
    points = normalize(points) if normalise else points
    parts = min(COMPONENTS, *points.shape)
    if parts < 2 or len(points) < 5 or not np.ptp(points, axis=0).max() > 0:
        return np.full((len(points), 2), 0.5)  # nothing to show: collapsed, or too few points
    points = PCA(parts, svd_solver="full").fit_transform(points)
    method = TSNE(perplexity=min(30, (len(points) - 1) / 3), init="pca", random_state=0)
    # With so few points, threads would wait for each other longer than they work.
    with threadpool_limits(1):
        places = method.fit_transform(points)
    low, high = places.min(0), places.max(0)
    return (places - (low + high) / 2) / max(np.max(high - low), 1e-12) + 0.5


def clusters(train: Examples, classes: int) -> list[Cluster]:
    """Cluster the standardised features by k-means; return the largest cluster first."""
    count = min(classes or QUERIES, MOST_CLUSTERS, len(train.labels))
    assigned = kmeans(train.features, count, restarts=3, standardize=True)
    out, draw = [], np.random.default_rng(0)
    for number in range(count):
        rows = np.flatnonzero(assigned == number)
        labels = train.labels[rows][train.labels[rows] >= 0]
        sizes = np.bincount(labels, minlength=1)
        best = int(sizes.argmax()) if len(labels) else -1
        purity = float(sizes.max() / len(labels)) if len(labels) else 0.0
        samples = np.sort(draw.permutation(rows)[:SAMPLES])
        out.append(Cluster(len(rows), samples, best, purity))
    return sorted(out, key=lambda cluster: -cluster.size)


def grid(picture: Picture, objective: Objective) -> Grid:
    """Un-normalise a method's picture."""
    pictures = pixels(objective.inputs().views[0], np.asarray(picture.images))
    return Grid(
        picture.caption,
        picture.columns,
        [list(row) for row in pictures],
        None if picture.prediction is None else np.asarray(picture.prediction),
        None if picture.truth is None else np.asarray(picture.truth),
        picture.answers,
    )


def _small(examples: Examples) -> Examples:
    """Reduce the images to the size at which they are shown."""
    if examples.images.shape[1] <= SIDE:
        return examples
    return examples._replace(images=np.stack([reduced(image, SIDE) for image in examples.images]))


def reduced(image: np.ndarray, side: int) -> np.ndarray:
    """Reduce a square image (h, w, c) to `side` pixels if it is larger."""
    return image if len(image) <= side else averaged(image, side, side)


def labels_of(names: Sequence[str], label: int) -> str:
    """Return the name of a class; "" if the label names none."""
    return names[label] if 0 <= label < len(names) else ""
