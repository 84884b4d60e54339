"""DeepMIM against the release: losses and gradients; targets of a teacher and of pixels; errors."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core import tree
from ssl_jax.core.errors import UserError
from ssl_jax.losses.masked import masked_cosine
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.backbones.swin import make as swin
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.deep_mim import DeepMIM
from ssl_jax.objectives.parts.layerwise import Hidden
from ssl_jax.weights import heads
from ssl_jax.weights.places import layers, under
from tests.losses.forms import load
from tests.nets import weights as torch
from tests.nets.backbones.vit_test import golden_vit
from tests.objectives.feature_distillation_test import given_tokens

SPEC = Spec(4, 100, 0, 10, 100)
TEACHER = {"name": "vit", "size": None, "dim": 16, "depth": 1, "heads": 2, "patch": 4}
TEACHER |= {"image_size": 16}


def backbone(**options):
    sizes = {"dim": 8, "depth": 3, "heads": 2, "position": "sincos"}
    return vit(None, 4, 16, **(sizes | options))


def deep_mim(net=None, **hyper):
    sizes = {
        "view": View(16, recipe="mae"),
        "layers": (0, -1),
        "decoder_dim": 8,
        "decoder_depth": 1,
        "decoder_heads": 2,
        "cell": 8,
        "teacher_backbone": TEACHER,
    }
    return DeepMIM(net or backbone(), SPEC, **(sizes | hyper))


def decoder(weights, number):
    """Variables of a decoder of the release by our names: it numbers "decoder_blocks1.0.", ..."""
    own = {k: v for k, v in weights.items() if k.startswith(("decoder_", "mask_token"))}
    own = {k.replace(f"{number}.", ".", 1): v for k, v in own.items() if f"{number}" in k}
    parts = ("decoder_embed.", "decoder_blocks.", "decoder_norm.", "decoder_pred.")
    own = {k: v for k, v in own.items() if k.startswith(parts)}
    return torch.nested(heads.mae_decoder(own | {"mask_token": weights[f"mask_token{number}"]}))


class GoldenTest(parameterized.TestCase):
    @parameterized.parameters(False, True)
    def test_features(self, wide):
        data = load("deepmim_clip", wide)
        dtype = np.float64 if wide else np.float32
        weights = under(data, "in_sd.")
        encoder = {k: v for k, v in weights.items() if not k.startswith(("decoder", "mask"))}
        net = golden_vit(
            encoder,
            data["in_x"],
            heads=int(data["hp_heads"]),
            position="sincos",
            mlp_ratio=len(encoder["blocks.0.mlp.fc1.bias"]) / len(encoder["norm.bias"]),
        )
        restore = data["out_ids_restore"]
        count, side = len(restore), round(restore.shape[1] ** 0.5)
        visible = int((data["out_mask"][0] == 0).sum())
        keep = np.argsort(restore, axis=1)[:, :visible]
        hidden = Hidden(data["out_mask"].reshape(count, side, side), keep, restore)

        class Injected(DeepMIM):
            def hide(self, keys):
                return hidden

        made = Injected(
            net,
            SPEC,
            view=View(data["in_x"].shape[-1], recipe="mae"),
            decoder_dim=weights["decoder_norm1.weight"].size,
            decoder_depth=layers(weights, "decoder_blocks1."),
            decoder_heads=int(data["hp_decoder_heads"]),
        )
        with jax.enable_x64(wide), torch.float32_positions():
            tokens = data["in_teacher_base"] @ data["in_teacher_mix"]
            made.__dict__["teacher_net"] = given_tokens(tokens)
            params = {"backbone": torch.convert(net, encoder, position="sincos")[0]}
            params |= {f"decoder{k}": decoder(weights, k) for k in (1, 2, 3, 4)}
            images = torch.nhwc(data["in_x"])
            params, images = jax.tree.map(lambda x: jnp.asarray(x, dtype), (params, images))
            fixed = {"params": {"backbone": {}}, "stats": {"backbone": {}}}
            extra = {"stats": {name: {} for name in params}, "fixed": fixed}
            batch = {"views": (images[:, None],), "index": np.arange(count)}
            loss = lambda p: made.loss(p, extra, batch, jax.random.key(0), 0)  # noqa: E731
            gradient = torch.jit(jax.value_and_grad(loss, has_aux=True))
            (value, aux), grads = gradient(params)
        own = grads["backbone"]
        checked = {
            "out_loss": value,
            "out_losses": np.stack([aux.metrics[f"loss{k}"] for k in (1, 2, 3, 4)]),
            "grad_patch_proj": own["patch_embed"]["kernel"].transpose(3, 2, 0, 1),
            "grad_block5_fc1": own["blocks"]["mlp"]["fc1"]["kernel"][5].T,
            "grad_block11_fc1": own["blocks"]["mlp"]["fc1"]["kernel"][11].T,
            "grad_norm_weight": own["norm"]["scale"],
            "grad_mask_token1": grads["decoder1"]["mask_token"],
            "grad_mask_token4": grads["decoder4"]["mask_token"],
            "grad_decoder_embed2": grads["decoder2"]["embed"]["kernel"].T,
        }
        for name, ours in checked.items():
            twin = wide and f"f64_{name}" in data  # large arrays are stored in float32 alone
            torch.assert_close(ours, data[name], 1e-9 if twin else 1e-4, name)

    def test_published_size(self):
        """The release's teacher has 512 channels, ours 768."""
        data = np.load(torch.GOLDEN / "param_counts_mim.npz")
        made = DeepMIM(vit("base", 16, position="sincos"), SPEC)
        params, extra = jax.eval_shape(made.init, jax.random.key(0))
        wider = 4 * (768 - 512) * (512 + 1)
        self.assertEqual(tree.count(params) - wider, data["out_deepmim_base_clip_trainable"])
        self.assertEqual(extra["fixed"]["params"]["backbone"]["norm"]["scale"].shape, (768,))


