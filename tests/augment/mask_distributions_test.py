"""Distributions of the generators of masks over 10,000 draws each: against the closed form of their
design where there is one, against the published loop, and against statistics of the authors' code.

Tolerances are five standard errors of the compared mean.
"""

import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.augment import masks
from ssl_jax.objectives.parts.hidden_patches import random_masks, stratified_masks

GOLDEN = Path(__file__).parent.parent / "golden"
DRAWS = 10_000
ERROR = 5 * np.sqrt(0.25 / DRAWS)  # of a share, at most


def keys(count=DRAWS, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def draw(f, batch=500, seed=0):
    """Call f with each of 10,000 keys."""
    made = jax.jit(lambda k: jax.lax.map(f, k, batch_size=batch))(keys(seed=seed))
    return jax.tree.map(np.asarray, made)


def together(hidden):
    """The share of masks (n, ...) that hide a pair of places: (places, places)."""
    flat = hidden.reshape(len(hidden), -1).astype(np.float64)
    return flat.T @ flat / len(flat)


class RandomTest(parameterized.TestCase):
    """A fixed number of places, every set of them as likely as another."""

    def check_uniform(self, hidden, count):
        places = math.prod(hidden.shape[1:])
        np.testing.assert_array_equal(hidden.reshape(len(hidden), -1).sum(1), count)
        want = np.full((places, places), count * (count - 1) / (places * (places - 1)))
        np.fill_diagonal(want, count / places)
        np.testing.assert_allclose(together(hidden), want, atol=ERROR)

    @parameterized.parameters((196, 0.75, 147), (49, 0.6, 30))
    def test_patches(self, count, ratio, hidden):
        keep, mask, restore = (np.asarray(x) for x in masks.random_patches(keys(), count, ratio))
        self.check_uniform(mask, hidden)
        # The visible patches come in a random order: each is as often the first as the last.
        for place in (0, -1):
            share = np.bincount(keep[:, place], minlength=count) / DRAWS
            np.testing.assert_allclose(share, 1 / count, atol=5 * np.sqrt(1 / count / DRAWS))
        shown = np.arange(count) < count - hidden
        np.testing.assert_array_equal(np.take_along_axis(shown[None], restore, 1), mask == 0)

    def test_cells(self):
        self.check_uniform(np.asarray(masks.random_cells(keys(), 6, 0.6)), 22)

    def test_ibot_without_blocks(self):
        ratio = lambda key: masks.ibot_mask(key, (7, 7), (0.3,), (0.0,), blocks=False)  # noqa: E731
        self.check_uniform(draw(ratio), 14)


def published_block_mask(rng, grid, target, least, most=math.inf):
    """BEiT's generator, written with the loops of its specification and paper."""
    mask, (height, width) = np.zeros(grid, bool), grid
    hidden = 0
    while hidden < target:
        cap = min(target - hidden, most)
        for _ in range(10):
            area = rng.random() * (cap - least) + least
            aspect = math.exp(rng.random() * math.log(1 / 0.09) + math.log(0.3))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if w >= width or h >= height:
                continue
            top, left = int(rng.random() * (height - h + 1)), int(rng.random() * (width - w + 1))
            block = mask[top : top + h, left : left + w]
            new = h * w - np.count_nonzero(block)
            if 0 < new <= cap:
                block[:] = True
                hidden += new
                break
        else:
            break
    return mask


def first_blocks(grid, cap, least, points=1500):
    """The chance of each size (rows, columns) of the first block, by quadrature over its area and
    the logarithm of its aspect ratio; a try that does not fit is drawn again.
    """
    u = (np.arange(points) + 0.5) / points
    area = least + (cap - least) * u[:, None]
    aspect = np.exp(np.log(0.3) - 2 * np.log(0.3) * u[None])
    h, w = (np.rint(np.sqrt(x)).astype(int) for x in (area * aspect, area / aspect))
    fits = (h < grid[0]) & (w < grid[1]) & (h * w <= cap)
    chance = np.zeros((grid[0] + 1, grid[1] + 1))
    np.add.at(chance, (h[fits], w[fits]), 1 / fits.sum())
    return chance


@functools.cache
def blocks(grid, target, least, most=math.inf):
    return draw(lambda key: masks.block_mask(key, grid, target, least, most))


class BlockTest(parameterized.TestCase):
    @parameterized.parameters(((14, 14), 75, 16), ((16, 16), 128, 4), ((8, 11), 30, 4))
    def test_first_block_follows_the_design(self, grid, cap, least):
        empty = jnp.zeros(grid, bool)

        def first(key):
            draws = jax.random.uniform(key, (10, 4))
            return masks.add_block(empty, draws, jnp.float32(cap), least, (0.3, 1 / 0.3))

        made = draw(first)
        self.assertTrue(made.any((1, 2)).all())
        sides = [made.any(axis).sum(1) for axis in (2, 1)]
        got = np.zeros((grid[0] + 1, grid[1] + 1))
        np.add.at(got, tuple(sides), 1 / DRAWS)
        want = first_blocks(grid, cap, least)
        error = 5 * np.sqrt(want * (1 - want) / DRAWS) + 1e-3  # and that of the quadrature
        self.assertLess((np.abs(got - want) - error).max(), 0)
        # Places of one size are uniform: the chance of a patch is the mean over the sizes.
        h, w = np.meshgrid(*(np.arange(n + 1) for n in grid), indexing="ij")
        inside = sum(
            want[a, b] * covered(grid[0], a)[:, None] * covered(grid[1], b)[None]
            for a, b in zip(h[want > 0], w[want > 0], strict=True)
        )
        np.testing.assert_allclose(made.mean(0), inside, atol=ERROR)

    @parameterized.parameters(
        ((14, 14), 75, 16, math.inf),  # BEiT
        (
            (7, 8),
            20.5,
            4,
            8,
        ),  # a block's most patches (DINOv2), and a target that is a share (iBOT)
    )
    def test_distributed_as_the_published_loop(self, grid, target, least, most):
        got = blocks(grid, target, least, most)
        rng = np.random.default_rng(0)
        want = np.stack([published_block_mask(rng, grid, target, least, most) for _ in got])
        error = np.sqrt(2) * ERROR
        np.testing.assert_allclose(got.mean(0), want.mean(0), atol=error)
        np.testing.assert_allclose(together(got), together(want), atol=error)
        for f in (lambda m: m.sum((1, 2)), lambda m: (m[:, 1:] ^ m[:, :-1]).sum((1, 2))):
            a, b = f(got), f(want)  # patches hidden; length of the border
            self.assertAlmostEqual(a.mean(), b.mean(), delta=5 * b.std() * np.sqrt(2 / DRAWS))
            shares = [
                np.bincount(x.astype(int), minlength=grid[0] * grid[1]) / DRAWS for x in (a, b)
            ]
            np.testing.assert_allclose(*shares, atol=error)

    def test_beit_as_the_authors_code(self):
        """Statistics of 20,000 draws of the authors' generator, and of the fixture's."""
        got = blocks((14, 14), 75, 16, math.inf)
        counts, share = got.sum((1, 2)), got.mean(0)
        self.assertAlmostEqual(counts.mean(), 74.47, delta=5 * counts.std() / np.sqrt(DRAWS))
        self.assertAlmostEqual((counts == 75).mean(), 0.666, delta=ERROR)
        self.assertBetween(counts.min(), 60, 64)
        self.assertEqual(counts.max(), 75)
        edges = np.mean([share[0, 6:8], share[-1, 6:8], share[6:8, 0], share[6:8, -1]])
        corners = share[[0, 0, -1, -1], [0, -1, 0, -1]].mean()
        for name, value, want in (
            ("centre", share[6:8, 6:8].mean(), 0.716),
            ("edges", edges, 0.193),
            ("corners", corners, 0.042),
        ):
            with self.subTest(name):
                self.assertAlmostEqual(value, want, delta=ERROR)
        with np.load(GOLDEN / "beit_block_mask.npz") as data:
            height, width, target, least = map(int, data["hp_conf0"])
            self.assertEqual((height, width, target, least), (14, 14, 75, 16))
            self.assertAlmostEqual(
                counts.mean(), data["out_stat_mean_count"], delta=5 * counts.std() / np.sqrt(DRAWS)
            )
            self.assertAlmostEqual(
                (counts == 75).mean(), data["out_stat_frac_full"], delta=2 * ERROR
            )
            np.testing.assert_allclose(share, data["out_stat_marginal"], atol=2 * ERROR)


class SharesTest(parameterized.TestCase):
    """Shares of a crop that iBOT and DINOv2 hide."""

    @parameterized.parameters(True, False)
    def test_ibot(self, in_blocks):
        """Half of the views have no mask; of the others the share is uniform in [0.1, 0.5]."""
        made = draw(lambda key: masks.ibot_mask(key, (14, 14), blocks=in_blocks))
        shares = made.mean((1, 2))
        hidden = shares[shares > 0]
        self.assertAlmostEqual(len(hidden) / DRAWS, 0.5, delta=ERROR)
        self.assertLessEqual(hidden.max(), 0.5)
        if not in_blocks:  # int(target) patches
            got = np.bincount(np.rint(hidden * 196).astype(int), minlength=98)
            edges = np.clip(np.arange(99) / 196, 0.1, 0.5)
            want = np.diff(edges) / 0.4
            np.testing.assert_allclose(got / len(hidden), want, atol=5 * np.sqrt(0.0128 / 5000))
        want, error = 0.149, 1e-3  # of the authors' loader, whose blocks stay short of the target
        if not in_blocks:
            want, error = (np.floor(196 * np.linspace(0.1, 0.5, 9999)) / 196).mean() / 2, 0
        self.assertAlmostEqual(shares.mean(), want, delta=5 * shares.std() / np.sqrt(DRAWS) + error)

    def test_ibot_of_several_crops(self):
        """Crops of an image are drawn independently."""
        made = jax.jit(lambda k: random_masks(k, 2, 6, (0.0, 0.3), (0.0, 0.2), False))(keys())
        some = np.asarray(made.any((2, 3)))
        np.testing.assert_allclose(some.mean(0), 0.5, atol=ERROR)
        self.assertAlmostEqual(some.all(1).mean(), 0.25, delta=ERROR)

    def test_dinov2_targets(self):
        """Each group hides patches of half of its crops, one in each of as many bins; a crop is as
        likely in one bin as in another, and uniform within it.
        """
        groups, crops, patches = DRAWS // 8, 8, 256
        u = jax.random.uniform(jax.random.key(0), (2, groups, crops))
        places = jnp.argsort(jnp.argsort(u[0]))
        made = np.asarray(masks.stratified_targets(places, u[1], patches, 0.5, (0.1, 0.5)))
        self.assertEqual(set((made > 0).sum(1).tolist()), {4})
        share = np.sort(made, axis=1)[:, 4:] / patches
        bins = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
        self.assertTrue(((share > bins[:-1] - 1 / patches) & (share <= bins[1:])).all())
        error = 5 * 0.1 / np.sqrt(12 * groups)
        np.testing.assert_allclose(
            share.mean(0) + 0.5 / patches, (bins[:-1] + bins[1:]) / 2, atol=error + 0.5 / patches
        )
        np.testing.assert_allclose((made > 0).mean(0), 0.5, atol=5 * np.sqrt(0.25 / groups))

    def test_dinov2_masks(self):
        """The blocks of a crop reach nearly its target, and hide no more."""
        made = jax.jit(lambda k: stratified_masks(k, 2, 8, DRAWS // 8, 0.5, (0.1, 0.5)))(
            keys(DRAWS // 2)
        )
        share = np.asarray(made).reshape(DRAWS // 8, -1, 64).mean(-1)
        self.assertEqual(share.shape[1], 8)
        hidden = np.sort(share, axis=1)
        self.assertFalse(hidden[:, :4].any())
        most = np.array([0.2, 0.3, 0.4, 0.5])
        self.assertTrue((hidden[:, 4:] <= most).all())
        rng = np.random.default_rng(0)
        want = np.empty((DRAWS // 8, 4))
        for row in want:  # the published loop, from targets of the same distribution
            targets = (64 * (most - 0.1 + 0.1 * rng.random(4))).astype(int)
            row[:] = [published_block_mask(rng, (8, 8), t, 4, 32).mean() for t in targets]
        want.sort(axis=1)
        error = 5 * want.std(0) * np.sqrt(2 / len(want))
        self.assertLess((np.abs(hidden[:, 4:].mean(0) - want.mean(0)) - error).max(), 0)


def covered(side, length, border=True):
    """The chance of each row that a block of `length` rows at a random place covers it."""
    top = np.arange(side - length + border)[:, None]
    return ((np.arange(side) >= top) & (np.arange(side) < top + length)).mean(0)


PUBLISHED = {"scale": (0.15, 0.2), "aspect": (0.75, 1.5)}
CONTEXT = {"scale": (0.85, 1.0), "aspect": (1.0, 1.0)}


class MultiBlockTest(parameterized.TestCase):
    @parameterized.parameters(True, False)
    def test_follows_the_design(self, border):
        """The share of images in which a patch is a target, and in which it is visible, against
        the closed form: blocks at independent, uniform places.
        """
        grid = (14, 14)

        def one(key):
            key, *size_keys = jax.random.split(key, 3)
            target, context = (
                masks.block_size(jax.random.uniform(k), grid, **options, border=border)
                for k, options in zip(size_keys, (PUBLISHED, CONTEXT), strict=True)
            )
            return *masks.multi_block(key, grid, target, context, border=border), target

        visible, hidden, sizes = draw(one)
        self.assertFalse((visible[:, None] & hidden).any())
        self.assertGreater(visible.sum((1, 2)).min(), 10)
        np.testing.assert_array_equal(  # every target of an image has its size
            hidden.sum((2, 3)), (sizes[0] * sizes[1])[:, None].repeat(4, 1)
        )
        draws = (np.arange(1000) + 0.5) / 1000

        def covers(options):
            """(1000, 14, 14), the chance of every patch that a block of each size covers it."""
            size = masks.block_size(jnp.asarray(draws), grid, **options, border=border)
            rows, columns = (np.stack([covered(14, n, border) for n in s.tolist()]) for s in size)
            return rows[:, :, None] * columns[:, None, :]

        spared = ((1 - covers(PUBLISHED)) ** 4).mean(0)  # by all four targets
        np.testing.assert_allclose(hidden.any(1).mean(0), 1 - spared, atol=ERROR)
        want = covers(CONTEXT).mean(0) * spared
        np.testing.assert_allclose(visible.mean(0), want, atol=ERROR)
        deviation = visible.sum((1, 2)).std()
        self.assertAlmostEqual(
            visible.sum((1, 2)).mean(), want.sum(), delta=5 * deviation / np.sqrt(DRAWS)
        )

    @parameterized.parameters(((14, 14), 8, (0.15, 0.15)), ((14, 14), 2, (0.7, 0.7)))
    def test_tubes_follow_the_design(self, grid, blocks, scale):
        """V-JEPA's short and long targets: the share of clips in which a patch is hidden."""

        def one(key):
            key, size_key = jax.random.split(key)
            size = masks.block_size(jax.random.uniform(size_key), grid, scale, (0.75, 1.5))
            return masks.tube_mask(key, grid, size, blocks)

        hidden = draw(one)
        self.assertFalse(hidden.all((1, 2)).any())
        u = jnp.asarray((np.arange(1000) + 0.5) / 1000)
        size = masks.block_size(u, grid, scale, (0.75, 1.5))
        rows, columns = (np.stack([covered(14, n) for n in s.tolist()]) for s in size)
        spared = (1 - rows[:, :, None] * columns[:, None, :]) ** blocks
        np.testing.assert_allclose(hidden.mean(0), 1 - spared.mean(0), atol=ERROR)


if __name__ == "__main__":
    absltest.main()
