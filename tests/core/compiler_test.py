"""Options of the compiler by the kind of chip and the mesh."""

from types import SimpleNamespace

import numpy as np
from absl.testing import absltest, parameterized
from jax.sharding import Mesh

from ssl_jax.core import compiler, sharding
from ssl_jax.core.sharding import AXES


class CompilerTest(parameterized.TestCase):
    @parameterized.parameters(
        ("TPU v5 lite", 4, True),
        ("TPU v5 lite", 1, False),  # nothing is gathered
        ("TPU v5", 4, False),  # the option of another chip
        ("cpu", 4, False),
    )
    def test_options_are_those_of_the_chip_with_split_weights(self, kind, fsdp, has_options):
        devices = np.array([SimpleNamespace(device_kind=kind)] * 4).reshape(1, 4 // fsdp, fsdp)
        mesh = SimpleNamespace(shape=dict(zip(AXES, devices.shape, strict=True)), devices=devices)
        self.assertEqual(bool(compiler.options(mesh)), has_options)

    def test_a_mesh_of_another_project_has_none(self):
        mesh = Mesh(np.array(sharding.make_mesh(sharding.MeshConfig()).devices).ravel(), ("x",))
        self.assertEqual(compiler.options(mesh), {})


if __name__ == "__main__":
    absltest.main()
