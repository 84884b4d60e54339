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


def many(f, n=4000, seed=0):
    return np.asarray(jax.jit(jax.vmap(f))(jax.random.split(jax.random.key(seed), n)))


def first_try(values, grid, cap, least):
    """Return the first try of a generator's recorded draws as a row (area, log aspect, top, left)
    in [0, 1), and the number of draws: top and left, two integers, follow for a block that is small
    enough only.
    """
    area, log, *places = values[:4]
    size, aspect = least + (cap - least) * area, np.log(0.3) - 2 * np.log(0.3) * log
    sides = [round(np.sqrt(size * np.exp(sign * aspect))) for sign in (1, -1)]
    if any(side >= most for side, most in zip(sides, grid, strict=True)):
        return (area, log, 0.0, 0.0), 2
    free = [most - side + 1 for side, most in zip(sides, grid, strict=True)]
    return (area, log, *((at + 0.5) / n for at, n in zip(places, free, strict=True))), 4


class BlockMaskTest(parameterized.TestCase):
    @parameterized.parameters("0", "1", "dinov2")
    def test_golden(self, case):
        """Masks of BEiT's generator and of DINOv2's, block by block from the recorded draws."""
        with np.load(GOLDEN / "beit_block_mask.npz") as file:
            data = dict(file)
        key = (lambda name: f"dinov2_{name}") if case == "dinov2" else (lambda name: name + case)
        height, width, most, least = map(int, data[f"hp_{key('conf')}"])
        expected, starts = data[f"out_{key('mask')}"], data[f"in_{key('draw_offset')}"]
        values = data[f"hp_{key('draw_value')}"]
        targets = data.get(f"in_{key('target')}", np.full(len(expected), most))
        add = jax.jit(lambda *args: masks.add_block(*args, least, (0.3, 1 / 0.3)))
        with jax.enable_x64(True):
            for i, target in enumerate(targets):
                mask, at = np.zeros((height, width), bool), starts[i]
                while at < starts[i + 1]:
                    cap = float(min(target - mask.sum(), most))
                    row, used = first_try(values[at:], mask.shape, cap, least)
                    mask = np.asarray(add(mask, jnp.float64([row]), jnp.float64(cap)))
                    at += used
                self.assertEqual(at, starts[i + 1])
                np.testing.assert_array_equal(mask, expected[i])

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


class StratifiedTargetsTest(parameterized.TestCase):
    def test_golden(self):
        """DINOv2's collation, replayed from its draws."""
        data = np.load(GOLDEN / "dinov2_collate.npz")
        share, ratios = float(data["hp_mask_probability"]), tuple(data["hp_ratio"].tolist())
        patches, crops = int(data["hp_n_tokens"]), len(data["in_shuffle"])
        draws = np.zeros(crops, np.float32)
        draws[: len(data["hp_unit_uniform"])] = data["hp_unit_uniform"]
        made = masks.stratified_targets(np.arange(crops), draws, patches, share, ratios)
        np.testing.assert_array_equal(made, data["out_requested"])
        # The same numbers for the crops in their final order.
        places = data["in_shuffle"]
        made = masks.stratified_targets(places, draws[places], patches, share, ratios)
        np.testing.assert_array_equal(made, data["out_requested"][places])
        most = masks.most_hidden(crops, patches, share, ratios)
        self.assertEqual(most, data["out_upperbound"])
        ids, valid = masks.mask_ids(jnp.asarray(data["out_collated_masks"]), most)
        np.testing.assert_array_equal(ids[valid], data["out_mask_indices_list"])

    def test_every_bin_is_filled_once(self):
        places = jax.random.permutation(jax.random.key(0), 16)
        draws = jax.random.uniform(jax.random.key(1), (16,))
        made = np.asarray(masks.stratified_targets(places, draws, 1000, 0.5, (0.1, 0.5)))
        self.assertEqual((made > 0).sum(), 8)
        bins = np.sort(made[made > 0] - 100) // 50
        self.assertEqual(bins.tolist(), list(range(8)))


PUBLISHED = {"scale": (0.15, 0.2), "aspect": (0.75, 1.5)}
CONTEXT = {"scale": (0.85, 1.0), "aspect": (1.0, 1.0)}


