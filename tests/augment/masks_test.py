from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.augment.masks import random_masking, take
from ssl_jax.augment.patches import patchify, tiles, unpatchify

GOLDEN = Path(__file__).parent.parent / "golden"


class RandomMaskingTest(parameterized.TestCase):
    def test_golden(self):
        data = np.load(GOLDEN / "mae_random_masking.npz")
        noise = jnp.asarray(data["in_noise"])
        ids_keep, mask, ids_restore = random_masking(noise, float(data["hp_mask_ratio"]))
        np.testing.assert_array_equal(mask, data["out_mask"])
        np.testing.assert_array_equal(ids_restore, data["out_ids_restore"])
        kept = take(jnp.asarray(data["in_x"]), ids_keep)
        np.testing.assert_array_equal(kept, data["out_x_masked"])
        self.assertEqual((ids_keep.dtype, mask.dtype), (jnp.int32, jnp.float32))

    @parameterized.parameters((16, 0.75), (49, 0.6), (10, 0.0), (7, 0.9))
    def test_restores_the_order(self, length, ratio):
        noise = jax.random.uniform(jax.random.key(0), (length,))
        ids_keep, mask, ids_restore = random_masking(noise, ratio)
        kept = int(length * (1 - ratio))
        self.assertEqual((ids_keep.shape, int(mask.sum())), ((kept,), length - kept))
        tokens = jnp.arange(length)[:, None]
        padded = jnp.concatenate([take(tokens, ids_keep), jnp.full((length - kept, 1), -1)])
        restored = take(padded, ids_restore)[:, 0]
        np.testing.assert_array_equal(restored, np.where(mask == 1, -1, np.arange(length)))


class PatchesTest(absltest.TestCase):
    def test_golden(self):
        data = np.load(GOLDEN / "mae_ops.npz")
        images, patch = jnp.asarray(data["in_imgs"].transpose(0, 2, 3, 1)), int(data["hp_patch"])
        patches = patchify(images, patch)
        np.testing.assert_array_equal(patches, data["out_patchify"])
        rows, columns = images.shape[1] // patch, images.shape[2] // patch
        np.testing.assert_array_equal(unpatchify(patches, patch, rows, columns), images)
        np.testing.assert_array_equal(
            unpatchify(jnp.asarray(data["in_pred"]), patch, rows, columns),
            data["out_unpatchify_pred"].transpose(0, 2, 3, 1),
        )

    def test_patch_must_divide(self):
        with self.assertRaisesRegex(ValueError, "patches of 3 do not divide images of 8 x 9"):
            patchify(jnp.zeros((8, 9, 1)), 3)

    def test_tiles(self):
        image = jnp.arange(5 * 7 * 2).reshape(5, 7, 2)
        got = tiles(image, 2, 3)
        self.assertEqual(got.shape, (6, 2, 2, 2))
        np.testing.assert_array_equal(got[4], image[2:4, 2:4])  # second row, second column


if __name__ == "__main__":
    absltest.main()
