"""The user's own images: the choice of a config, the picture of the views, a whole run."""

import contextlib
import io
import os
import signal
import time
import types
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax import cli
from ssl_jax.core.errors import UserError
from ssl_jax.evals.evaluator import EvalsConfig, Evaluator
from ssl_jax.run import auto
from ssl_jax.run.trainer import Training
from ssl_jax.training.metrics import read_metrics


def pictures(folder: Path, count: int, height: int, width: int) -> Path:
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for i in range(count):
        image = draw.integers(0, 255, (height, width, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{i:03d}.png"), image)
    return folder


class AutoTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)

    def run_cli(self, *argv):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
            code = cli.run(list(argv))
        return code, out.getvalue(), err.getvalue()

    @parameterized.parameters(
        (200, 40, 60, {"size": 32, "batch": 64}),  # the size below the short side
        (40, 100, 100, {"size": 64, "batch": 16}),  # 64 at most on a CPU; half the images at most
        (20, 8, 300, {"size": 32, "batch": 8}),  # slivers are enlarged
    )
    def test_the_choice_follows_the_images(self, count, height, width, want):
        folder = pictures(self.folder / "p", count, height, width)
        config, reasons = auto.choose(f"folder:{folder}")
        self.assertEqual(config["objective"]["view"]["size"], want["size"])
        self.assertEqual(config["train"]["batch_size"], want["batch"])
        self.assertLen(reasons, 5)

    def test_the_warmup_follows_steps_of_the_command_line(self):
        config, _ = auto.choose("digits", *auto.requested([("train.steps", "60")]))
        self.assertEqual((config["train"]["steps"], config["optim"]["warmup_steps"]), (60, 6))

    def test_too_few_images(self):
        folder = pictures(self.folder / "p", 5, 16, 16)
        with self.assertRaisesRegex(
            UserError, "5 images are too few to learn from; use at least 16"
        ):
            auto.choose(f"folder:{folder}")

    def interrupted(self, *_):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    def test_a_run_on_a_folder_and_again_without_a_word(self):
        data = pictures(self.folder / "p", 40, 33, 47)
        workdir = self.folder / "run"
        first = ("train", f"--data=folder:{data}", f"--workdir={workdir}")
        with mock.patch.object(Evaluator, "baselines", self.interrupted):
            code, out, err = self.run_cli(*first, "--config.train.steps=9")
        self.assertEqual(code, 130, err)
        self.assertIn("ended before the first step; run the same command to start again", out)
        self.assertIn("interrupted; nothing was trained yet, so nothing is saved", err)
        self.assertIn("\n  batch     ", out)
        self.assertNotIn("\n  steps     ", out)  # set on the command line, not chosen
        self.assertTrue((workdir / "config.json").exists())
        self.assertEqual(list(workdir.glob("checkpoints/*")), [])
        # Other settings are fine: nothing was trained with the first ones.
        code, out, err = self.run_cli(
            "train",
            f"--data=folder:{data}",
            f"--workdir={workdir}",
            "--config.train.steps=4",
            "--config.train.stop_at=2",
            "--config.train.log_every=1",
            "--config.backbone.width=4",
        )
        self.assertEqual(code, 0, err)
        self.assertNotIn("holds a run", err)
        phases = ("reading the data", "measuring the untrained network and raw pixels")
        for phase in (*phases, "compiling the training step"):
            self.assertIn(f"\n{phase} ...\n", f"\n{out}")
        self.assertRegex(out, r"\ntime: .* for 2 steps on this machine")
        self.assertIn(f"next: ssl-jax evaluate --workdir={workdir}", out)
        self.assertEqual(read_metrics(workdir)[-1]["step"], 2)
        code, out, err = self.run_cli("train", f"--workdir={workdir}", "--config.train.stop_at=0")
        self.assertEqual(code, 0, err)
        self.assertIn("resuming from the checkpoint of step 2", out)
        last = read_metrics(workdir)[-1]
        self.assertEqual(last["step"], 4)
        self.assertIn("diag/rankme", last)  # without labels there is still something to see
        self.assertIn("time: at least a few seconds for 2 steps", out)

        code, out, err = self.run_cli("train", f"--workdir={workdir}")
        self.assertEqual(code, 0, err)
        self.assertIn("already finished: all 4 steps are done", out)
        self.assertIn(f"written to {workdir}/: config.json, metrics.jsonl, summary.json", out)
        self.assertNotIn("time: ", out)

    def test_what_is_left_out_is_said_once(self):
        pictures(self.folder / "p" / "train" / "a", 20, 33, 47)
        pictures(self.folder / "p" / "val" / "a", 5, 33, 47)
        with contextlib.chdir(self.folder), self.assertLogs(level="WARNING") as logs:
            code, _, err = self.run_cli(
                "train", "--data=./p", "--workdir=W", "--config.train.batch_size=64"
            )
        self.assertEqual(code, 2)
        self.assertIn("64 is more than the 20 examples", err)
        self.assertLen([line for line in logs.output if "left out" in line], 1, logs.output)

    def test_nothing_is_measured_where_nothing_is_evaluated(self):
        for evals, due in (
            ({}, [0, 4]),
            ({"every": 2}, [0, 2, 4]),
            ({"every": -1}, []),
            ({"protocols": ()}, []),
        ):
            run = types.SimpleNamespace(
                _total=4, _experiment=types.SimpleNamespace(evals=EvalsConfig(**evals))
            )
            steps = [step for step in range(5) if Training._evaluate_at(run, step)]
            self.assertEqual(steps, due)

    def test_a_picture_of_the_views(self):
        picture = self.folder / "views.png"
        code, out, err = self.run_cli(
            "views", "--config=byol:digits", f"--output={picture}", "--examples=3"
        )
        self.assertEqual(code, 0, err)
        self.assertIn("3 images, the original and 2 view(s) of each", out)
        image = cv2.imread(str(picture))
        self.assertEqual(image.shape, (3 * 100, 3 * 100, 3))
        tiles = image.reshape(3, 100, 3, 100, 3)[:, :96, :, :96]
        self.assertGreater(np.abs(tiles[:, :, 1].astype(int) - tiles[:, :, 2]).mean(), 5)

    def test_views_that_would_be_chosen(self):
        data, picture = pictures(self.folder / "p", 40, 33, 47), self.folder / "views.png"
        flags = (f"--data=folder:{data}", f"--output={picture}", "--examples=2")
        code, out, err = self.run_cli("views", *flags)
        self.assertEqual(code, 0, err)
        self.assertIn("no --config: the views that train chooses for these images", out)
        self.assertEqual(cv2.imread(str(picture)).shape, (2 * 100, 3 * 100, 3))

    @parameterized.parameters(
        (("--output=x.png",), "--config is missing"),
        (("--config=byol:digits",), "--output is missing"),
        (("--config=byol:digits", "--output=x.jpg"), "expected a name that ends in .png"),
        (("--config=byol:digits", "--output=/nowhere/x.png"), "cannot write --output"),
        (("--config=byol:digits", "--output=x.png", "--examples=no"), "--examples: expected int"),
    )
    def test_views_complains(self, argv, message):
        code, _, err = self.run_cli("views", *argv)
        self.assertEqual(code, 2)
        self.assertLen(err.splitlines(), 1)
        self.assertIn(message, err)


if __name__ == "__main__":
    absltest.main()
