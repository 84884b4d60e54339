"""The nearest neighbour against lightly's memory bank, and in tiles."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core import sharding
from ssl_jax.cost.hlo import collectives
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

    def test_on_eight_devices_the_support_set_stays_in_place(self):
        """Equal to one device, also among equal rows, of which the first is taken."""
        draw = np.random.default_rng(0).normal
        x, support = draw(size=(16, 4)), np.tile(draw(size=(200, 4)), (2, 1))
        x, support = (jnp.asarray(v, jnp.float32) for v in (x, support))
        expected = nearest_neighbor(x, support)
        mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=2), jax.devices()[:8])
        with jax.set_mesh(mesh), mock.patch.object(module, "TILE", 64):
            x, support = jax.device_put((x, support), sharding.batch_sharding(mesh))
            run = jax.jit(lambda x, support: nearest_neighbor(x, support))
            index = jax.jit(lambda x, rows: module._nearest_on(mesh.abstract_mesh, x, rows))
            np.testing.assert_array_equal(run(x, support), expected)
            self.assertLess(int(jnp.max(index(x, support))), 200)
            text = run.lower(x, support).compile().as_text()
        gathered = [c for c in collectives(text) if c.kind == "all-gather"]
        self.assertLessEqual(max(c.elements for c in gathered), x.size)

    def test_no_gradient(self):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32)
        slopes = jax.grad(lambda *args: jnp.sum(nearest_neighbor(*args)), (0, 1))(x, x)
        for slope in slopes:
            np.testing.assert_array_equal(slope, 0)


if __name__ == "__main__":
    absltest.main()
