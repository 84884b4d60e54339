"""Hidden patches: how the devices split them, and what the padding weighs."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax.core.sharding import AXES, MeshConfig, make_mesh
from ssl_jax.objectives.parts.hidden_patches import gather_hidden

SHARE, RATIOS = 0.5, (0.1, 0.5)


class GatherHiddenTest(parameterized.TestCase):
    @parameterized.parameters(1, 2, 16)
    def test_every_device_holds_its_share_of_the_rows(self, groups):
        """Also with fewer groups than devices: the logits of all rows do not fit one."""
        mesh = make_mesh(MeshConfig(fsdp=2))
        masks = jnp.zeros((16, 2, 8, 8), bool).at[:, 0, :2].set(True)

        @jax.jit
        def hidden(x):
            gather, weights = gather_hidden(masks, groups, SHARE, RATIOS)
            return gather(x), weights

        x = np.random.default_rng(0).normal(size=(16, 2, 64, 4)).astype(np.float32)
        with jax.set_mesh(mesh):
            rows, weights = hidden(jax.device_put(x, NamedSharding(mesh, P(AXES))))
        self.assertEqual({s.data.size for s in rows.addressable_shards}, {rows.size // 8})
        expected = x[:, 0, :16].mean((0, 1)) / 2  # of two crops one has no hidden patches
        np.testing.assert_allclose(jnp.einsum("r,rd->d", weights, rows), expected, atol=1e-6)

    def test_the_padding_stays_within_the_patches(self):
        masks = jnp.zeros((1, 1, 3, 3), bool).at[0, 0, 0].set(True)
        gather, weights = gather_hidden(masks, 1, 1.0, RATIOS)
        self.assertEqual(gather(jnp.ones((1, 1, 9, 4))).shape, (9, 4))
        self.assertEqual(np.count_nonzero(weights), 3)


if __name__ == "__main__":
    absltest.main()
