"""The TPU kernel of Sinkhorn-Knopp, interpreted on the CPU, against the plain forms; and compiled
ahead of time for a TPU where libtpu is installed.
"""

import functools
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ssl_jax.losses.large_batch import sinkhorn_kernel
from ssl_jax.losses.sinkhorn import sinkhorn

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden"

COMPILED = """
import jax, numpy as np, jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from ssl_jax.losses.sinkhorn import sinkhorn
from ssl_jax.cost.traffic import traffic
place = SingleDeviceSharding(topologies.get_topology_desc("v5e:2x2", platform="tpu").devices[0])
for rows, columns, dtype in ((2**16 + 8, 3072, jnp.float32), (2**12, 2**16, jnp.bfloat16)):
    shape = jax.ShapeDtypeStruct((rows, columns), dtype, sharding=place)
    run = jax.jit(lambda s: sinkhorn(s, 0.05, 3), in_shardings=place, out_shardings=place)
    compiled = run.lower(shape).compile()
    assert compiled.as_text().count("tpu_custom_call") >= 4, "no kernel was chosen"
    print(*traffic(compiled.as_text(), rows * columns), compiled.cost_analysis()["bytes accessed"])
"""


def run(scores, epsilon, iterations, block=2**18, **options):
    """Run the kernel in the interpreter, with blocks of `block` elements."""
    interpreted = functools.partial(pl.pallas_call, interpret=True)
    with (
        mock.patch.object(sinkhorn_kernel, "BLOCK", block),
        mock.patch.object(pl, "pallas_call", interpreted),
    ):
        options |= {"form": "kernel"}
        actual = jax.jit(lambda s: sinkhorn(s, epsilon, iterations, **options))(scores)
        return np.asarray(actual)


class KernelTest(parameterized.TestCase):
    @parameterized.parameters(
        # The last block is full; it has rows beyond the matrix; there is one block alone.
        (32, 24, jnp.float32, 8 * 24),
        (37, 130, jnp.bfloat16, 16 * 130),
        (5, 3, jnp.float32, 2**18),
    )
    def test_equals_the_plain_form(self, rows, columns, dtype, block):
        rng = np.random.default_rng(0)
        scores = jnp.asarray(rng.normal(size=(rows, columns)), dtype)
        valid = jnp.arange(rows) < rows - 2
        actual = run(scores, 0.3, 4, block, valid=valid)
        self.assertEqual(actual.dtype, jnp.float32)
        expected = sinkhorn(scores, 0.3, 4, valid=valid, form="scaling")
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(actual[~valid], 0)

    def test_tolerance_and_spread(self):
        """It stops where the plain form does; scores beyond the range of exp."""
        rng = np.random.default_rng(1)
        scores = jnp.asarray(rng.normal(size=(24, 5)), jnp.float32)
        actual = run(scores, 0.3, 200, 8 * 5, tolerance=0.01)
        plain = sinkhorn(scores, 0.3, 200, tolerance=0.01, form="scaling")
        np.testing.assert_allclose(actual, plain, rtol=1e-4, atol=1e-6)
        wild = (1e4 * scores).at[:, 3].add(-1e5)
        self.assertTrue(np.isfinite(run(wild, 0.05, 12)).all())

    def test_swav_golden(self):
        data = np.load(GOLDEN / "swav_sinkhorn.npz")
        settings = zip(data["hp_epsilon"], data["hp_iters"], data["out_q"], strict=True)
        for epsilon, iterations, expected in settings:
            actual = run(jnp.asarray(data["in_scores"]), float(epsilon), int(iterations))
            np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-6)

    def test_dinov2_golden(self):
        """The interpreter that models a TPU's memories gives the same."""
        data = np.load(GOLDEN / "dinov2_dino.npz")
        teacher = jnp.asarray(data["in_teacher"][0])
        teacher = teacher.reshape(-1, teacher.shape[-1])
        with pltpu.force_tpu_interpret_mode():
            actual = sinkhorn(teacher, float(data["hp_teacher_temp"]), 3, form="kernel")
        np.testing.assert_allclose(actual, data["out_sinkhorn"][0], rtol=0, atol=1e-5)

    def test_sela_golden(self):
        data = np.load(GOLDEN / "sela_sk.npz")
        scores = jnp.log(jnp.asarray(data["in_probs"], jnp.float32))
        actual = run(scores, 1 / int(data["hp_lamb"]), 5000, tolerance=0.1)
        np.testing.assert_array_equal(actual.argmax(1), data["out_labels"])
        np.testing.assert_allclose(actual, data["out_Q"].T * len(actual), rtol=0, atol=1e-3)

    @absltest.skipUnless(importlib.util.find_spec("libtpu"), "libtpu is not installed")
    def test_compiled_for_a_tpu_it_reads_once_an_iteration(self):
        env = dict(os.environ, TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1")
        env["PYTHONPATH"] = os.pathsep.join([str(ROOT), env.get("PYTHONPATH", "")])
        made = subprocess.run(
            [sys.executable, "-c", COMPILED], env=env, capture_output=True, text=True, check=False
        )
        self.assertEqual(made.returncode, 0, made.stderr[-2000:])
        for line in made.stdout.splitlines():
            reads, writes, bytes_accessed = map(float, line.split())
            self.assertEqual((reads, writes), (4, 1))  # three iterations, and the result
            self.assertGreater(bytes_accessed, 0)


if __name__ == "__main__":
    absltest.main()
