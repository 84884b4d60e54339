import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.augment import masks
from ssl_jax.augment.masks import random_masking, take

GOLDEN = Path(__file__).parent.parent / "golden"


class RandomMaskingTest(parameterized.TestCase):
    def test_golden(self):
        data = np.load(GOLDEN / "mae_random_masking.npz")
        noise = jnp.asarray(data["in_noise"])
        ids_keep, mask, ids_restore = random_masking(noise, float(data["hp_mask_ratio"]))
        np.testing.assert_array_equal(mask, data["out_mask"])
        np.testing.assert_array_equal(ids_restore, data["out_ids_restore"])
        visible = take(jnp.asarray(data["in_x"]), ids_keep)
        np.testing.assert_array_equal(visible, data["out_x_masked"])
        self.assertEqual((ids_keep.dtype, mask.dtype), (jnp.int32, jnp.float32))

    @parameterized.parameters((16, 0.75), (49, 0.6), (10, 0.0), (7, 0.9))
    def test_restores_the_order(self, length, ratio):
        noise = jax.random.uniform(jax.random.key(0), (length,))
        ids_keep, mask, ids_restore = random_masking(noise, ratio)
        count = int(length * (1 - ratio))
        self.assertEqual((ids_keep.shape, int(mask.sum())), ((count,), length - count))
        tokens = jnp.arange(length)[:, None]
        padded = jnp.concatenate([take(tokens, ids_keep), jnp.full((length - count, 1), -1)])
        restored = take(padded, ids_restore)[:, 0]
        np.testing.assert_array_equal(restored, np.where(mask == 1, -1, np.arange(length)))


class SimMIMMaskTest(absltest.TestCase):
    def test_golden(self):
        data = np.load(GOLDEN / "simmim_mask_generator.npz")
        cells = int(data["hp_input"]) // int(data["hp_mask_patch"])
        scale = int(data["hp_mask_patch"]) // int(data["hp_model_patch"])
        order = jnp.asarray(data["in_perm"].astype(np.int32))
        got = masks.simmim_mask(order, float(data["hp_ratio"]), cells, cells, scale)
        np.testing.assert_array_equal(got, data["out_mask"])

    def test_batch_and_count(self):
        keys = jax.random.split(jax.random.key(0), 5)
        order = jax.vmap(lambda k: jax.random.permutation(k, 49))(keys)
        got = masks.simmim_mask(order, 0.6, 7, 7, 2)
        self.assertEqual(got.shape, (5, 14, 14))
        np.testing.assert_array_equal(np.asarray(got).sum((1, 2)), [30 * 4] * 5)


def published_block_mask(rng, grid, target, least, most=math.inf):
    """BEiT's generator, written with the loops of its specification and paper."""
    mask, (height, width) = np.zeros(grid, int), grid
    while mask.sum() < target:
        cap = min(target - mask.sum(), most)
        for _ in range(10):
            area = rng.uniform() * (cap - least) + least
            aspect = np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3)))
            h, w = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
            if w >= width or h >= height:
                continue
            top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
            new = h * w - mask[top : top + h, left : left + w].sum()
            if 0 < new <= cap:
                mask[top : top + h, left : left + w] = 1
                break
        else:
            break
    return mask.astype(bool)


def many(f, n=4000, seed=0):
    return np.asarray(jax.jit(jax.vmap(f))(jax.random.split(jax.random.key(seed), n)))


class BlockMaskTest(parameterized.TestCase):
    def test_beit(self):
        # 20,000 draws of the authors' generator: mean 74.47, least 64, P(75) = .666; hidden are the
        # centre .716, the middle of an edge .193, a corner .042.
        got = many(lambda k: masks.block_mask(k, (14, 14), 75, 16))
        counts, share = got.sum((1, 2)), got.mean(0)
        self.assertAlmostEqual(counts.mean(), 74.47, delta=0.08)
        self.assertGreaterEqual(counts.min(), 60)
        self.assertEqual(counts.max(), 75)
        self.assertAlmostEqual((counts == 75).mean(), 0.666, delta=0.03)
        self.assertAlmostEqual(share[6:8, 6:8].mean(), 0.716, delta=0.025)
        edges = np.mean([share[0, 6:8], share[-1, 6:8], share[6:8, 0], share[6:8, -1]])
        self.assertAlmostEqual(edges, 0.193, delta=0.02)
        corners = share[[0, 0, -1, -1], [0, -1, 0, -1]].mean()
        self.assertAlmostEqual(corners, 0.042, delta=0.01)

    @parameterized.parameters(
        ((14, 14), 75, 16, math.inf), ((8, 11), 30, 4, math.inf), ((7, 7), 20.5, 4, 8)
    )
    def test_distributed_as_the_generator(self, grid, target, least, most):
        got = many(lambda k: masks.block_mask(k, grid, target, least, most), 3000)
        rng = np.random.default_rng(0)
        want = np.array([published_block_mask(rng, grid, target, least, most) for _ in range(1000)])
        np.testing.assert_allclose(got.mean(0), want.mean(0), atol=5 * np.sqrt(0.25 / 750))
        self.assertAlmostEqual(np.abs(got.mean(0) - want.mean(0)).mean(), 0, delta=0.02)
        for f in (lambda m: m.sum((1, 2)), lambda m: (m[:, 1:] ^ m[:, :-1]).sum((1, 2))):
            a, b = f(got), f(want)  # patches hidden; length of the border
            self.assertAlmostEqual(a.mean(), b.mean(), delta=5 * b.std() / np.sqrt(750))
            self.assertAlmostEqual(a.std(), b.std(), delta=0.15 * b.std() + 0.05)

    def test_nothing_wanted(self):
        self.assertFalse(masks.block_mask(jax.random.key(0), (8, 8), 0.0).any())

    def test_a_key_gives_one_mask_in_any_company(self):
        keys = jax.random.split(jax.random.key(0), 6)
        together = jax.vmap(lambda k: masks.block_mask(k, (14, 14), 75, 16))(keys)
        alone = [masks.block_mask(k, (14, 14), 75, 16) for k in keys[:2]]
        np.testing.assert_array_equal(together[:2], np.stack(alone))


