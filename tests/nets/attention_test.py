"""Every form of attention against its definition in float64: value, gradients, choice, meshes.

The TPU kernel runs in the interpreter here. Where libtpu is installed it is compiled ahead of time.
"""

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.nets import attention, attention_kernel
from ssl_jax.nets.backbones import vit

ROOT = Path(__file__).parents[2]
CASES = {  # shape (B, T, C), heads, shape of the bias
    "plain": ((2, 11, 128), 4, None),
    "relative": ((2, 9, 128), 2, (1, 2, 9, 9)),
    "hidden_keys": ((4, 13, 128), 2, (4, 1, 1, 13)),
    "windows": ((4, 9, 128), 4, (2, 4, 9, 9)),
    "causal": ((2, 9, 128), 2, (1, 1, 9, 9)),
    "heads_across_tiles": ((1, 10, 384), 4, None),
}


def arrays(shape, heads, bias, dtype=np.float32):
    """Draw qkv, bias and the gradient of the result."""
    rng = np.random.default_rng(0)
    rows, length, channels = shape
    qkv = rng.normal(size=(rows, length, 3 * channels)).astype(dtype)
    added = None if bias is None else rng.normal(size=bias).astype(np.float32)
    if bias is not None and bias[2] == 1:
        added = np.where(added > 0.5, np.float32(-1e30), 0)
    return qkv, added, rng.normal(size=shape).astype(dtype)


def by_definition(qkv, bias, heads):
    """Compute attention in float64, by NumPy alone."""
    rows, length, _ = qkv.shape
    q, k, v = np.moveaxis(qkv.astype(np.float64).reshape(rows, length, 3, heads, -1), 2, 0)
    logits = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
    if bias is not None:
        logits = logits + np.stack([bias[b % len(bias)] for b in range(rows)])
    e = np.exp(logits - logits.max(-1, keepdims=True))
    p = e / e.sum(-1, keepdims=True)
    return np.einsum("bhqk,bkhd->bqhd", p, v).reshape(rows, length, -1)


def gradients(form, case, dtype=jnp.float32):
    """Return value and gradients of a form."""
    shape, heads, bias = CASES[case]
    qkv, added, weights = arrays(shape, heads, bias)
    qkv, weights = (jnp.asarray(x, dtype) for x in (qkv, weights))

    def run(qkv, added):
        return attention.attend(qkv, heads, added, form)

    @jax.jit
    def both(qkv, added, weights):
        out, pull = jax.vjp(run, qkv, added)
        return out, *pull(weights)

    return both(qkv, None if added is None else jnp.asarray(added), weights)


def exact(case, dtype=jnp.float32):
    """Return value and gradients of the definition by XLA in float64, of inputs in `dtype`."""
    shape, heads, bias = CASES[case]
    qkv, added, weights = arrays(shape, heads, bias)
    qkv, weights = (np.asarray(jnp.asarray(x, dtype), np.float64) for x in (qkv, weights))
    with jax.enable_x64(True):
        added = None if added is None else jnp.asarray(added, jnp.float64)

        def run(qkv, added):
            return attention.attend(qkv, heads, added, "xla")

        @jax.jit
        def both(qkv, added, weights):
            out, pull = jax.vjp(run, qkv, added)
            return out, *pull(weights)

        result = both(jnp.asarray(qkv), added, jnp.asarray(weights))
        added = None if added is None else np.asarray(added)
        np.testing.assert_allclose(result[0], by_definition(qkv, added, heads), atol=1e-12)
        return result


def assert_near(actual, expected, bound):
    """Compare with the largest element of each array as the unit."""
    for a, e in zip(actual, expected, strict=True):
        if e is not None:
            a, e = np.asarray(a, np.float64), np.asarray(e)
            assert np.abs(a - e).max() <= bound * np.abs(e).max(), np.abs(a - e).max()


