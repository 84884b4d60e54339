"""The counter of readings: programs whose traffic is known, then Sinkhorn-Knopp's."""

from unittest import mock

import jax
import jax.numpy as jnp
from absl.testing import absltest, parameterized

from ssl_jax.cost.traffic import traffic
from ssl_jax.losses.large_batch import sinkhorn_sweeps
from ssl_jax.losses.sinkhorn import sinkhorn

SHAPE = (256, 96)
SIZE = 256 * 96


def count(fn, *more):
    args = (jax.ShapeDtypeStruct(SHAPE, jnp.float32), *more)
    return traffic(jax.jit(fn).lower(*args).compile().as_text(), SIZE)


def in_blocks(x):
    def body(i, total):
        return total + jnp.sum(jnp.tanh(jax.lax.dynamic_slice(x, (32 * i, 0), (32, 96))))

    return jax.lax.fori_loop(0, 8, body, 0.0)


def into_blocks(x):
    def body(i, out):
        return jax.lax.dynamic_update_slice(out, jnp.full((32, 96), 1.0 * i), (32 * i, 0))

    return jax.lax.fori_loop(0, 8, body, x)


class TrafficTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("a_sum", jnp.sum, 1, 0),
        ("one_for_one", lambda x: x + 1, 1, 1),
        ("two_passes", lambda x: x / jnp.sum(x), 2, 1),
        ("a_loop_over_blocks", in_blocks, 1, 0),
        ("a_loop_over_the_whole", lambda x: jax.lax.fori_loop(
            0, 7, lambda _, v: v / (x @ v).sum() + x[0], jnp.ones(96)), 7 + 7 / 256, 0),
        # The argument may not be written over: a copy of it first.
        ("a_loop_that_writes_blocks", into_blocks, 1, 2),
        ("a_loop_that_rewrites", lambda x: jax.lax.fori_loop(
            0, 5, lambda _, y: jnp.sin(y), x), 6, 6),
        ("small_arrays", lambda x: jnp.sum(x[:16]) + jnp.sum(x[16:17]), 17 / 256, 0),
    )  # fmt: skip
    def test_known_programs(self, fn, reads, writes):
        traffic_of_fn = count(fn)
        self.assertAlmostEqual(traffic_of_fn.reads, reads, delta=0.02)
        self.assertAlmostEqual(traffic_of_fn.writes, writes, delta=0.02)

    def test_a_loop_without_end_in_sight(self):
        def halve(x):
            return jax.lax.while_loop(lambda y: jnp.sum(y) > 1, lambda y: y / 2, x)

        with self.assertRaisesRegex(ValueError, "does not state how often"):
            count(halve)

    def test_tpu_text(self):
        """No stated count of trips, vector memory, asynchronous copies."""
        text = """HloModule m

%fused (p0: f32[64,8], p1: s32[]) -> f32[8,8] {
  %p0 = f32[64,8]{1,0:T(8,128)} parameter(0)
  %p1 = s32[]{:T(128)} parameter(1)
  ROOT %slice.1 = f32[8,8]{1,0:T(8,128)S(1)} dynamic-slice(%p0, %p1), dynamic_slice_sizes={8,8}
}

%body (state: (s32[], f32[64,8])) -> (s32[], f32[64,8]) {
  %state = (s32[]{:T(128)}, f32[64,8]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  %x = f32[64,8]{1,0:T(8,128)} get-tuple-element(%state), index=1
  %block = f32[8,8]{1,0:T(8,128)S(1)} fusion(%x, %i), kind=kLoop, calls=%fused
  ROOT %next = (s32[]{:T(128)}, /*index=1*/f32[64,8]{1,0:T(8,128)}) tuple(%i, %x)
}

%condition (state.1: (s32[], f32[64,8])) -> pred[] {
  %state.1 = (s32[]{:T(128)}, f32[64,8]{1,0:T(8,128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  %n = s32[]{:T(128)} constant(8)
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %n), direction=LT
}

ENTRY %main (a: f32[64,8]) -> f32[64,8] {
  %a = f32[64,8]{1,0:T(8,128)} parameter(0)
  %zero = s32[]{:T(128)} constant(0)
  %start = (s32[]{:T(128)}, f32[64,8]{1,0:T(8,128)}) tuple(%zero, %a)
  %loop = (s32[]{:T(128)}, f32[64,8]{1,0:T(8,128)}) while(%start), condition=%condition, body=%body
  %in = (f32[64,8]{1,0:T(8,128)S(1)}, f32[64,8]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%a)
  %here = f32[64,8]{1,0:T(8,128)S(1)} copy-done(%in)
  ROOT %out = f32[64,8]{1,0:T(8,128)} negate(%here)
}
"""
        self.assertEqual(traffic(text, 512), (2.0, 1.0))

    @parameterized.parameters("scaling", "log")
    def test_sinkhorn_reads_once_an_iteration(self, form):
        def run(iterations):
            with mock.patch.object(sinkhorn_sweeps, "BLOCK", 16 * 96):
                return count(lambda x: sinkhorn(x, 0.1, iterations, form=form))

        few, more = run(3), run(14)
        self.assertLessEqual(few.reads, 4.01)  # the result is read and written, too
        self.assertLessEqual((more.reads - few.reads) / 11, 1.01)
        self.assertGreaterEqual((more.reads - few.reads) / 11, 0.9)
        # A round of ten iterations of scaling keeps its matrix: never is one written over.
        self.assertLessEqual(more.writes - few.writes, {"scaling": 2, "log": 0}[form])

    def test_the_released_form_reads_more(self):
        """Both halves of an iteration are a pass for the sum and a pass that divides."""

        def released(x):
            q = jnp.exp(x)
            for _ in range(3):
                q = q / jnp.sum(q, axis=1, keepdims=True)
                q = q / jnp.sum(q, axis=0, keepdims=True)
            return q

        self.assertGreaterEqual(count(released).reads, 9)


if __name__ == "__main__":
    absltest.main()
