"""The MAE encoder and decoder against the released model: latent, prediction, loss, gradients;
sizes.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import count
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.nets.decoders import as_encoder, mae_decoder
from tests.nets import weights as torch
from tests.nets.backbones.vit_test import HEADS, golden_vit


def size(net):
    return count(jax.eval_shape(lambda: net.init(jax.random.key(0))))


class MAEDecoderTest(parameterized.TestCase):
    @parameterized.parameters((None, "none"), ("bfloat16", "wide"))
    def test_computes_and_recomputes_as_its_encoder(self, dtype, remat):
        encoder = vit(None, 4, dim=8, depth=1, heads=2, image_size=8, dtype=dtype, remat=remat)
        decoder = mae_decoder(8, 8, 1, 2, grid=(2, 2), out_dim=3, **as_encoder(encoder))
        params, stats = jax.eval_shape(lambda: decoder.init(jax.random.key(0)))

        def loss(params, tokens, restore):
            return jnp.sum(decoder.apply(params, stats, tokens, restore, train=True)[0])

        tokens, restore = jax.ShapeDtypeStruct((1, 3, 8), jnp.float32), jnp.zeros((1, 4), jnp.int32)
        text = str(jax.make_jaxpr(jax.grad(loss))(params, tokens, restore))
        self.assertEqual("bf16" in text, dtype is not None)
        self.assertEqual("checkpoint" in text or "remat" in text, remat != "none")

    def test_mae(self):
        weights, data = torch.load("model_mae")
        encoder = golden_vit(weights, data["in_x"], position="sincos")
        dim, encoder_dim = weights["decoder_embed.weight"].shape
        patch = weights["patch_embed.proj.weight"].shape[-1]
        patches = data["in_noise"].shape[1]
        side = round(patches**0.5)
        decoder = mae_decoder(
            encoder_dim,
            dim,
            len({k.split(".")[1] for k in weights if k.startswith("decoder_blocks.")}),
            HEADS,
            grid=(side, side),
            out_dim=len(weights["decoder_pred.weight"]),
        )
        params, _ = torch.convert(encoder, weights, position="sincos")
        decoder_params = torch.head(weights, "decoder")
        shuffle = np.argsort(data["in_noise"], axis=1)
        restore = np.argsort(shuffle, axis=1)
        np.testing.assert_array_equal(restore, data["out_ids_restore"])
        keep = shuffle[:, : int(patches * (1 - float(data["hp_mask_ratio"])))]
        images = torch.nhwc(data["in_x"])
        target = images.reshape(len(images), side, patch, side, patch, 3)
        target = target.transpose(0, 1, 3, 2, 4, 5).reshape(len(images), patches, -1)
        target = target - target.mean(-1, keepdims=True)
        target = target / np.sqrt(target.var(-1, ddof=1, keepdims=True) + 1e-6)

        def loss(params, decoder_params, images):
            out, _ = encoder.apply(params, {}, images, train=True, keep=keep)
            pred, _ = decoder.apply(decoder_params, {}, out.tokens, restore, train=True)
            error = jnp.mean(jnp.square(pred - target), -1)
            mask = data["out_mask"]
            return jnp.sum(error * mask) / mask.sum(), (out.tokens, pred)

        gradient = torch.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
        (value, (latent, pred)), (grads, decoder_grads) = gradient(params, decoder_params, images)
        for key, actual in (
            ("out_latent", latent),
            ("out_pred", pred),
            ("out_loss", value),
            ("grad_mask_token", decoder_grads["mask_token"]),
            ("grad_cls_token", grads["cls_token"]),
            ("grad_patch_proj", grads["patch_embed"]["kernel"].transpose(3, 2, 0, 1)),
            ("grad_decoder_pred", decoder_grads["pred"]["kernel"].T),
        ):
            torch.assert_close(actual, data[key], 1e-4, key)

    def test_without_a_class_token_every_token_is_a_patch(self):
        """The order of the visible patches does not matter, only where they are put back."""
        net = mae_decoder(8, 8, 1, 2, grid=(2, 2), out_dim=3, cls_token=False)
        params, _ = net.init(jax.random.key(0))
        tokens = np.random.default_rng(0).normal(size=(1, 3, 8)).astype(np.float32)
        restore, swapped = np.array([[0, 3, 1, 2]]), np.array([[1, 3, 0, 2]])
        out, _ = net.apply(params, {}, tokens, restore, train=True)
        same, _ = net.apply(params, {}, tokens[:, [1, 0, 2]], swapped, train=True)
        self.assertEqual(out.shape, (1, 4, 3))
        torch.assert_close(same, out, 1e-5)
        moved, _ = net.apply(params, {}, tokens, swapped, train=True)
        self.assertGreater(float(jnp.abs(moved - out).max()), 1e-3)

    @parameterized.parameters(
        ("base", 16, 14, 111_655_680), ("large", 16, 14, 329_239_296), ("huge", 14, 16, 656_613_964)
    )
    def test_published_sizes(self, name, patch, side, trained):
        encoder = vit(name, patch, position="sincos")
        dim = {"base": 768, "large": 1024, "huge": 1280}[name]
        decoder = mae_decoder(dim, grid=(side, side), out_dim=patch * patch * 3)
        self.assertEqual(size(encoder) + size(decoder), trained)
        if name == "base":  # upstream holds the fixed tables as parameters
            _, data = torch.load("param_counts")
            tables = (side * side + 1) * (dim + 512)
            self.assertEqual(trained + tables, data["out_mae_vit_base"])

    @parameterized.parameters(
        (lambda: mae_decoder(8, 16, heads=3), "3 heads"),
        (lambda: mae_decoder(8, 6, heads=2), "divisible by 4, got 6"),
        (lambda: mae_decoder(8, 16, heads=4, remat="all"), "'all'"),
    )
    def test_user_errors(self, make, message):
        with self.assertRaisesRegex(UserError, message):
            make()

    def test_grid_that_the_patches_do_not_fill(self):
        net = mae_decoder(8, 8, 1, 2, grid=(2, 2), out_dim=3)
        params, _ = jax.eval_shape(lambda: net.init(jax.random.key(0)))
        arrays = (
            jax.ShapeDtypeStruct((1, 3, 8), jnp.float32),
            jax.ShapeDtypeStruct((1, 5), jnp.int32),
        )
        with self.assertRaisesRegex(UserError, "5 patches"):
            jax.eval_shape(lambda p, *x: net.apply(p, {}, *x, train=True), params, *arrays)


if __name__ == "__main__":
    absltest.main()
