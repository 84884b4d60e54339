"""I-JEPA against the release: a whole step, schedules, sizes; its lists of patches; errors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core import tree
from ssl_jax.core.errors import UserError
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.nets.positions import sincos
from ssl_jax.nets.predictors import token_predictor
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.ijepa import IJEPA, PatchLists
from ssl_jax.objectives.parts.ema import linear_momentum
from ssl_jax.optim import schedules
from ssl_jax.optim.factory import OptimConfig, make_optimizer
from ssl_jax.weights.places import Place, layers, take, under
from ssl_jax.weights.vit import block_place
from tests.losses.forms import load
from tests.nets import weights as torch
from tests.objectives import released

SPEC = Spec(4, 100, 0, 10, 100)
PLACES = {  # of the release's predictor
    "embed/kernel": Place(("predictor_embed.weight",), "linear"),
    "embed/bias": Place(("predictor_embed.bias",)),
    "mask_token": Place(("mask_token",)),
    "norm/scale": Place(("predictor_norm.weight",)),
    "norm/bias": Place(("predictor_norm.bias",)),
    "pred/kernel": Place(("predictor_proj.weight",), "linear"),
    "pred/bias": Place(("predictor_proj.bias",)),
}


def encoder(size=16, patch=2, dim=8, depth=1, heads=2, **options):
    options = {"position": "sincos", "cls_token": False, "pool": "avg"} | options
    return vit(None, patch, size, dim=dim, depth=depth, heads=heads, **options)


def ijepa(net=None, **hyper):
    sizes = {"predictor_dim": 8, "predictor_depth": 1, "predictor_heads": 2}
    return IJEPA(net or encoder(), SPEC, **({"view": View(16)} | sizes | hyper))


def state(made):
    """Random (params, extra), whose target encoder is the encoder."""
    params = {n: torch.random_variables(net)[0] for n, net in made.networks.nets.items()}
    none = {name: {} for name in params}
    target = {"backbone": params["backbone"]}
    return params, {"stats": none, "target": target, "target_stats": none}


def predictor(weights, net):
    """The parameters of the release's predictor."""
    depth = layers(weights, "predictor_blocks.")
    like = tree.named_leaves(jax.eval_shape(net.init, jax.random.key(0))[0])
    places = {
        path: PLACES.get(path)
        or block_place(path.removeprefix("blocks/"), depth, "predictor_blocks.")
        for path in like
    }
    assert {name for place in places.values() for name in place.names} == {*weights} - {
        "predictor_pos_embed"  # ours is not a parameter
    }
    return torch.nested({path: take(weights, place) for path, place in places.items()})