class MultiBlockTest(parameterized.TestCase):
    @parameterized.parameters(
        (16, {(5, 7), (6, 6), (6, 7), (7, 6), (8, 6), (9, 6)}, 15),
        (14, {(5, 6), (6, 5), (6, 6), (7, 5), (8, 5)}, 13),
    )
    def test_published_sizes(self, side, want, context):
        draws = jnp.linspace(0, 1, 2000, endpoint=False)
        for options, sizes in ((PUBLISHED, want), (CONTEXT, {(context, context)})):
            made = masks.block_size(draws, (side, side), **options, border=False)
            self.assertEqual(set(zip(*(v.tolist() for v in made), strict=True)), sizes)
            areas = [h * w for h, w in sizes]
            areas_of_trace = jax.jit(  # Python numbers in a trace too
                lambda options=options: jnp.array(
                    masks.block_areas((side, side), **options, border=False)
                )
            )()
            self.assertEqual(areas_of_trace.tolist(), [min(areas), max(areas)])
        # The whole grid, which the release never takes, half the time.
        made = masks.block_size(draws, (side, side), **CONTEXT)
        self.assertEqual(set(made[0].tolist()), {side - 1, side})

    @parameterized.parameters(0, 1, 2)
    def test_golden(self, number):
        """The released collator, replayed from its draws; configuration 2 redraws contexts."""
        data = np.load(GOLDEN / "ijepa_mask_collator.npz")
        image, patch, contexts, targets, least, _, batch = data[f"hp_conf{number}"].tolist()
        grid, scales = (image // patch,) * 2, data[f"hp_scales{number}"].tolist()
        redrawn = 0
        for step in range(3):
            get = lambda name: data[f"{name}_{number}_{step}"]  # noqa: E731, B023
            draws = get("in_u")
            target, context = (
                tuple(int(n) for n in masks.block_size(d, grid, scale, aspect, border=False))
                for d, scale, aspect in (
                    (draws[0], scales[2:4], scales[4:]),
                    (draws[1], scales[:2], (1.0, 1.0)),
                )
            )
            self.assertEqual([*target, *context], get("out_block_size").tolist())
            places = get("in_randint").reshape(-1, 2)
            visible, hidden = [], []
            for _ in range(batch):
                blocks = masks.block_at(jnp.asarray(places[:targets]), target, grid)
                places = places[targets:]
                hidden.append(blocks)
                for _ in range(contexts):
                    tries = 20 * (targets + 1)
                    padded = np.resize(places, (tries, 2))
                    candidates = masks.block_at(jnp.asarray(padded), context, grid)
                    visible.append(masks.context_mask(candidates, blocks, least))
                    used = self.candidates_used(np.asarray(candidates), np.asarray(blocks), least)
                    redrawn += used - 1
                    places = places[used:]
            self.assertEmpty(places)
            for made, name in (
                (jnp.stack(visible).reshape(batch, contexts, *grid), "out_enc"),
                (jnp.stack(hidden), "out_pred"),
            ):
                want = get(name).swapaxes(0, 1)
                shortest = int(made.sum((2, 3)).min())
                self.assertEqual(want.shape[-1], shortest)
                ids, valid = masks.mask_ids(made, shortest)
                self.assertTrue(valid.all())
                np.testing.assert_array_equal(ids, want)
        self.assertEqual(redrawn > 0, number == 2)

    def candidates_used(self, candidates, hidden, least):
        """Count the candidates that the released loop draws."""
        for k, block in enumerate(candidates):
            excluded = hidden[: len(hidden) - k // 20].any(0)
            if (block & ~excluded).sum() > least:
                return k + 1
        raise AssertionError("the released loop would not end here")

    def test_released_context_tokens(self):
        # The released collator, per 8 images on 14 x 14: some 64 are left when all are cut to the
        # shortest of 8.
        def f(key):
            r, key = jax.random.uniform(key), jax.random.fold_in(key, 1)
            size = masks.block_size(r, (14, 14), **PUBLISHED, border=False)
            each = lambda k: masks.multi_block(  # noqa: E731
                k, (14, 14), size, (13, 13), border=False
            )[0].sum()
            return jax.vmap(each)(jax.random.split(key, 8)).min()

        self.assertAlmostEqual(many(f, 1500).mean(), 64, delta=1.5)

    def test_small_targets_end(self):
        """With 9 patches per target and min_keep=10 the released loop draws for ever."""
        visible, hidden = masks.multi_block(jax.random.key(0), (8, 8), (3, 3), (7, 7), min_keep=10)
        np.testing.assert_array_equal(hidden.sum((1, 2)), 9)
        self.assertGreater(visible.sum(), 10)

    def test_too_little_context_takes_targets_in(self):
        f = lambda k: masks.multi_block(  # noqa: E731
            k, (6, 6), (5, 5), (5, 5), min_keep=10, border=False
        )
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

    def test_mask_ids_at_random(self):
        mask = jnp.zeros((4, 4), bool).at[1:3].set(True)
        ids, valid = jax.vmap(lambda k: masks.mask_ids(mask, 3, k))(
            jax.random.split(jax.random.key(0), 4000)
        )
        self.assertTrue(valid.all())
        self.assertTrue((np.diff(np.sort(ids)) > 0).all())  # no position twice
        share = np.bincount(np.asarray(ids).ravel(), minlength=16) / 4000
        np.testing.assert_allclose(share, 3 / 8 * mask.ravel(), atol=0.04)
        ids, valid = masks.mask_ids(mask, 10, jax.random.key(0))
        self.assertEqual(sorted(ids[valid].tolist()), list(range(4, 12)))
        self.assertEqual(valid.tolist(), [True] * 8 + [False] * 2)


if __name__ == "__main__":
    absltest.main()
