"""Vision transformers against timm, MoCo v3 and DINO; published sizes; scan, recomputation,
stages, kept patches.
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import count, named_leaves
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.nets.blocks import linear
from ssl_jax.nets.functional import output_shapes
from ssl_jax.nets.heads import dino_head
from tests.nets import weights as torch

HEADS = 2  # of every tiny transformer in the golden files


def variables(net):
    return jax.eval_shape(lambda: net.init(jax.random.key(0)))


def golden_vit(weights, images, **options):
    """The network of a golden file's state dictionary, for images (..., 3, H, W)."""
    dim, _, patch, _ = weights["patch_embed.proj.weight"].shape
    depth = len({k.split(".")[1] for k in weights if k.startswith("blocks.")})
    options = dict(dim=dim, depth=depth, heads=HEADS) | options
    return vit(None, patch, images.shape[-1], **options)


def tiny(**options):
    return vit(None, 4, 16, **(dict(dim=8, depth=3, heads=2) | options))


def started(net):
    return torch.random_variables(net)[0], torch.random_images(2, 16, 16, 3)


def run(params, *calls):
    """Outputs of several forward passes (net, images, options), compiled together."""

    def forward(params):
        return [net.apply(params, {}, x, train=False, **o)[0] for net, x, o in calls]

    return torch.jit(forward)(params)


class GoldenTest(parameterized.TestCase):
    @parameterized.parameters(("token", False), ("token", True), ("avg", False))
    def test_timm(self, pool, wide):
        weights, data = torch.load(f"model_timm_vit_{pool}")
        prefix, rtol, dtype = ("f64_", 1e-9, np.float64) if wide else ("", 1e-4, np.float32)
        options = dict(cls_token=False, pool="avg", norm_after_pool=True) if pool == "avg" else {}
        net = golden_vit(weights, data["in_x"], **options)
        (params, _), head = (
            torch.convert(net, weights),
            torch.head(weights, "classifier")["linear1"],
        )
        expected_shapes = jax.tree.map(lambda x: x.shape, variables(net)[0])
        self.assertEqual(jax.tree.map(np.shape, params), expected_shapes)

        def forward(params, images):
            out, _ = net.apply(params, {}, images, train=True)
            logits = out.pooled @ head["kernel"] + head["bias"]
            return jnp.mean(jnp.square(logits)), (logits, out)

        with jax.enable_x64(wide):
            params, head = jax.tree.map(lambda x: jnp.asarray(x, dtype), (params, head))
            images = jnp.asarray(torch.nhwc(data["in_x"]), dtype)
            gradient = torch.jit(jax.grad(forward, (0, 1), has_aux=True))
            (grads, grad_x), (logits, out) = gradient(params, images)
        for key, actual in (
            ("out_logits", logits),
            ("out_features", out.tokens),
            ("out_prelogits", out.pooled),
            ("grad_x", np.moveaxis(grad_x, -1, -3)),
            ("grad_qkv0_weight", grads["blocks"]["attn"]["qkv"]["kernel"][0].T),
            ("grad_patch_proj", grads["patch_embed"]["kernel"].transpose(3, 2, 0, 1)),
        ):
            self.assertEqual(actual.dtype, dtype)
            torch.assert_close(actual, data[prefix + key], rtol, key)

    def test_moco_v3(self):
        weights, data = torch.load("model_mocov3_vit")
        net = golden_vit(weights, data["in_x"], position="sincos_mocov3")
        params, _ = torch.convert(net, weights, position="sincos_mocov3")
        (out,) = run(params, (net, torch.nhwc(data["in_x"]), {}))
        head = torch.head(weights, "classifier")["linear1"]
        torch.assert_close(out.tokens, data["out_features"], 1e-4)
        torch.assert_close(out.cls @ head["kernel"] + head["bias"], data["out_logits"], 1e-4)

    def test_dino_multi_crop(self):
        weights, data = torch.load("model_dino_vit_head")
        backbone = torch.under(weights, "backbone.")
        net = golden_vit(backbone, data["in_x"], interpolate_offset=0.1)
        params, _ = torch.convert(net, weights)
        head_params = torch.head(weights, "head")
        mlp = head_params["mlp"]
        projector = dino_head(
            params["norm"]["scale"].shape[0],
            head_params["last_layer"]["v"].shape[1],
            hidden_dim=mlp["linear1"]["bias"].shape[0],
            bottleneck_dim=mlp["linear3"]["bias"].shape[0],
            norm_last_layer=False,
        )

        def forward(params, head_params):
            features = {}
            for key in ("in_x", "in_x_small"):
                x = torch.nhwc(data[key])
                out, _ = net.apply(params, {}, x.reshape(-1, *x.shape[2:]), train=True)
                features[key] = out.pooled
            crops = jnp.concatenate(list(features.values()))
            logits, _ = projector.apply(head_params, {}, crops, train=True)
            # What the file's gradients are of: it does not say, and this alone fits them.
            return jnp.mean(jnp.square(jax.nn.log_softmax(logits))), (features, logits)

        grads, (features, logits) = torch.jit(jax.grad(forward, (0, 1), has_aux=True))(
            params, head_params
        )
        for key, size in (("in_x", 32), ("in_x_small", 16)):
            expected = data[f"out_backbone_{size}"]
            torch.assert_close(features[key].reshape(expected.shape), expected, 1e-4, key)
        torch.assert_close(logits, data["out_output"], 1e-4)
        torch.assert_close(grads[0]["pos_embed"], data["grad_pos_embed"], 1e-4)
        torch.assert_close(grads[1]["last_layer"]["v"].T, data["grad_last_v"], 1e-4)

        view = torch.nhwc(data["in_x"])[0]
        last = data["out_intermediate"][-1]
        (out,) = run(params, (net, view, dict(stages=True)))
        torch.assert_close(out.tokens, last, 1e-4)
        normed = data["out_intermediate"][0][:, 1:]
        x = np.asarray(out.stages[0].patches)
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        torch.assert_close(x * params["norm"]["scale"] + params["norm"]["bias"], normed, 1e-4)


