"""DINOv2 against the released training step; its masks, its Gram teacher and its errors."""

import dataclasses
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from ssl_jax.core import tree
from ssl_jax.core.errors import UserError
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.dinov2 import DINOv2
from ssl_jax.objectives.parts.hidden_patches import gather_hidden
from ssl_jax.optim.factory import OptimConfig, make_optimizer
from ssl_jax.weights import heads
from ssl_jax.weights.places import layers, under
from tests.losses.forms import load
from tests.nets import weights as torch
from tests.objectives import released

SPEC = Spec(4, 64, 10, 16, 100, channels=1)
RATE = 1e3  # of the step whose change of the parameters is their gradient


def backbone(**options):
    sizes = {"dim": 8, "depth": 1, "heads": 2, "channels": 1, "mask_token": True}
    return vit(None, 2, 8, **(sizes | options))


def tiny(net=None, spec=SPEC, **hyper):
    views = (View(8), View(8), View(4, 2))
    sizes = {"views": views, "prototypes": 12, "patch_prototypes": 9}
    sizes |= {"hidden_dim": 8, "bottleneck_dim": 4}
    return DINOv2(net or backbone(), spec, **(sizes | hyper))


def crops(method):
    shapes = [(4, v.count, v.size, v.size, 1) for v in method.views]
    return [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes)]


def run(method, params, extra, views, step=0):
    batch = {"views": views, "index": jnp.arange(4)}
    call = lambda p, e, s: method.loss(p, e, batch, jax.random.key(7), s)  # noqa: E731
    return torch.jit(call)(params, extra, jnp.int32(step))


class Replayed(DINOv2):
    """DINOv2 with the masks of the batch."""

    def loss(self, params, extra, batch, key, step):
        object.__setattr__(self, "replay", batch["masks"])
        return super().loss(params, extra, batch, key, step)

    def masks(self, keys):
        return self.replay


def by_image(x, images):
    """(V B, ...), crop after crop, to (B, V, ...)."""
    return np.swapaxes(x.reshape(-1, images, *x.shape[1:]), 0, 1)


