"""DINOv2's and CLIP's options of a vision transformer: registers, SwiGLU, norm before blocks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import count
from ssl_jax.losses.normalize import standardize
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.nets.blocks import Mlp, swiglu_width
from ssl_jax.nets.drop_path import factors
from ssl_jax.nets.functional import functional
from ssl_jax.weights.places import layers
from tests.nets import weights as torch
from tests.nets.backbones.vit_test import run, started, tiny, variables


class OptionsTest(parameterized.TestCase):
    @parameterized.parameters("learned", "sincos", "relative", "relative_per_block")
    def test_a_network_for_images_that_are_not_square(self, position):
        net = vit(None, 4, (16, 24), dim=8, depth=2, heads=2, position=position)
        params, _ = torch.random_variables(net)
        for size in ((16, 24), (32, 16)):
            shape = jax.eval_shape(
                lambda images: net.apply(params, {}, images, train=False)[0].map,
                jax.ShapeDtypeStruct((2, *size, 3), jnp.float32),
            ).shape
            self.assertEqual(shape, (2, size[0] // 4, size[1] // 4, 8))

    def test_positions_of_each_block_have_its_layer(self):
        net = vit(None, 4, 16, dim=8, depth=3, heads=2, position="relative_per_block")
        self.assertEqual(list(net.config.layer_ids("relative/table")), [1, 2, 3])
        self.assertEqual(variables(net)[0]["relative"]["table"].shape, (3, 7 * 7 + 3, 2))

    def test_equal_positions_of_each_block_are_shared_ones(self):
        own, shared = (
            vit(None, 4, 16, dim=8, depth=2, heads=2, position=position)
            for position in ("relative_per_block", "relative")
        )
        params, images = started(shared)
        table = params["relative"]["table"]
        each = params | {"relative": {"table": jnp.stack([table, table])}}
        (expected,), (actual,) = run(params, (shared, images, {})), run(each, (own, images, {}))
        np.testing.assert_allclose(actual.tokens, expected.tokens, rtol=1e-6)

    def test_published_sizes(self):
        """Counts of timm 1.0.31: vit_giant_patch14_dinov2, vit_small_patch14_reg4_dinov2 and
        vit_base_patch32_clip_224 without classifiers; its second has no position of the class.
        """
        giant = dict(mlp="swiglu", layer_scale=1e-5)
        for net, expected in (
            (vit("giant2", 14, 518, **giant), 1_136_479_232),
            (vit("small", 14, 518, registers=4, layer_scale=1e-5), 22_057_344 + 384),
            (vit("base", 32, pre_norm=True), 87_456_000),
        ):
            self.assertEqual(count(variables(net)[0]), expected)

    @parameterized.parameters(False, True)
    def test_golden_of_registers_and_swiglu(self, wide):
        """DINOv2's network with registers: masks, a rectangle, the last two blocks."""
        weights, data = torch.load("dinov2_vit_reg_swiglu")
        data |= {k.removeprefix("f64_"): v for k, v in data.items() if wide and k[:4] == "f64_"}
        dim, depth = weights["norm.weight"].size, layers(weights, "blocks.")
        sizes = {"dim": dim, "depth": depth, "heads": int(data["hp_heads"]), "mlp": "swiglu"}
        tokens = {"registers": int(data["hp_registers"]), "mask_token": True}
        options = {"layer_scale": 1e-5, "interpolate_antialias": True}
        side = data["in_x"].shape[-1]
        net = vit(None, int(data["hp_patch"]), side, **sizes, **tokens, **options)
        with jax.enable_x64(wide):
            dtype = np.float64 if wide else np.float32
            params = jax.tree.map(lambda x: jnp.asarray(x, dtype), torch.convert(net, weights)[0])
            x, rectangle = (jnp.asarray(torch.nhwc(data[n]), dtype) for n in ("in_x", "in_x_rect"))
            mask = data["in_masks"].reshape(len(x), *[side // int(data["hp_patch"])] * 2)

            @torch.jit
            def run(params, x, mask, rectangle):
                apply = functools.partial(net.apply, params, {}, train=False)
                masked, whole = apply(x, mask=mask)[0], apply(x, stages=True)[0]
                normed = standardize(whole.stages[-2].tokens, eps=1e-6)
                normed = normed * params["norm"]["scale"] + params["norm"]["bias"]
                return masked, whole, normed, apply(rectangle)[0]

            masked, whole, normed, small = jax.device_get(run(params, x, mask, rectangle))
        grid = data["out_inter_patch"].shape[-2:]
        inter = [t[:, 1:].reshape(len(x), *grid, dim) for t in (normed, whole.tokens)]
        for name, ours in {
            "cls": masked.cls,
            "patch": masked.patches,
            "rect_cls": small.cls,
            "rect_patch": small.patches,
            "inter_cls": np.stack([normed[:, 0], whole.cls]),
            "inter_patch": np.moveaxis(np.stack(inter), -1, 2),
        }.items():
            # The release resizes in float32, also in its run in float64.
            rtol = (5e-6 if "rect" in name else 1e-9) if wide else 1e-4
            torch.assert_close(ours, data[f"out_{name}"], rtol, name)

    def test_one_rate_in_all_blocks(self):
        keys = jax.random.split(jax.random.key(0), 4000)
        shares = (np.asarray(factors(keys, 0.4, 3, 2, uniform=True)) > 0).mean(-1)
        np.testing.assert_allclose(shares, 0.6, atol=0.04)  # five standard errors
        self.assertTrue(tiny(depth=1, drop_path=0.4, drop_path_uniform=True).draws)

    def test_registers_are_seen_and_not_shown(self):
        net = tiny(registers=3)
        params, images = started(net)
        other = params | {"registers": -params["registers"]}  # a norm would hide + 1
        options = dict(stages=True, attention=True)
        (out,), (changed,) = (run(p, (net, images, options)) for p in (params, other))
        plain = jax.eval_shape(
            lambda p: tiny().apply(p, {}, images, train=False, **options)[0], started(tiny())[0]
        )
        self.assertEqual(
            jax.tree.map(lambda x: x.shape, out), jax.tree.map(lambda x: x.shape, plain)
        )
        for read in (lambda x: x.pooled, lambda x: x.map, lambda x: x.stages[0].map):
            self.assertGreater(float(jnp.abs(read(out) - read(changed)).max()), 1e-4)
        self.assertLess(float(out.attention.sum(-1).max()), 1.0)

    @parameterized.parameters("gelu", "quick_gelu", "swiglu")
    def test_perceptrons(self, kind):
        def make(rngs):
            class Wrapped(Mlp):
                def __call__(self, x, *, train):
                    del train
                    return super().__call__(x)

            return Wrapped(4, 12, kind=kind, scheme="normal", dtype=None, rngs=rngs)

        net = functional(make)
        params, _ = torch.random_variables(net)
        x = torch.random_images(5, 4)
        out, _ = net.apply(params, {}, x, train=False)
        fc1, fc2 = (
            {k: np.asarray(v, np.float64) for k, v in params[n].items()} for n in ("fc1", "fc2")
        )
        hidden = x @ fc1["kernel"] + fc1["bias"]
        sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
        if kind == "swiglu":
            self.assertEqual(hidden.shape[1], 16)
            gate, hidden = hidden[:, :8], hidden[:, 8:]
            hidden = gate * sigmoid(gate) * hidden
        elif kind == "quick_gelu":
            hidden = hidden * sigmoid(1.702 * hidden)
        else:
            hidden = np.asarray(jax.nn.gelu(hidden, approximate=False))
        np.testing.assert_allclose(out, hidden @ fc2["kernel"] + fc2["bias"], rtol=1e-4, atol=1e-5)

    def test_width_of_swiglu(self):
        self.assertEqual([swiglu_width(h) for h in (6144, 12, 32)], [4096, 8, 24])

    def test_a_norm_before_the_blocks(self):
        params, _ = variables(tiny(pre_norm=True))
        self.assertIn("norm_pre", params)
        self.assertNotIn("bias", params["patch_embed"])

    @parameterized.parameters(
        (dict(mlp="relu"), "unknown mlp 'relu'"),
        (dict(registers=-1), "backbone.registers: expected a whole number of at least 0, got -1"),
        (dict(registers=1, position="relative"), "0 with relative positions"),
        (dict(interpolate_antialias=True, position="relative"), "interpolate_antialias is for"),
        (dict(interpolate_antialias=True, interpolate_offset=0.1), "set one of them"),
    )
    def test_user_errors(self, options, message):
        with self.assertRaisesRegex(UserError, message):
            tiny(**options)


if __name__ == "__main__":
    absltest.main()