class GoldenTest(parameterized.TestCase):
    @parameterized.parameters(False, True)
    def test_a_step(self, wide):
        """Loss and gradients, then AdamW and the average of the target encoder."""
        data, dtype = load("ijepa_step", wide), np.float64 if wide else np.float32
        # Each of the release's contexts predicts every block: as if of an image of its own.
        contexts, blocks = data["in_masks_enc"], data["in_masks_pred"].swapaxes(0, 1)
        context, blocks = np.concatenate(contexts), np.concatenate([blocks] * len(contexts))
        size, patch = data["in_x"].shape[-1], int(data["hp_patch"])
        weights = {name: under(data, f"in_sd.{name}.") for name in ("enc", "pred", "tgt")}
        net = encoder(
            size,
            patch,
            data["in_sd.enc.norm.bias"].size,
            layers(weights["enc"], "blocks."),
            int(data["hp_heads"]),
        )
        (batch, count, _), lists = blocks.shape, blocks.astype(np.int32)

        class Injected(IJEPA):
            def masks(self, key, index):
                return (
                    PatchLists(jnp.asarray(context, jnp.int32), jnp.ones(context.shape, bool)),
                    PatchLists(jnp.asarray(lists), jnp.ones(lists.shape, bool)),
                )

        made = Injected(
            net,
            Spec(batch, 100, 0, 10, 100),
            view=View(size),
            blocks=count,
            min_keep=0,
            momentum=float(data["hp_ema"]),
            predictor_dim=data["in_sd.pred.mask_token"].size,
            predictor_depth=layers(weights["pred"], "predictor_blocks."),
            predictor_heads=int(data["hp_heads"]),
        )
        with jax.enable_x64(wide):
            cast = lambda x: jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), x)  # noqa: E731
            params = cast(
                {
                    "backbone": self.encoder(net, weights["enc"]),
                    "predictor": predictor(weights["pred"], made.networks.nets["predictor"]),
                }
            )
            target = cast({"backbone": self.encoder(net, weights["tgt"])})
            none = {"backbone": {}}
            extra = {
                "stats": none | {"predictor": {}},
                "target": target,
                "target_stats": none,
            }
            images = cast(torch.nhwc(np.concatenate([data["in_x"]] * len(contexts))))[:, None]
            inputs = {"views": (images,), "index": jnp.arange(batch)}
            loss = lambda p: made.loss(p, extra, inputs, jax.random.key(0), 0)[0]  # noqa: E731
            value, grads = torch.jit(jax.value_and_grad(loss))(params)
            optim = OptimConfig(
                lr=float(data["hp_lr"]),
                lr_scaling="none",
                schedule="constant",
                weight_decay=float(data["hp_wd"]),
            )
            options = {"batch_size": batch, "total_steps": 100, "steps_per_epoch": 10}
            tx, _ = make_optimizer(optim, params, {}, decays=IJEPA.decays, **options)
            after = released.train_step(made, tx)(
                params, extra, tx.init(params), inputs, jnp.int32(0)
            )
        rtol = 1e-6 if wide else 1e-4  # its tables of positions are of float32
        backbone, head = grads["backbone"], grads["predictor"]
        for name, ours in (
            ("out_loss", value),
            ("out_loss", after[0]),
            ("grad_enc_patch_proj", backbone["patch_embed"]["kernel"].transpose(3, 2, 0, 1)),
            ("grad_enc_block0_qkv", backbone["blocks"]["attn"]["qkv"]["kernel"][0].T),
            ("grad_enc_norm", backbone["norm"]["scale"]),
            ("grad_pred_mask_token", head["mask_token"]),
            ("grad_pred_embed", head["embed"]["kernel"].T),
            ("grad_pred_proj", head["pred"]["kernel"].T),
        ):
            torch.assert_close(ours, data[name], rtol, name)
        trained, slow = after[1]["backbone"], after[2]["target"]["backbone"]
        for name, ours in (
            ("enc_patch_proj", trained["patch_embed"]["kernel"].transpose(3, 2, 0, 1)),
            ("enc_norm_weight", trained["norm"]["scale"]),
            ("tgt_patch_proj", slow["patch_embed"]["kernel"].transpose(3, 2, 0, 1)),
            ("tgt_norm_bias", slow["norm"]["bias"]),
        ):
            # Adam's first step is nearly the gradient's sign.
            atol = 1e-5 if wide else 1e-2 * float(data["hp_lr"])
            np.testing.assert_allclose(ours, data[f"out_after_{name}"], atol=atol, err_msg=name)

    def encoder(self, net, weights):
        table = weights.pop("pos_embed")[0]  # ours is not a parameter
        side = round(len(table) ** 0.5)
        np.testing.assert_allclose(sincos(table.shape[1], (side, side)), table, atol=1e-6)
        return torch.convert(net, weights)[0]

    def test_schedules(self):
        """The release counts its steps from 1 for the two rates, and from 0 for the momentum."""
        data = np.load(torch.GOLDEN / "ijepa_schedules.npz")
        per_epoch, epochs = int(data["hp_ipe"]), int(data["hp_epochs"])
        total = int(float(data["hp_ipe_scale"]) * epochs * per_epoch)
        start, peak, end = data["hp_lr"].tolist()
        step = 1 + np.arange(per_epoch * epochs)
        warmup = int(data["hp_warmup_epochs"]) * per_epoch
        lr = schedules.warmup_cosine(step, total, peak, end, warmup=warmup, start=start)
        np.testing.assert_allclose(lr, data["out_lr"], rtol=1e-12)
        decay = schedules.cosine(step, total, *data["hp_wd"].tolist())
        np.testing.assert_allclose(decay, data["out_wd"], rtol=1e-12)
        exact = float(data["hp_ipe_scale"]) * epochs * per_epoch  # is not rounded there
        with jax.enable_x64(True):
            step = jnp.arange(len(data["out_momentum"]))
            momentum = linear_momentum(step, exact, *data["hp_ema"].tolist())
        np.testing.assert_allclose(momentum, data["out_momentum"], rtol=1e-12)

    @parameterized.parameters(
        ("tiny16", 16, 6, 3), ("small16", 16, 6, 6), ("base16", 16, 6, 12), ("huge14", 14, 12, 16)
    )
    def test_published_sizes(self, name, patch, depth, heads):
        data = np.load(torch.GOLDEN / "param_counts_mim.npz")
        counts = {  # trainable; ViT-H/14 from the specification
            "huge14": (630_434_560, 22_279_424),
        }.get(name) or (
            int(data[f"out_ijepa_enc_{name}_trainable"]),
            int(data[f"out_ijepa_pred_{name}_d6_trainable"]),
        )
        net = vit(name[:-2], patch, position="sincos", cls_token=False, pool="avg")
        made = IJEPA(net, SPEC, predictor_depth=depth, predictor_heads=heads)
        params, _ = jax.eval_shape(made.init, jax.random.key(0))
        self.assertEqual((tree.count(params["backbone"]), tree.count(params["predictor"])), counts)


