"""Hypercolumns against the released layer, and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from ssl_jax.nets.hypercolumns import hypercolumns, sample
from tests.nets.weights import GOLDEN, assert_close, nhwc


def flat(x):
    return x.reshape(-1, x.shape[-1])


class HypercolumnsTest(absltest.TestCase):
    def test_golden(self):
        with np.load(GOLDEN / "larsson_autocolorize.npz") as file:
            data = dict(file)
        grey = nhwc(data["out_gray_input"])
        maps = [nhwc(data[f"in_feat_scale{s}"]) for s in (2, 4)]

        def loss(maps):
            columns = flat(hypercolumns(grey, maps, data["in_centroids"]))
            return jnp.sum(columns * data["in_grad_columns"]), columns

        (_, columns), grads = jax.value_and_grad(loss, has_aux=True)(maps)
        assert_close(columns, data["out_columns"], 1e-5)
        for grad, scale in zip(grads, (2, 4), strict=True):
            assert_close(grad, nhwc(data[f"grad_feat_scale{scale}"]), 1e-5, f"scale {scale}")

    def test_released_in_tensorflow(self):
        with np.load(GOLDEN / "larsson_selfsup_v1.npz") as file:
            data = dict(file)
        columns = [sample(data[f"in_feat_scale{s}"], data["in_centroids"], (s, s)) for s in (2, 4)]
        inside = np.all(data["in_centroids"] < 4 * 7, axis=-1).ravel()  # before its last row
        self.assertGreater(inside.sum(), 6)
        got = flat(np.concatenate(columns, -1))[inside]
        assert_close(got, data["out_columns"][inside][:, -got.shape[-1] :], 1e-5)

    def test_a_map_of_one_pixel(self):
        maps = jnp.arange(3.0).reshape(1, 1, 1, 3)
        at = jnp.array([[[0, 0], [7, 3]]], jnp.int32)
        np.testing.assert_array_equal(sample(maps, at, (8.0, 8.0))[0], [[0, 1, 2]] * 2)


if __name__ == "__main__":
    absltest.main()
