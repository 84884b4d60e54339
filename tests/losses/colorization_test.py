"""Colours as classes against the released code: encoding, rebalancing, loss, decoding."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses import colorization
from ssl_jax.losses.cross_entropy import soft_cross_entropy
from tests.nets.weights import GOLDEN, assert_close, nhwc


def load(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


class GoldenTest(parameterized.TestCase):
    def test_encoding_rebalancing_and_the_mean(self):
        data = load("colorization")
        sizes = {"neighbours": int(data["hp_NN"]), "sigma": float(data["hp_sigma"])}
        with jax.enable_x64(True):
            encoded = colorization.soft_encode(nhwc(data["in_ab"]).astype(np.float64), **sizes)
        expected = nhwc(data["out_encoded"])
        np.testing.assert_allclose(encoded, expected, atol=1e-9)
        decoded = expected @ colorization.BINS
        np.testing.assert_allclose(decoded, nhwc(data["out_decoded_mean"]), atol=1e-4)
        mean = colorization.annealed_mean(np.log(np.maximum(expected, 1e-30)), 1.0)
        np.testing.assert_allclose(mean, decoded, atol=1e-4)

    @parameterized.parameters(5, 10)
    def test_loss_and_its_gradient(self, neighbours):
        data, key = load("colorization_full"), f"k{neighbours}_"
        target = colorization.soft_encode(
            nhwc(data["out_ab_ss"]), neighbours, float(data["hp_sigma"])
        )
        # The grey image's tenth neighbour, of weight 2e-4, is a tie.
        np.testing.assert_allclose(target, nhwc(data[f"out_{key}encoded"]), atol=3e-4)
        target = nhwc(data[f"out_{key}encoded"])
        logits = nhwc(data[f"in_logits_{key[:-1]}"])
        weight = nhwc(data[f"out_{key}weight"])[..., 0]
        for w, name in ((weight, "weighted"), (np.ones_like(weight), "unweighted")):
            value, grad = jax.value_and_grad(colorization.colorization)(logits, target, w)
            assert_close(value, data[f"out_{key}loss_kl_sum_over_batch"], 1e-5, name)
            assert_close(grad, nhwc(data[f"grad_{key}logits_{name}"]), 1e-5, name)
        each = soft_cross_entropy(logits, target)
        assert_close(each, data[f"out_{key}ce_per_pixel"], 1e-5)
        assert_close((each * weight).mean(), data[f"out_{key}rec_loss_mean_w_ce"], 1e-5)
        self.assertFalse(weight[-1].any())  # the grey image
        np.testing.assert_array_equal(weight > 0, nhwc(data["out_nongray_mask"])[..., 0] > 0)

    def test_decoding(self):
        data = load("colorization_decode")
        logits = nhwc(data["in_logits"])
        for temperature, key in (
            (1 / 2.606, "scale2606"),
            (0.38, "T038"),
            (1.0, "T1"),
            (0.1, "T01"),
            (0.001, "T0001"),
            (1.0, "T1_upstream_decode_mean"),
        ):
            decoded = colorization.annealed_mean(logits, temperature)
            np.testing.assert_allclose(decoded, nhwc(data[f"out_ab_{key}"]), atol=1e-4)


class BinsTest(absltest.TestCase):
    def test_they_are_313_in_order(self):
        bins = [tuple(ab) for ab in colorization.BINS]
        self.assertLen(set(bins), 313)
        self.assertEqual(bins, sorted(bins))
        self.assertEqual(np.abs(colorization.BINS).max(), 110)

    def test_a_colour_between_bins(self):
        for ab, neighbours, expected in (
            ((0, 0), 5, [0.648786] + 4 * [0.087804]),
            (
                (0, 0),
                10,
                [0.619218]
                + 4 * [0.083802]
                + 4
                * [
                    0.011341,
                ]
                + [0.000208],
            ),
            ((5, 0), 10, 2 * [0.387157]),
        ):
            code = np.sort(colorization.soft_encode(jnp.array(ab, jnp.float32), neighbours))[::-1]
            np.testing.assert_allclose(code[: len(expected)], expected, atol=1e-6)
            self.assertEqual((code > 0).sum(), neighbours)
        far = colorization.soft_encode(jnp.array([900.0, -900.0]))
        np.testing.assert_allclose(far.sum(), 1, rtol=1e-6)

    def test_a_centre_is_its_own_bin(self):
        np.testing.assert_array_equal(colorization.nearest_bin(colorization.BINS), np.arange(313))

    def test_rare_bins_weigh_more(self):
        np.testing.assert_allclose(
            colorization.rebalancing(np.array([0.9, 0.1])), [0.882353, 2.058824], atol=1e-6
        )
        prior = np.array([3.0, 1.0, 0.0])
        np.testing.assert_allclose(colorization.rebalancing(prior, mix=1.0), 1, rtol=1e-6)
        weights = colorization.rebalancing(prior, mix=0.2, power=0.7)
        np.testing.assert_allclose(np.sum(prior * weights) / 4, 1, rtol=1e-6)

    def test_zero_logits(self):
        code = colorization.soft_encode(jnp.zeros((1, 2, 2, 2)), 5)
        loss = colorization.colorization(jnp.zeros((1, 2, 2, 313)), code, jnp.zeros((1, 2, 2)))
        np.testing.assert_allclose(loss / 4, np.log(313) - 1.135082, atol=1e-5)

    def test_annealing_sharpens(self):
        logits = jnp.full((313,), -jnp.inf).at[:2].set(jnp.log(jnp.array([0.6, 0.4])))
        expected = np.array([0.744029, 0.255971]) @ colorization.BINS[:2]
        np.testing.assert_allclose(colorization.annealed_mean(logits, 0.38), expected, atol=1e-4)


if __name__ == "__main__":
    absltest.main()
