"""The network for colorization against the authors' PyTorch port."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import count
from ssl_jax.losses.colorization import BINS, annealed_mean
from ssl_jax.nets.backbones.vgg_dilated import STAGES, make
from ssl_jax.nets.convolutional import upsampler
from tests.nets import weights as torch


def kernel(weights, name):
    return {
        "kernel": np.transpose(weights[f"{name}.weight"], (2, 3, 1, 0)),
        "bias": weights[f"{name}.bias"],
    }


def converted(weights):
    """(params, stats) of the backbone, and those of the decoder."""
    params, stats = {}, {}
    for i, (layers, _, _) in enumerate(STAGES, 1):
        norm = f"model{i}.{2 * layers}"
        params[f"stage{i}"] = {
            f"conv{j + 1}": kernel(weights, f"model{i}.{2 * j}") for j in range(layers)
        } | {"norm": {"scale": weights[f"{norm}.weight"], "bias": weights[f"{norm}.bias"]}}
        stats[f"stage{i}"] = {
            "norm": {"mean": weights[f"{norm}.running_mean"], "var": weights[f"{norm}.running_var"]}
        }
    # PyTorch's transposed kernel is (in, out, h, w), and mirrored.
    up = np.transpose(weights["model8.0.weight"], (2, 3, 0, 1))[::-1, ::-1]
    out = kernel(weights, "model8.6")
    head = {
        "up": {"kernel": up, "bias": weights["model8.0.bias"]},
        "conv1": kernel(weights, "model8.2"),
        "conv2": kernel(weights, "model8.4"),
        "out": {"kernel": out["kernel"][0, 0], "bias": out["bias"]},
    }
    return params, stats, head


class GoldenTest(parameterized.TestCase):
    @parameterized.parameters("eval", "train")
    def test_from_lightness_to_colours(self, mode):
        weights, data = torch.load("model_colorization_eccv16")
        params, stats, head = converted(weights)
        widths = tuple(params[f"stage{i}"]["norm"]["bias"].size for i in range(1, 8))
        net = make(widths, channels=1)
        decoder = upsampler(widths[-1], len(head["up"]["bias"]), 313)
        np.testing.assert_allclose(weights["model_out.weight"][..., 0, 0].T * 110, BINS, atol=1e-4)

        wide_stats = jax.tree.map(np.float64, stats)

        def colours(params, head, lightness):
            images = (lightness - 50) / 100
            out, after = net.apply(params, wide_stats, images, train=mode == "train", stages=True)
            logits, _ = decoder.apply(head, {}, out.map, train=mode == "train")
            size = (*images.shape[:3], 2)
            ab = jax.image.resize(annealed_mean(logits, 1.0), size, "bilinear")
            return jnp.mean(jnp.square(ab)), (out, logits, ab, after)

        grad = torch.jit(jax.grad(colours, argnums=(0, 1, 2), has_aux=True))
        # In float32 the gradient through seven batch norms of 24 values loses four digits.
        with jax.enable_x64(True):
            wide = lambda x: jnp.asarray(x, jnp.float64)  # noqa: E731
            args = jax.tree.map(wide, (params, head, torch.nhwc(data["in_L"])))
            grads, (out, logits, ab, after) = grad(*args)
        assert_close = partial(torch.assert_close, rtol=1e-4)
        for key, actual in (
            (f"out_{mode}_conv1", out.stages[0].map),
            (f"out_{mode}_conv7", out.map),
            (f"out_{mode}_conv8_313", logits),
            (f"out_{mode}_ab", ab),
            (f"grad_{mode}_L_of_mean_ab2", grads[2]),
        ):
            assert_close(actual, torch.nhwc(data[key]), what=key)
        for key, actual in (
            ("model1.0.weight", grads[0]["stage1"]["conv1"]["kernel"]),
            ("model8.6.weight", grads[1]["out"]["kernel"][None, None]),
        ):
            expected = np.transpose(data[f"grad_{mode}_{key}"], (2, 3, 1, 0))
            assert_close(actual, expected, what=key)
        if mode == "train":
            for name in ("mean", "var"):
                expected = data[f"out_train_running_{name}_model7.6"]
                assert_close(after["stage7"]["norm"][name], expected, what=name)


class ConfigTest(absltest.TestCase):
    def test_published_size(self):
        """ECCVGenerator without its last layer, from 313 to 2 channels."""
        net, head = make(channels=1), upsampler(512, 256, 313)
        total = sum(count(jax.eval_shape(made.init, jax.random.key(0))[0]) for made in (net, head))
        self.assertEqual(total, PORT)

    def test_user_errors(self):
        with self.assertRaisesRegex(UserError, "expected 7 widths, got 2"):
            make((4, 4))


# Sum over the port's layers: 9 in out + out of each convolution, 2 out of each batch norm.
CHANNELS = [1, 64, 64, 128, 128, 256, 256, 256, *12 * [512]]
PORT = (
    sum(9 * a * b + b for a, b in pairwise(CHANNELS))
    + 2 * (64 + 128 + 256 + 4 * 512)
    + (16 * 512 * 256 + 256)
    + 2 * (9 * 256 * 256 + 256)
    + 256 * 313
    + 313
)


if __name__ == "__main__":
    absltest.main()
