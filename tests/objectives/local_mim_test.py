"""LocalMIM against the release: targets, masks, losses and gradients; what reaches which layer;
errors.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.augment.masks import resize_mask, simmim_mask
from ssl_jax.core import tree
from ssl_jax.core.errors import UserError
from ssl_jax.losses.masked import masked_mse
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.backbones.swin import make as swin
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.local_mim import LocalMIM
from ssl_jax.objectives.parts.layerwise import Hidden
from ssl_jax.weights import heads
from ssl_jax.weights.places import under
from tests.losses.forms import load
from tests.nets import weights as torch
from tests.nets.backbones.vit_test import golden_vit

SPEC = Spec(4, 100, 0, 10, 100)


def backbone(**options):
    sizes = {"dim": 8, "depth": 4, "heads": 2, "position": "sincos"}
    return vit(None, 4, 16, **(sizes | options))


def local_mim(net=None, **hyper):
    sizes = {
        "view": View(16),
        "layers": (0, 1, -1),
        "scales": (2.0, 1.0, 0.5),
        "decoder_dim": 8,
        "decoder_heads": 2,
        "cell": 8,
    }
    return LocalMIM(net or backbone(), SPEC, **(sizes | hyper))


def decoder(weights, number):
    """Variables of a decoder of the release and of the norm before it, by our names."""
    own = under(weights, f"decoder.{number}.")
    named = {f"decoder_{k}": v for k, v in own.items() if not k.startswith(("pred", "mask"))}
    out = heads.mae_decoder(named | {"mask_token": own["mask_token"]})
    *before, last = (i for i in range(5) if f"pred.{i}.weight" in own)
    out["pred/kernel"] = own[f"pred.{last}.weight"][..., 0, 0].T
    out["pred/bias"] = own[f"pred.{last}.bias"]
    for place, name in zip(before, ("up1", "norm", "up2"), strict=False):
        weight = own[f"pred.{place}.weight"]
        kind = "scale" if name == "norm" else "kernel"
        # Flax convolves the stretched map: the kernel of PyTorch's transposition, mirrored.
        kernel = weight if name == "norm" else weight[..., ::-1, ::-1].transpose(2, 3, 0, 1)
        out[f"rescale/{name}/{kind}"] = kernel
        out[f"rescale/{name}/bias"] = own[f"pred.{place}.bias"]
    if number < 3:
        norm = under(weights, f"norm.{number}.")
        out |= {"norm_input/scale": norm["weight"], "norm_input/bias": norm["bias"]}
    return torch.nested(out)


def golden(wide):
    """The objective, its params, the images and what is hidden, of the fixture."""
    data = load("localmim_vit_hog", wide)
    weights = under(data, "in_sd.")
    inner = ("decoder.", "norm.0.", "norm.1.", "norm.2.", "hog")
    encoder = {
        k.replace("norm.3.", "norm."): v for k, v in weights.items() if not k.startswith(inner)
    }
    net = golden_vit(
        encoder,
        data["in_x"],
        heads=int(data["hp_heads"]),
        position="sincos",
        mlp_ratio=encoder["blocks.0.mlp.fc1.weight"].shape[0] / encoder["norm.weight"].size,
    )
    size, count = data["in_x"].shape[-1], len(data["in_noise"])
    made = LocalMIM(
        net,
        dataclasses.replace(SPEC, global_batch=count),
        view=View(size),
        bins=int(data["hp_nbins"]),
        decoder_dim=weights["decoder.0.norm.weight"].size,
        decoder_heads=int(data["hp_decoder_heads"]),
    )
    params = {"backbone": torch.convert(net, encoder, position="sincos")[0]}
    params |= {f"decoder{k + 1}": decoder(weights, k) for k in range(4)}
    restore = data["out_ids_restore"]
    side = round(restore.shape[1] ** 0.5)
    visible = int((data["out_mask"][0] == 0).sum())
    keep = np.argsort(restore, axis=1)[:, :visible]
    mask = data["out_mask"].reshape(count, side, side)
    return data, made, params, torch.nhwc(data["in_x"]), Hidden(mask, keep, restore)


class GoldenTest(parameterized.TestCase):
    @parameterized.parameters(False, True)
    def test_vit(self, wide):
        data, made, params, images, hidden = golden(wide)
        dtype = np.float64 if wide else np.float32

        class Injected(LocalMIM):
            def hide(self, keys):
                return hidden

            def targets(self, images):  # the release's, float32 also in its run in float64
                return [jnp.asarray(data[f"out_hog{k}"], dtype) for k in range(4)]

        with jax.enable_x64(wide), torch.float32_positions():
            made = Injected(**{f.name: getattr(made, f.name) for f in dataclasses.fields(made)})
            params, images = jax.tree.map(lambda x: jnp.asarray(x, dtype), (params, images))
            extra = {"stats": {name: {} for name in params}}
            batch = {"views": (images[:, None],), "index": np.arange(len(images))}
            loss = lambda p: made.loss(p, extra, batch, jax.random.key(0), 0)  # noqa: E731
            gradient = torch.jit(jax.value_and_grad(loss, has_aux=True))
            (value, aux), grads = gradient(params)
            up = grads["decoder1"]["rescale"]["up1"]["kernel"]
            up = np.asarray(up).transpose(2, 3, 0, 1)[..., ::-1, ::-1]
            checked = {
                "out_loss": value,
                "out_loss_levels": np.stack([aux.metrics[f"loss{k + 1}"] for k in range(4)]),
                "grad_patch_proj": grads["backbone"]["patch_embed"]["kernel"].transpose(3, 2, 0, 1),
                "grad_cls_token": grads["backbone"]["cls_token"],
                "grad_mask_token0": grads["decoder1"]["mask_token"],
                "grad_mask_token3": grads["decoder4"]["mask_token"],
                "grad_norm1_weight": grads["decoder2"]["norm_input"]["scale"],
                "grad_block_last_fc1": grads["backbone"]["blocks"]["mlp"]["fc1"]["kernel"][-1].T,
                "grad_dec0_pred0": up,
            }
        for name, ours in checked.items():
            twin = wide and f"f64_{name}" in data  # large arrays are stored in float32 alone
            torch.assert_close(ours, data[name], 1e-9 if twin else 1e-4, name)

    def test_targets_and_masks(self):
        data, made, _, images, hidden = golden(False)
        for k, (target, mask) in enumerate(
            zip(made.targets(images), made.masks(hidden.mask), strict=True)
        ):
            torch.assert_close(target, data[f"out_hog{k}"], 1e-5, f"targets {k}")
            np.testing.assert_array_equal(mask, data[f"out_mask_level{k}"])

    def test_pixels(self):
        data = np.load(torch.GOLDEN / "localmim_pixel_loss.npz")
        images = torch.nhwc(data["in_x"])
        size = images.shape[1]
        side, sizes = size // 32, {"dim": 4, "depths": (2,) * 4, "heads": (1,) * 4}
        net = swin(None, side, size, patch=4, mask_token=True, **sizes)
        made = LocalMIM(
            net,
            SPEC,
            view=View(size),
            layers=(0, 1, 2, 3),
            scales=(0.5, 0.5, 0.5, 1.0),
            target="pixels",
        )
        masks = made.masks(data["in_mask"].reshape(-1, side, side))
        losses, targets = [], made.targets(images)
        for k, (target, mask) in enumerate(zip(targets, masks, strict=True)):
            np.testing.assert_array_equal(mask, data[f"out_mask_level{k}"])
            prediction = data[f"in_pred_base{k}"] @ data[f"in_pred_mix{k}"]
            value, slope = jax.value_and_grad(masked_mse)(prediction, target, mask)
            losses.append(value)
            norms = np.linalg.norm(slope, axis=-1)
            torch.assert_close(norms, data[f"grad_pred_rownorm{k}"], 1e-4)
        torch.assert_close(sum(losses), data["out_loss"], 1e-5)
        torch.assert_close(targets[0], data["out_target0_norm"], 1e-4)

    def test_swin_mask(self):
        """The release hides one cell more than int(ratio n): as many as SimMIM's rounding up."""
        data = np.load(torch.GOLDEN / "localmim_swin_mask.npz")
        order, side = np.argsort(data["in_perm"]), round(data["in_perm"].size ** 0.5)
        mask = simmim_mask(jnp.asarray(order), float(data["hp_ratio"]), side, side, 1)
        np.testing.assert_array_equal(mask.ravel(), data["out_mask"])

    def test_published_sizes(self):
        data = np.load(torch.GOLDEN / "param_counts_mim.npz")
        for size in ("small", "base"):
            made = LocalMIM(vit(size, 16, position="sincos"), SPEC)
            params, _ = jax.eval_shape(made.init, jax.random.key(0))
            self.assertEqual(tree.count(params), data[f"out_localmim_{size}_trainable"], size)