class LossTest(absltest.TestCase):
    def test_closed_forms(self):
        x, mask = torch.random_images(2, 5, 8), np.ones((2, 5))
        for target, expected in ((3 * x, 0), (-x, 4)):
            np.testing.assert_allclose(masked_cosine(x, target, mask), expected, atol=1e-6)
        other = x.copy()
        other[:, 1:] = 7
        np.testing.assert_allclose(masked_cosine(x, other, mask * (np.arange(5) < 1)), 0, atol=1e-6)


class ObjectiveTest(parameterized.TestCase):
    def losses(self, made):
        params, extra = made.init(jax.random.key(0))
        images = jax.random.normal(jax.random.key(1), (2, 1, 16, 16, 3))
        batch = {"views": (images,), "index": np.arange(2)}
        loss, aux = made.loss(params, extra, batch, jax.random.key(2), 0)
        each = [aux.metrics[name] for name in sorted(aux.metrics)]
        np.testing.assert_allclose(loss, sum(each), rtol=1e-6)
        self.assertEqual(jax.tree.structure(aux.extra), jax.tree.structure(extra))
        return each

    def test_pixels_need_no_teacher(self):
        made = deep_mim(target="pixels")
        self.assertIsNone(made.fixed_networks)
        for loss in self.losses(made):
            self.assertGreater(loss, 0.5)

    def test_pixels_of_a_swin(self):
        net = swin(None, 2, 16, patch=2, dim=8, depths=(2, 2), heads=(2, 2), mask_token=True)
        made = deep_mim(net, target="pixels")
        self.assertEqual(made.sides, [8, 4])
        self.assertLen(self.losses(made), 2)

    def test_a_teacher_with_mask_tokens_in_the_student(self):
        for loss in self.losses(deep_mim(backbone(mask_token=True))):
            self.assertBetween(float(loss), 1, 3)


class ErrorsTest(parameterized.TestCase):
    @parameterized.parameters(
        ({"layers": (5, 7, 9, -1)}, "layers: expected rising indices of the backbone's 3 layers"),
        ({"teacher_backbone": {"name": "resnet_small"}}, "teacher_backbone: a network without"),
        ({"teacher_backbone": TEACHER | {"patch": 8}}, "2 x 2 patches per image, the student has"),
        ({"teacher_backbone": {"name": "vitt"}}, "teacher_backbone: unknown backbone 'vitt'"),
        ({"net": resnet_small(8)}, "no patches"),
    )
    def test_user_errors(self, options, message):
        with self.assertRaisesRegex(UserError, message) as caught:
            deep_mim(**options).init(jax.random.key(0))
        self.assertNotIn("\n", str(caught.exception))

    def test_unused_keys(self):
        self.assertIn("teacher_recipe", deep_mim(target="pixels").unused())
        self.assertIn("decoder_dim", deep_mim(backbone(mask_token=True)).unused())


if __name__ == "__main__":
    absltest.main()
