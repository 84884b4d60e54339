"""Split-brain autoencoders: nothing crosses between the halves; the losses; the errors."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import count
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.parts import color_space
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.split_brain import SplitBrain, make
from tests.nets.weights import GOLDEN, assert_close, nhwc

SPEC = Spec(4, 100, 0, 10, 100)
VIEW = View(16, recipe="lab")
RNG = np.random.default_rng(0)


class Logits(SplitBrain):
    """Networks whose parameters are the logits of each place."""

    @property
    def networks(self):
        def look(params, stats, images, **options):
            return Features(pooled=images, map=images[..., :2]), stats

        answer = lambda params, stats, features, **options: (params, stats)  # noqa: E731
        head = Net(None, answer)
        return Networks({"backbone": Net(None, look), "ab": head, "lightness": head})


class GoldenTest(absltest.TestCase):
    def test_losses_and_gradients(self):
        with np.load(GOLDEN / "splitbrain.npz") as file:
            data = dict(file)
        target = np.concatenate([data["in_target_L"][:, None], data["in_target_ab"]], axis=1)
        side = target.shape[-1]
        made = Logits(resnet_small(4), SPEC, view=replace(VIEW, size=side), grid=side)
        images = color_space.normalize(VIEW, nhwc(target).astype(np.float64)).astype(np.float32)
        for actual, key in zip(made.targets(images), ("ab", "L"), strict=True):
            np.testing.assert_array_equal(actual, data[f"out_{key}_bin"])
        params = {
            "backbone": {"nothing": jnp.zeros(2)},
            "ab": nhwc(data["in_logits_ab"]),
            "lightness": nhwc(data["in_logits_L"]),
        }
        batch = {"views": (images[:, None],), "index": np.arange(len(images), dtype=np.int32)}
        loss = lambda p: made.loss(p, {"stats": {}}, batch, jax.random.key(0), jnp.int32(0))  # noqa: E731
        (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params)
        assert_close(value, data["out_loss"], 1e-5)
        assert_close(aux.metrics["colours"], data["out_loss_ab"], 1e-5)
        assert_close(aux.metrics["lightness"], data["out_loss_L"], 1e-5)
        assert_close(grads["ab"], nhwc(data["grad_logits_ab"]), 1e-5)
        assert_close(grads["lightness"], nhwc(data["grad_logits_L"]), 1e-5)


class SplitBrainTest(parameterized.TestCase):
    def made(self, **hyper):
        return make(resnet_small(8), SPEC, **({"view": VIEW, "grid": 4} | hyper))

    @parameterized.parameters(True, False)
    def test_no_gradient_crosses_between_the_halves(self, train):
        """This holds for every stage, with batch norm, exactly."""
        made = self.made()
        params, stats = made.backbone.init(jax.random.key(0))
        images = RNG.normal(size=(2, 16, 16, 3)).astype(np.float32)

        def energy(images):
            out, _ = made.backbone.apply(params, stats, images, train=train, stages=True)
            maps = [out.map, *(stage.map for stage in out.stages), out.pooled]
            halves = [jnp.split(x, 2, axis=-1) for x in maps]
            return jnp.array([[jnp.sum(half**2) for half in pair] for pair in halves])

        grads = jax.jit(jax.jacrev(energy))(images)  # (stages, 2, B, H, W, 3)
        self.assertEqual(np.abs(grads[:, 0, ..., 1:]).max(), 0)
        self.assertEqual(np.abs(grads[:, 1, ..., :1]).max(), 0)
        self.assertTrue((np.abs(grads[:, 0, ..., :1]).max((1, 2, 3, 4)) > 0).all())
        self.assertTrue((np.abs(grads[:, 1, ..., 1:]).max((1, 2, 3, 4)) > 0).all())

    def test_zero_heads_guess(self):
        made = self.made()
        params, extra = made.init(jax.random.key(0))
        params = params | jax.tree.map(
            jnp.zeros_like, {name: params[name] for name in ("ab", "lightness")}
        )
        images = RNG.normal(size=(4, 1, 16, 16, 3)).astype(np.float32)
        batch = {"views": (images,), "index": np.arange(4, dtype=np.int32)}
        loss, _ = made.loss(params, extra, batch, jax.random.key(0), jnp.int32(0))
        np.testing.assert_allclose(loss, np.log(313) + np.log(100), rtol=1e-6)

    def test_two_halves_have_half_the_weights(self):
        size = lambda net: count(jax.eval_shape(net.init, jax.random.key(0))[0])  # noqa: E731
        share = size(self.made().backbone) / size(resnet_small(8))
        self.assertBetween(share, 0.45, 0.55)
        self.assertEqual(self.made().feature_dim, 32)  # as wide as one whole network

    def test_user_errors(self):
        with self.assertRaisesRegex(UserError, "predicts colours, and the data have 1 channel"):
            make(resnet_small(8, channels=1), replace(SPEC, channels=1), view=VIEW)
        with self.assertRaisesRegex(UserError, "space is 'lab'"):
            self.made(view=View(16))
        with self.assertRaisesRegex(UserError, "no positive whole number"):
            self.made(width=0.3)


if __name__ == "__main__":
    absltest.main()
