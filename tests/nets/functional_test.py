"""The bridge from modules to pure functions: keys, statistics, micro-batches, nothing eager."""

import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import named_leaves
from ssl_jax.nets.backbones.resnet import resnet_custom
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.nets.functional import functional, output_shapes
from ssl_jax.nets.layers import BatchNorm
from tests.nets import weights as torch


class Tower(nnx.Module):
    """Linear layers in a list (more than ten: keys must not be sorted as text) and a batch norm."""

    def __init__(self, rngs, depth=12):
        self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(depth)])
        self.norm = BatchNorm(4)

    def __call__(self, x, shift=None, *, train, factor=1.0):
        for i, layer in enumerate(self.layers):
            x = x + (i + 1) / 12 * jnp.sin(layer(x))
        x = self.norm(x, train=train) * factor
        return {"out": x if shift is None else x + shift}


class Careless(nnx.Module):
    def __init__(self, rngs):
        self.dropout = nnx.Dropout(0.5, rngs=rngs)


def started(net, *shape):
    return (*torch.random_variables(net), torch.random_images(*shape))


class FunctionalTest(parameterized.TestCase):
    def test_programs_share_one_trace_of_init(self):
        made = []

        def make(rngs):
            made.append(rngs)
            return nnx.Linear(2, 3, rngs=rngs)

        net = functional(make)
        for _ in range(2):
            jax.eval_shape(lambda key: net.init(key), jax.random.key(0))
        self.assertLen(made, 1)

    def test_trees_are_plain_dicts_with_string_keys(self):
        params, stats = functional(Tower).init(jax.random.key(0))
        self.assertEqual(set(params["layers"]), {str(i) for i in range(12)})
        self.assertEqual(set(stats["norm"]), {"mean", "var"})

        def check(tree):
            self.assertIn(type(tree), (dict, type(jnp.zeros(()))))
            if isinstance(tree, dict):
                for key, value in tree.items():
                    self.assertIsInstance(key, str)
                    check(value)

        check(params | stats)
        self.assertEqual({x.dtype.name for x in named_leaves(params).values()}, {"float32"})

    def test_apply_equals_the_module(self):
        net = functional(Tower)
        module = Tower(nnx.Rngs(jax.random.key(0)))
        params, stats = net.init(jax.random.key(0))
        x = torch.random_images(8, 4)
        trained, stats = net.apply(params, stats, x, train=True, factor=2.0)
        expected = module(x, train=True, factor=2.0)
        np.testing.assert_allclose(trained["out"], expected["out"], rtol=1e-5, atol=1e-5)
        chex.assert_trees_all_close(
            stats["norm"], dict(mean=module.norm.mean[...], var=module.norm.var[...])
        )
        self.assertNotEqual(float(stats["norm"]["mean"][0]), 0.0)
        evaluated, _ = net.apply(params, stats, x, train=False, factor=2.0)
        expected = module(x, train=False, factor=2.0)
        np.testing.assert_allclose(evaluated["out"], expected["out"], rtol=1e-5, atol=1e-5)

    def test_apply_changes_nothing_that_it_is_given(self):
        net = functional(Tower)
        params, stats, x = started(net, 8, 4)
        before = jax.tree.map(np.array, (params, stats))
        net.apply(params, stats, x, train=True)
        chex.assert_trees_all_equal((params, stats), before)

    def test_evaluation_returns_the_given_statistics(self):
        net = functional(Tower)
        params, stats, x = started(net, 8, 4)
        self.assertIs(net.apply(params, stats, x, train=False)[1], stats)
        self.assertIs(net.apply(params, stats, x, train=False, microbatches=1)[1], stats)

    def test_is_static_metadata(self):
        net, other = functional(Tower), functional(Tower)
        self.assertEqual(len({net, other, net}), 2)
        params, stats, x = started(net, 2, 4)
        f = torch.jit(lambda net, p, s, x: net.apply(p, s, x, train=False)[0], static_argnums=0)
        self.assertEqual(f(net, params, stats, x)["out"].shape, (2, 4))

    def test_other_variables_are_refused(self):
        net = functional(Careless)
        with self.assertRaisesRegex(TypeError, "Careless holds RngCount, RngKey"):
            jax.eval_shape(net.init, jax.random.key(0))

    def test_trees_of_another_network(self):
        net = functional(Tower)
        params, stats, x = started(net, 2, 4)
        short = params | {"layers": {k: v for k, v in params["layers"].items() if k != "3"}}
        with self.assertRaisesRegex(UserError, "missing variable 'layers/3'"):
            net.apply(short, stats, x, train=False)
        with self.assertRaisesRegex(UserError, "unknown variable 'head'"):
            net.apply(params | {"head": x}, stats, x, train=False)

    def test_init_depends_on_the_key_alone(self):
        init = torch.jit(functional(Tower).init)
        first, again = init(jax.random.key(3)), init(jax.random.key(3))
        chex.assert_trees_all_equal(first, again)
        other = init(jax.random.key(4))
        kernels = [t[0]["layers"]["0"]["kernel"] for t in (first, other)]
        self.assertGreater(float(jnp.abs(kernels[0] - kernels[1]).max()), 0.01)
        layers = first[0]["layers"]
        self.assertGreater(
            float(jnp.abs(layers["0"]["kernel"] - layers["1"]["kernel"]).max()), 0.01
        )

    def test_output_shapes(self):
        net = vit(None, 4, 8, dim=8, depth=1, heads=2)
        shapes = output_shapes(net, (8, 8, 3), stages=True)
        self.assertEqual(shapes.pooled.shape, (8,))
        self.assertEqual(shapes.tokens.shape, (5, 8))
        self.assertEqual(shapes.stages[0].map.shape, (2, 2, 8))

    def test_nothing_runs_eagerly(self):
        """Without any device: abstract variables, shapes and a traced gradient of every kind of
        net.
        """
        code = """
import jax, jax.numpy as jnp
from ssl_jax.nets.decoders import mae_decoder
from ssl_jax.nets.functional import output_shapes
from ssl_jax.nets.heads import dino_head, mlp_head
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.backbones.vit import make as vit
from tests.nets import weights as torch

def trace(net, *shapes):
    arrays = [jax.ShapeDtypeStruct(s, d) for s, d in shapes]
    variables = jax.eval_shape(lambda: net.init(jax.random.key(0)))
    def loss(params, stats, *arrays):
        out, _ = net.apply(params, stats, *arrays, train=True, microbatches=2)
        return sum(jnp.sum(x) for x in jax.tree.leaves(out))
    jax.eval_shape(jax.grad(loss), *variables, *arrays)

image = (4, 16, 16, 3), jnp.float32
vector = (4, 6), jnp.float32
trace(resnet_small(4), image)
trace(vit(None, 4, 8, dim=8, depth=2, heads=2, remat="dots"), image)
trace(vit(None, 4, 16, dim=8, depth=2, heads=2, position="sincos", layer_scale=.1), image)
trace(mlp_head(6, (8, 4), last_norm="affine"), vector)
trace(dino_head(6, 8, hidden_dim=8, bottleneck_dim=4), vector)
decoder = mae_decoder(8, 8, 1, 2, grid=(2, 2), out_dim=3)
trace(decoder, ((4, 3, 8), jnp.float32), ((4, 4), jnp.int32))
print(output_shapes(resnet_small(4), (16, 16, 3)).pooled.shape)
try:
    jnp.zeros(3)
except RuntimeError:
    print("no device")
"""
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"JAX_PLATFORMS": "none_such", "PYTHONPATH": ":".join(sys.path), "PATH": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stderr[-2000:])
        self.assertEqual(done.stdout.split("\n")[:2], ["(16,)", "no device"])


