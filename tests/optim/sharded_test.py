"""Parameters split over eight devices: every layer-wise norm is that of the whole parameter, so the
updates are those of one device.
"""

import functools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core import sharding, tree
from ssl_jax.optim import lars
from ssl_jax.optim.factory import OptimConfig, make_optimizer

SHAPES = {
    "kernel": (24, 16),  # split by its rows
    "conv": (3, 3, 2, 32),  # by its last axis
    "bias": (16,),
    "zero": (8, 2),  # norm 0: no ratio
    "blocks": {
        "wide": {"kernel": (4, 8, 24)},  # scanned layers, split within each
        "deep": {"kernel": (16, 2, 3)},  # scanned layers, split into layers
        "norm": {"scale": (4, 8)},
    },
}
OPTIMIZERS = (
    *(("lars", {"lars_variant": variant}) for variant in get_args(lars.Variant)),
    ("lars", {"lars_variant": "simclr", "nesterov": True}),
    ("lars", {"clip_norm": 1.0, "clip_per_parameter": 0.5}),
    ("lamb", {}),
    ("lamb", {"clip_per_parameter": 0.5}),
)


def draw(seed):
    rng = np.random.default_rng(seed)
    made = jax.tree.map(
        lambda shape: rng.normal(size=shape), SHAPES, is_leaf=lambda s: isinstance(s, tuple)
    )
    # Layers of very different size: one norm of all of them would show.
    made["blocks"]["wide"]["kernel"] *= np.array([0.1, 1, 10, 100])[:, None, None]
    return made


def three_steps(tx, params, place):
    """Updates and the state of three steps; `place` gives the shardings of a tree."""
    abstract = jax.eval_shape(tx.init, params)
    state = jax.jit(tx.init, out_shardings=place(abstract))(params)
    update = jax.jit(
        lambda g, s, p, step: tx.update(g, s, p, step=step),
        out_shardings=(place(params), place(abstract)),
    )
    params, out = jax.device_put(params, place(params)), []
    for step in range(3):
        grads = draw(step + 1)
        updates, state = update(jax.device_put(grads, place(grads)), state, params, step)
        params = jax.tree.map(jnp.add, params, updates)
        out.append(updates)
    return out, state


class ShardedTest(parameterized.TestCase):
    @parameterized.parameters(*OPTIMIZERS)
    def test_updates_equal_unsharded_ones(self, name, options):
        config = sharding.MeshConfig(data=1, fsdp=8, fsdp_min_size=16)
        mesh = sharding.make_mesh(config)
        params = draw(0)
        params["zero"] *= 0
        tx, _ = make_optimizer(
            OptimConfig(name=name, lr=0.1, lr_scaling="none", weight_decay=0.01, **options),
            params,
            {},
            batch_size=256,
            total_steps=10,
            steps_per_epoch=5,
        )
        with jax.enable_x64(True):
            alone = jax.sharding.SingleDeviceSharding(jax.devices()[0])
            whole, _ = three_steps(tx, params, lambda t: jax.tree.map(lambda _: alone, t))
            parts, state = three_steps(
                tx, params, functools.partial(sharding.tree_shardings, config=config, mesh=mesh)
            )
        for expected, updates in zip(jax.device_get(whole), jax.device_get(parts), strict=True):
            expected = tree.named_leaves(expected)
            for path, update in tree.named_leaves(updates).items():
                size = np.abs(expected[path]).max()
                self.assertGreater(size, 0, path)
                np.testing.assert_allclose(
                    update, expected[path], rtol=0, atol=1e-12 * size, err_msg=path
                )
        # What was compared did lie in eighths, the momentum too.
        for path, leaf in (tree.named_leaves(parts[-1]) | tree.named_leaves(state)).items():
            if leaf.size >= 16:
                self.assertEqual(leaf.addressable_shards[0].data.size * 8, leaf.size, path)


if __name__ == "__main__":
    absltest.main()
