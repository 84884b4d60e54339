"""Bad input: one clear line on stderr, exit code 2, no traceback, nothing half-written."""

import contextlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax import cli

ROOT = Path(__file__).parents[2]
TINY = (
    "--config.backbone.width=4",
    "--config.train.steps=2",
    "--config.train.batch_size=16",
    "--config.evals.every=-1",
    "--config.mesh.data=8",
)


class ErrorsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)
        self.workdir = self.folder / "run"

    def fails(self, *argv, message):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
            code = cli.run(list(argv))
        lines = err.getvalue().splitlines()
        self.assertEqual(code, 2, err.getvalue())
        self.assertLen(lines, 1, err.getvalue())
        self.assertRegex(lines[0], "^ssl-jax: .*" + message)
        return out.getvalue()

    def train(self, *flags, config="simclr:digits", message):
        self.fails(
            "train",
            f"--config={config}",
            f"--workdir={self.workdir}",
            *TINY,
            *flags,
            message=message,
        )

    def pictures(self, count, size=16):
        folder = self.folder / "pictures"
        folder.mkdir()
        draw = np.random.default_rng(0)
        for i in range(count):
            image = draw.integers(0, 255, (size, size, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / f"{i:03d}.png"), image)
        return folder

    @parameterized.parameters(
        ((), "train.batch_sze=3", "train: unknown key 'batch_sze'; did you mean 'batch_size'"),
        ((), "objective.temprature=3", "objective: unknown key 'temprature'; did you mean 'temper"),
        ((), "backbone.widht=3", "backbone: unknown key 'widht'; did you mean 'width'"),
        ((), "optin.lr=3", "unknown config section 'optin'; did you mean 'optim'"),
        ((), "lr=3", "no section; write --config.SECTION.KEY=VALUE"),
        ((), "optim.lr=big", "optim.lr: expected float, got 'big'"),
        ((), "train.steps=1.5", "train.steps: expected int, got 1.5"),
        ((), "train.steps=1099511627776", "total_steps: 1,099,511,627,776 is more than 2,147,483,"),
        ((), "train.batch_size=-4", "train.batch_size: expected .* of at least 1, got -4"),
        ((), "train.batch_size=1", "train.batch_size: simclr .* learns nothing from 1; set 2 or"),
        ((), "train.batch_size=12", "train.batch_size: 12 is not divisible by 8 devices"),
        (
            (),
            "train.batch_size=4096",
            "4096 is more than the 1437 examples of digits; set --config.train.batch_size=1024",
        ),
        ((), "mesh.data=3", "does not fit the 8 device"),
        ((), "objective.name=simcrl", "unknown method 'simcrl'; did you mean 'simclr'"),
        ((), "objective.name=./none.py", "no method file './none.py'"),
        ((), "backbone.name=resnot", "unknown backbone 'resnot'; did you mean 'resnet'"),
        ((), "objective.view.recipe=digit", "unknown recipe 'digit'; did you mean 'digits'"),
        ((), "objective.view.size=0", "size"),
    )
    def test_config_keys(self, flags, override, message):
        self.train(f"--config.{override}", *flags, message=message)
        self.assertFalse(self.workdir.exists())

    @parameterized.parameters(
        ("simcrl:digits", "no config 'simcrl'; did you mean 'simclr'"),
        ("zzz:digits", "no config 'zzz'; known: align_uniform, autoencoder, "),
        ("simclr:digit", "unknown recipe 'digit'; did you mean 'digits'"),
        ("simclr:zzz", "unknown recipe 'zzz'; known: cifar10, cifar10_cpu, digits, imagenet"),
        ("simclr:imagenet", "no training data; set it, --data="),
    )
    def test_configs(self, config, message):
        self.train(config=config, message=message)
        self.assertFalse(self.workdir.exists())

    @parameterized.parameters(
        (("trian",), "unknown subcommand 'trian'; did you mean 'train'"),
        (
            ("zzz",),
            "unknown subcommand 'zzz'; known: checkpoints, compile, completion, config, ",
        ),
        (("train", "--config=simclr:digits"), "--workdir is missing"),
        (("train", "--workdir=W"), "--config is missing"),
        (("train", "--wrkdir=W"), "unknown flag --wrkdir; did you mean 'workdir'"),
        (("train", "W"), "stray argument 'W'"),
        (("train", "--config.optim.lr"), "--config.optim.lr: no value"),
        (("evaluate", "--workdir=/nowhere"), "no run in /nowhere"),
        (
            ("evaluate", "--workdir=/nowhere", f"--step={'9' * 5000}"),
            "--step: a number of a thousand",
        ),
        (("train", f"--profile=1:{'9' * 5000}"), "--profile: a number of a thousand digits"),
        (
            ("compile", "--config=simclr:digits", "--topology=v5e:2x2", "--slices=0"),
            "--slices: expected a whole number of at least 1, got 0",
        ),
        (
            ("evaluate", "--workdir=/nowhere", "--eval=knm"),
            "unknown evaluation 'knm'; did you mean",
        ),
    )
    def test_command_lines(self, argv, message):
        self.fails(*argv, message=message)

    def test_data(self):
        empty = self.folder / "empty"
        empty.mkdir()
        self.train("--data=folder:/nowhere/at/all", message="/nowhere/at/all")
        self.train(f"--data=folder:{empty}", message="no image")
        self.train("--data=zip:/x", message="unknown data 'zip:/x'")
        self.train("--data=npz:/nowhere.npz", message="/nowhere.npz")
        self.assertFalse(self.workdir.exists())

    def test_too_many_corrupt_images(self):
        folder = self.pictures(24)
        for path in sorted(folder.iterdir())[:3]:
            path.write_bytes(path.read_bytes()[:40])
        self.train(f"--data=folder:{folder}", message="max_bad_fraction")

    def test_a_workdir_that_cannot_be_written(self):
        self.workdir.write_text("a file")
        self.train(message="cannot write to --workdir=")
        self.assertEqual(self.workdir.read_text(), "a file")

    def test_a_workdir_of_another_method(self):
        saved = self.workdir / "checkpoints" / "5"
        saved.mkdir(parents=True)
        (saved / "manifest.json").touch()
        text = '{"objective": {"name": "byol"}}'
        (self.workdir / "config.json").write_text(text)
        self.train(message="holds a run of 'byol', not of 'simclr'; give another --workdir")
        self.assertEqual((self.workdir / "config.json").read_text(), text)

    def test_a_reader_that_has_seen_enough(self):
        """`ssl-jax --help | head -1`."""
        here, there = os.pipe()
        os.close(here)
        words = [sys.executable, "-m", "ssl_jax", "--help"]
        done = subprocess.run(words, stdout=there, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        os.close(there)
        self.assertEqual((done.returncode, done.stderr), (128 + signal.SIGPIPE, ""))


if __name__ == "__main__":
    absltest.main()