class SizeTest(parameterized.TestCase):
    @parameterized.parameters(
        ("tiny", 16, "vit_tiny_patch16_224_feat"),
        ("small", 16, "vit_small_patch16_224_feat"),
        ("base", 16, "vit_base_patch16_224_feat"),
        ("large", 16, "vit_large_patch16_224_feat"),
        ("tiny", 16, "dino_vitt16"),
        ("small", 8, "dino_vits8"),
        ("base", 16, "dino_vitb16"),
    )
    def test_parameters_of_timm_and_dino(self, size, patch, name):
        _, data = torch.load("param_counts")
        self.assertEqual(count(variables(vit(size, patch))), data[f"out_{name}"])

    @parameterized.parameters(
        ("base", 32, {}, 87_455_232),
        ("base", 14, {}, 85_706_496),
        ("base", 8, {}, 85_807_872),
        ("large", 14, {}, 303_178_752),
        ("huge", 14, {}, 630_764_800),
        # I-JEPA's encoders: no class token, a fixed table
        ("base", 16, dict(position="sincos", cls_token=False, pool="avg"), 85_646_592),
        ("huge", 14, dict(position="sincos", cls_token=False, pool="avg"), 630_434_560),
        ("giant", 16, dict(position="sincos", cls_token=False, pool="avg"), 1_011_092_608),
    )
    def test_published_sizes(self, size, patch, options, expected):
        self.assertEqual(count(variables(vit(size, patch, **options))), expected)

    def test_layer_scale_and_bias_change_the_count(self):
        plain = count(variables(tiny()))
        self.assertEqual(count(variables(tiny(layer_scale=0.1))) - plain, 3 * 2 * 8)
        self.assertEqual(plain - count(variables(tiny(qkv_bias=False))), 3 * 3 * 8)
        self.assertEqual(count(variables(tiny(heads=4))), plain)