class MasksTest(parameterized.TestCase):
    def masks(self, made, count=64, key=0):
        context, blocks = jax.jit(made.masks)(jax.random.key(key), jnp.arange(count))
        shapes = (context.ids.shape, context.valid.shape, blocks.ids.shape, blocks.valid.shape)
        length, target = made.lengths
        self.assertEqual(shapes, ((count, length),) * 2 + ((count, 4, target),) * 2)
        listed = lambda patches: [  # noqa: E731
            set(i[v].tolist()) for i, v in zip(*map(np.asarray, patches), strict=True)
        ]
        targets = listed(PatchLists(*(x.reshape(-1, target) for x in blocks)))
        return listed(context), [targets[4 * i : 4 * i + 4] for i in range(count)], context

    @parameterized.parameters(True, False)
    def test_context_and_targets_are_apart(self, cut):
        made = ijepa(context_length=20 if cut else None)
        context, targets, _ = self.masks(made)
        sizes = {len(block) for blocks in targets for block in blocks}
        self.assertLen(sizes, 1)  # one size per step
        for visible, blocks in zip(context, targets, strict=True):
            self.assertGreater(len(visible), 10)
            self.assertFalse(visible & set.union(*blocks))
        self.assertEqual(max(map(len, context)) <= 20, cut)
        self.assertIn(63, set.union(*(set.union(*blocks) for blocks in targets)))  # the last patch

    def test_released_masks(self):
        made = ijepa(released_masks=True)
        context, targets, lists = self.masks(made)
        self.assertLen({len(visible) for visible in context}, 1)  # the shortest of the batch
        self.assertTrue((np.diff(lists.ids)[np.asarray(lists.valid)[:, 1:]] > 0).all())
        border = {i for i in range(64) if i % 8 == 7 or i >= 56}
        self.assertFalse(set.union(*context) & border)
        self.assertFalse(set.union(*(set.union(*blocks) for blocks in targets)) & border)

    def test_what_fills_a_list_has_no_influence(self):
        """Lists of twice the length with invalid entries give the same loss and gradients."""
        made = ijepa()
        params, extra = state(made)
        images = jax.random.normal(jax.random.key(1), (2, 1, 16, 16, 3))
        draws = np.random.default_rng(0)
        context, blocks = (
            np.stack([draws.permutation(64)[: np.prod(shape)].reshape(shape) for _ in range(2)])
            for shape in ((12,), (4, 5))
        )

        def filled(ids):
            wrong = draws.integers(0, 64, ids.shape)
            valid = np.concatenate([np.ones_like(ids), np.zeros_like(ids)], -1).astype(bool)
            return PatchLists(jnp.asarray(np.concatenate([ids, wrong], -1)), jnp.asarray(valid))

        def gradient(lists):
            class Injected(IJEPA):
                def masks(self, key, index):
                    return lists

            own = {f.name: getattr(made, f.name) for f in dataclasses.fields(made)}
            batch = {"views": (images,), "index": jnp.arange(2)}
            loss = lambda p: Injected(**own).loss(p, extra, batch, jax.random.key(0), 0)[0]  # noqa: E731
            return jax.jit(jax.value_and_grad(loss))(params)

        full = tuple(PatchLists(jnp.asarray(x), jnp.ones(x.shape, bool)) for x in (context, blocks))
        plain, padded = gradient(full), gradient((filled(context), filled(blocks)))
        for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(padded), strict=True):
            np.testing.assert_allclose(b, a, atol=1e-5 * max(np.abs(a).max(), 1e-3))

    def test_targets_are_of_the_whole_image_and_normalised(self):
        made = ijepa()
        params, extra = state(made)
        images = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))

        @jax.jit
        def compute(images):
            _, blocks = made.masks(jax.random.key(2), jnp.arange(2))
            nets = made.networks.bind(params, extra["stats"])
            return made.targets(nets, images, blocks), nets.backbone(images).tokens, blocks.ids

        targets, tokens, ids = compute(images)
        np.testing.assert_allclose(targets.mean(-1), 0, atol=1e-5)
        tokens = tokens[1, ids[1, 2]]
        want = (tokens - tokens.mean(-1, keepdims=True)) / np.sqrt(
            tokens.var(-1, keepdims=True) + 1e-5
        )
        np.testing.assert_allclose(targets[4 + 2], want, atol=1e-5)


class ErrorsTest(parameterized.TestCase):
    @parameterized.parameters(
        ({"min_keep": 60}, "min_keep: the smallest context block has 49 of 64 patches"),
        ({"target_scale": (0.3, 0.2)}, r"target_scale: expected a rising range, got \(0.3, 0.2\)"),
        ({"net": encoder(cls_token=True)}, "backbone.cls_token=False"),
        ({"net": resnet_small(8)}, "no patches"),
        ({"predictor_heads": 3}, "3 heads do not divide a width of 8"),
        ({"predictor_dim": 6}, "divisible by 4, got 6"),
    )
    def test_user_errors(self, options, message):
        with self.assertRaisesRegex(UserError, message) as caught:
            ijepa(**options).init(jax.random.key(0))
        self.assertNotIn("\n", str(caught.exception))

    def test_remat_of_the_predictor(self):
        with self.assertRaisesRegex(UserError, "remat"):
            token_predictor(8, 8, 1, 2, grid=(2, 2), remat="all")


if __name__ == "__main__":
    absltest.main()
