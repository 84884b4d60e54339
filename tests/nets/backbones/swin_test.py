"""Swin against SimMIM's release; published sizes; windows and their shift; masks; errors."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import count
from ssl_jax.losses.masked import masked_l1
from ssl_jax.nets.backbones.swin import make as swin
from ssl_jax.nets.backbones.swin import shifted_mask
from ssl_jax.nets.decoders import pixel_decoder
from ssl_jax.nets.positions import relative_index
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.simmim import SimMIM
from tests.nets import weights as torch


def tiny(**options):
    small = dict(dim=8, depths=(2, 2), heads=(2, 2), window=4)
    return swin(None, image_size=32, **(small | options))


def run(net, images, **options):
    params, _ = torch.random_variables(net)
    return torch.jit(lambda x: net.apply(params, {}, x, train=False, stages=True, **options)[0])(
        images
    )


class GoldenTest(parameterized.TestCase):
    @parameterized.parameters(False, True)
    def test_simmim(self, wide):
        """Outputs, masked loss and gradients of SimMIM's Swin (`models/simmim.py`)."""
        weights, data = torch.load("simmim_swin")
        prefix, rtol, dtype = ("f64_", 1e-7, np.float64) if wide else ("", 1e-4, np.float32)
        dim, channels, patch, _ = weights["encoder.patch_embed.proj.weight"].shape
        depths, heads = (tuple(map(int, data[f"hp_{name}"])) for name in ("depths", "heads"))
        size, window = data["in_x"].shape[-1], int(data["hp_window"])
        sizes = {"dim": dim, "depths": depths, "heads": heads}
        net = swin(None, window, size, patch=patch, mask_token=True, **sizes)
        (params, _), head = torch.convert(net, weights), torch.head(weights, "decoder")
        decoder = pixel_decoder(dim * 2 ** (len(depths) - 1), int(data["hp_stride"]), channels)

        def loss(params, head, images, mask):
            out, _ = net.apply(params, {}, images, mask=mask, train=True, stages=True)
            prediction, _ = decoder.apply(head, {}, out.map, train=True)
            return masked_l1(prediction, images, mask), (out, prediction)

        with jax.enable_x64(wide):
            cast = lambda x: jnp.asarray(x, dtype)  # noqa: E731
            args = jax.tree.map(cast, (params, head, torch.nhwc(data["in_x"]), data["in_mask"]))
            step = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
            (value, (out, prediction)), (grads, of_head) = torch.jit(step)(*args)
        blocks = grads["stage1"]["blocks"]
        for key, actual in (
            ("out_z", np.moveaxis(out.map, -1, 1)),
            ("out_rec", np.moveaxis(prediction, -1, 1)),
            ("out_loss", value),
            ("grad_mask_token", grads["mask_token"]),
            ("grad_rel_table_l0b1", blocks["shifted_bias"]["table"][0]),
            ("grad_patch_proj", grads["patch_embed"]["kernel"].transpose(3, 2, 0, 1)),
            ("grad_downsample0", grads["merge1"]["reduce"]["kernel"].T),
            ("grad_decoder_w", of_head["linear"]["kernel"].T[..., None, None]),
        ):
            self.assertEqual(actual.dtype, dtype)
            stored = prefix + key in data  # the outputs in float32 only
            expected = data[prefix + key if stored else key]
            torch.assert_close(actual, expected, rtol if stored else 1e-4, key)

    def test_windows(self):
        """The release's index of offsets, and its mask of shifted windows, -100 for our -inf."""
        _, data = torch.load("simmim_swin")
        window, size = int(data["hp_window"]), data["in_x"].shape[-1] // int(data["hp_patch"])
        np.testing.assert_array_equal(relative_index((window, window)), data["out_rel_index"])
        mask = np.maximum(shifted_mask(size, size, window, window // 2), -100)
        np.testing.assert_array_equal(mask, data["out_shift_mask_block1"])


class SwinTest(parameterized.TestCase):
    @parameterized.parameters(("tiny", 28_288_354 - 769_000), ("base", 87_768_224 - 1_025_000))
    def test_published_sizes(self, size, parameters):
        """Counts of ImageNet's classifiers, less the linear layer of 1000 classes."""
        net = swin(size)
        self.assertEqual(count(jax.eval_shape(net.init, jax.random.key(0))), parameters)

    @parameterized.parameters(("base", 6, 89_874_104), ("large", 12, 199_881_204))
    def test_simmim_sizes(self, size, window, parameters):
        net = swin(size, window, 192, mask_token=True)
        made = SimMIM(net, Spec(4, 100, 0, 10, 100), view=View(192))
        self.assertEqual(made.patch_grid[0], 6)
        params, _ = jax.eval_shape(made.init, jax.random.key(0))
        self.assertEqual(count(params), parameters)

    def test_outputs(self):
        net = tiny()
        images = torch.random_images(2, 32, 32, 3)
        out = run(net, images)
        self.assertEqual(out.stages[0].map.shape, (2, 8, 8, 8))
        self.assertEqual(out.map.shape, (2, 4, 4, 16))
        np.testing.assert_array_equal(out.patches.reshape(2, 4, 4, 16), out.stages[1].map)
        np.testing.assert_allclose(out.pooled, out.patches.mean(1), atol=1e-6)
        params, _ = torch.random_variables(net)
        again, _ = net.apply(params, {}, images, train=True)
        self.assertEqual(again.stages, ())

    def test_a_pixel_is_seen_in_its_windows_and_no_farther(self):
        """After two blocks: its own window, and the shifted ones that meet it."""
        images = torch.random_images(1, 64, 64, 3)
        net = swin(None, 4, 64, dim=8, depths=(2,), heads=(2,))
        changed = images.copy()
        changed[:, 0, 0] += 1  # of patch (0, 0) of 16 x 16; windows of 4, shifted by 2
        a, b = (run(net, x).stages[0].map[0] for x in (images, changed))
        reached = np.abs(a - b).max(-1) > 1e-7
        self.assertTrue(reached[:6, :6].all())
        self.assertFalse(reached[6:].any() or reached[:, 6:].any())

    def test_the_roll_joins_no_strangers(self):
        mask = shifted_mask(8, 8, 4, 2)
        self.assertEqual(mask.shape, (4, 16, 16))
        np.testing.assert_array_equal(mask[0], 0)  # the first window holds neighbours only
        # Of the last one each quarter is by itself.
        np.testing.assert_array_equal((mask[3] == 0).sum(1), 4)
        np.testing.assert_array_equal((mask[1] == 0).sum(1), 8)

    def test_a_hidden_patch_is_not_seen(self):
        images = torch.random_images(1, 32, 32, 3)
        other = images.copy()
        other[:, :16, 16:] = 5
        net, mask = tiny(mask_token=True), jnp.array([[[0, 1], [0, 0]]])
        a, b = (run(net, x, mask=mask).patches for x in (images, other))
        np.testing.assert_array_equal(a, b)
        self.assertGreater(np.abs(run(net, images).patches - a).max(), 1e-3)

    def test_recomputed_and_float64(self):
        images = torch.random_images(2, 32, 32, 3)
        params, _ = torch.random_variables(tiny())

        def loss(net):
            of = lambda p: jnp.sum(jnp.square(net.apply(p, {}, images, train=True)[0].pooled))  # noqa: E731
            return torch.jit(jax.grad(of))(params)

        plain, remat = loss(tiny()), loss(tiny(remat="full"))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), plain, remat
        )
        with jax.enable_x64(True):
            wide = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)
            out, _ = tiny().apply(wide, {}, jnp.asarray(images, jnp.float64), train=True)
        self.assertEqual(out.pooled.dtype, np.float64)

    @parameterized.parameters(
        (lambda: swin("huge"), "no Swin of size 'huge'"),
        (lambda: tiny(depths=(2,)), "a depth and a number of heads for each stage"),
        (lambda: tiny(heads=(2, 3)), "3 heads"),
        (lambda: tiny(window=3), "do not tile the 8 x 8 map"),
        (lambda: swin("tiny", image_size=200), "do not tile"),
    )
    def test_user_errors(self, make, message):
        with self.assertRaisesRegex(UserError, message):
            make()


if __name__ == "__main__":
    absltest.main()
