"""A stack of transformer blocks whose parameters are split over devices."""

import jax
import jax.numpy as jnp
from absl.testing import absltest

from ssl_jax.core import sharding
from ssl_jax.cost.hlo import collectives
from ssl_jax.nets.backbones.vit import make as vit


class ShardedTest(absltest.TestCase):
    def test_parameters_are_gathered_and_tokens_are_not(self):
        """With fsdp, a block's backward pass used to gather the tokens of all devices."""
        config = sharding.MeshConfig(data=1, fsdp=8, fsdp_min_size=1)
        mesh = sharding.make_mesh(config, jax.devices()[:8])
        net = vit(None, 4, dim=64, depth=2, heads=2, image_size=16, remat="full")
        params, stats = jax.eval_shape(lambda: net.init(jax.random.key(0)))
        placed = sharding.tree_shardings(params, config, mesh)
        images = jax.ShapeDtypeStruct((64, 16, 16, 3), jnp.float32)

        def loss(params, images):
            return jnp.mean(net.apply(params, stats, images, train=True)[0].pooled ** 2)

        with jax.set_mesh(mesh):
            rows = sharding.batch_sharding(mesh)
            step = jax.jit(jax.grad(loss), in_shardings=(placed, rows), out_shardings=placed)
            operations = collectives(step.lower(params, images).compile().as_text())
        gathered = [c.elements for c in operations if c.kind == "all-gather"]
        self.assertLessEqual(max(gathered), 64 * 256)  # the largest layer; all tokens: 64 * 17 * 64


if __name__ == "__main__":
    absltest.main()
