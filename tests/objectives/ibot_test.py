"""iBOT's masks, its two centres, its heads and its errors."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core import rng, tree
from ssl_jax.core.errors import UserError
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.ibot import IBOT

SPEC = Spec(4, 64, 10, 16, 100, channels=1)


def backbone(**options):
    options = dict(dim=8, depth=1, heads=2, channels=1, mask_token=True) | options
    return vit(None, 2, 8, **options)


def tiny(net=None, **hyper):
    views = (View(8), View(8), View(4, 2))
    hyper = dict(views=views, prototypes=12, hidden_dim=8, bottleneck_dim=4) | hyper
    return IBOT(net or backbone(), SPEC, **hyper)


def crops(method):
    shapes = [(4, v.count, v.size, v.size, 1) for v in method.views]
    return [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes)]


def run(method, params, extra, views, index=None):
    batch = {"views": views, "index": jnp.arange(4) if index is None else index}
    call = lambda p, e: method.loss(p, e, batch, jax.random.key(7), jnp.int32(0))  # noqa: E731
    return jax.jit(call)(params, extra)


class IBOTTest(parameterized.TestCase):
    def test_without_masks_the_patches_have_no_loss(self):
        method = tiny(mask_ratios=(0.0,), mask_spreads=(0.0,))
        loss, aux = run(method, *method.init(jax.random.key(0)), crops(method))
        self.assertEqual(aux.metrics["patch_loss"], 0)
        np.testing.assert_allclose(loss, aux.metrics["image_loss"])

    def test_masks_belong_to_the_example_and_differ_between_views(self):
        method = tiny(mask_ratios=(0.5,), mask_spreads=(0.0,), mask_blocks=False)
        keys = rng.per_example(jax.random.key(1), jnp.array([3, 9, 5, 1]))
        masks = np.asarray(method.masks(keys))
        self.assertEqual(masks.shape, (4, 2, 4, 4))
        np.testing.assert_array_equal(masks.sum((2, 3)), 8)
        self.assertTrue((masks[:, 0] != masks[:, 1]).any())
        np.testing.assert_array_equal(method.masks(keys[::-1]), masks[::-1])

    def test_the_teacher_sees_no_mask_and_no_small_crop(self):
        few, many = (tiny(mask_ratios=(r,), mask_spreads=(0.0,)) for r in (0.1, 0.6))
        params, extra = few.init(jax.random.key(0))
        views = crops(few)
        one = run(few, params, extra, views)[1].signals
        other = run(many, params, extra, [*views[:2], -views[2]])[1].signals
        chex.assert_trees_all_equal(one, other)
        self.assertEqual(set(one), {"center", "patch_center"})

    @parameterized.parameters((True, 1), (False, 2))
    def test_heads(self, shared, count):
        method = tiny(shared_head=shared, freeze_epochs=1.5)
        params, extra = method.init(jax.random.key(0))
        self.assertLen([name for name in params if name.endswith("head")], count)
        pattern = method.groups()["last_layer"].pattern
        frozen = list(
            tree.named_leaves(tree.match([(pattern, True), (".*", False)], params)).values()
        )
        self.assertEqual(sum(frozen), count)
        grads = jax.grad(lambda p: run(method, p, extra, crops(method))[0])(params)
        for name, part in grads.items():
            self.assertGreater(float(tree.global_norm(part)), 0, name)
        self.assertGreater(float(tree.global_norm(grads["backbone"]["mask_token"])), 0)

    def test_a_constant_in_teacher_logits_and_centres_does_not_matter(self):
        method = tiny()
        params, extra = method.init(jax.random.key(0))
        signals = {"center": jnp.ones(12), "patch_center": 2 * jnp.ones(12)}
        moved = jax.tree.map(lambda p: p + 1.0, params)
        _, after = method.after_update(moved, extra, signals, jnp.int32(0))
        np.testing.assert_allclose(after["center"], 0.1, rtol=1e-5)
        np.testing.assert_allclose(after["patch_center"], 0.2, rtol=1e-5)
        chex.assert_trees_all_close(
            after["teacher"], jax.tree.map(lambda p: p + 0.004, params), atol=1e-5
        )
        loss, _ = run(method, params, after, crops(method))
        base, _ = run(method, params, dict(after, center=0 * after["center"]), crops(method))
        np.testing.assert_allclose(loss, base, rtol=1e-4)  # a constant centre changes no softmax

    @parameterized.parameters(
        (lambda: tiny(mask_ratios=(0.1,)), "one spread per ratio"),
        (lambda: tiny(resnet_small(width=8, channels=1)).patch_grid, "no patches"),
        (lambda: tiny(views=(View(8, 3),)), "must fill whole groups"),
    )
    def test_errors(self, make, message):
        with self.assertRaisesRegex(UserError, message):
            make()

    def test_a_backbone_without_mask_token(self):
        method = tiny(backbone(mask_token=False))
        params, extra = method.init(jax.random.key(0))
        with self.assertRaisesRegex(UserError, "mask token"):
            run(method, params, extra, crops(method))


if __name__ == "__main__":
    absltest.main()
