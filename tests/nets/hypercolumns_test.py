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
        grey, at = nhwc(data["out_gray_input"]), data["in_centroids"]
        scales = [int(s) for s in data["hp_scales"][1:]]
        maps = [nhwc(data[f"in_feat_scale{s}"]) for s in scales]

        def loss(maps):  # of maps whose pixels need not fill the image
            columns = [
                sample(x, at, (s, s)) for x, s in zip((grey, *maps), (1, *scales), strict=True)
            ]
            columns = flat(jnp.concatenate(columns, -1))
            return jnp.sum(columns * data["in_grad_columns"]), columns

        (_, columns), grads = jax.value_and_grad(loss, has_aux=True)(maps)
        assert_close(columns, data["out_columns"], 1e-5)
        for grad, scale in zip(grads, scales, strict=True):
            assert_close(grad, nhwc(data[f"grad_feat_scale{scale}"]), 1e-5, f"scale {scale}")
        if all(
            s * x.shape[i] == grey.shape[i]
            for s, x in zip(scales, maps, strict=True)
            for i in (1, 2)
        ):
            assert_close(flat(hypercolumns(grey, maps, at)), data["out_columns"], 1e-5)

    def test_released_in_tensorflow(self):
        with np.load(GOLDEN / "larsson_selfsup_v1.npz") as file:
            data = dict(file)
        at = data["in_centroids"]
        maps = {s: data[f"in_feat_scale{s}"] for s in (2, 4)}
        columns = [sample(x, at, (s, s)) for s, x in maps.items()]
        last = 4 * (maps[4].shape[1] - 1)
        inside = np.all(at < last, axis=-1).ravel()  # before its last row
        self.assertTrue(inside.any())
        got = flat(np.concatenate(columns, -1))[inside]
        assert_close(got, data["out_columns"][inside][:, -got.shape[-1] :], 1e-5)

    def test_a_map_of_one_pixel(self):
        maps = jnp.arange(3.0).reshape(1, 1, 1, 3)
        at = jnp.array([[[0, 0], [7, 3]]], jnp.int32)
        np.testing.assert_array_equal(sample(maps, at, (8.0, 8.0))[0], [[0, 1, 2]] * 2)


if __name__ == "__main__":
    absltest.main()
