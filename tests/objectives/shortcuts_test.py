"""Shortcuts of spatial pretext tasks: with nothing but a shortcut left in the images, an oracle
that reads it answers as well as by chance, and perfectly without the method's precaution.

The images are noise without objects, so there is nothing else to learn from: its continuity over
the borders of tiles, a lens's colour fringes, or tiles of one brightness.
"""

from itertools import pairwise

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.augment.patches import jigsaw_tiles, standardize, tiles
from ssl_jax.augment.resize import halve
from ssl_jax.losses.counting import counting
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.context_prediction import ContextPrediction
from ssl_jax.objectives.counting import Counting
from ssl_jax.objectives.jigsaw_clustering import JigsawClustering

SPEC = Spec(4, 100, 0, 10, 100)
COUNT, SIDE, PATCH, GAP, JITTER = 64, 72, 18, 6, 2
KEYS = jax.random.split(jax.random.key(0), COUNT)
NEIGHBOURS = (1, 3, 5, 7)  # cells of a 3 x 3 grid beside its middle
STEPS = np.array([(-1, 0), (0, -1), (0, 1), (1, 0)])  # from the middle to each of them
CHANCE, SLACK = 1 / 4, 0.1  # four deviations of an accuracy over 4 x 64 questions


def noise(spectrum, count=COUNT, side=SIDE):
    """Stationary noise (count, side, side), so that its content tells nothing about its place."""
    frequency = np.hypot(np.fft.fftfreq(2 * side)[:, None], np.fft.fftfreq(2 * side))
    white = np.random.default_rng(0).normal(size=(count, 2 * side, 2 * side))
    made = np.fft.ifft2(np.fft.fft2(white) * spectrum(frequency)).real[:, :side, :side]
    return (made / made.std()).astype(np.float32)


def blurred(frequency, sigma=1.0):
    return np.exp(-2 * (np.pi * frequency * sigma) ** 2)


def with_fringes(grey, factor=1.02):
    """Enlarge the green plane about the centre: a lens's lateral chromatic aberration."""
    centre = (SIDE - 1) / 2
    matrix = np.array([[1, 0, centre * (factor - 1)], [0, 1, centre * (factor - 1)]]) / factor
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    edge = {"borderMode": cv2.BORDER_REFLECT}
    green = [cv2.warpAffine(each, matrix, (SIDE, SIDE), flags=flags, **edge) for each in grey]
    return np.stack([grey, np.stack(green), grey], axis=-1)


def jigsaw(images, tile, channel_jitter=0):
    cut = lambda key, image: jigsaw_tiles(key, image, 3, tile, channel_jitter)  # noqa: E731
    return np.asarray(jax.jit(jax.vmap(cut))(KEYS, images))


def context(images, **hyper):
    sizes = {"patch": PATCH, "gap": GAP, "jitter": JITTER} | hyper
    made = ContextPrediction(resnet_small(4), SPEC, view=View(SIDE), **sizes)
    return np.asarray(jax.jit(jax.vmap(made.patches))(KEYS, images))


def accuracy(scores):
    """Share of neighbours (N, 4, 4 answers) whose place has the largest score."""
    return (scores.argmax(-1) == np.arange(4)).mean()


def by_seams(grid):
    """Place each neighbour where its edge continues that of the middle tile best."""
    middle, scores = grid[:, 4], []
    for other in (grid[:, n] for n in NEIGHBOURS):
        seams = (
            (middle[:, 0], other[:, -1]),
            (middle[:, :, 0], other[:, :, -1]),
            (middle[:, :, -1], other[:, :, 0]),
            (middle[:, -1], other[:, 0]),
        )
        scores.append(np.stack([-np.square(a - b).mean((1, 2)) for a, b in seams], axis=-1))
    return accuracy(np.stack(scores, axis=1))


def by_fringes(grid):
    """Place each neighbour where its green plane has moved to, relative to the middle tile's: the
    shift by least squares (Lucas and Kanade), in thousandths of a pixel.
    """
    others = (grid[..., 0] + grid[..., 2]).astype(np.float64) / 2
    slopes = np.stack(np.gradient(others, axis=(-2, -1)), axis=-1)[:, :, 1:-1, 1:-1]
    change = (grid[..., 1] - others)[:, :, 1:-1, 1:-1]
    normal = np.einsum("ntijk,ntijl->ntkl", slopes, slopes) + 1e-9 * np.eye(2)
    right = np.einsum("ntijk,ntij->ntk", slopes, change)
    shift = -np.linalg.solve(normal, right[..., None])[..., 0]
    moved = np.round(shift[:, list(NEIGHBOURS)] - shift[:, 4:5], 3)
    return accuracy(moved @ STEPS.T)


def by_brightness(grid):
    """Place each neighbour by its mean: in the ramp, 1 more per row and 2 more per column."""
    mean = grid.mean((2, 3, 4))
    change = mean[:, list(NEIGHBOURS)] - mean[:, 4:5]
    expected = STEPS @ [1.0, 2.0] * SIDE / 3
    return accuracy(-np.abs(change[..., None] - expected))


