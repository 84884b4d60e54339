"""SimMIM's ViT against the release, from pixels to the gradients of mask token and positions; the
objective's masks; errors.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import count
from ssl_jax.losses.masked import masked_l1
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.nets.decoders import pixel_decoder
from ssl_jax.nets.positions import relative_index
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.simmim import SimMIM
from ssl_jax.weights.places import layers
from tests.nets import weights as torch

SPEC = Spec(4, 100, 0, 10, 100)


class GoldenTest(parameterized.TestCase):
    @parameterized.parameters(False, True)
    def test_vit(self, wide):
        weights, data = torch.load("model_simmim_vit")
        # The release counts masked pixels in float32, where its 1e-5 is lost: hence not 1e-9.
        prefix, rtol, dtype = ("f64_", 1e-7, np.float64) if wide else ("", 1e-4, np.float32)
        encoder = torch.under(weights, "encoder.")
        dim, channels, patch, _ = encoder["patch_embed.proj.weight"].shape
        heads = encoder["rel_pos_bias.relative_position_bias_table"].shape[1]
        size = data["in_x"].shape[-1]
        net = vit(
            None,
            patch,
            size,
            dim=dim,
            depth=layers(encoder, "blocks."),
            heads=heads,
            position="relative",
            mask_token=True,
            layer_scale=0.1,
        )
        (params, _), head = torch.convert(net, weights), torch.head(weights, "decoder")
        decoder = pixel_decoder(dim, patch, channels)
        side = size // patch
        np.testing.assert_array_equal(
            relative_index((side, side), True),
            encoder["rel_pos_bias.relative_position_index"],
        )

        def loss(params, head, images, mask):
            out, _ = net.apply(params, {}, images, mask=mask, train=True)
            z = out.patches.reshape(len(images), side, side, dim)
            prediction, _ = decoder.apply(head, {}, z, train=True)
            return masked_l1(prediction, images, mask), (z, prediction)

        with jax.enable_x64(wide):
            cast = lambda x: jnp.asarray(x, dtype)  # noqa: E731
            args = jax.tree.map(cast, (params, head, torch.nhwc(data["in_x"]), data["in_mask"]))
            gradient = torch.jit(jax.value_and_grad(loss, has_aux=True))
            (value, (z, prediction)), grads = gradient(*args)
        for key, actual in (
            ("out_z", np.moveaxis(z, -1, 1)),
            ("out_rec", np.moveaxis(prediction, -1, 1)),
            ("out_loss", value),
            ("grad_mask_token", grads["mask_token"]),
            ("grad_rel", grads["relative"]["table"]),
        ):
            self.assertEqual(actual.dtype, dtype)
            torch.assert_close(actual, data[prefix + key], rtol, key)

    def test_published_size(self):
        """ViT-B/16: 86,256,720 with the head; ours has the keys' biases too."""
        net = vit("base", 16, position="relative", mask_token=True, layer_scale=0.1)
        made = SimMIM(net, SPEC, view=View(224))
        params, _ = jax.eval_shape(made.init, jax.random.key(0))
        # The release's positions are one table of 732 x 12, ours too.
        self.assertEqual(count(params) - 12 * 768, 86_256_720)


class SimMIMTest(parameterized.TestCase):
    def made(self, **hyper):
        net = vit(None, 4, 16, dim=8, depth=1, heads=2, mask_token=True)
        return SimMIM(net, SPEC, **({"view": View(16), "cell": 8} | hyper))

    @parameterized.parameters(0.3, 0.6)
    def test_hides_whole_cells_as_many_as_asked(self, ratio):
        made, masks = self.made(mask_ratio=ratio), []
        net = made.backbone

        def spy(*args, **options):
            masks.append(options.get("mask"))
            return net.apply(*args, **options)

        made = dataclasses.replace(made, backbone=dataclasses.replace(net, apply=spy))
        params, extra = made.init(jax.random.key(0))
        images = np.random.default_rng(0).normal(size=(4, 1, 16, 16, 3)).astype(np.float32)
        batch = {"views": (images,), "index": np.arange(4, dtype=np.int32)}
        loss, _ = made.loss(params, extra, batch, jax.random.key(1), jnp.int32(0))
        self.assertTrue(np.isfinite(loss))
        self.assertEqual(masks[-1].shape, (4, 2, 2))
        np.testing.assert_array_equal(masks[-1].sum((1, 2)), math.ceil(4 * ratio))

    def test_a_hidden_patch_is_not_seen(self):
        net = self.made().backbone
        params, _ = net.init(jax.random.key(0))
        images = np.random.default_rng(0).normal(size=(1, 16, 16, 3)).astype(np.float32)
        other = images.copy()
        other[:, :8, 8:] = 5
        mask = np.array([[[0, 1], [0, 0]]])
        features = [
            net.apply(params, {}, x, mask=mask, train=True)[0].tokens for x in (images, other)
        ]
        np.testing.assert_array_equal(*features)

    def test_user_errors(self):
        with self.assertRaisesRegex(UserError, "5 px do not tile"):
            self.made(cell=5)
        with self.assertRaisesRegex(UserError, "mask_ratio"):
            self.made(mask_ratio=0.0)
        with self.assertRaisesRegex(UserError, "no patches"):
            _ = SimMIM(resnet_small(8), SPEC, view=View(16), cell=4).decoder
        net = vit(None, 4, 16, dim=8, depth=1, heads=2)
        params, _ = net.init(jax.random.key(0))
        images = jnp.ones((1, 16, 16, 3))
        with self.assertRaisesRegex(UserError, "mask_token=True"):
            net.apply(params, {}, images, mask=jnp.ones((1, 4, 4)), train=True)
        net = self.made().backbone
        params, _ = net.init(jax.random.key(0))
        with self.assertRaisesRegex(UserError, "8 x 8 cells does not fit 4 x 4 patches"):
            net.apply(params, {}, images, mask=jnp.ones((1, 8, 8)), train=True)


if __name__ == "__main__":
    absltest.main()