class FormsTest(parameterized.TestCase):
    @parameterized.parameters(*CASES)
    @pytest.mark.full
    def test_kernel_in_float32(self, case):
        assert_near(gradients("kernel", case), exact(case), 2e-6)

    @parameterized.parameters("plain", "relative")
    @pytest.mark.full
    def test_kernel_in_bfloat16(self, case):
        """Within two roundings of the largest element."""
        result = exact(case, jnp.bfloat16)
        assert_near(gradients("kernel", case, jnp.bfloat16), result, 2 * 2**-8)

    @parameterized.parameters("windows", "hidden_keys")
    def test_xla(self, case):
        assert_near(gradients("xla", case), exact(case), 2e-6)

    def test_kernel_in_blocks_of_queries(self):
        """Two whole blocks and a shorter one."""
        with (
            mock.patch.object(attention_kernel, "WHOLE", 8),
            mock.patch.object(attention_kernel, "ROWS", 4),
        ):
            assert_near(gradients("kernel", "relative"), exact("relative"), 2e-6)

    def test_several_sequences_in_a_step(self):
        qkv, _, _ = arrays((3, 4, 128), 2, None)
        out = attention.attend(jnp.asarray(qkv), 2, None, "kernel")
        np.testing.assert_allclose(out, by_definition(qkv, None, 2), atol=1e-6)

    @pytest.mark.full
    def test_kernel_on_eight_devices(self):
        """The batch is split; gradients of a bias that all devices share are summed."""
        for case in ("relative", "hidden_keys"):
            shape, heads, bias = CASES[case]
            shape, bias = (8, *shape[1:]), (8 if bias[0] > 1 else 1, *bias[1:])
            with mock.patch.dict(CASES, {case: (shape, heads, bias)}):
                alone = gradients("kernel", case)
                with jax.set_mesh(sharding.make_mesh(sharding.MeshConfig(fsdp=2))):
                    split = gradients("kernel", case)
            assert_near(split, alone, 1e-6)


class ChoiceTest(parameterized.TestCase):
    @parameterized.parameters(
        ("tpu", (64, 197, 1152), 6, None, "kernel"),
        ("tpu", (64, 197, 576), 3, None, "xla"),  # 192 channels are no whole tiles
        ("tpu", (64, 20000, 1152), 6, None, "xla"),  # too long for the chip's memory
        ("gpu", (64, 197, 1152), 6, None, "cudnn"),
        ("gpu", (64, 197, 1152), 6, (1, 6, 197, 197), "xla"),  # odd
        ("gpu", (64, 196, 1152), 6, (1, 6, 196, 196), "cudnn"),
        ("gpu", (64, 196, 1152), 6, (64, 6, 196, 196), "xla"),  # a bias per sequence
        ("cpu", (64, 197, 1152), 6, None, "xla"),
        ("tpu", None, 6, None, "xla"),  # the devices do not divide the batch
    )
    def test_by_platform_and_shape(self, platform, shape, heads, bias, expected):
        added = None if bias is None else jax.ShapeDtypeStruct(bias, jnp.float32)
        kind = {"tpu": "TPU v5 lite"}.get(platform, platform)
        form = attention.choose(shape, jnp.bfloat16, heads, added, platform, kind, 1)
        self.assertEqual(form, expected)

    def test_small_vmem(self):
        """A sequence that fits a v5e's memory does not fit that of a v4."""
        shape = (8, 1568, 3072)
        for kind, expected in (("TPU v5 lite", True), ("TPU v4", False)):
            self.assertEqual(
                attention_kernel.supports(shape, jnp.bfloat16, 16, None, kind), expected
            )

    def test_cudnn_is_called(self):
        qkv = jnp.zeros((2, 4, 96), jnp.bfloat16)
        with (
            mock.patch.object(attention, "_device", return_value=("gpu", "NVIDIA H100", 1)),
            mock.patch.object(jax.nn, "dot_product_attention", return_value=qkv[..., :32]) as call,
        ):
            attention.attend(qkv, 4)
        self.assertEqual(call.call_args.kwargs["implementation"], "cudnn")

    @parameterized.parameters(
        ("kernel", (2, 4, 96), "width"),
        ("cudnn", (2, 4, 384), "a GPU"),
        ("fused", (2, 4, 96), "fused"),
    )
    def test_what_cannot_be_is_refused(self, form, shape, message):
        with self.assertRaisesRegex(UserError, message):
            attention.attend(jnp.zeros(shape), 4, None, form)

    def test_the_config_decides(self):
        """A backbone's key is handed to its blocks."""
        options = dict(dim=128, depth=1, heads=2, image_size=32)
        net = vit.make(None, attention_form="kernel", **options)
        text = str(
            jax.make_jaxpr(lambda p, x: net.apply(p, {}, x, train=True)[0].pooled)(
                jax.eval_shape(net.init, jax.random.key(0))[0], jnp.zeros((1, 32, 32, 3))
            )
        )
        self.assertIn("pallas_call", text)
        with self.assertRaisesRegex(UserError, "attention_form"):
            vit.make("small", attention_form="fast")


