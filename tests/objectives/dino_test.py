"""DINO's teacher, its frozen last layer, small crops, and a transformer as the backbone."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core import tree
from ssl_jax.core.errors import UserError
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.dino import DINO
from tests.objectives import harness

SPEC = Spec(4, 64, 10, 16, 100, channels=1)


def tiny_vit(**hyper):
    backbone = vit(None, 4, 8, dim=8, depth=1, heads=2, channels=1, interpolate_offset=0.1)
    return DINO(
        backbone,
        SPEC,
        **dict(
            views=(View(8), View(8), View(4, 2)),
            prototypes=12,
            hidden_dim=8,
            bottleneck_dim=4,
        )
        | hyper,
    )


class DinoTest(parameterized.TestCase):
    def test_the_teacher_starts_as_the_student_and_follows_it(self):
        method = tiny_vit(momentum=0.9)
        params, extra = method.init(jax.random.key(0))
        chex.assert_trees_all_equal(params, extra["teacher"])
        moved = jax.tree.map(lambda p: p + 1.0, params)
        signals = {"center": jnp.ones(12)}
        _, after = method.after_update(moved, extra, signals, jnp.int32(0))
        for name, leaf in tree.named_leaves(after["teacher"]).items():  # the head as well
            expected = tree.named_leaves(params)[name] + 0.1
            np.testing.assert_allclose(leaf, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(after["center"], 0.1, rtol=1e-5)
        _, end = method.after_update(moved, extra, signals, jnp.int32(SPEC.total_steps))
        chex.assert_trees_all_close(end["teacher"], params, atol=1e-6)
        encoder = method.encoder(moved, after)
        chex.assert_trees_all_equal(encoder.params, after["teacher"]["backbone"])

    def test_the_teacher_sees_the_large_crops_only(self):
        method = tiny_vit()
        params, extra = method.init(jax.random.key(0))
        shapes = [(4, v.count, v.size, v.size, 1) for v in method.views]
        crops = [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes)]

        @jax.jit
        def run(*crops):
            return method.loss(params, extra, {"views": crops}, None, jnp.int32(0))

        loss, aux = run(*crops)
        other_loss, other = run(crops[0], crops[1], -crops[2])
        np.testing.assert_array_equal(aux.signals["center"], other.signals["center"])
        self.assertNotEqual(float(loss), float(other_loss))

    @parameterized.parameters((True, {"v"}), (False, {"v", "g"}))
    def test_the_last_layer_waits(self, norm_last_layer, expected):
        made = harness.experiment("dino")
        method = tiny_vit(norm_last_layer=norm_last_layer, freeze_epochs=2.0)
        group = method.groups()["last_layer"]
        self.assertEqual(group.frozen_until, 2 * SPEC.steps_per_epoch)
        params, _ = jax.eval_shape(method.init, jax.random.key(0))
        paths = [p for p in tree.named_leaves(params) if p.startswith("head/last_layer/")]
        self.assertEqual({p.rsplit("/", 1)[1] for p in paths}, expected)
        self.assertIn("last_layer", made.abstract_state.opt_state)

    @parameterized.parameters(
        ((View(8, 4),), 2, "must fill whole groups"),
        ((View(8),), 1, "two or more crops"),
    )
    def test_errors(self, views, large, message):
        with self.assertRaisesRegex(UserError, message):
            tiny_vit(views=views, large=large)


if __name__ == "__main__":
    absltest.main()
