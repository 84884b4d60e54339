from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax.sharding import PartitionSpec as P

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.sharding import MeshConfig


@dataclass(frozen=True)
class Chip:
    """The attributes of a device that a mesh uses."""

    id: int
    slice_index: int
    platform: str = "gpu"
    device_kind: str = "fake"
    process_index: int = 0


class ShardingTest(parameterized.TestCase):
    def test_the_rest_of_the_devices(self):
        mesh = sharding.make_mesh(MeshConfig(fsdp=2))
        self.assertEqual(dict(mesh.shape), {"replica": 1, "data": 4, "fsdp": 2})

    @parameterized.parameters(
        (MeshConfig(data=3), "replica x data x fsdp = 1x3x1 does not fit the 8 device"),
        (MeshConfig(data=-1, fsdp=3), "1x-1x3 does not fit the 8 device"),
        (MeshConfig(data=-1, fsdp=-1), "at most one may be -1"),
        (MeshConfig(data=0), "at most one may be -1"),
    )
    def test_meshes_that_do_not_fit(self, config, message):
        with self.assertRaisesRegex(UserError, message):
            sharding.make_mesh(config)

    def test_replica_alone_goes_across_slices(self):
        # Interleaved, so that no order is right by chance.
        devices = [Chip(i, i % 2) for i in range(8)]
        for config, shape in (
            (MeshConfig(replica=2), (2, 4, 1)),
            (MeshConfig(replica=2, fsdp=2), (2, 2, 2)),
            (MeshConfig(replica=4, fsdp=2), (4, 1, 2)),
        ):
            grid = sharding.make_mesh(config, devices).devices
            self.assertEqual(grid.shape, shape)
            for index, row in enumerate(grid):
                slices = {chip.slice_index for chip in row.flat}
                self.assertEqual(slices, {index // (shape[0] // 2)})
            self.assertLen(set(grid.flat), 8)

    @parameterized.parameters(
        (MeshConfig(), 2, "mesh.replica: 1 does not fit the 2 slices .*replica=2 or a multiple"),
        (MeshConfig(replica=2), 4, "mesh.replica: 2 does not fit the 4 slices"),
    )
    def test_slices_that_do_not_fit(self, config, slices, message):
        with self.assertRaisesRegex(UserError, message):
            sharding.make_mesh(config, [Chip(i, i % slices) for i in range(8)])

    @parameterized.parameters(
        (MeshConfig(fsdp=4), 8, 1, MeshConfig(fsdp=4)),
        (MeshConfig(data=2, fsdp=8), 8, 1, MeshConfig(data=-1, fsdp=8)),
        (MeshConfig(data=2, fsdp=8), 4, 1, MeshConfig(data=-1, fsdp=4)),
        (MeshConfig(replica=4, fsdp=6), 8, 2, MeshConfig(replica=2, fsdp=2)),
        (MeshConfig(replica=2, fsdp=-1), 3, 1, MeshConfig()),
    )
    def test_a_mesh_for_other_devices(self, config, devices, slices, expected):
        chips = [Chip(i, i % slices) for i in range(devices)]
        self.assertEqual(sharding.fitting(config, chips), expected)
        self.assertEqual(sharding.make_mesh(expected, chips).size, devices)

    def test_slices_of_unequal_size(self):
        with self.assertRaisesRegex(UserError, "2x-1x1 does not fit 2 slice"):
            sharding.make_mesh(MeshConfig(replica=2), [Chip(i, int(i > 2)) for i in range(8)])

    def test_the_rows_of_this_process_are_all_where_it_is_alone(self):
        mesh = sharding.make_mesh(MeshConfig(fsdp=2))
        np.testing.assert_array_equal(sharding.local_rows(mesh, 16), np.arange(16))
        with self.assertRaisesRegex(UserError, "batch of 12 is not divisible by the 8 devices"):
            sharding.local_rows(mesh, 12)

    def test_rules(self):
        config = MeshConfig(data=2, fsdp=4, fsdp_min_size=16)
        mesh = sharding.make_mesh(config)
        shapes = {
            "params": {"wide": (8, 16), "small": (4,), "odd": (7, 5), "square": (8, 8)},
            "extra": {"queue": {"keys": (16, 64)}, "memory": (9, 64)},
        }
        abstract = jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s, jnp.float32),
            shapes,
            is_leaf=lambda x: isinstance(x, tuple),
        )
        got = jax.tree.map(lambda s: s.spec, sharding.tree_shardings(abstract, config, mesh))
        rows = P(sharding.AXES)
        self.assertEqual(
            got,
            {
                "params": {
                    "wide": P(None, "fsdp"),
                    "small": P(),
                    "odd": P(),
                    "square": P(None, "fsdp"),
                },
                "extra": {"queue": {"keys": rows}, "memory": P()},
            },
        )

    def test_a_rule_that_matches_nothing(self):
        rules = (("params/hed", "replicate"), *sharding.DEFAULT_RULES)
        mesh = sharding.make_mesh(sharding.MeshConfig())
        shapes = {"params": {"head": jax.ShapeDtypeStruct((4, 4), "float32")}}
        with self.assertRaisesRegex(UserError, "mesh.rules: .*did you mean 'params/head'"):
            sharding.tree_shardings(shapes, sharding.MeshConfig(rules=rules), mesh)

    def test_an_unknown_rule(self):
        config = MeshConfig(rules=((".*", "split"),))
        mesh = sharding.make_mesh(config)
        with self.assertRaisesRegex(UserError, "for 'x', got 'split'"):
            sharding.tree_shardings({"x": jax.ShapeDtypeStruct((2,), jnp.float32)}, config, mesh)


if __name__ == "__main__":
    absltest.main()
