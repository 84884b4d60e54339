import dataclasses

import jax
import jax.numpy as jnp
from absl.testing import absltest, parameterized
from jax.sharding import PartitionSpec as P

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.sharding import MeshConfig


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a mesh looks at of a device."""

    id: int
    slice_index: int
    process_index: int = 0
    platform: str = "cpu"
    device_kind: str = "cpu"


class SlicesTest(absltest.TestCase):
    chips = tuple(Chip(i, slice_index=i % 2) for i in range(8))

    def test_slices_lie_along_replica(self):
        mesh = sharding.make_mesh(sharding.MeshConfig(replica=2, fsdp=2), self.chips)
        self.assertEqual(dict(mesh.shape), {"replica": 2, "data": 2, "fsdp": 2})
        for half in mesh.devices:
            self.assertLen({chip.slice_index for chip in half.flat}, 1)

    def test_replica_must_divide_by_the_slices(self):
        with self.assertRaisesRegex(UserError, "use mesh.replica=2"):
            sharding.make_mesh(sharding.MeshConfig(), self.chips)


class ShardingTest(parameterized.TestCase):
    def test_the_rest_of_the_devices(self):
        mesh = sharding.make_mesh(MeshConfig(fsdp=2))
        self.assertEqual(dict(mesh.shape), {"replica": 1, "data": 4, "fsdp": 2})

    @parameterized.parameters(
        (MeshConfig(data=3), "replica x data x fsdp = 1x3x1 does not fit the 8 device"),
        (MeshConfig(data=-1, fsdp=3), "1x-1x3 does not fit the 8 device"),
        (MeshConfig(data=-1, fsdp=-1), "at most one of them -1"),
        (MeshConfig(data=0), "at most one of them -1"),
    )
    def test_meshes_that_do_not_fit(self, config, message):
        with self.assertRaisesRegex(UserError, message):
            sharding.make_mesh(config)

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

    def test_an_unknown_rule(self):
        config = MeshConfig(rules=((".*", "split"),))
        mesh = sharding.make_mesh(config)
        with self.assertRaisesRegex(UserError, "'split' for 'x' is not one of"):
            sharding.tree_shardings({"x": jax.ShapeDtypeStruct((2,), jnp.float32)}, config, mesh)


if __name__ == "__main__":
    absltest.main()
