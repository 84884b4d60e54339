"""The trainer of dense heads beside a loop written out, and its rates."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from ssl_jax.core import sharding
from ssl_jax.core.inputs import View
from ssl_jax.evals import features
from ssl_jax.evals.dense_heads import Head
from ssl_jax.evals.dense_training import HeadTraining, Layer, fit
from ssl_jax.evals.protocols.segmentation import pixel_loss

SIDE, PATCH, CLASSES = 8, 4, 3
LAYER = Layer(View(SIDE, recipe="normalize"), (-1,), PATCH)


def example(number):
    """Return the image and the mask of a number."""
    rng = np.random.default_rng(number)
    image = rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    return image, rng.integers(0, CLASSES, (SIDE, SIDE)).astype(np.uint8)


def subject(devices):
    mesh = sharding.make_mesh(sharding.MeshConfig(data=devices), jax.devices()[:devices])
    return SimpleNamespace(encoder=None, images=SimpleNamespace(mesh=mesh, channels=3))


class FitTest(parameterized.TestCase):
    @parameterized.parameters(1, 3)
    def test_steps_by_hand(self, devices):
        """Three steps of two images, on devices that do not divide the batch."""
        steps, batch, decay = 3, 2, 0.1
        head = Head("linear", (PATCH * PATCH * 3,), 0, CLASSES)
        training = HeadTraining(steps, batch, 0.1, decay, 0, 0.4, "cosine", from_zero=True)
        some = subject(devices)
        with jax.set_mesh(some.images.mesh):
            params, stats = fit(
                some, head, LAYER, lambda _, number: example(number), pixel_loss, training
            )
        expected, running = head.init(0)
        rule = optax.adamw(lambda step: jnp.array([0.0, 0.1, 0.05])[step], weight_decay=decay)
        state = rule.init(expected)
        for step in range(steps):
            pair = example(2 * step), example(2 * step + 1)
            images, masks = (np.stack(parts) for parts in zip(*pair, strict=True))
            x = np.asarray(features.maps(None, *LAYER[:1], -1, PATCH, images))
            mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))

            def loss(p, x=x, mean=mean, variance=variance, masks=masks):
                logits = (x - mean) / np.sqrt(variance + 1e-5) @ p["weight"] + p["bias"]
                logits = jax.image.resize(logits, (*masks.shape, CLASSES), "linear")
                return optax.softmax_cross_entropy_with_integer_labels(logits, masks).mean()

            updates, state = rule.update(jax.grad(loss)(expected), state, expected)
            expected = optax.apply_updates(expected, updates)
            running = {
                "mean": 0.9 * running["mean"] + 0.1 * mean,
                "variance": 0.9 * running["variance"] + 0.1 * variance,
            }
        for name, value in expected.items():
            np.testing.assert_allclose(params[name], value, rtol=1e-3, atol=1e-4)
        for name, value in running.items():
            np.testing.assert_allclose(stats[name], value, rtol=1e-4, atol=1e-6)

    @parameterized.parameters(
        (False, "linear", [0.5, 0.75, 1.0, 2 / 3, 1 / 3]),
        (True, "cosine", [0.0, 1.0, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]),
    )
    def test_rates(self, from_zero, decay, expected):
        """An update of Adam is its rate, if all gradients are 1."""
        rule = HeadTraining(5, 1, 1.0, 0.0, 0, 0.2, decay, from_zero=from_zero).optimizer()
        params, rates = {"x": jnp.zeros(())}, []
        state = rule.init(params)
        for _ in expected:
            updates, state = rule.update({"x": jnp.ones(())}, state, params)
            rates.append(-float(updates["x"]))
        np.testing.assert_allclose(rates, expected, atol=1e-3)


if __name__ == "__main__":
    absltest.main()