class CostTest(absltest.TestCase):
    def test_estimates_are_a_hand_count(self):
        """Two products forward and five backward, of T^2 D multiply-adds per head; arrays once."""
        rows, length, heads, dim = 2, 16, 4, 32
        channels = heads * dim
        qkv = jax.ShapeDtypeStruct((rows, length, 3 * channels), jnp.bfloat16)
        out = jax.ShapeDtypeStruct((rows, length, channels), jnp.bfloat16)

        def both(qkv, grad):
            value, pull = jax.vjp(lambda x: attention.attend(x, heads, None, "kernel"), qkv)
            return value, pull(grad)

        estimates = []

        def visit(jaxpr):
            for eqn in jaxpr.eqns:
                if eqn.primitive.name == "pallas_call":
                    estimates.append(eqn.params["cost_estimate"])
                for value in eqn.params.values():
                    inner = getattr(value, "jaxpr", value)
                    if hasattr(inner, "eqns") and eqn.primitive.name != "pallas_call":
                        visit(inner)

        visit(jax.make_jaxpr(both)(qkv, out).jaxpr)
        product = 2 * rows * heads * length**2 * dim
        tokens = rows * length * channels * 2  # bytes of (B, T, C)
        self.assertEqual([c.flops for c in estimates], [2 * product, 5 * product])
        self.assertEqual(
            [c.bytes_accessed for c in estimates], [(3 + 1) * tokens, (3 + 1 + 3) * tokens]
        )
        self.assertEqual({c.transcendentals for c in estimates}, {rows * heads * length**2})


COMPILED = """
import jax, numpy as np, jax.numpy as jnp
from jax.experimental import topologies
from ssl_jax.core import sharding
from ssl_jax.cost import program
from ssl_jax.nets.attention import attend
chips = topologies.get_topology_desc("v5e:2x2", platform="tpu").devices
mesh = sharding.make_mesh(sharding.MeshConfig(), chips)
rows = sharding.batch_sharding(mesh)
for count, length, channels, heads, bias in CASES:
    def both(qkv, bias, grad):
        value, pull = jax.vjp(lambda x, b: attend(x, heads, b), qkv, bias)
        return value, pull(grad)
    def shape(dims, dtype, place):
        return jax.ShapeDtypeStruct(dims, dtype, sharding=place)
    qkv = shape((4 * count, length, 3 * channels), jnp.bfloat16, rows)
    grad = shape((4 * count, length, channels), jnp.bfloat16, rows)
    added = shape(bias, jnp.float32, sharding.replicated(mesh)) if bias else None
    with jax.set_mesh(mesh):
        text = jax.jit(both).lower(qkv, added, grad).compile().as_text()
    print(text.count('custom_call_target="tpu_custom_call"'), program.count(text).flops)
"""


@pytest.mark.full
def test_compiled_for_a_tpu():
    """Mosaic takes the kernels, a mesh splits them, and their FLOPs are those of a hand count."""
    pytest.importorskip("libtpu")
    cases = (
        (4, 197, 384, 12, None),
        (2, 198, 768, 12, (1, 12, 198, 198)),
        (1, 600, 1408, 16, None),
    )
    env = dict(os.environ, TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1", XLA_FLAGS="")
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), env.get("PYTHONPATH", "")])
    code = f"CASES = {cases!r}\n{COMPILED}"
    made = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-2000:]
    lines = [tuple(map(int, line.split())) for line in made.stdout.splitlines()]
    for (count, length, channels, *_), line in zip(cases, lines, strict=True):
        assert line == (2, 7 * 2 * count * length**2 * channels)


if __name__ == "__main__":
    absltest.main()