class BorderTest(absltest.TestCase):
    def test_gaps_between_tiles_hide_continuous_edges(self):
        images = noise(blurred)[..., None]
        self.assertGreater(by_seams(jigsaw(images, SIDE // 3)), 0.95)
        self.assertAlmostEqual(by_seams(jigsaw(images, PATCH)), CHANCE, delta=SLACK)
        touching = context(images, patch=SIDE // 3, gap=0, jitter=0, standardize=False)
        self.assertGreater(by_seams(touching), 0.95)
        self.assertAlmostEqual(by_seams(context(images)), CHANCE, delta=SLACK)


class ColourFringeTest(parameterized.TestCase):
    def test_they_reveal_the_place(self):
        images = with_fringes(noise(blurred))
        self.assertGreater(by_fringes(context(images)), 0.95)
        self.assertGreater(by_fringes(jigsaw(images, PATCH)), 0.95)

    @parameterized.parameters("drop", "project")
    def test_context_prediction_removes_them(self, colors):
        patches = context(with_fringes(noise(blurred)), colors=colors)
        self.assertAlmostEqual(by_fringes(patches), CHANCE, delta=SLACK)

    def test_grey_images_have_none(self):
        grey = np.repeat(with_fringes(noise(blurred)).mean(-1, keepdims=True), 3, axis=-1)
        self.assertEqual(by_fringes(jigsaw(grey, PATCH)), CHANCE)

    def test_jigsaw_drowns_them(self):
        """Channels shifted by up to 2 px hide fringes of 0.5 px mostly, but not entirely."""
        shaken = jigsaw(with_fringes(noise(blurred)), PATCH, channel_jitter=2)
        self.assertLess(by_fringes(shaken), 0.5)


class BrightnessTest(absltest.TestCase):
    def test_standardized_tiles_have_none(self):
        y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
        ramp = np.broadcast_to((y + 2 * x)[..., None], (COUNT, SIDE, SIDE, 1))
        raw = context(ramp, patch=SIDE // 3, gap=0, jitter=0, standardize=False)
        self.assertEqual(by_brightness(raw), 1)
        self.assertEqual(by_brightness(np.round(np.asarray(standardize(raw)), 3)), CHANCE)
        # Tiles of their mean colour are all the same input, so no network can do better.
        flat = np.broadcast_to(raw.mean((2, 3, 4), keepdims=True), raw.shape)
        self.assertEqual(np.abs(standardize(flat)).max(), 0)


class MontageTest(absltest.TestCase):
    """Jigsaw clustering: the place in a montage tells neither the corner nor the image."""

    def setUp(self):
        super().setUp()
        view = View(16, area=(1.0, 1.0), recipe="normalize")
        made = JigsawClustering(resnet_small(4), SPEC, view=view)
        shuffle = jax.jit(jax.vmap(lambda key: made.shuffle(jnp.zeros((16, 4, 1, 1, 1)), key)[1:]))
        self.image, self.corner = map(np.asarray, shuffle(KEYS))  # (shuffles, montages, 4)

    def test_the_corner(self):
        best = [
            np.bincount(self.corner[..., quadrant].ravel(), minlength=4).max()
            for quadrant in range(4)
        ]
        self.assertLess(np.sum(best) / self.corner.size, CHANCE + 0.04)

    def test_the_image(self):
        pairs = self.image[..., :, None] == self.image[..., None, :]
        together = (pairs.sum((-1, -2)) - 4).mean() / 12
        self.assertAlmostEqual(together, 3 / (4 * 16 - 1), delta=0.01)  # as in any permutation


class CountingTest(absltest.TestCase):
    def test_images_that_look_alike_cost_the_margin(self):
        """Flat images: whole and quarters are one input, with one count, whatever the network."""
        made = Counting(resnet_small(4), SPEC, view=View(16), counts=6, hidden=(8,))
        parts = made.parts(KEYS[:4], jnp.full((4, 16, 16, 3), 0.7))
        np.testing.assert_allclose(parts, 0.7, rtol=1e-6)
        for count in np.geomspace(0.01, 10, 20):
            counts = np.full((4, 6), count, np.float32)
            loss = counting(counts, np.repeat(counts[:, None], 4, axis=1), counts)
            self.assertGreaterEqual(loss, made.margin)

    def test_halved_images_look_like_quarters(self):
        """Not by chance: a linear classifier of the spectrum knows 85 % of halved images, and all
        of those of which every second pixel is left out, as in a public port of the method.
        """
        fractal = noise(lambda f: 1 / np.maximum(f, f[f > 0].min()), 400, 64)  # alike at all sizes
        quarters = spectra(np.asarray(tiles(fractal[..., None], 2, 2))[:, 0, ..., 0])
        keys = jax.random.split(jax.random.key(1), len(fractal))
        halved = np.asarray(jax.jit(jax.vmap(halve))(keys, fractal[..., None]))[..., 0]
        self.assertLess(separable(spectra(halved), quarters), 0.9)
        self.assertGreater(separable(spectra(fractal[:, ::2, ::2]), quarters), 0.97)


def spectra(images, bands=8):
    """Log of the power of images (N, s, s) in bands of the frequency, (N, bands)."""
    side = images.shape[1]
    window = np.hanning(side)[:, None] * np.hanning(side)
    power = np.abs(np.fft.fft2((images - images.mean((1, 2), keepdims=True)) * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    edges = np.linspace(0.05, 0.5, bands + 1)
    inside = [(frequency >= a) & (frequency < b) for a, b in pairwise(edges)]
    return np.log(np.stack([power[:, band].mean(1) for band in inside], axis=1))


def separable(first, second):
    """Accuracy of Fisher's discriminant, trained on half of each and tested on the rest."""
    half = len(first) // 2
    means = [x[:half].mean(0) for x in (first, second)]
    centred = np.concatenate([x[:half] - m for x, m in zip((first, second), means, strict=True)])
    weights = np.linalg.solve(np.cov(centred.T), means[1] - means[0])
    threshold = weights @ (means[0] + means[1]) / 2
    right = np.concatenate(
        [first[half:] @ weights < threshold, second[half:] @ weights > threshold]
    )
    return right.mean()


if __name__ == "__main__":
    absltest.main()
