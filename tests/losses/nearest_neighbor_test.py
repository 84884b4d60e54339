"""The nearest neighbour against lightly's memory bank, and in tiles."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses import nearest_neighbor as module
from ssl_jax.losses.nearest_neighbor import nearest_neighbor
from tests.losses.forms import load


class NearestNeighborTest(parameterized.TestCase):
    @parameterized.parameters(3, 5, 64)
    def test_golden(self, tile):
        data = load("nnclr_lightly_train3", wide=False)
        bank = data["in_bank"]
        with mock.patch.object(module, "TILE", tile):
            run = jax.jit(lambda x, support: nearest_neighbor(x, support))
            for step, x in enumerate(data["out_z1"]):
                np.testing.assert_array_equal(run(x, bank), data["out_nn1"][step])
                bank = data["out_bank"][step]

    def test_no_gradient(self):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32)
        slopes = jax.grad(lambda *args: jnp.sum(nearest_neighbor(*args)), (0, 1))(x, x)
        for slope in slopes:
            np.testing.assert_array_equal(slope, 0)


if __name__ == "__main__":
    absltest.main()