class ViTTest(parameterized.TestCase):
    def test_recomputation_changes_nothing(self):
        params, images = started(tiny())

        def loss(remat):
            def f(params):
                out, _ = tiny(remat=remat).apply(params, {}, images, train=True)
                return jnp.mean(jnp.square(out.cls) * jnp.arange(8))

            return jax.value_and_grad(f)

        losses = {remat: loss(remat) for remat in ("none", "full", "dots", "wide")}
        plain, dots = torch.jit(lambda p: (losses["none"](p), losses["dots"](p)))(params)
        chex.assert_trees_all_close(dots, plain, rtol=1e-4, atol=1e-6)
        # The backward pass multiplies matrices that a policy does not keep once more.
        counts = {
            k: str(jax.make_jaxpr(f)(params)).count("dot_general[") for k, f in losses.items()
        }
        self.assertLess(counts["none"], counts["dots"])
        self.assertLess(counts["dots"], counts["full"])

    def test_program_does_not_grow_with_depth(self):
        def equations(depth):
            net = tiny(depth=depth)
            images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
            forward = lambda p, x: net.apply(p, {}, x, train=False)[0]  # noqa: E731
            return len(jax.make_jaxpr(forward)(variables(net)[0], images).eqns)

        self.assertEqual(equations(2), equations(24))

    @parameterized.parameters(dict(), dict(cls_token=False, pool="avg"))
    def test_stages(self, **options):
        net = tiny(**options)
        params, images = started(net)
        plain, staged = run(params, (net, images, {}), (net, images, dict(stages=True)))
        first, second, last = staged.stages
        self.assertEqual(staged.names, ["block1", "block2", "block3"])
        chex.assert_trees_all_close(
            dataclasses.replace(staged, stages=()), plain, rtol=1e-5, atol=1e-6
        )
        self.assertEqual(first.map.shape, (2, 4, 4, 8))
        np.testing.assert_array_equal(last.map.reshape(2, 16, 8), staged.patches)
        self.assertGreater(float(jnp.abs(first.map - second.map).max()), 0.0)
        if options:
            mean = staged.patches.mean(1)
            np.testing.assert_allclose(staged.pooled, mean, rtol=1e-6, atol=1e-6)
        else:
            np.testing.assert_array_equal(staged.pooled, staged.tokens[:, 0])
            np.testing.assert_array_equal(last.cls, staged.cls)
            self.assertGreater(float(jnp.abs(first.cls - second.cls).max()), 0.0)

    def test_keep(self):
        net = tiny(position="sincos")
        params, images = started(net)
        every = np.tile(np.arange(16), (2, 1))
        some = np.array([[5, 2, 7], [0, 15, 9]])
        visible = np.zeros((2, 16, 1, 1))
        np.put_along_axis(visible, some[..., None, None], 1, axis=1)
        mask = np.kron(visible.reshape(2, 4, 4), np.ones((1, 4, 4)))[..., None]
        changed = (images * mask + 9 * (1 - mask)).astype(np.float32)
        full, reordered, before, after = run(
            params,
            (net, images, {}),
            (net, images, dict(keep=every[:, ::-1])),
            (net, images, dict(keep=some)),
            (net, changed, dict(keep=some)),
        )
        np.testing.assert_allclose(reordered.patches, full.patches[:, ::-1], atol=1e-5)
        np.testing.assert_allclose(reordered.cls, full.cls, atol=1e-5)

        self.assertEqual(before.patches.shape, (2, 3, 8))
        self.assertEqual(before.tokens.shape, (2, 4, 8))
        np.testing.assert_array_equal(after.tokens, before.tokens)
        self.assertIsNone(before.map)

    def test_keep_mask_and_stages_together(self):
        """Every block returns its own tokens of the visible patches; of all patches in any order
        they are those without `keep`.
        """
        net = tiny(mask_token=True)
        params, images = started(net)
        mask = np.zeros((2, 4, 4), bool)
        mask[:, 1] = True
        every = np.tile(np.arange(16), (2, 1))[:, ::-1]
        options = dict(mask=mask, stages=True)
        full, reordered, fewer = run(
            params,
            (net, images, options),
            (net, images, options | dict(keep=every)),
            (net, images, options | dict(keep=every[:, :5])),
        )
        self.assertEqual(fewer.names, full.names)
        for whole, stage, part in zip(full.stages, reordered.stages, fewer.stages, strict=True):
            np.testing.assert_allclose(stage.patches[:, ::-1], whole.patches, atol=1e-5)
            np.testing.assert_allclose(stage.cls, whole.cls, atol=1e-5)
            np.testing.assert_array_equal(stage.cls, stage.tokens[:, 0])
            self.assertEqual(part.patches.shape, (2, 5, 8))
            self.assertIsNone(part.map)

    def test_other_sizes(self):
        for options in ({}, dict(position="sincos"), dict(cls_token=False, pool="avg")):
            shapes = output_shapes(tiny(**options), (24, 8, 3))
            self.assertEqual(shapes.map.shape, (6, 2, 8))

    def test_bfloat16_computes_in_it_and_keeps_float32_state(self):
        net = tiny(dtype="bfloat16", layer_scale=0.1)
        params, _ = variables(net)
        self.assertEqual({x.dtype.name for x in jax.tree.leaves(params)}, {"float32"})
        images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
        out = jax.eval_shape(lambda p, x: net.apply(p, {}, x, train=True)[0], params, images)
        self.assertEqual(out.tokens.dtype, jnp.bfloat16)
        self.assertEqual(out.pooled.dtype, jnp.float32)

        params, images = started(net)
        exact, rounded = run(params, (tiny(layer_scale=0.1), images, {}), (net, images, {}))
        error = float(jnp.abs(exact.pooled - rounded.pooled).max())
        self.assertBetween(error, 1e-5, 0.1)

    @parameterized.parameters(
        ("normal", 0.02), ("xavier", (2 / (32 + 96)) ** 0.5), ("mocov3", (2 / (32 + 32)) ** 0.5)
    )
    def test_linear_initialisation(self, scheme, std):
        rngs = nnx.Rngs(0)
        layer = linear(32, 96, parts=3, scheme=scheme, dtype=None, rngs=rngs)
        np.testing.assert_allclose(np.std(layer.kernel[...]), std, rtol=0.05)
        np.testing.assert_array_equal(layer.bias[...], 0)

    def test_initialisation(self):
        net = tiny(dim=64, position="sincos")
        params = named_leaves(torch.jit(net.init)(jax.random.key(0))[0])
        kernel = params["patch_embed/kernel"]  # Glorot's, on the flattened patch
        np.testing.assert_allclose(kernel.std(), (2 / (48 + 64)) ** 0.5, rtol=0.05)
        np.testing.assert_allclose(params["patch_embed/bias"].std(), (48 * 3) ** -0.5, rtol=0.2)
        np.testing.assert_allclose(params["cls_token"].std(), 0.02, rtol=0.3)
        self.assertNotIn("pos_embed", params)
        kernel = params["blocks/attn/qkv/kernel"]
        np.testing.assert_allclose(kernel.std(), (2 / (64 + 192)) ** 0.5, rtol=0.05)
        self.assertGreater(float(jnp.abs(kernel[0] - kernel[1]).max()), 0.1)

    @parameterized.parameters(
        (lambda: vit("smal"), "'smal'.*'small'"),
        (lambda: vit(None, dim=8, depth=1), "heads"),
        (lambda: tiny(heads=3), "3 heads do not divide"),
        (lambda: vit("tiny", 16, 100), "patch of 16 .* 100 x 100"),
        (lambda: tiny(position="rotary"), "'rotary'"),
        (lambda: tiny(init="he"), "'he'"),
        (lambda: tiny(pool="max"), "'max'"),
        (lambda: tiny(cls_token=False), "cls_token=False"),
        (lambda: tiny(remat="some"), "'some'"),
        (lambda: tiny(dim=6, heads=2, position="sincos"), "6"),
        (lambda: tiny(dtype="int32"), "expected 'float32' or 'bfloat16'"),
        (lambda: output_shapes(tiny(), (16, 18, 3)), "patch of 4 .* 16 x 18"),
        (
            lambda: output_shapes(
                tiny(position="relative"), (16, 16, 3), keep=np.zeros((1, 2), int)
            ),
            "keep",
        ),
    )
    def test_user_errors(self, make, message):
        with self.assertRaisesRegex(UserError, message):
            make()


if __name__ == "__main__":
    absltest.main()