class IBotMaskTest(parameterized.TestCase):
    @parameterized.parameters((0.1, 0.0897), (0.3, 0.2922), (0.5, 0.4977))
    def test_share(self, ratio, want):
        got = many(lambda k: masks.ibot_mask(k, (14, 14), (ratio,), (0.0,)), 2000)
        self.assertAlmostEqual(got.mean(), want, delta=0.003)

    @parameterized.parameters(True, False)
    def test_mixture(self, blocks):
        got = many(lambda k: masks.ibot_mask(k, (14, 14), blocks=blocks), 3000).mean((1, 2))
        self.assertAlmostEqual((got == 0).mean(), 0.5, delta=0.05)
        self.assertAlmostEqual(got.mean(), 0.149, delta=0.01)
        self.assertLessEqual(got.max(), 0.5)
        self.assertBetween(got[got > 0].min(), 0.05, 0.11)


class MultiBlockTest(parameterized.TestCase):
    @parameterized.parameters(
        (16, {(5, 7), (6, 6), (6, 7), (7, 6), (8, 6), (9, 6)}, 15),
        (14, {(5, 6), (6, 5), (6, 6), (7, 5), (8, 5)}, 13),
    )
    def test_sizes(self, side, want, context):
        draws = jnp.linspace(0, 1, 2000, endpoint=False)
        size = jax.vmap(lambda d: masks.block_size(d, (side, side), (0.15, 0.2), (0.75, 1.5)))
        self.assertEqual(
            set(zip(*(np.asarray(v).tolist() for v in size(draws)), strict=True)), want
        )
        size = jax.vmap(lambda d: masks.block_size(d, (side, side), (0.85, 1.0), (1.0, 1.0)))
        self.assertEqual(
            set(zip(*(np.asarray(v).tolist() for v in size(draws)), strict=True)),
            {(context, context)},
        )

    def test_blocks(self):
        f = lambda k: masks.multi_block(k, (14, 14), (5, 6), (12, 13))  # noqa: E731
        visible, hidden = jax.jit(jax.vmap(f))(jax.random.split(jax.random.key(0), 2000))
        visible, hidden = np.asarray(visible), np.asarray(hidden)
        self.assertFalse((visible[:, None] & hidden).any())
        np.testing.assert_array_equal(hidden.sum((2, 3)), np.full((2000, 4), 30))
        np.testing.assert_array_equal(hidden.any(3).sum(2), np.full((2000, 4), 5))
        self.assertFalse(hidden[..., -1, :].any() or hidden[..., -1].any())
        top, left = hidden.any(3).argmax(2), hidden.any(2).argmax(2)
        for place, room in ((top, 14 - 5), (left, 14 - 6)):
            counts = np.bincount(place.ravel(), minlength=room)
            self.assertLen(counts, room)
            np.testing.assert_allclose(counts / 8000, 1 / room, atol=0.02)
        whole = visible | hidden.any(1)
        rows = whole.any(2)
        self.assertEqual({tuple(np.flatnonzero(r)[[0, -1]]) for r in rows} & {(0, 11)}, {(0, 11)})
        self.assertGreater(visible.sum((1, 2)).min(), 10)

    def test_context_tokens(self):
        # The released collator, per 8 images on 14 x 14: some 64 are left when all are cut to the
        # shortest of 8.
        def f(key):
            r, key = jax.random.uniform(key), jax.random.fold_in(key, 1)
            size = masks.block_size(r, (14, 14), (0.15, 0.2), (0.75, 1.5))
            each = lambda k: masks.multi_block(k, (14, 14), size, (13, 13))[0].sum()  # noqa: E731
            return jax.vmap(each)(jax.random.split(key, 8)).min()

        self.assertAlmostEqual(many(f, 1500).mean(), 64, delta=1.5)

    def test_too_little_context_takes_targets_in(self):
        f = lambda k: masks.multi_block(k, (6, 6), (5, 5), (5, 5), min_keep=10)  # noqa: E731
        visible, hidden = jax.vmap(f)(jax.random.split(jax.random.key(0), 50))
        # 5 x 5 blocks have one place here: no context is left before every target is allowed in it.
        np.testing.assert_array_equal(visible, hidden[:, 0])

    def test_mask_ids(self):
        mask = np.random.default_rng(0).random((3, 4, 5)) < 0.5
        ids, valid = masks.mask_ids(jnp.asarray(mask), 12)
        for m, i, v in zip(mask, np.asarray(ids), np.asarray(valid), strict=True):
            want = np.flatnonzero(m)[:12]
            self.assertEqual(i[v].tolist(), want.tolist())
            self.assertEqual((v.sum(), i[~v].sum()), (len(want), 0))
        short, valid = masks.mask_ids(jnp.asarray(mask), 3)
        self.assertTrue(valid.all())
        self.assertEqual(short[0].tolist(), np.flatnonzero(mask[0])[:3].tolist())


if __name__ == "__main__":
    absltest.main()
