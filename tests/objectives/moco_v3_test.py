"""MoCo v3: the frozen patch embedding of its ViTs, and the average's schedule."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from ssl_jax.core import tree
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.objectives import moco_v3
from ssl_jax.objectives.base import Spec, View
from ssl_jax.optim.factory import OptimConfig, make_optimizer
from ssl_jax.training import state
from ssl_jax.training.step import make_kernel

BATCH, STEPS = 4, 5


def made(**options):
    backbone = vit(
        None, 4, 8, dim=16, depth=1, heads=2, channels=1, position="sincos_mocov3", cls_token=True
    )
    spec = Spec(BATCH, 100, 0, steps_per_epoch=25, total_steps=STEPS, channels=1)
    view = View(8, area=(1.0, 1.0), recipe="none")
    return moco_v3.make(
        backbone, spec, views=(view, view), projector=(8, 4), predictor=(8, 4), **options
    )


def train(objective, steps):
    """Return the states before and after each step of AdamW with a strong decay."""
    config = OptimConfig(weight_decay=10.0, decay_rules=((".*", 1.0),), lr=0.01)
    shapes, _ = jax.eval_shape(objective.init, jax.random.key(0))
    groups = objective.groups()
    tx, schedule = make_optimizer(
        config, shapes, groups, batch_size=BATCH, total_steps=STEPS, steps_per_epoch=25
    )
    kernel = jax.jit(make_kernel(objective, tx, schedule))
    states = [jax.jit(state.init_fn(objective, tx))(jnp.uint32(0))]
    draw = np.random.default_rng(0)
    for _ in range(steps):
        images = draw.integers(0, 255, (2, BATCH, 1, 8, 8, 1)).astype(np.uint8)
        batch = {"views": tuple(images), "index": np.arange(BATCH, dtype=np.int32)}
        states.append(kernel(states[-1], batch)[0])
    return states


class FrozenTest(absltest.TestCase):
    def test_the_patch_embedding_stays_as_it_was_drawn(self):
        first, *_, last = train(made(), STEPS)
        for where in (last.params, last.extra["key_encoder"]):
            jax.tree.map(
                np.testing.assert_array_equal,
                where["backbone"]["patch_embed"],
                first.params["backbone"]["patch_embed"],
            )
        moved = last.params["backbone"]["blocks"]["attn"]["qkv"]["kernel"]
        start = first.params["backbone"]["blocks"]["attn"]["qkv"]["kernel"]
        self.assertGreater(float(jnp.abs(moved - start).max()), 1e-3)

    def test_it_is_trained_if_asked(self):
        first, last = train(made(freeze_patches=False), 1)
        before, after = (s.params["backbone"]["patch_embed"]["kernel"] for s in (first, last))
        self.assertGreater(float(jnp.abs(after - before).max()), 1e-4)

    def test_its_gradient_is_zero(self):
        objective = made()
        params, extra = jax.jit(objective.init)(jax.random.key(0))
        images = jnp.asarray(np.random.default_rng(0).normal(size=(BATCH, 1, 8, 8, 1)), jnp.float32)
        batch = {"views": (images, images + 1), "index": jnp.arange(BATCH)}
        loss = lambda p: objective.loss(p, extra, batch, jax.random.key(1), jnp.int32(0))[0]  # noqa: E731
        grads = jax.jit(jax.grad(loss))(params)
        self.assertEqual(float(tree.global_norm(grads["backbone"]["patch_embed"])), 0.0)
        self.assertGreater(float(tree.global_norm(grads["backbone"]["blocks"])), 0.0)


class AverageTest(absltest.TestCase):
    def test_the_keys_of_a_step_are_averaged_with_its_momentum(self):
        """The release uses m(s) at step s, with the parameters at its start."""
        states = train(made(momentum=0.9), 3)
        for s in (1, 2):
            momentum = 1 - 0.1 * (1 + np.cos(np.pi * s / STEPS)) / 2
            before, after = (
                st.extra["key_encoder"]["projector"]["linear1"]["kernel"]
                for st in (states[s - 1], states[s])
            )
            online = states[s].params["projector"]["linear1"]["kernel"]
            expected = momentum * before + (1 - momentum) * online
            np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-6)

    def test_constant_features_score_as_chance(self):
        """4 t log B for both directions (2104.02057's scale)."""
        objective = dataclasses.replace(made(), temperature=0.5)
        params, extra = jax.jit(objective.init)(jax.random.key(0))
        images = jnp.ones((BATCH, 1, 8, 8, 1))
        batch = {"views": (images, images), "index": jnp.arange(BATCH)}
        value, _ = jax.jit(objective.loss)(params, extra, batch, jax.random.key(1), jnp.int32(0))
        np.testing.assert_allclose(value, 4 * 0.5 * np.log(BATCH), rtol=1e-4)


if __name__ == "__main__":
    absltest.main()