class GoldenTest(parameterized.TestCase):
    @parameterized.parameters(("c", 2), ("sk", 1))
    def test_steps(self, mode, steps):
        """The released forward and backward pass: running means with one head, and Sinkhorn-Knopp
        with two. Sinkhorn-Knopp, KoLeo and resized positions are of float32 there.
        """
        self.check_steps(mode, steps, wide=True)

    @pytest.mark.full
    def test_steps_in_float32(self):
        self.check_steps("c", 2, wide=False)

    def check_steps(self, mode, steps, wide):
        data, dtype = load("dinov2_meta_step", wide), np.float64 if wide else np.float32
        student, teacher = (under(data, f"in_sd.{name}.") for name in ("student", "teacher"))
        names = ["dino_head"] + ["ibot_head"] * (mode == "sk")
        weights, images = under(student, "backbone."), data["in_global"].shape[1] // 2
        side, small = data["in_global"].shape[-1], data["in_local"].shape[-1]
        net = vit(
            None,
            int(data["hp_patch"]),
            side,
            dim=weights["norm.weight"].size,
            depth=layers(weights, "blocks."),
            heads=int(data["hp_heads"]),
            mlp_ratio=len(weights["blocks.0.mlp.fc1.bias"]) / len(weights["norm.bias"]),
            registers=int(data["hp_registers"]),
            mask_token=True,
            layer_scale=1e-5,
            interpolate_offset=0.1,
        )
        counts = [len(student[f"{name}.last_layer.weight_v"]) for name in names]
        temperature = released.hyper(data, "teacher_temp")
        views = (View(side, 2), View(small, int(data["hp_n_local"])))
        made = Replayed(
            net,
            Spec(images, 100, 0, 10, 100),
            views=views,
            prototypes=counts[0],
            patch_prototypes=counts[1] if mode == "sk" else None,
            hidden_dim=student["dino_head.mlp.0.weight"].shape[0],
            bottleneck_dim=student["dino_head.mlp.4.weight"].shape[0],
            temperature=temperature,
            warmup_epochs=0,
            centering="sinkhorn" if mode == "sk" else "mean",
            momentum=1.0,
            mask_share=1.0,
            mask_ratios=(0.5, 1.0),
        )

        def convert(weights):
            params = {"backbone": torch.convert(net, under(weights, "backbone."))[0]}
            for name, ours in zip(names, ("head", "patch_head"), strict=False):
                params[ours] = torch.nested(heads.dino(under(weights, f"{name}.")))
            return jax.tree.map(lambda x: jnp.asarray(x, dtype), params)

        with jax.enable_x64(wide):
            params = convert(student)
            stats = jax.tree.map(jnp.asarray, {name: {} for name in params})
            extra = {"stats": stats, "teacher": convert(teacher), "teacher_stats": stats}
            if mode == "c":
                extra |= {name: jnp.zeros(counts[0], dtype) for name in ("center", "patch_center")}
            config = OptimConfig(
                name="sgd", lr=RATE, lr_scaling="none", schedule="constant", momentum=0.0
            )
            tx = make_optimizer(
                config, params, {}, batch_size=images, total_steps=2, steps_per_epoch=1
            )[0]
            update = released.train_step(made, tx)
            for step in range(steps):
                large, local = (
                    jnp.asarray(torch.nhwc(by_image(data[f"in_{name}"][step], images)), dtype)
                    for name in ("global", "local")
                )
                masks = by_image(data["in_masks"][step], images)
                side = made.patch_grid[0]
                batch = {
                    "views": (large, local),
                    "index": jnp.arange(images),
                    "masks": jnp.asarray(masks.reshape(images, 2, side, side)),
                }
                loss, after, extra, _ = update(
                    params, extra, tx.init(params), batch, jnp.int32(step)
                )
                np.testing.assert_allclose(
                    loss, data[f"out_{mode}{step}_total"], rtol=1e-6 if wide else 1e-5
                )
                grads = jax.tree.map(lambda a, b: (a - b) / RATE, params, jax.device_get(after))
                self.check(grads, data, f"grad_{mode}{step}_", 1e-5 if wide else 1e-4)
            for name, ours in (("dino", "center"), ("ibot", "patch_center")):
                if mode == "c":
                    want = data[f"out_c_{name}_center_after"].ravel()
                    torch.assert_close(extra[ours], want, 1e-6 if wide else 1e-4, name)

    def check(self, grads, data, prefix, rtol):
        net, head = grads["backbone"], grads["head"]
        blocks = net["blocks"]
        for name, ours in {
            "mask_token": net["mask_token"][0],
            "register_tokens": net["registers"],
            "cls_token": net["cls_token"],
            "pos_embed": net["pos_embed"],
            "patch_proj": net["patch_embed"]["kernel"].transpose(3, 2, 0, 1),
            "ls1_gamma0": blocks["gamma1"][0],
            "norm_weight": net["norm"]["scale"],
            "head_last_v": head["last_layer"]["v"].T,
            "head_last_g": head["last_layer"]["g"][:, None],
        }.items():
            torch.assert_close(ours, data[prefix + name], rtol, name)
        if "patch_head" in grads:
            ours = grads["patch_head"]["last_layer"]["v"].T
            torch.assert_close(ours, data[f"{prefix}ibot_head_last_v"], rtol, "ibot_head")


class MasksTest(parameterized.TestCase):
    def test_a_mask_belongs_to_its_example(self):
        method = tiny(spec=dataclasses.replace(SPEC, global_batch=8))
        keys = jax.random.split(jax.random.key(1), 8)
        masks = method.masks(keys)
        self.assertEqual((masks.any((2, 3))).sum(), 8)  # half of the crops
        np.testing.assert_array_equal(method.masks(keys[::-1]), masks[::-1])

    @parameterized.parameters(1, 2, 4)
    def test_hidden_patches_are_gathered_within_their_group(self, groups):
        method = tiny(spec=dataclasses.replace(SPEC, global_batch=8), batch_groups=groups)
        masks = method.masks(jax.random.split(jax.random.key(1), 8))
        gather, weights = gather_hidden(masks, groups, method.mask_share, method.mask_ratios)
        numbers = jnp.arange(8 * 2 * 16.0).reshape(8, 2, 16, 1)
        rows = np.asarray(gather(numbers))[..., 0]
        for group, (row, weight) in enumerate(zip(rows, np.asarray(weights), strict=True)):
            size = 8 // groups
            own = np.asarray(masks[group * size : (group + 1) * size]).ravel()
            first = group * size * 32
            self.assertEqual(row[weight > 0].tolist(), (first + np.flatnonzero(own)).tolist())
        counted = int(masks.any((2, 3)).sum())
        np.testing.assert_allclose(weights.sum(), counted / 16, rtol=1e-6)

    def test_padding_does_not_matter(self):
        """The loss and the centres are those of a larger array of hidden patches."""
        method = tiny(centering="mean", mask_ratios=(0.1, 0.5))
        params, extra = method.init(jax.random.key(0))
        masks = method.masks(jax.random.split(jax.random.key(1), 4))

        fields = {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}
        results = []
        for ratio in (0.5, 1.0):
            made = Replayed(**(fields | {"mask_ratios": (0.1, ratio)}))
            batch = {"views": crops(made), "index": jnp.arange(4), "masks": masks}
            call = lambda p, e, made=made, batch=batch: made.loss(  # noqa: E731
                p, e, batch, jax.random.key(0), jnp.int32(0)
            )
            loss, aux = torch.jit(call)(params, extra)
            results.append((loss, aux.signals))
        chex.assert_trees_all_close(*results, rtol=1e-5, atol=1e-6)


