"""Costs of compiled programs: against numbers known by other means, and on lines that only TPU
programs have.
"""

import jax
import jax.numpy as jnp
from absl.testing import absltest, parameterized
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax import nets
from ssl_jax.core import sharding
from ssl_jax.cost import aot, transfers
from ssl_jax.cost import program as costs


def compiled(fn, *args):
    return costs.count(jax.jit(fn).lower(*args).compile().as_text())


def shaped(*dims, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(dims, dtype)


def resnet50(size):
    """Multiply-adds of one image's forward pass and of the stem's convolution, which has no
    gradient with respect to the image.
    """
    stem = (size // 2) ** 2 * 7 * 7 * 3 * 64
    total, side, wide = stem, size // 4, 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        narrow = 64 * 2**stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            total += side**2 * wide * narrow  # 1x1, then 3x3 with the stride, then 1x1
            side //= stride
            total += side**2 * 9 * narrow**2 + side**2 * narrow * 4 * narrow
            if not block:
                total += side**2 * wide * 4 * narrow  # the shortcut
            wide = 4 * narrow
    return total, stem


def vit(dim, depth, size, patch=16):
    """Count a vision transformer likewise; its patches have no gradient to the image either."""
    tokens = (size // patch) ** 2 + 1
    stem = (tokens - 1) * 3 * patch**2 * dim
    block = tokens * 12 * dim**2 + 2 * tokens**2 * dim  # qkv, out, MLP; scores and their sums
    return stem + depth * block, stem


class ClosedFormTest(parameterized.TestCase):
    """Forward and backward of known networks, within 3 % of the textbook's count."""

    @parameterized.named_parameters(
        ("resnet50", "resnet", {"depth": 50}, resnet50(96), 96),
        ("vit_s", "vit", {"size": "small", "patch": 16, "depth": 12}, vit(384, 12, 64), 64),
        ("vit_l", "vit", {"size": "large", "patch": 16, "depth": 24}, vit(1024, 24, 64), 64),
    )
    def test_known_nets(self, name, options, macs, size):
        net = nets.make_backbone(name, 3, options)
        params, stats = jax.eval_shape(net.init, jax.random.key(0))
        images = 8

        def loss(params, stats, x):
            return jnp.sum(net.apply(params, stats, x, train=True)[0].pooled ** 2)

        costs_of_step = compiled(jax.grad(loss), params, stats, shaped(images, size, size, 3))
        total, stem = macs
        self.assertEqual(costs_of_step.unknown, ())
        expected = images * 2 * (3 * total - stem)
        self.assertAlmostEqual(costs_of_step.flops / expected, 1.0, delta=0.03)


class LoopsTest(absltest.TestCase):
    def test_every_turn_counts(self):
        def outer(x):
            inner = lambda c, _: (c @ c, None)  # noqa: E731
            body = lambda c, _: (jax.lax.scan(inner, c, length=5)[0], None)  # noqa: E731
            return jax.lax.scan(body, x, length=7)[0]

        costs_of_step = compiled(outer, shaped(16, 16))
        self.assertEqual(costs_of_step.flops, 7 * 5 * 2 * 16**3)
        self.assertEqual(costs_of_step.unknown, ())

    def test_a_loop_until_something_happens_is_named(self):
        def fn(x):
            return jax.lax.while_loop(lambda c: c.sum() < 1e9, lambda c: c @ c, x)

        costs_of_step = compiled(fn, shaped(16, 16))
        self.assertEqual(costs_of_step.flops, 2 * 16**3)
        self.assertLen(costs_of_step.unknown, 1)

    def test_a_scanned_matrix_is_read_once_by_slices(self):
        def fn(x, weights):
            return jax.lax.scan(lambda c, w: (c @ w, None), x, weights)[0]

        depth, width = 64, 128
        costs_of_step = compiled(fn, shaped(8, width), shaped(depth, width, width))
        weights = 4 * depth * width**2
        self.assertGreaterEqual(costs_of_step.bytes, weights)
        # Slicing reads and writes them once, and they are read once: not 64 times.
        self.assertLess(costs_of_step.bytes, 3.5 * weights)

    def test_the_dearest_branch_counts(self):
        def fn(which, x):
            return jax.lax.switch(which, [lambda x: x, lambda x: x @ x, lambda x: x @ x @ x], x)

        costs_of_step = compiled(fn, shaped(dtype=jnp.int32), shaped(32, 32))
        self.assertEqual(costs_of_step.flops, 2 * 2 * 32**3)


class BytesTest(absltest.TestCase):
    def test_a_product_reads_and_writes_its_matrices(self):
        costs_of_step = compiled(lambda x, w: x @ w, shaped(32, 64), shaped(64, 128))
        self.assertEqual(costs_of_step.bytes, 4 * (32 * 64 + 64 * 128 + 32 * 128))

    def test_as_xla_counts_where_nothing_loops(self):
        def fn(x, w):
            y = jax.nn.relu(x @ w)
            return y.sum(0), jnp.exp(y).T

        args = (shaped(64, 32), shaped(32, 48))
        program = jax.jit(fn).lower(*args).compile()
        xla = program.cost_analysis()["bytes accessed"]
        # XLA counts scalar constants too.
        self.assertAlmostEqual(costs.count(program.as_text()).bytes / xla, 1.0, delta=1e-3)


class CollectivesTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.mesh = sharding.make_mesh(sharding.MeshConfig(replica=2, data=2, fsdp=2))

    def links(self, fn, args, specs):
        placed = tuple(NamedSharding(self.mesh, spec) for spec in specs)
        text = jax.jit(fn, in_shardings=placed).lower(*args).compile().as_text()
        return [
            (link.kind, aot.axes_of(link.groups, dict(self.mesh.shape)), link.count, link.bytes)
            for link in costs.count(text).traffic
        ]

    def test_a_reduction_in_a_loop(self):
        def looped(x, w):  # contracts the split dimension in every turn
            return jax.lax.scan(lambda c, _: (jnp.tanh(c @ w), None), x, length=6)[0]

        links = self.links(looped, (shaped(4, 16), shaped(16, 16)), (P(), P("data", None)))
        self.assertIn(("all-reduce", "data", 6), {link[:3] for link in links})

    def test_axes(self):
        for axes in (("data",), ("replica", "fsdp"), ("replica", "data", "fsdp")):
            links = self.links(lambda x: x.sum(0), (shaped(16, 4),), (P(axes),))
            self.assertEqual(links, [("all-reduce", ", ".join(axes), 1, 16)])

    def test_notations(self):
        pairs = ((0, 2), (1, 3))
        for text in (
            "replica_groups={{0,2},{1,3}}, use_global_device_ids=true",
            "replica_groups=[2,2]<=[2,2]T(1,0), dimensions={0}",
            "replica_groups=mesh['a'=2,'b'=2] {'a'}, dimensions={0}",
            "source_target_pairs={{0,2},{1,3}}",
        ):
            self.assertEqual(transfers.device_groups(text), pairs, text)
        swapped = "replica_groups=mesh['a'=4,'b'=2], device_ids=([2,2,2]T(1,0,2)) {'a'}, x"
        self.assertEqual(transfers.device_groups(swapped), ((0, 4, 2, 6), (1, 5, 3, 7)))
        self.assertEqual(transfers.device_groups("replica_groups=[1,4]<=[4], x"), ((0, 1, 2, 3),))
        halves = transfers.device_groups("replica_groups=mesh['a'=8] {'a':(2)2}, x")
        self.assertEqual(halves, ((0, 2), (1, 3), (4, 6), (5, 7)))
        with self.assertRaises(ValueError):
            transfers.device_groups("replica_groups=something else")

    def test_what_a_ring_sends(self):
        groups = ((0, 1, 2, 3),)
        self.assertEqual(transfers.Transfer("all-gather", groups, 1, 400).sent, 300)
        self.assertEqual(transfers.Transfer("all-reduce", groups, 1, 400).sent, 600)
        self.assertEqual(transfers.Transfer("collective-permute", ((0, 1),), 1, 400).sent, 400)


TPU = """HloModule jit_f, is_scheduled=true

%add (a.1: f32[], b.1: f32[]) -> f32[] {
  %a.1 = f32[]{:T(128)} parameter(0)
  %b.1 = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a.1, %b.1)
}

%condition (state.1: (s32[], f32[128,128], f32[4,128,128])) -> pred[] {
  %limit = s32[]{:T(128)} constant(5)
  %state.1 = (s32[]{:T(128)}, f32[128,128]{1,0:T(8,128)S(1)}, f32[4,128,128]{2,1,0:T(8,128)}) parameter(0)
  %counter = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%counter, %limit), direction=LT
}

%sliced (o.0: f32[4,128,128], o.1: s32[]) -> f32[128,128] {
  %o.0 = f32[4,128,128]{2,1,0:T(8,128)} parameter(0)
  %o.1 = s32[]{:T(128)} parameter(1)
  %slice = f32[1,128,128]{2,1,0:T(8,128)} dynamic-slice(%o.0, %o.1, %o.1, %o.1), dynamic_slice_sizes={1,128,128}
  ROOT %flat.0 = f32[128,128]{1,0:T(8,128)} bitcast(%slice)
}

%product (p.0: f32[128,128], p.1: f32[4,128,128]) -> f32[128,128] {
  %p.0 = f32[128,128]{1,0:T(8,128)S(1)} parameter(0)
  %p.1 = f32[4,128,128]{2,1,0:T(8,128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %flat = f32[128,128]{1,0:T(8,128)} fusion(%p.1, %zero), kind=kLoop, calls=%sliced
  ROOT %conv = f32[128,128]{1,0:T(8,128)S(1)} convolution(%p.0, %flat), dim_labels=bf_io->bf
}

%body (state.2: (s32[], f32[128,128], f32[4,128,128])) -> (s32[], f32[128,128], f32[4,128,128]) {
  %state.2 = (s32[]{:T(128)}, f32[128,128]{1,0:T(8,128)S(1)}, f32[4,128,128]{2,1,0:T(8,128)}) parameter(0)
  %n = s32[]{:T(128)} get-tuple-element(%state.2), index=0
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%n, %one)
  %x = f32[128,128]{1,0:T(8,128)S(1)} get-tuple-element(%state.2), index=1
  %w = f32[4,128,128]{2,1,0:T(8,128)} get-tuple-element(%state.2), index=2
  %y = f32[128,128]{1,0:T(8,128)S(1)} fusion(%x, %w), kind=kOutput, calls=%product
  ROOT %out = (s32[]{:T(128)}, f32[128,128]{1,0:T(8,128)S(1)}, f32[4,128,128]{2,1,0:T(8,128)}) tuple(%next, %y, %w)
}

%all-reduce-scatter (q.0: f32[128,128]) -> f32[64,128] {
  %q.0 = f32[128,128]{1,0:T(8,128)} parameter(0)
  %whole = f32[128,128]{1,0:T(8,128)} all-reduce(%q.0), channel_id=1, replica_groups={{0,1}}, to_apply=%add
  %at = s32[]{:T(128)} constant(0)
  ROOT %part = f32[64,128]{1,0:T(8,128)} dynamic-slice(%whole, %at, %at), dynamic_slice_sizes={64,128}
}

%starts (r.0: f32[64,128]) -> (f32[64,128], f32[128,128]) {
  %r.0 = f32[64,128]{1,0:T(8,128)} parameter(0)
  %gather.0 = f32[128,128]{1,0:T(8,128)} all-gather(%r.0), channel_id=2, replica_groups={{0,1}}, dimensions={0}, backend_config={"async_collective_fusion_config":{"flag_end":"-1","flag_start":"-1"}}
  ROOT %start = (f32[64,128]{1,0:T(8,128)}, f32[128,128]{1,0:T(8,128)}) custom-call(%gather.0), custom_call_target="AsyncCollectiveStart"
}

%ends (s.0: f32[64,128], s.1: f32[128,128]) -> f32[128,128] {
  %s.0 = f32[64,128]{1,0:T(8,128)} parameter(0)
  %s.1 = f32[128,128]{1,0:T(8,128)} parameter(1)
  %gather.1 = f32[128,128]{1,0:T(8,128)} all-gather(%s.0), channel_id=2, replica_groups={{0,1}}, dimensions={0}, backend_config={"async_collective_fusion_config":{"flag_start":"2","flag_end":"8"}}
  ROOT %done = f32[128,128]{1,0:T(8,128)} custom-call(%s.0, %s.1, %gather.1), custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (x.0: f32[128,128], w.0: f32[4,128,128]) -> f32[128,128] {
  %x.0 = f32[128,128]{1,0:T(8,128)} parameter(0)
  %w.0 = f32[4,128,128]{2,1,0:T(8,128)} parameter(1)
  %first = s32[]{:T(128)} constant(1)
  %copied = s32[]{:T(128)} copy(%first)
  %copy-start = (f32[128,128]{1,0:T(8,128)S(1)}, f32[128,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%x.0)
  %copy-done = f32[128,128]{1,0:T(8,128)S(1)} copy-done(%copy-start)
  %state = (s32[]{:T(128)}, f32[128,128]{1,0:T(8,128)S(1)}, f32[4,128,128]{2,1,0:T(8,128)}) tuple(%copied, %copy-done, %w.0)
  %loop = (s32[]{:T(128)}, f32[128,128]{1,0:T(8,128)S(1)}, f32[4,128,128]{2,1,0:T(8,128)}) while(%state), condition=%condition, body=%body
  %result = f32[128,128]{1,0:T(8,128)S(1)} get-tuple-element(%loop), index=1
  %kernel = f32[128,128]{1,0:T(8,128)} custom-call(%result), custom_call_target="tpu_custom_call", backend_config={"custom_call_config":{"cost_estimate":{"flops":"1234","transcendentals":"7","bytes_accessed":"135000"}}}
  %silent = f32[128,128]{1,0:T(8,128)S(1)} custom-call(%kernel), custom_call_target="tpu_custom_call"
  %scattered = f32[64,128]{1,0:T(8,128)} fusion(%kernel), kind=kCustom, calls=%all-reduce-scatter
  %begun = (f32[64,128]{1,0:T(8,128)}, f32[128,128]{1,0:T(8,128)}) fusion(%scattered), kind=kCustom, calls=%starts
  %b.0 = f32[64,128]{1,0:T(8,128)} get-tuple-element(%begun), index=0
  %b.2 = f32[128,128]{1,0:T(8,128)} get-tuple-element(%begun), index=1
  %gathered = f32[128,128]{1,0:T(8,128)} fusion(%b.0, %b.2), kind=kCustom, calls=%ends
  %token = token[] after-all()
  %send = (f32[128,128]{1,0:T(8,128)}, u32[], token[]) send(%gathered, %token), channel_id=3, is_host_transfer=true, frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  ROOT %last = f32[128,128]{1,0:T(8,128)} copy(%gathered)
}
"""  # noqa: E501


class TpuTest(parameterized.TestCase):
    """Constructs that only a TPU's compiler writes, cut down from its programs."""

    def setUp(self):
        super().setUp()
        self.costs = costs.count(TPU)

    def test_flops_of_the_loop_and_of_the_kernel(self):
        self.assertEqual(self.costs.flops, 4 * 2 * 128**3 + 1234)  # turns 1 to 4

    def test_a_kernel_that_says_nothing_is_named(self):
        self.assertEqual(self.costs.unknown, ("silent",))

    def test_only_hbm_counts(self):
        whole, half = 4 * 128**2, 4 * 64 * 128
        parts = {
            "copied": 4,
            "copy-start": whole,  # the copy is on the chip
            "loop": 4 * (whole + (4 + 4) + (4 + 1)),  # a slice of w, the counter, the test
            "kernel": 135000 - whole,  # its argument is on the chip
            "silent": whole,
            "scattered": whole + half,
            "begun": half + whole,
            "send": whole,
            "last": whole + whole,
        }
        self.assertEqual(self.costs.bytes, sum(parts.values()))

    def test_collectives(self):
        pair, size = ((0, 1),), 4 * 128**2
        self.assertEqual(
            set(self.costs.traffic),
            {
                transfers.Transfer("reduce-scatter", pair, 1, size),
                transfers.Transfer("all-gather", pair, 1, size),
                transfers.Transfer("all-reduce", (), 1, size),
            },
        )

    @parameterized.named_parameters(
        ("before_it_ends", "  %b.0 = ", 4 * 128**2),
        ("before_it_starts", "  %begun = ", 0),
        ("after_it_ended", "  %token = ", 0),
    )
    def test_work_beside_a_collective(self, line, beside):
        work = (
            "  %work = f32[128,128]{1,0:T(8,128)} fusion(%x.0, %w.0), kind=kOutput, calls=%product"
        )
        traffic = costs.count(TPU.replace(line, f"{work}\n{line}")).traffic
        gathered = next(transfer for transfer in traffic if transfer.kind == "all-gather")
        self.assertEqual((gathered.bytes, gathered.beside), (4 * 128**2, beside))

    @parameterized.named_parameters(("at_once", (), 0), ("work", ("%work = ",), 400))
    def test_collectives_with_a_start_and_an_end(self, between, beside):
        lines = [
            "%p.0 = f32[50]{0} parameter(0)",
            "%start = (f32[50]{0}, f32[100]{0}) all-gather-start(%p.0), replica_groups={{0,1}}",
            *(f"{name}f32[50]{{0}} custom-call(%p.0)" for name in between),
            "ROOT %end = f32[100]{0} all-gather-done(%start)",
        ]
        body = "\n".join(f"  {line}" for line in lines)
        text = f"ENTRY %main (p.0: f32[50]) -> f32[100] {{\n{body}\n}}\n"
        self.assertEqual([t.beside for t in costs.count(text).traffic], [beside])


class ConvolutionTest(parameterized.TestCase):
    """The TPU's compiler writes products as convolutions."""

    @parameterized.named_parameters(
        # left, right, out, window, dim_labels, multiply-adds
        ("product", (8, 64), (64, 32), (8, 32), "", "bf_io->bf", 8 * 64 * 32),
        # The batch as a window with holes: each output meets one input.
        (
            "two_products",
            (2, 3, 5),
            (2, 5, 7),
            (2, 3, 7),
            "size=2 lhs_dilate=2",
            "0bf_0io->0bf",
            2 * 3 * 5 * 7,
        ),
        (
            "sixteen_products",
            (16, 3, 5),
            (16, 5, 7),
            (16, 3, 7),
            "size=16 stride=15 lhs_dilate=16",
            "0bf_0io->0bf",
            16 * 3 * 5 * 7,
        ),
        # A window that is all padding but one.
        (
            "outer_product",
            (1, 4, 1),
            (3, 1, 4),
            (3, 4, 4),
            "size=3 pad=2_2 rhs_reversal=1",
            "0bf_0io->0bf",
            3 * 4 * 4,
        ),
        # With padding, as the textbook counts.
        (
            "three_by_three",
            (1, 7, 7, 8),
            (3, 3, 8, 4),
            (1, 7, 7, 4),
            "size=3x3 pad=1_1x1_1",
            "b01f_01io->b01f",
            7 * 7 * 9 * 8 * 4,
        ),
    )
    def test_flops(self, left, right, out, window, labels, macs):
        def text(dims):
            return f"f32[{','.join(map(str, dims))}]{{0}}"

        window = f"window={{{window}}}, " if window else ""
        program = (
            "ENTRY %main (a: f32[]) -> f32[] {\n"
            f"  %a = {text(left)} parameter(0)\n  %b = {text(right)} parameter(1)\n"
            f"  ROOT %c = {text(out)} convolution(%a, %b), {window}dim_labels={labels}\n}}\n"
        )
        self.assertEqual(costs.count(program).flops, 2 * macs)


if __name__ == "__main__":
    absltest.main()
