"""Histograms, losses and decoding of hue and chroma against the released code."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.augment.color import from_rgb
from ssl_jax.losses.colorization_proxy import (
    chroma_loss,
    histograms,
    hue_loss,
    mean_hue,
    median_chroma,
)
from ssl_jax.losses.cross_entropy import soft_cross_entropy
from tests.nets.weights import GOLDEN, assert_close


def load(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def flat(x):
    return x.reshape(-1, x.shape[-1])


class GoldenTest(absltest.TestCase):
    def test_histograms(self):
        data = load("larsson_autocolorize")
        for name in ("hue", "chroma"):
            target = histograms(data[f"out_{name}"], data["in_centroids"].astype(np.int32))
            assert_close(flat(target), data[f"out_target_{name}"], 1e-6, name)

    def test_losses_and_gradients(self):
        data = load("larsson_autocolorize")

        def loss(hue, chroma):
            first = hue_loss(hue, data["out_target_hue"], data["out_chroma_at_centroid"][:, 0])
            grey = data["out_lightness_at_centroid"][:, 0]
            second = chroma_loss(chroma, data["out_target_chroma"], grey)
            return 5 * first + second, (first, second)

        run = jax.value_and_grad(loss, (0, 1), has_aux=True)
        (total, (hue, chroma)), grads = run(data["in_logits_hue"], data["in_logits_chroma"])
        assert_close(total, data["out_loss_total"], 1e-5)
        assert_close(hue, data["out_loss_hue_unweighted"], 1e-5)
        assert_close(chroma, data["out_loss_chroma"], 1e-5)
        assert_close(grads[0], data["grad_logits_hue"], 1e-5)
        assert_close(grads[1], data["grad_logits_chroma"], 1e-5)

    def test_one_pixel_is_the_label_of_version_1(self):
        data = load("larsson_selfsup_v1")
        _, hue, chroma = np.moveaxis(np.asarray(from_rgb("hue_chroma", data["in_rgb"])), -1, 0)
        at = data["in_centroids"].astype(np.int32)
        targets = [flat(histograms(x, at, window=1)) for x in (hue, chroma)]
        for target, name in zip(targets, ("hue", "chroma"), strict=True):
            np.testing.assert_array_equal(target.argmax(-1), data[f"out_target_{name}"])
        weight = chroma[np.arange(len(at))[:, None], at[..., 0], at[..., 1]].ravel()
        value, grad = jax.value_and_grad(hue_loss)(data["in_logits_hue"], targets[0], weight)
        assert_close(5 * value, data["out_loss_hue"], 1e-5)
        assert_close(5 * grad, data["grad_logits_hue"], 1e-5)
        # The chroma has no weight: a grey of 1/2 has weight 1.
        half = np.full(len(weight), 0.5, np.float32)
        value, grad = jax.value_and_grad(chroma_loss)(data["in_logits_chroma"], targets[1], half)
        assert_close(value, data["out_loss_chroma"], 1e-5)
        assert_close(grad, data["grad_logits_chroma"], 1e-5)

    def test_version_3_has_its_square_one_pixel_further(self):
        data = load("larsson_selfsup_v3")
        bins, at = int(data["hp_bins"]), data["in_centroids"].astype(np.int32) + 1
        colours = np.asarray(from_rgb("hue_chroma", data["in_rgb"]))
        for i, name in enumerate(("hue", "chroma"), 1):
            target = flat(histograms(np.float32(0.9999) * colours[..., i], at, bins))  # as there
            assert_close(target, data[f"out_target_{name}"], 1e-5, name)
            logits = data[f"in_logits_{name}"]
            value, grad = jax.value_and_grad(hue_loss)(logits, target, np.ones(len(logits)))
            assert_close(grad, data[f"grad_logits_{name}"], 1e-5, name)
            # Its entropy is that of another distribution, the target with 1e-5 added.
            other = np.log(np.asarray(target) + 1e-5)
            released = np.mean(soft_cross_entropy(other, target))
            entropy = -np.mean(np.sum(target * np.log(np.maximum(target, 1e-30)), -1))
            assert_close(value + entropy - released, data[f"out_loss_{name}"], 1e-5, name)


class HistogramTest(parameterized.TestCase):
    @parameterized.parameters(1, 3, 7)
    def test_a_loop_over_pixels(self, window):
        rng = np.random.default_rng(window)
        values = rng.integers(0, 9, size=(2, 6, 5)).astype(np.float32) / 8  # edges and 1
        at = rng.integers(0, (6, 5), size=(2, 4, 2)).astype(np.int32)
        got = histograms(values, at, 4, window)
        for b, p in np.ndindex(2, 4):
            (y, x), r = at[b, p], window // 2
            square = values[b, max(y - r, 0) : y + r + 1, max(x - r, 0) : x + r + 1]
            counts, _ = np.histogram(square, 4, (0, 1))
            np.testing.assert_allclose(got[b, p], counts / square.size, rtol=1e-6)

    def test_weights(self):
        logits, target = jnp.arange(8.0).reshape(2, 4), jnp.eye(4)[:2]
        self.assertEqual(jnp.abs(jax.grad(hue_loss)(logits, target, jnp.zeros(2))).max(), 0)
        weight = lambda grey: (  # noqa: E731
            chroma_loss(logits, target, jnp.full(2, grey))
            / chroma_loss(logits, target, jnp.full(2, 0.5))
        )
        np.testing.assert_allclose(
            [weight(x) for x in (0, 0.1, 1 / 3, 0.6, 0.9, 1)], [0, 0.3, 1, 1, 0.3, 0], atol=1e-5
        )

    def test_decoding(self):
        near = jnp.zeros(8).at[0].set(50).at[7].set(50)  # both sides of red
        self.assertLess(abs((mean_hue(near) + 0.5) % 1 - 0.5), 1e-6)
        np.testing.assert_allclose(mean_hue(50 * jnp.eye(8)), (np.arange(8) + 0.5) / 8, atol=1e-6)
        chances = jnp.log(jnp.array([0.4, 0.2, 0.1, 0.3]))
        self.assertEqual(median_chroma(chances), 1.5 / 4)
        self.assertEqual(median_chroma(50 * jnp.eye(4)[3]), 3.5 / 4)


if __name__ == "__main__":
    absltest.main()
