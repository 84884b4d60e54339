"""The report on a step, compiled here for eight CPU devices."""

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from benchmarks import pods_plan
from ssl_jax.core import sharding
from ssl_jax.cost import aot, chips, flops, program
from ssl_jax.run.acting import acting_loop
from ssl_jax.training import state
from ssl_jax.training.step import make_train_step
from tests.objectives import harness


def mesh():
    return sharding.make_mesh(sharding.MeshConfig(fsdp=2))


def acting(made):
    """Batches of a new run that acts, with constant actions."""
    folder = Path(tempfile.mkdtemp())
    loop = acting_loop(made.source, made.objective, folder, 0, 0)
    loop.collect(lambda images, number: np.zeros((1, made.spec.actions)), 0)
    return loop


class AbstractBatchTest(parameterized.TestCase):
    @parameterized.named_parameters(*harness.METHODS)
    def test_is_what_the_host_makes(self, method):
        made = harness.experiment(method)
        real = next(acting(made) if made.acts else made.batches(0, 1))
        batch = aot.abstract_batch(made.objective.inputs(), made.spec, mesh())
        shapes = jax.tree.map(lambda x: (x.shape, np.dtype(x.dtype)), batch)
        self.assertEqual(shapes, jax.tree.map(lambda x: (x.shape, x.dtype), real))


class ReportTest(absltest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.made = made = harness.experiment("simclr", data=4, fsdp=2)
        cls.placed = state.shardings(made.abstract_state, made.sections["mesh"], mesh())
        cls.report, cls.text = aot.compile_step(
            made.objective, made.tx, made.schedule, mesh(), made.abstract_state, cls.placed
        )

    def test_parts_are_what_a_device_holds(self):
        made = self.made
        with jax.set_mesh(mesh()):
            real = state.create(made.objective, made.tx, 0, self.placed)
        device = mesh().devices.flat[3]

        def held(tree):
            shards = [s for x in jax.tree.leaves(tree) for s in x.addressable_shards]
            return sum(s.data.nbytes for s in shards if s.device == device)

        memory = self.report.memory
        self.assertEqual(memory.parameters, held(real.params))
        self.assertEqual(memory.optimizer, held(real.opt_state))
        self.assertEqual(memory.extra, held(real.extra))
        self.assertLess(memory.parameters, sum(x.nbytes for x in jax.tree.leaves(real.params)))
        self.assertGreater(memory.activations, 0)
        parts = (memory.parameters, memory.optimizer, memory.extra, memory.batch)
        self.assertGreaterEqual(memory.peak, sum(parts) + memory.activations)

    def test_what_pods_plan_reads_is_what_the_compiler_reports(self):
        """benchmarks/pods_plan.py stops where XLA has written its text of the assignment."""

        def step(x, y):
            return jnp.sin(x @ y) @ y, y + 1

        x = jax.ShapeDtypeStruct((64, 64), jnp.float32)
        lowered = jax.jit(step, donate_argnums=1).lower(x, x)
        folder = self.create_tempdir().full_path
        dump = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        compiled = lowered.compile(compiler_options=dump)
        (path,) = Path(folder).glob("*after_optimizations-buffer-assignment.txt")
        sizes, expected = pods_plan.assigned_bytes(path.read_text()), compiled.memory_analysis()
        self.assertEqual(sizes["arguments"], expected.argument_size_in_bytes)
        self.assertEqual(sizes["temporary"], expected.temp_size_in_bytes)
        results = expected.output_size_in_bytes - expected.alias_size_in_bytes
        self.assertEqual(sizes["results"], results)

    def test_flops_of_all_devices_are_those_of_the_step(self):
        """Counted in two ways: in the compiled programs of eight devices, in the global jaxpr."""
        made = self.made
        step = make_train_step(made.objective, made.tx, made.schedule, mesh(), self.placed)
        batch = aot.abstract_batch(made.objective.inputs(), made.spec, mesh())
        counted = flops.count(step, made.abstract_state, batch)
        # Small maps at small images: some positions of the kernels see only padding.
        self.assertBetween(self.report.flops / counted, 0.85, 1.05)
        self.assertEqual(self.report.flops_per_image, self.report.flops / harness.BATCH)

    def test_collectives_name_their_axes(self):
        kinds = {link.kind for link in self.report.links}
        self.assertIn("all-reduce", kinds)
        axes = {axis for link in self.report.links for axis in link.axes.split(", ")}
        self.assertEqual(axes, {"data", "fsdp"})

    def test_fits_where_no_limit_is_known(self):
        self.assertTrue(self.report.fits)
        self.assertIsNone(self.report.bound)
        self.assertStartsWith(self.text, "HloModule")


class BoundTest(absltest.TestCase):
    def test_the_longest_part_bounds(self):
        chip = chips.Chip("toy", flops=100.0, hbm=1, bandwidth=10.0, ici=4.0, dcn=1.0)
        done = program.Costs(flops=200, bytes=50)
        links = (
            aot.Link("all-reduce", "data", 1, 8, 12),
            aot.Link("all-reduce", aot.DCN, 1, 3, 3),
        )
        limit = aot.bound(chip, done, links, images=10)
        self.assertEqual(limit, aot.TimeBound(2.0, 5.0, 3.0, 3.0, 5.0, 2.0))

    def test_every_tpu_is_in_the_table(self):
        for kind, chip in chips.TPUS.items():
            self.assertEqual(chips.chip(chip.kind), chip, kind)
            self.assertGreater(min(chip.flops, chip.hbm, chip.bandwidth, chip.ici), 0)
        self.assertEqual(chips.chip("TPU v5p"), chips.TPUS["v5p"])
        self.assertEqual(chips.chip("TPU v5 lite"), chips.TPUS["v5e"])
        self.assertIsNone(chips.chip("cpu"))


class OutOfMemoryTest(parameterized.TestCase):
    @parameterized.parameters(
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total "
            "memory required for HLO temporaries (22.66G) exceeds available HBM (15.75G). HLO "
            "module: jit_f.\nSee https://openxla.org/xla/errors/error_1000 for more details.",
            "total memory required for HLO temporaries (22.66G) exceeds available HBM (15.75G)",
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.29G of 15.75G hbm. "
            "Exceeded hbm capacity by 4.54G.\n\nTotal hbm",
            "Used 20.29G of 15.75G hbm",
        ),
        ("RESOURCE_EXHAUSTED: something\nelse", "RESOURCE_EXHAUSTED: something else"),
    )
    def test_the_compilers_numbers_are_kept(self, message, expected):
        self.assertEqual(aot.why(ValueError(message)), expected)


if __name__ == "__main__":
    absltest.main()
