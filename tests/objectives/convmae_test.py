"""ConvMAE against the released network: masks, features, loss and gradients; its sizes."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from ssl_jax.augment.masks import random_masking
from ssl_jax.core import tree
from ssl_jax.core.errors import UserError
from ssl_jax.nets.backbones.convvit import make as convvit
from ssl_jax.nets.backbones.convvit import visible_places
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.nets.decoders import mae_decoder
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.convmae import ConvMAE
from ssl_jax.weights.places import layers
from tests.nets import weights as torch
from tests.nets.backbones.convvit_test import converted, golden_convvit

SPEC = Spec(2, 100, 0, 10, 100)
HEADS = 2  # of convmae_224, which does not name it


def golden(name):
    """The method with the masks of a fixture, its parameters, and its data."""
    weights, data = torch.load(name)
    noise = data["in_noise"]
    side = 16 * round(noise.shape[1] ** 0.5)

    class Injected(ConvMAE):
        def masking(self, keys):
            return random_masking(jnp.asarray(noise), self.mask_ratio)

    made = Injected(
        golden_convvit(weights, side, data.get("hp_heads", HEADS)),
        SPEC,
        view=View(side, recipe="mae"),
        mask_ratio=float(data["hp_mask_ratio"]),
        norm_pixels=bool(data.get("hp_norm_pix", False)),
    )
    dim = len(weights["decoder_embed.bias"])
    made.__dict__["decoder"] = mae_decoder(
        len(weights["patch_embed4.bias"]),
        dim,
        layers(weights, "decoder_blocks."),
        int(data.get("hp_decoder_heads", HEADS)),
        grid=made.backbone.config.grid,
        cls_token=False,
        mlp_ratio=len(weights["decoder_blocks.0.mlp.fc1.bias"]) / dim,
    )
    params = converted(weights)
    params["decoder"]["mask_token"] = weights["mask_token"]
    return made, params, data


def forward(made, params, images):
    """Loss, tokens and prediction of a fixture."""
    extra = {"stats": {"backbone": {}, "decoder": {}}}
    count = len(images)
    batch = {"views": (images[:, None],), "index": jnp.arange(count)}
    loss, _ = made.loss(params, extra, batch, jax.random.key(0), jnp.int32(0))
    nets = made.networks.bind(params, extra["stats"])
    keep, _, restore = made.masking(None)
    tokens = made.encode(nets, images, keep)
    return loss, (tokens, made.decode(nets, tokens, restore))


class ConvMAETest(absltest.TestCase):
    def test_loss_and_gradients(self):
        made, params, data = golden("convmae")
        keep, mask, restore = made.masking(None)
        (count, patches), grid = mask.shape, made.backbone.config.grid
        np.testing.assert_array_equal(mask, data["out_mask"])
        np.testing.assert_array_equal(restore, data["out_ids_restore"])
        for cell, name in ((4, "out_keep_mask_stage1"), (2, "out_keep_mask_stage2")):
            visible = visible_places(keep, grid, cell)
            np.testing.assert_array_equal(np.moveaxis(visible, -1, 1), data[name])

        def run(params, images):
            step = jax.value_and_grad(lambda p: forward(made, p, images), has_aux=True)
            (loss, (tokens, prediction)), grads = step(params)

            def features(images):
                nets = made.networks.bind(params, {"backbone": {}})
                out = nets.backbone(images, keep=keep, stages=True)
                return jnp.sum(jnp.square(out.tokens)), [stage.tokens for stage in out.stages]

            slope, stages = jax.grad(features, has_aux=True)(images)
            return loss, tokens, prediction, grads, slope, stages

        with jax.enable_x64(True):
            wide = lambda x: jnp.asarray(x, jnp.float64)  # noqa: E731
            args = jax.tree.map(wide, (params, torch.nhwc(data["in_x"])))
            loss, tokens, prediction, grads, slope, stages = jax.device_get(torch.jit(run)(*args))
        at_kept = []
        for stage, cell in ((1, 4), (2, 2)):
            x = np.moveaxis(data[f"f64_out_stage{stage}"], 1, -1)
            x = x.reshape(count, grid[0], cell, grid[1], cell, -1).mean((2, 4))
            at_kept.append(np.take_along_axis(x.reshape(count, patches, -1), keep[..., None], 1))
        backbone = grads["backbone"]
        conv = lambda kernel: kernel.transpose(3, 2, 0, 1)  # noqa: E731
        for key, actual, expected in (
            ("stage1", stages[0], at_kept[0]),
            ("stage2", stages[1], at_kept[1]),
            ("latent", tokens, data["f64_out_latent"]),
            ("loss", loss, data["f64_out_loss"]),
            ("patch_embed1", conv(backbone["embed1"]["conv"]["kernel"]), None),
            ("dwconv1", conv(backbone["stage1"]["0"]["depthwise"]["kernel"]), None),
            ("dwconv2", conv(backbone["stage2"]["0"]["depthwise"]["kernel"]), None),
            ("stage1_output", conv(backbone["fuse1"]["kernel"]), None),
            ("stage2_output", conv(backbone["fuse2"]["kernel"]), None),
            ("patch_embed4", backbone["embed4"]["kernel"].T, None),
            ("norm_weight", backbone["norm"]["scale"], None),
            ("mask_token", grads["decoder"]["mask_token"], None),
        ):
            expected = data[f"f64_grad_{key}"] if expected is None else expected
            torch.assert_close(actual, expected, 1e-6, key)  # its tables are of float32
        torch.assert_close(prediction, data["out_pred"], 1e-5)
        torch.assert_close(slope, torch.nhwc(data["grad_x_of_latent"]), 1e-5)
        hidden = mask.reshape(count, *grid).repeat(16, 1).repeat(16, 2)[..., None]
        np.testing.assert_array_equal(slope * hidden, 0)

    def test_released_file(self):
        made, params, data = golden("convmae_224")
        images = (torch.nhwc(data["in_x_u8_28"]) / np.float32(127.5) - 1).astype(np.float32)
        scale = made.view.size // images.shape[1]
        images = images.repeat(scale, axis=1).repeat(scale, axis=2)
        run = torch.jit(lambda params, x: forward(made, params, x))
        loss, (tokens, prediction) = run(params, images)
        torch.assert_close(tokens, data["out_latent"], 1e-4)
        torch.assert_close(loss, data["out_loss"], 1e-5)
        torch.assert_close(prediction[0].mean(-1), data["out_pred_mean"], 1e-4)

    def test_published_sizes(self):
        for size, expected in (("base", 114_790_528), ("small", 48_859_392)):
            params, _ = jax.eval_shape(ConvMAE(convvit(size), SPEC).init, jax.random.key(0))
            self.assertEqual(tree.count(params), expected)

    def test_other_backbones_are_refused(self):
        net = vit(None, 4, 16, dim=8, depth=1, heads=2)
        with self.assertRaisesRegex(UserError, "no masked convolutions; .*name='convvit'"):
            ConvMAE(net, SPEC, view=View(16)).init(jax.random.key(0))


if __name__ == "__main__":
    absltest.main()
