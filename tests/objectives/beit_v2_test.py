"""BEiT v2 against the release: both predictions, losses, gradients; sizes; errors."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core import tree
from ssl_jax.core.errors import UserError
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.beit_v2 import BEiTv2
from ssl_jax.objectives.parts.tokenizer import FixedTokenizer
from ssl_jax.weights.places import layers, under
from ssl_jax.weights.vit import TABLE
from tests.losses.forms import load
from tests.nets import weights as torch

SPEC = Spec(4, 100, 0, 10, 100)
SEED = jax.random.key(0)
SIZES = {"dim": 8, "depth": 3, "heads": 2, "mask_token": True, "position": "relative"}
TOKENIZER = {
    "name": "vit",
    "size": None,
    "dim": 8,
    "depth": 1,
    "heads": 2,
    "patch": 4,
    "image_size": 16,
}


def beit_v2(net=None, **hyper):
    sizes = {
        "view": View(16),
        "tokenizer": FixedTokenizer(TOKENIZER, vocabulary=6, code_dim=4),
        "min_patches": 2,
        "early_layer": 1,
    }
    return BEiTv2(net or vit(None, 4, 16, **SIZES), SPEC, **(sizes | hyper))


def head(weights, name):
    return {"linear1": {"kernel": weights[f"{name}.weight"].T, "bias": weights[f"{name}.bias"]}}


class GoldenTest(parameterized.TestCase):
    @parameterized.parameters((False, 1e-4), (True, 1e-9))
    def test_step(self, wide, rtol):
        data, dtype = load("beit2_mim_cls_pt", wide), np.float64 if wide else np.float32
        weights = under(data, "in_sd.")
        extra_blocks = under(weights, "cls_pt_layers.")
        main = {k: v for k, v in weights.items() if not k.startswith(("cls_pt_", "lm_head."))}
        depth, dim = layers(main, "blocks."), main["norm.weight"].size
        options = {"dim": dim, "heads": int(data["hp_heads"]), "position": "relative"}
        options |= {"layer_scale": 0.1, "mask_token": True}
        size, patch = data["in_x"].shape[-1], int(data["hp_patch"])
        side, vocabulary = size // patch, len(weights["lm_head.bias"])
        net = vit(None, patch, size, depth=depth, **options)
        mask = np.asarray(data["in_mask"], bool).reshape(-1, side, side)
        codes = np.asarray(data["in_codes"], np.int32).reshape(mask.shape)
        predictions = []

        class Injected(BEiTv2):
            def masks(self, keys):
                return jnp.asarray(mask)

            def codes(self, fixed, images):
                return jnp.asarray(codes)

            def predict(self, *args):
                predictions.append(super().predict(*args))
                return predictions[-1]

        made = Injected(
            net,
            SPEC,
            view=View(size),
            tokenizer=FixedTokenizer(vocabulary=vocabulary),
            min_patches=1,
            early_layer=int(data["hp_early_layers"]),
            extra_layers=int(data["hp_head_layers"]),
            shared_head=bool(data["hp_shared_lm_head"]),
        )
        renamed = {f"blocks.{k}": v for k, v in extra_blocks.items()}
        outside = {k: v for k, v in main.items() if not k.startswith("blocks.")}
        small = vit(None, patch, size, depth=made.extra_layers, **options)
        params = {
            "backbone": torch.convert(net, main)[0],
            "extra_blocks": {"blocks": torch.convert(small, outside | renamed)[0]["blocks"]},
            "head": head(weights, "lm_head"),
        }
        if not made.shared_head:
            scale, bias = weights["cls_pt_norm.weight"], weights["cls_pt_norm.bias"]
            params["extra_blocks"]["extra_norm"] = {"scale": scale, "bias": bias}
            params["extra_head"] = head(weights, "cls_pt_lm_head")
        none: dict = {name: {} for name in params}
        extra = {"stats": none, "fixed": {}}

        def loss(params, images):
            batch = {"views": (images[:, None],), "index": jnp.arange(len(images))}
            value, _ = made.loss(params, extra, batch, jax.random.key(0), 0)
            return value, predictions[-1]

        with jax.enable_x64(wide):
            params, images = jax.tree.map(
                lambda x: jnp.asarray(x, dtype), (params, torch.nhwc(data["in_x"]))
            )
            run = torch.jit(jax.value_and_grad(loss, has_aux=True))
            (value, logits), grads = jax.device_get(run(params, images))
        hidden, backbone = mask.reshape(len(mask), -1), grads["backbone"]
        for name, ours in (
            ("out_loss", value),
            ("out_logits", logits[0][hidden]),
            ("out_logits_cls_pt", logits[1][hidden]),
            ("grad_mask_token", backbone["mask_token"]),
            ("grad_cls_token", backbone["cls_token"]),
            ("grad_rel_table", backbone["relative"]["table"]),
            ("grad_lm_head", grads["head"]["linear1"]["kernel"].T),
            ("grad_cls_pt0_fc1", grads["extra_blocks"]["blocks"]["mlp"]["fc1"]["kernel"][0].T),
            ("grad_last_block_fc1", backbone["blocks"]["mlp"]["fc1"]["kernel"][-1].T),
        ):
            torch.assert_close(ours, data[name], rtol, name)
        self.assertIn(TABLE, main)

    def test_published_sizes(self):
        """The release has no biases of keys."""
        data = np.load(torch.GOLDEN / "param_counts_mim.npz")
        net = vit("base", position="relative", mask_token=True, layer_scale=0.1)
        params, _ = jax.eval_shape(BEiTv2(net, SPEC).init, jax.random.key(0))
        count = tree.count(params) - 14 * 768
        self.assertEqual(count, data["out_beit2_base_pretrain_cls_pt"])


class ExtraBlocksTest(parameterized.TestCase):
    def test_start_as_in_pytorch(self):
        made = beit_v2(vit(None, 4, 16, **(SIZES | {"dim": 64})), early_layer=2, extra_layers=2)
        params, _ = torch.jit(made.networks.nets["extra_blocks"].init)(jax.random.key(0))
        blocks = jax.device_get(params["blocks"])
        for i, number in enumerate((3, 4)):
            for layer, fan_in, factor in (
                (blocks["attn"]["qkv"], 64, 1.0),
                (blocks["attn"]["proj"], 64, (2 * number) ** -0.5),
                (blocks["mlp"]["fc1"], 64, 1.0),
                (blocks["mlp"]["fc2"], 256, (2 * number) ** -0.5),
            ):
                bound = fan_in**-0.5
                largest = np.abs(layer["kernel"][i]).max() / (bound * factor)
                self.assertBetween(largest, 0.97, 1.0)
                self.assertBetween(np.abs(layer["bias"][i]).max() / bound, 0.8, 1.0)

    def test_a_norm_and_a_head_of_their_own(self):
        made = beit_v2(shared_head=False)
        params, extra = jax.tree.map(
            lambda x: np.full(x.shape, 0.1, np.float32), jax.eval_shape(made.init, SEED)
        )
        self.assertEqual(params["extra_blocks"].keys(), {"blocks", "extra_norm"})
        params["extra_blocks"] |= {k: params["backbone"][k] for k in ("norm", "relative")}
        params["extra_head"]["linear1"]["bias"] += 1  # of the second prediction alone
        mask, keys = jnp.zeros((2, 4, 4), bool), jax.random.split(SEED, 2)

        @torch.jit
        def predict(params, images):
            nets = made.networks.bind(params, extra["stats"])
            return made.predict(nets, images, mask, keys)

        last, early = predict(params, torch.random_images(2, 16, 16, 3))
        np.testing.assert_allclose(early, last + 1, rtol=1e-3)  # equal weights, equal features


class ErrorsTest(parameterized.TestCase):
    @parameterized.parameters(
        ({"early_layer": 3}, "early_layer: expected a block before the last of 3, got 3"),
        (
            {"net": vit(None, 4, 16, cls_token=False, pool="avg", **SIZES)},
            "backbone: no class token",
        ),
        ({"net": resnet_small(8)}, "no patches"),
    )
    def test_user_errors(self, options, message):
        with self.assertRaisesRegex(UserError, message) as caught:
            _ = beit_v2(**options).networks
        self.assertNotIn("\n", str(caught.exception))


if __name__ == "__main__":
    absltest.main()
