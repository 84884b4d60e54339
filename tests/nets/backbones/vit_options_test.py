"""DINOv2's and CLIP's options of a vision transformer: registers, SwiGLU, norm before blocks."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import count
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.nets.blocks import Mlp, swiglu_width
from ssl_jax.nets.functional import functional
from tests.nets import weights as torch
from tests.nets.backbones.vit_test import run, started, tiny, variables


class OptionsTest(parameterized.TestCase):
    def test_published_sizes(self):
        """Counts of timm 1.0.31: vit_giant_patch14_dinov2, vit_small_patch14_reg4_dinov2 and
        vit_base_patch32_clip_224 without classifiers; its second has no position of the class.
        """
        giant = dict(dim=1536, depth=40, heads=24, mlp="swiglu", layer_scale=1e-5)
        for net, expected in (
            (vit(None, 14, 518, **giant), 1_136_479_232),
            (vit("small", 14, 518, registers=4, layer_scale=1e-5), 22_057_344 + 384),
            (vit("base", 32, pre_norm=True), 87_456_000),
        ):
            self.assertEqual(count(variables(net)[0]), expected)

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
    )
    def test_user_errors(self, options, message):
        with self.assertRaisesRegex(UserError, message):
            tiny(**options)


if __name__ == "__main__":
    absltest.main()
