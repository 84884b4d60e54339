"""Passes over the data set in a run: complete, and repeated after a kill."""

from pathlib import Path
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest

from ssl_jax import cli
from ssl_jax.augment.recipes import prepare
from ssl_jax.core import sharding
from ssl_jax.core.placement import prefetch_to_device
from ssl_jax.run import trainer
from ssl_jax.run.configs import load_config, override
from ssl_jax.run.experiment import Experiment
from ssl_jax.training import refresh, state
from ssl_jax.training.metrics import read_metrics

TINY = (
    "--config.backbone.width=4",
    "--config.objective.whitened=8",
    "--config.objective.clusters=7",
    "--config.objective.epochs=0.1",  # every fourth step
    "--config.train.steps=10",
    "--config.train.batch_size=32",
    "--config.train.log_every=1",
    "--config.checkpoint.every=2",
    "--config.evals.every=-1",
)


class Killed(Exception):
    pass


def killed_at(step):
    """Patch `make_refresh` so that the pass over the data fails midway before `step`."""

    def make(*args):
        run = refresh.make_refresh(*args)

        def renew(current, examples):
            def dying():
                for i, batch in enumerate(examples()):
                    if i == 3 and int(current.step) == step:
                        raise Killed
                    yield batch

            return run(current, dying)

        return renew

    return mock.patch.object(trainer, "make_refresh", make)


def experiment():
    config = load_config("deepcluster:digits")
    override(config, [("backbone.width", 4), ("objective.whitened", 8)])
    return Experiment.from_config(config)


class RefreshTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)

    def train(self, name):
        flags = ("--config=deepcluster:digits", *TINY, f"--config.mesh.data={jax.device_count()}")
        return cli.run(["train", f"--workdir={self.folder / name}", *flags])

    def test_a_refresh_killed_in_its_middle_is_made_again(self):
        self.assertEqual(self.train("whole"), 0)
        with killed_at(4), self.assertRaises(Killed):
            self.train("killed")
        self.assertEqual(self.train("killed"), 0)
        whole, killed = (
            [
                {k: v for k, v in line.items() if not k.startswith("perf/")}
                for line in read_metrics(self.folder / name)
            ]
            for name in ("whole", "killed")
        )
        self.assertEqual([line["step"] for line in whole], list(range(1, 11)))
        self.assertEqual(killed, whole)
        self.assertLessEqual(max(line["train/clusters"] for line in whole), 7)

    def test_the_pass_sees_every_example_once_and_in_its_row(self):
        run = experiment()
        view = run.objective.inputs().views[0]
        with jax.set_mesh(run.mesh):
            current = state.create(run.objective, run.tx, 0, run.placed)
            features, indices = refresh.empty_pass(run.objective, current, view.size), []
            record = jax.jit(refresh.make_recorder(run.objective))
            for batch in prefetch_to_device(run.examples(), sharding.batch_sharding(run.mesh)):
                images, index = batch["images"], batch["index"]
                features = record(current.params, current.extra, features, images, index)
                indices.append(np.asarray(index))
        indices = np.concatenate(indices)
        np.testing.assert_array_equal(indices[indices >= 0], np.arange(1437))
        np.testing.assert_array_equal(features.present, np.arange(2048) < 1437)
        self.assertEqual(np.abs(features.values[1437:]).max(), 0)
        # Image 1400 on its own.
        *_, last = run.examples()
        (row,) = np.flatnonzero(last["index"] == 1400)
        encoder = run.objective.encoder(current.params, current.extra)
        alone = encoder.features(prepare(view, last["images"][row : row + 1])).pooled
        np.testing.assert_allclose(features.values[1400], alone[0], rtol=1e-4, atol=1e-5)

    def test_hosts_share_the_examples_in_equal_parts(self):
        run, parts = experiment(), []
        for host in range(2):
            half = lambda mesh, n, host=host: np.split(np.arange(n), 2)[host]  # noqa: E731
            with (
                mock.patch.object(jax, "process_count", lambda: 2),
                mock.patch.object(sharding, "local_rows", half),
            ):
                parts.append([batch["index"] for batch in run.examples()])
        self.assertEqual([len(part) for part in parts], [6, 6])
        together = np.concatenate([np.concatenate(pair) for pair in zip(*parts, strict=True)])
        np.testing.assert_array_equal(together[:1437], np.arange(1437))
        np.testing.assert_array_equal(together[1437:], -1)


if __name__ == "__main__":
    absltest.main()
