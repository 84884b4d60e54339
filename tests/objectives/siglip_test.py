"""SigLIP: open_clip's loss from the method's embeddings, its learned scalars, its joint space."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.siglip import SigLIP
from ssl_jax.optim.factory import NO_BIAS_NO_NORM

GOLDEN = Path(__file__).parents[1] / "golden"
SPEC = Spec(4, 100, 0, 10, 100, vocabulary=12)


def siglip(**hyper):
    small = {"view": View(8), "context": 5, "dim": 6, "text_dim": 8, "text_depth": 1}
    return SigLIP(resnet_small(4), SPEC, **(small | {"text_heads": 2} | hyper))


def batch():
    images = np.random.default_rng(0).normal(size=(4, 1, 8, 8, 3)).astype(np.float32)
    texts = np.array([[10, a, b, 11, 0] for a, b in ((1, 2), (3, 4), (5, 6), (7, 8))], np.int32)
    return {"views": (images,), "index": np.arange(4, dtype=np.int32), "text": texts}


class SigLIPTest(parameterized.TestCase):
    @parameterized.parameters(False, True)
    def test_golden(self, wide):
        """Loss and gradients of open_clip's SigLipLoss, whose features are of unit length."""
        data = np.load(GOLDEN / "siglip.npz")
        prefix, rtol, dtype = ("f64_", 1e-7, np.float64) if wide else ("", 1e-5, np.float32)
        made = siglip()
        with jax.enable_x64(wide):

            def loss(image, text, scalars):
                return jnp.mean(made.contrast(image, text, scalars)[0])

            image, text = (jnp.asarray(data[f"in_{x}"], dtype) for x in ("image", "text"))
            for i, (scale, bias) in enumerate(zip(data["hp_scale"], data["hp_bias"], strict=True)):
                scalars = {"scale": jnp.log(dtype(scale)), "bias": dtype(bias)}
                value, grads = jax.value_and_grad(loss, 2)(image, text, scalars)
                np.testing.assert_allclose(value, data[f"{prefix}out_loss"][i], rtol=rtol)
                # The stored gradient is that of the scale itself.
                np.testing.assert_allclose(grads["scale"] / scale, data["grad_scale"][i], rtol=1e-4)
                np.testing.assert_allclose(grads["bias"], data["grad_bias"][i], rtol=1e-4)

    def test_scalars_start_as_set_get_gradients_and_do_not_decay(self):
        made = siglip(temperature=0.05, bias=-3.0)
        params, extra = jax.eval_shape(made.init, jax.random.key(0))
        self.assertEqual(made.scalars()["bias"], -3)
        self.assertIs(made.after_update(params, extra, {}, jnp.int32(0))[0], params)  # no clamp
        for name, value in params["temperature"].items():
            self.assertEqual(value.dtype, jnp.float32)
            path = f"temperature/{name}"
            rule = next(m for p, m in NO_BIAS_NO_NORM if re.search(p, path))
            self.assertEqual(rule, 0, path)
        embedded = np.random.default_rng(0).normal(size=(2, 4, 6))
        scalars = jax.tree.map(jnp.float32, made.scalars())
        loss = lambda x: (made.contrast(*embedded, x)[0].mean(), made.contrast(*embedded, x)[1])  # noqa: E731
        grads, metrics = jax.grad(loss, has_aux=True)(scalars)
        np.testing.assert_allclose(metrics["scale"], 20.0, rtol=1e-5)
        self.assertTrue(all(float(x) for x in grads.values()))

    def test_the_encoder_embeds_as_the_loss_does(self):
        made, data = siglip(), batch()
        params, extra = jax.jit(made.init)(jax.random.key(0))
        encoder = made.encoder(params, extra)
        images = data["views"][0][:, 0]

        @jax.jit
        def both(params, encoder):
            nets = made.networks.bind(params, extra["stats"], train=False)
            image = nets.image_projection(nets.backbone(images).pooled)
            features = encoder.features(images).pooled
            return image, encoder.text.image(features), encoder.text.text(data["text"])

        image, embedded, text = both(params, encoder)
        np.testing.assert_allclose(embedded, image, rtol=1e-4, atol=1e-5)
        self.assertEqual(text.shape, (4, 6))

    @parameterized.parameters(
        ({"context": 2}, "no room for a token"),
        ({"bias": float("nan")}, "objective.bias"),
        ({"temperature": 0.0}, "objective.temperature"),
    )
    def test_user_errors(self, hyper, message):
        with self.assertRaisesRegex(UserError, message):
            siglip(**hyper)


if __name__ == "__main__":
    absltest.main()
