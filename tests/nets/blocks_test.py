"""What the blocks of a transformer exchange between devices that hold parts of their weights."""

import jax
import jax.numpy as jnp
from absl.testing import absltest

from ssl_jax.core import sharding
from ssl_jax.core.sharding import MeshConfig, make_mesh
from ssl_jax.cost import program
from ssl_jax.nets.backbones import vit

DIM, DEPTH = 128, 4


class SplitWeightsTest(absltest.TestCase):
    def test_weights_move_and_activations_stay(self):
        """Each weight is gathered at most once per pass and its gradient summed once; otherwise the
        compiler gathers six times as much here.
        """
        config = MeshConfig(data=1, fsdp=8, fsdp_min_size=4096)
        mesh = make_mesh(config)
        net = vit.make(None, 4, 16, dim=DIM, depth=DEPTH, heads=4)
        params, _ = jax.eval_shape(lambda: net.init(jax.random.key(0)))
        placed = sharding.tree_shardings(params, config, mesh)
        images = jnp.zeros((64, 16, 16, 3), device=sharding.batch_sharding(mesh))

        def loss(params, images):
            return jnp.mean(jnp.square(net.apply(params, {}, images, train=True)[0].cls))

        with jax.set_mesh(mesh):
            step = jax.jit(
                jax.value_and_grad(loss), in_shardings=(placed, None), out_shardings=(None, placed)
            )
            text = step.lower(params, images).compile().as_text()
        moved = {transfer.kind: transfer.bytes for transfer in program.count(text).traffic}
        weights = 4 * DEPTH * 12 * DIM**2  # bytes of the matrices of all blocks
        self.assertContainsSubset(moved, {"all-gather", "all-reduce", "reduce-scatter"})
        for size in moved.values():
            self.assertLess(size, 1.1 * 2 * weights)


if __name__ == "__main__":
    absltest.main()
