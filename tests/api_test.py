"""The functions of `ssl_jax`: flags as keywords, results as values, errors and interrupts."""

import contextlib
import dataclasses
import inspect
import io
import os
import re
import signal
import tempfile
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
from absl.testing import absltest, parameterized

import ssl_jax
from ssl_jax.core.distributed import ProcessFlags
from ssl_jax.run import catalog
from ssl_jax.run.commands import (
    duplicates,
    embed,
    evaluate,
    export,
    finetune,
    outliers,
    predict,
    push,
    train,
)
from ssl_jax.training import loop
from ssl_jax.training.metrics import read_metrics

TINY = {
    "backbone.width": 4,
    "objective.projector": (8, 8),
    "train.steps": 4,
    "train.batch_size": 32,
    "checkpoint.every": 2,
    "evals.protocols": ("knn",),
}
# Flags in another form, or that a function has no use for.
OTHER = {
    "train": {"overrides": "settings", "restarts": "", "dry_run": ""},
    "evaluate": {
        **{"overrides": "settings", "workdir": "run", "weights": "run"},
        **{"cells": "sweep", "no_baselines": "baselines"},
    },
    "embed": {"overrides": "settings", "workdir": "run", "weights": "run", "patches": "pool"},
    "export": {"workdir": "run"},
    "finetune": {"overrides": "settings", "workdir": "run", "weights": "run"},
    "predict": {"workdir": "classifier", "weights": "classifier"},
    "duplicates": {"overrides": "settings", "workdir": "run", "weights": "run"},
    "outliers": {"overrides": "settings", "workdir": "run", "weights": "run"},
    "push": {"workdir": "run"},
}


class ApiTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.enterClassContext(contextlib.redirect_stdout(io.StringIO()))
        cls.logged = []
        cls.last = ssl_jax.train(
            "simclr:digits",
            workdir=cls.folder / "W",
            settings=TINY,
            log=lambda step, values: cls.logged.append({"step": step} | values),
        )

    @parameterized.parameters(
        train, evaluate, embed, export, finetune, predict, duplicates, outliers, push
    )
    def test_every_flag_is_a_keyword_with_its_default(self, command):
        name = command.__name__.rpartition(".")[2]
        parameters = inspect.signature(getattr(ssl_jax, name)).parameters
        processes = {field.name for field in dataclasses.fields(ProcessFlags)}
        named = set()
        for field in dataclasses.fields(command.Flags):
            if field.name in processes:
                continue
            keyword = OTHER[name].get(field.name, field.name)
            named.add(keyword)
            if keyword == field.name and field.default is not dataclasses.MISSING:
                default = parameters[keyword].default
                self.assertIn(default, (field.default, None), f"{name}: {keyword}")
        self.assertEqual(named - {""}, set(parameters))
        arguments = getattr(ssl_jax, name).__doc__.partition("Returns:")[0]
        described = re.findall(r"^      (\w+): ", arguments, re.M)
        self.assertEqual(described, list(parameters), name)

    def test_train_returns_the_last_metrics(self):
        self.assertContainsSubset({"train/loss", "eval/knn_top1"}, self.last)
        again = ssl_jax.train(workdir=self.folder / "W")  # already finished
        self.assertEqual(again["eval/knn_top1"], self.last["eval/knn_top1"])

    def test_a_function_gets_what_the_file_of_metrics_has(self):
        self.assertEqual(self.logged, read_metrics(self.folder / "W"))
        self.assertFalse((self.folder / "W" / "events").exists())
        with self.assertRaisesRegex(ssl_jax.UserError, "--log=wanb: unknown logger"):
            ssl_jax.train(workdir=self.folder / "W", log=["wanb"])

    def test_evaluate_returns_what_the_file_holds(self):
        sweep = {"k": (5, 10)}
        records = ssl_jax.evaluate(self.folder / "W", ["knn"], sweep=sweep, baselines=False)
        self.assertEqual([record["settings"]["k"] for record in records], [5, 10])
        for record in records:
            self.assertBetween(record["results"]["eval/knn_top1"], 0.1, 1)
        again = ssl_jax.evaluate(self.folder / "W", ["knn"], sweep=sweep, baselines=False)
        self.assertEqual(again, records)

    def test_embed_returns_arrays_or_writes_a_file(self):
        arrays = ssl_jax.embed(self.folder / "W", "digits", neighbors=2)
        self.assertEqual(arrays["features"].shape, (1437, 16))
        self.assertEqual(arrays["row"].shape, (1437, 2))
        output = ssl_jax.embed(self.folder / "W", "digits", self.folder / "e.npz")
        with np.load(output) as file:
            np.testing.assert_array_equal(file["features"], arrays["features"])

    def test_an_encoder_takes_paths_and_is_printed_in_a_line(self):
        encoder = ssl_jax.load(self.folder / "W")
        pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 1), np.uint8)
        path = self.folder / "image.png"
        cv2.imwrite(str(path), pixels)
        np.testing.assert_array_equal(encoder(path), encoder(pixels[None]))
        # Programs for one and two images may differ in the last bit: compare batches of one size.
        both = encoder(np.stack([pixels, pixels]))
        np.testing.assert_array_equal(encoder([str(path), pixels]), both)
        with self.assertRaisesRegex(ssl_jax.UserError, "missing.png: No such file"):
            encoder(self.folder / "missing.png")
        self.assertLess(len(repr(encoder)), 300)
        self.assertContainsInOrder(["resnet", "parameters", "(16,)", "step 4"], repr(encoder))

    def test_an_exported_file_gives_the_same_features(self):
        path = ssl_jax.export(self.folder / "W", self.folder / "w.npz", format="npz")
        pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 1), np.uint8)
        expected = ssl_jax.load(self.folder / "W")(pixels)
        np.testing.assert_allclose(ssl_jax.load(path)(pixels), expected, rtol=1e-6)

    @parameterized.parameters(
        (lambda w: ssl_jax.train("simclr:digit", workdir=w), "did you mean 'digits'"),
        (lambda w: ssl_jax.train(workdir=w), "--config is missing"),
        (lambda w: ssl_jax.embed(w, "digits"), "no run"),
        (lambda w: ssl_jax.embed(w, "digits", pool="max"), "^pool: expected one of"),
        (lambda w: ssl_jax.evaluate(w, ["knnn"]), "did you mean 'knn'"),
    )
    def test_a_mistake_is_a_user_error(self, call, message):
        with self.assertRaisesRegex(ssl_jax.UserError, message):
            call(self.folder / "none")

    def test_an_interrupt_saves_and_the_process_goes_on(self):
        """A notebook's stop button sends SIGINT, too."""
        real, folder = loop.run, self.folder / "interrupted"

        def interrupted(state, train_step, batches, hooks, **more):
            def log(step, values):
                hooks.log(step, values)
                if step == 2:
                    os.kill(os.getpid(), signal.SIGINT)

            watched = dataclasses.replace(hooks, log=log)
            return real(state, train_step, batches, watched, **more)

        before = signal.getsignal(signal.SIGINT)
        settings = TINY | {"train.log_every": 1}
        with mock.patch.object(loop, "run", interrupted), self.assertRaises(KeyboardInterrupt):
            ssl_jax.train("simclr:digits", workdir=folder, settings=settings)
        self.assertIs(signal.getsignal(signal.SIGINT), before)
        resumed = ssl_jax.train(workdir=folder)
        self.assertEqual(resumed["train/loss"], self.last["train/loss"])

    def test_methods(self):
        summaries = ssl_jax.methods()
        self.assertEqual(summaries, catalog.methods())
        self.assertIn("digits", summaries["simclr"].recipes)


if __name__ == "__main__":
    absltest.main()
