"""PatchNCE against the released loss, and its limits."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.patch_nce import patch_nce
from tests.losses.forms import load


def sampled(images, places, layers=()):
    """Vectors (B, P, C) of unit length at some places of maps (B, C, H, W)."""
    x = jnp.moveaxis(jnp.asarray(images), 1, -1)
    x = x.reshape(len(x), -1, x.shape[-1])[:, places]
    for i, (kernel, bias) in enumerate(layers):
        x = (jax.nn.relu(x) if i else x) @ kernel.T + bias
    return x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-7)


def random_vectors(*shape):
    x = np.random.default_rng(0).normal(size=shape)
    return jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), jnp.float32)


class PatchNceTest(parameterized.TestCase):
    @parameterized.parameters("", "_all", "_mlp")
    def test_golden(self, kind):
        data = load("patchnce", wide=False)
        places, temperature = data["in_patch_ids"], float(data["hp_T"])
        names = (("w0", "b0"), ("w2", "b2")) if kind == "_mlp" else ()
        layers = [(data[f"in_{w}"], data[f"in_{b}"]) for w, b in names]

        def loss(query):
            rows = (sampled(x, places, layers) for x in (query, data["in_k"]))
            each = patch_nce(*rows, temperature, across_images=kind == "_all")
            return jnp.mean(each), each

        (value, each), grad = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(data["in_q"]))
        np.testing.assert_allclose(value, data[f"out_loss{kind}"], rtol=1e-5)
        expected = data[f"out_loss_vec{kind}"]
        np.testing.assert_allclose(each.reshape(-1), expected, rtol=1e-4, atol=1e-6)
        expected = data[f"grad_q{kind}"]
        np.testing.assert_allclose(grad, expected, rtol=0, atol=1e-5 * np.abs(expected).max())

    def test_orthogonal_and_constant_vectors(self):
        eye = jnp.eye(6)[None]
        np.testing.assert_allclose(patch_nce(eye, eye, 0.5), np.log(1 + 5 * np.exp(-2)), rtol=1e-5)
        same = jnp.ones((2, 6, 1))
        np.testing.assert_allclose(patch_nce(same, same), np.log(6), rtol=1e-5)

    def test_keys_get_no_gradient(self):
        x, y = random_vectors(2, 5, 4), random_vectors(2, 5, 4)[:, ::-1]
        grad = jax.grad(lambda key: jnp.sum(patch_nce(x, key)))(y)
        np.testing.assert_array_equal(grad, 0)

    def test_images_and_places_are_exchangeable(self):
        x, y = random_vectors(2, 5, 4), random_vectors(2, 5, 4)[:, ::-1]
        losses = patch_nce(x, y)
        order = np.array([3, 0, 4, 1, 2])
        np.testing.assert_allclose(patch_nce(x[:, order], y[:, order]), losses[:, order], rtol=1e-5)
        np.testing.assert_allclose(patch_nce(x[1:], y[1:]), losses[1:], rtol=1e-5)
        # Of one image, the places of all images are its own.
        own = patch_nce(x[:1], y[:1], across_images=True)
        np.testing.assert_allclose(own, losses[:1], rtol=1e-5)

    @parameterized.parameters(((2, 5), (2, 5)), ((2, 5, 4), (2, 4, 4)))
    def test_other_shapes(self, query, key):
        with self.assertRaisesRegex(ValueError, r"patch_nce: expected query, key \(B, P, C\)"):
            patch_nce(jnp.ones(query), jnp.ones(key))


if __name__ == "__main__":
    absltest.main()
