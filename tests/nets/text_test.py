"""The text transformer: it looks back only, reads the end, and starts as CLIP does."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import count, named_leaves
from ssl_jax.nets.text import text_transformer
from tests.nets import weights as torch

NET = text_transformer(20, 8, dim=16, depth=2, heads=2)
TOKENS = np.array([[18, 3, 4, 19, 0, 0], [18, 5, 6, 7, 8, 19]], np.int32)


class TextTest(parameterized.TestCase):
    def test_looks_back_only_and_reads_the_end(self):
        params, _ = torch.random_variables(NET)
        run = torch.jit(lambda tokens: NET.apply(params, {}, tokens, train=False)[0])
        out = run(TOKENS)
        changed = TOKENS.copy()
        changed[:, 4:] = 2
        other = run(changed)
        np.testing.assert_allclose(out.tokens[:, :4], other.tokens[:, :4], atol=1e-6)
        self.assertGreater(np.abs(out.tokens[:, 4:] - other.tokens[:, 4:]).max(), 1e-3)
        np.testing.assert_allclose(out.pooled[0], out.tokens[0, 3], rtol=1e-6)
        np.testing.assert_allclose(out.pooled[1], out.tokens[1, 5], rtol=1e-6)
        # What comes after the end does not matter, nor how much of it.
        longer = run(np.pad(TOKENS, ((0, 0), (0, 2))))
        np.testing.assert_allclose(longer.pooled, out.pooled, atol=1e-6)

    def test_initialisation(self):
        dim, depth = 64, 3
        net = text_transformer(500, 40, dim, depth, heads=4)
        leaves = named_leaves(jax.jit(net.init)(jax.random.key(0))[0])
        residual = (2 * depth * dim) ** -0.5
        for name, std in {
            "embedding": 0.02,
            "positions": 0.01,
            "blocks/attn/qkv/kernel": dim**-0.5,
            "blocks/attn/proj/kernel": residual,
            "blocks/mlp/fc1/kernel": (2 * dim) ** -0.5,
            "blocks/mlp/fc2/kernel": residual,
        }.items():
            np.testing.assert_allclose(np.std(leaves[name]), std, rtol=0.05, err_msg=name)

    def test_published_size(self):
        """ViT-B/32's text tower: 63,166,464 with the embedding, 37,828,608 + 25,337,856 - ..."""
        net = text_transformer(49408)
        params, _ = jax.eval_shape(lambda: net.init(jax.random.key(0)))
        blocks = 12 * (4 * 512 * 512 + 8 * 512 * 512 + 13 * 512)
        self.assertEqual(count(params), 49408 * 512 + 77 * 512 + blocks + 2 * 512)

    def test_user_errors(self):
        params, _ = jax.eval_shape(lambda: NET.init(jax.random.key(0)))
        long = jax.ShapeDtypeStruct((1, 9), jnp.int32)
        with self.assertRaisesRegex(UserError, "expected at most 8 tokens, got 9"):
            jax.eval_shape(lambda p, t: NET.apply(p, {}, t, train=True), params, long)
        with self.assertRaisesRegex(UserError, "3 heads"):
            text_transformer(20, dim=16, heads=3)
        with self.assertRaisesRegex(UserError, "vocabulary=0"):
            text_transformer(0)


if __name__ == "__main__":
    absltest.main()