class GramTest(parameterized.TestCase):
    def test_the_loss_starts_at_its_step_and_compares_patches(self):
        method = tiny(gram_weight=2.0, gram_from=0, gram_start=5, warmup_epochs=0)
        params, extra = method.init(jax.random.key(0))
        extra["gram"] = jax.tree.map(lambda x: x + 0.1, extra["gram"])
        (early, before), (late, after) = (
            run(method, params, extra, crops(method), step) for step in (4, 5)
        )
        self.assertEqual(before.metrics["gram_loss"], 0)
        self.assertGreater(after.metrics["gram_loss"], 0)
        np.testing.assert_allclose(late - early, 2 * after.metrics["gram_loss"], rtol=1e-4)

    def test_the_gram_teacher_is_an_earlier_teacher(self):
        method = tiny(gram_weight=2.0, gram_from=2, gram_start=4, gram_every=3)
        start = {"backbone": jnp.float32(0)}
        params, extra, renewed = start, {"teacher": start, "gram": start}, []
        for step in range(11):
            params = {"backbone": params["backbone"] + 1}
            params, extra = method.after_update(params, extra, {}, jnp.int32(step))
            if extra["gram"] == extra["teacher"]:
                renewed.append(step + 1)
        self.assertEqual(renewed, [2, 7, 10])


class DINOv2Test(parameterized.TestCase):
    def test_temperature_rises_step_by_step(self):
        method = tiny(warmup_epochs=2, warmup_temperature=0.04, temperature=0.07)
        rising = [float(method.teacher_temperature(jnp.int32(s))) for s in (0, 1, 31, 40)]
        np.testing.assert_allclose(rising, [0.04, 0.04 + 0.03 / 31, 0.07, 0.07], rtol=1e-6)

    def test_stochastic_depth_is_the_students(self):
        method = tiny(backbone(depth=2, drop_path=0.5), centering="mean")
        plain = tiny(backbone(depth=2), centering="mean")
        params, extra = method.init(jax.random.key(0))
        views = crops(method)
        dropped, whole = (run(m, params, extra, views) for m in (method, plain))
        self.assertNotEqual(dropped[1].metrics["image_loss"], whole[1].metrics["image_loss"])
        chex.assert_trees_all_equal(dropped[1].signals, whole[1].signals)

    def test_tokens_and_norms_of_prototypes_decay(self):
        net = backbone(registers=1)
        params, _ = jax.eval_shape(tiny(net).init, jax.random.key(0))
        decaying = [p for p in tree.named_leaves(params) if re.search(DINOv2.decays, p)]
        self.assertLen(decaying, 5)  # class, mask and register tokens, two heads

    @parameterized.parameters(
        ({"batch_groups": 3}, "3 groups of a batch of 4"),
        ({"batch_groups": 4}, "two or more images"),
        ({"mask_share": 0.1}, "a mask in each"),
        ({"mask_ratios": (0.5, 0.1)}, "expected a rising range"),
        ({"mask_ratios": (0.0, 0.01)}, "hide none of 16 patches"),
        ({"gram_weight": 1.0, "gram_start": 5, "gram_from": 6}, "step 5 is before gram_from=6"),
        ({"net": resnet_small(8, channels=1)}, "no patches"),
    )
    def test_errors(self, options, message):
        with self.assertRaisesRegex(UserError, message) as caught:
            jax.eval_shape(tiny(**options).init, jax.random.key(0))
        self.assertNotIn("\n", str(caught.exception))


if __name__ == "__main__":
    absltest.main()
