"""Code of a network that came with a run or with weights: it is not run without trust."""

import contextlib
import json
import shutil

import numpy as np
from absl.testing import absltest, parameterized

import ssl_jax
from ssl_jax.core.errors import UserError
from ssl_jax.weights import files
from tests.cli.safety_test import Runs, call

NETWORK = """
import pathlib
from flax import nnx

pathlib.Path(__file__).with_name('RAN').touch()


class Net(nnx.Module):
    def __init__(self, channels, width: int = 8, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(rngs.normal((channels, width)))

    def __call__(self, images):
        return images.mean((1, 2)) @ self.kernel[...]
"""


class NetworkCodeTest(Runs):
    def with_network(self):
        """Create a run whose config names a network file in it; return the file and the folder."""
        network = self.folder / "run" / "network.py"
        shutil.rmtree(network.parent, ignore_errors=True)
        run = self.create_run("run", backbone={"name": str(network)})
        network.write_text(NETWORK)
        return network, run

    def assert_not_run(self, network):
        self.assertFalse(network.with_name("RAN").exists())

    @parameterized.parameters(
        ("evaluate", "--eval=knn"),
        ("embed", "--output=e.npz"),
        ("report", "--output=r.html"),
        ("train",),
    )
    def test_a_run_brings_no_network(self, command, *flags):
        network, run = self.with_network()
        with contextlib.chdir(self.folder):
            code, _, printed = call(command, f"--workdir={run}", *flags)
        self.assertEqual(
            code, 0 if command == "report" else 2, printed
        )  # a report without pictures
        self.assertIn("which holds no code", printed)
        self.assert_not_run(network)
        (run / "config.json").unlink()  # a run that is about to start
        words = ("--config=simclr:digits", f"--config.backbone.name={network}")
        self.fails("train", f"--workdir={run}", *words, message="which holds no code")
        self.assert_not_run(network)

    def test_the_network_of_a_run_that_is_trusted(self):
        network, run = self.with_network()
        with self.assertRaisesRegex(UserError, "holds no checkpoint"):
            ssl_jax.load(run, trust_code=True)
        self.assertTrue(network.with_name("RAN").exists())
        with self.assertRaisesRegex(UserError, "which holds no code"):
            ssl_jax.load(run)  # although it was run before

    def test_weights_bring_no_network(self):
        network = self.folder / "network.py"  # outside of any run
        network.write_text(NETWORK)
        arrays = {"backbone/network/kernel": np.ones((3, 4), np.float32)}
        card = {"format": "ssl_jax", "channels": "3", "encoder": "student"}
        card["backbone"] = json.dumps({"name": str(network), "width": 4})
        path = self.folder / "w.safetensors"
        files.write(path, arrays, card)
        with self.assertRaisesRegex(
            UserError, "name your copy .*backbone.name=./network.py, or add"
        ):
            ssl_jax.load(path)
        self.assert_not_run(network)
        copy = self.folder / "copy" / "network.py"
        copy.parent.mkdir()
        copy.write_text(NETWORK)
        encoder = ssl_jax.load(path, backbone={"name": str(copy)})
        self.assertEqual(encoder(np.zeros((2, 8, 8, 3), np.uint8)).shape, (2, 4))
        self.assert_not_run(network)
        self.assertTrue(copy.with_name("RAN").exists())
        ssl_jax.load(path, trust_code=True)
        self.assertTrue(network.with_name("RAN").exists())


if __name__ == "__main__":
    absltest.main()
