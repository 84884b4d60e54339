"""CKA of the layers of two networks: by hand, by identities, and of runs on the disk."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.data.sources import ArraySource
from ssl_jax.evals.base import Subject, measured
from ssl_jax.evals.checks import DoesNotApply
from ssl_jax.evals.images import Images
from ssl_jax.evals.protocols.layers import cka
from ssl_jax.evals.protocols.similarity import Similarity
from ssl_jax.evals.records import named_files
from ssl_jax.nets.features import Features, Stage
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import Encoder, Probe
from ssl_jax.run.other_run import network


def encoder(scale: float, stages: int) -> Encoder:
    """A network whose stage i is the i-th power of the scaled image, 2 x 2 pixels of 1 channel."""

    def forward(params, stats, images, *, train, stages=True):
        maps = [(params["scale"] * images) ** (i + 1) for i in range(count)]
        named = tuple(Stage(name=f"stage{i}", map=x) for i, x in enumerate(maps))
        return Features(pooled=maps[-1].mean((1, 2)), map=maps[-1], stages=named), stats

    count, params = stages, {"scale": jnp.float32(scale)}
    return Encoder(params, {}, Net(lambda key: (params, {}), forward, "powers"))


class SimilarityTest(absltest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        pixels = np.random.default_rng(0).integers(0, 256, (12, 2, 2, 1)).astype(np.uint8)
        source = ArraySource("pixels", pixels, np.arange(12) % 2)
        mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
        how = {"view": View(2, recipe="normalize"), "channels": 1, "batch_size": 4, "mesh": mesh}
        cls.images = Images.of(source, source, 100, 100, **how)

    def measure(self, own, other):
        loaded = lambda folder: (other, self.images.view)  # noqa: E731
        subject = Subject(own, self.images, Probe(), network=loaded)
        ((_, numbers),) = measured([Similarity(other="x")], subject)
        return numbers

    def test_by_hand(self):
        """x = (-1, 0, 1), y = (1, 0, 2): centred y = (0, -1, 1), x.y = 1, |x|^2 = |y|^2 = 2."""
        x, y = np.array([[-1.0], [0.0], [1.0]]), np.array([[1.0], [0.0], [2.0]])
        self.assertAlmostEqual(float(cka(x, y)), 1 / 4, places=6)
        both = np.concatenate([x, y], 1)
        # |x^T both|^2 = 4 + 1, |x^T x| = 2, |both^T both|^2 = 4 + 1 + 1 + 4.
        self.assertAlmostEqual(float(cka(x, both)), 5 / (2 * 10**0.5), places=6)

    def test_every_pair_of_stages(self):
        numbers = self.measure(encoder(1.0, 2), encoder(3.0, 3))
        self.assertEqual(
            {*numbers}, {f"diag/cka_other_{i}_{j}" for i in range(2) for j in range(3)}
        )
        for i in range(2):  # a scale is no difference
            self.assertAlmostEqual(numbers[f"diag/cka_other_{i}_{i}"], 1, places=5)
        self.assertLess(numbers["diag/cka_other_0_1"], 0.999)

    def test_the_other_way_round(self):
        first, second = encoder(1.0, 2), encoder(0.5, 3)
        there, back = self.measure(first, second), self.measure(second, first)
        for i in range(2):
            for j in range(3):
                name, mirror = f"diag/cka_other_{i}_{j}", f"diag/cka_other_{j}_{i}"
                self.assertAlmostEqual(there[name], back[mirror], places=6)

    def test_without_another_run(self):
        subject = Subject(encoder(1.0, 2), self.images, Probe())
        with self.assertRaisesRegex(DoesNotApply, "another run to compare with; set it"):
            measured([Similarity()], subject)
        with self.assertRaisesRegex(UserError, "other=x: .* by `ssl-jax evaluate` only"):
            next(iter(measured([Similarity(other="x")], subject)))

    def test_a_folder_that_is_no_run(self):
        with self.assertRaisesRegex(UserError, "config.json|no run"):
            network(self.images.mesh, self.create_tempdir().full_path)

    def test_evaluations_do_not_change_a_run(self):
        """A run is identified by its config and checkpoints, as its results grow."""
        folder = Path(self.create_tempdir().full_path)
        (folder / "checkpoints" / "9").mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "checkpoints" / "9" / "weights").write_text("1")
        before = named_files(dataclasses.asdict(Similarity(other=str(folder))))
        self.assertLen(before, 1)
        (folder / "eval").mkdir()
        (folder / "eval" / "results.jsonl").write_text("{}\n")
        self.assertEqual(named_files({"other": str(folder)}), before)
        (folder / "checkpoints" / "9" / "weights").write_text("2")
        self.assertNotEqual(named_files({"other": str(folder)}), before)


if __name__ == "__main__":
    absltest.main()