class PropertiesTest(parameterized.TestCase):
    def test_every_scale_hides_the_same_area(self):
        mask = np.random.default_rng(0).integers(0, 2, (2, 4, 4))
        for side in (16, 8, 4, 2):
            resized = resize_mask(mask, side)
            np.testing.assert_allclose(resized.mean((1, 2)), mask.mean((1, 2)))

    @parameterized.parameters(False, True)
    def test_a_layer_learns_from_its_own_loss_and_later_ones(self, mask_token):
        made = local_mim(backbone(mask_token=mask_token))
        params, extra = made.init(jax.random.key(0))
        images = jax.random.normal(jax.random.key(1), (2, 1, 16, 16, 3))
        batch = {"views": (images,), "index": np.arange(2)}

        @jax.jit
        @jax.jacrev
        def slopes(params):
            _, aux = made.loss(params, extra, batch, jax.random.key(2), 0)
            return jnp.stack([aux.metrics[f"loss{k}"] for k in (1, 2, 3)])

        blocks = slopes(params)["backbone"]["blocks"]["mlp"]["fc1"]["kernel"]
        reached = np.abs(blocks).max((2, 3)) > 0
        np.testing.assert_array_equal(reached, np.arange(4) <= np.array([[0], [1], [3]]))

    def test_swin(self):
        net = swin(None, 2, 16, patch=2, dim=8, depths=(2, 2), heads=(2, 2), mask_token=True)
        made = local_mim(net, layers=(0, 1), scales=(0.5, 2.0))
        self.assertEqual(made.sides, [4, 8])
        params, extra = made.init(jax.random.key(0))
        images = jax.random.normal(jax.random.key(1), (2, 1, 16, 16, 3))
        batch = {"views": (images,), "index": np.arange(2)}
        loss, aux = made.loss(params, extra, batch, jax.random.key(2), 0)
        np.testing.assert_allclose(loss, aux.metrics["loss1"] + aux.metrics["loss2"], rtol=1e-6)
        self.assertNotIn("mask_token", params["decoder1"])


class ErrorsTest(parameterized.TestCase):
    @parameterized.parameters(
        ({"layers": (0, 4)}, r"layers: expected rising indices of the backbone's 4 layers, got"),
        ({"layers": (1, 3, -3, -1)}, r"layers: expected rising .* deeper backbone"),
        ({"scales": (1.0,)}, "scales: expected one for each of 3 layers, got 1"),
        ({"scales": (3.0, 1.0, 1.0)}, "3 makes 12 cells along a view of 16 px"),
        ({"scales": (8.0, 1.0, 1.0)}, "8 makes 32 cells along a view of 16 px"),
        ({"net": backbone(mask_token=True), "cell": 5}, "cell: 5 px do not tile"),
        ({"net": resnet_small(8)}, "no patches"),
        ({"bins": 0}, "bins"),
    )
    def test_user_errors(self, options, message):
        with self.assertRaisesRegex(UserError, message) as caught:
            local_mim(**options).init(jax.random.key(0))
        self.assertNotIn("\n", str(caught.exception))


if __name__ == "__main__":
    absltest.main()