class MicrobatchTest(parameterized.TestCase):
    def test_equal_without_batch_norm(self):
        net = vit(None, 4, 8, dim=8, depth=2, heads=2)
        params, stats, x = started(net, 8, 8, 8, 3)
        keep = np.argsort(np.random.default_rng(2).random((8, 4)), axis=1)[:, :3]

        def loss(params, microbatches):
            out, same = net.apply(
                params, stats, x, train=True, keep=keep, microbatches=microbatches
            )
            z = out.pooled  # every row against every other one: a loss that no chunk can compute
            return jnp.mean(jax.nn.logsumexp(z @ jnp.roll(z, 1, 0).T, axis=1)), (out, same)

        run = torch.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
        (value, (out, _)), grads = run(params, 1)
        (value_k, (out_k, same)), grads_k = run(params, 4)
        self.assertEqual(same, {})
        np.testing.assert_allclose(value_k, value, rtol=1e-6)
        chex.assert_trees_all_close(out_k, out, rtol=1e-5, atol=1e-6)
        scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads))
        chex.assert_trees_all_close(grads_k, grads, rtol=1e-5, atol=1e-5 * scale)

    def test_batch_norm_sees_strided_chunks_one_after_another(self):
        net = functional(Tower)
        params, stats, x = started(net, 6, 4)
        shift = jnp.arange(24.0).reshape(6, 4)
        out, updated = torch.jit(
            lambda x: net.apply(
                params, stats, x, shift=shift, train=True, microbatches=3, factor=2.0
            )
        )(x)
        expected, threaded = jnp.zeros((6, 4)), stats
        for j in range(3):
            rows = slice(j, None, 3)
            chunk, threaded = net.apply(
                params, threaded, x[rows], shift=shift[rows], train=True, factor=2.0
            )
            expected = expected.at[rows].set(chunk["out"])
        np.testing.assert_allclose(out["out"], expected, rtol=1e-4, atol=1e-5)
        chex.assert_trees_all_close(updated, threaded, rtol=1e-5)

    def test_memory_falls(self):
        net = resnet_custom((1,), (8,), stem="small", stem_filters=8)
        params, stats = jax.eval_shape(lambda: net.init(jax.random.key(0)))
        images = jax.ShapeDtypeStruct((64, 32, 32, 3), jnp.float32)

        def temporary(k):
            def loss(params, stats, x):
                out, _ = net.apply(params, stats, x, train=True, microbatches=k, stages=False)
                return jnp.mean(jnp.square(out.pooled))

            compiled = jax.jit(jax.grad(loss)).lower(params, stats, images).compile()
            return compiled.memory_analysis().temp_size_in_bytes

        self.assertLess(temporary(8), 0.5 * temporary(1))

    @parameterized.parameters(3, 0, 16)
    def test_must_divide_the_batch(self, k):
        net = functional(Tower)
        params, stats, x = started(net, 8, 4)
        with self.assertRaisesRegex(UserError, f"microbatches={k} does not divide the batch of 8"):
            net.apply(params, stats, x, train=True, microbatches=k)


if __name__ == "__main__":
    absltest.main()
