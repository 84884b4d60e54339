"""Measurements during a run: equal on any devices, skipped with a reason where they mean nothing,
and never a number that is not finite.
"""

import dataclasses
import math
import re
import sys
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.augment.recipes import prepare
from ssl_jax.core import config, sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Inputs, View
from ssl_jax.data.decode import DecodeError
from ssl_jax.data.sources import ArraySource
from ssl_jax.data.sources.mix import MixSource
from ssl_jax.evals import features, protocols
from ssl_jax.evals.base import Subject
from ssl_jax.evals.checks import NotMeasurable, check_finite, check_varied
from ssl_jax.evals.evaluator import EvalsConfig, Evaluator, with_protocols
from ssl_jax.evals.images import Images
from ssl_jax.evals.protocols.linear import Linear
from ssl_jax.evals.scores import accuracies
from ssl_jax.nets.features import Features, Stage
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import Encoder, Probe


def apply(params, stats, images, train, **options):
    """A batch norm of the pixels and a weight."""
    axes, count = (0, 1, 2), images[..., 0].size
    mean, var = stats["norm"]["mean"], stats["norm"]["var"]
    if train:
        mean, var = images.mean(axes), images.var(axes) * count / (count - 1)
        old = stats["norm"]
        stats = {
            "norm": {"mean": 0.9 * old["mean"] + 0.1 * mean, "var": 0.9 * old["var"] + 0.1 * var}
        }
    x = (images - mean) / jnp.sqrt(var + 1e-5) * params["weight"]
    stage = Stage(name="stage1", map=x.reshape(len(x), 2, 2, -1))
    return Features(pooled=x.reshape(len(x), -1), stages=(stage,)), stats


NET = Net(lambda key: None, apply, "pixels")
LABELLED = ("knn", "fewshot", "clustering")


def source(labels, seed=0, name="squares"):
    draw = np.random.default_rng(seed)
    labels = np.asarray(labels)
    images = draw.integers(0, 60, (len(labels), 8, 8, 1)) + 15 * (labels % 10)[:, None, None, None]
    return ArraySource(name, images.astype(np.uint8), labels)


class Method:
    """The part of an objective that the evaluator uses."""

    probe, probe_every_stage = Probe(), False
    spec = dataclasses.make_dataclass("Spec", [("channels", int, 1)])()

    def inputs(self):
        return Inputs(views=(View(8),))


def mesh(devices=1):
    return sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:devices])


def images(train, test=None, devices=1, batch_size=16):
    how = {"view": View(8), "channels": 1, "batch_size": batch_size, "mesh": mesh(devices)}
    return Images.of(train, test, 1000, 1000, **how)


def encoder(scale=1.0):
    stats = {"norm": {"mean": jnp.zeros(1), "var": jnp.ones(1)}}
    return Encoder({"weight": jnp.full(1, scale)}, stats, NET)


class SuiteTest(parameterized.TestCase):
    def evaluator(self, train, test=None, protocols=LABELLED, **settings):
        messages = []
        config = EvalsConfig(protocols=protocols, batch_size=64, **settings)
        config = dataclasses.replace(
            config, fewshot=dataclasses.replace(config.fewshot, draws=2, shots=(1,))
        )
        return Evaluator(Method(), config, train, test, mesh(), say=messages.append), messages

    def test_statistics_count_rows_on_any_devices(self):
        encoders = [
            images(source(np.arange(n) % 3), source([0, 1, 2]), devices, size).with_statistics(
                encoder()
            )
            for n, devices, size in ((131, 1, 256), (131, 4, 32), (131, 8, 7))
        ]
        for other in encoders[1:]:
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
                other.stats,
                encoders[0].stats,
            )

    @parameterized.parameters(131, 300)  # one chunk, and three with padding
    def test_statistics_of_the_first_layer_are_those_of_all_images(self, count):
        data = source(np.arange(count) % 3)
        result = features.recompute_statistics(encoder(), View(8), data.arrays, mesh())
        chunk = -(-count // -(-count // features.CHUNK))
        rows = np.resize(np.arange(count), (-(-count // chunk) * chunk))
        pixels = np.asarray(prepare(View(8), data.arrays[rows]))
        np.testing.assert_allclose(result.stats["norm"]["mean"], [pixels.mean()], rtol=1e-4)
        np.testing.assert_allclose(result.stats["norm"]["var"], [pixels.var()], rtol=1e-3)

    def test_a_broken_image_changes_no_statistics_of_the_others(self):
        class Broken(ArraySource):
            arrays = None

            def read(self, index):
                if index == 5:
                    raise DecodeError("broken")
                return super().read(index)

        whole = source(np.arange(20) % 2)
        broken = Broken("broken", whole._pixels, whole.labels)
        broken.arrays = None
        rest = ArraySource("rest", np.delete(whole.arrays, 5, 0), np.delete(whole.labels, 5))
        test = source([0, 1])
        with_broken, without = (images(s, test).with_statistics(encoder()) for s in (broken, rest))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
            with_broken.stats,
            without.stats,
        )

    @parameterized.parameters(
        (np.zeros(60, int), "one class only"),
        (np.arange(60), "no evaluation example is of a class"),
        (np.r_[np.arange(59) % 20, 9999], ""),
        (np.arange(6) % 3, ""),
        ([0], "no example to evaluate on"),
        ([-1] * 30, "no labels"),
    )
    def test_labels_never_stop_it(self, labels, reason):
        evaluator, messages = self.evaluator(source(labels))
        numbers = evaluator.baselines(encoder()) | evaluator.measure(encoder())
        if reason:
            self.assertTrue(any(reason in text for text in messages), messages)
        else:
            self.assertNotIn("not measured", str(messages))
        self.assertEqual("eval/knn_top1" in numbers, not reason)
        self.assertLen(set(messages), len(messages))

    def test_features_that_are_not_finite_give_no_score(self):
        evaluator, messages = self.evaluator(
            source(np.arange(60) % 3), protocols=(*LABELLED, "diagnostics")
        )
        good = evaluator.measure(evaluator.images.with_statistics(encoder()))
        self.assertTrue(all(map(math.isfinite, good.values())))
        for scale, reason in ((np.nan, "not finite"), (0.0, "are zero")):
            numbers = evaluator.measure(encoder(scale))
            self.assertTrue(any(reason in text for text in messages), messages)
            for name in good:  # the earlier number does not stay the latest
                if name.startswith("eval/"):
                    self.assertTrue(math.isnan(numbers[name]), name)

    def test_checks(self):
        check_varied(np.eye(3), "features")
        check_varied(np.ones((1, 4)), "features")
        for constant in (np.ones((9, 4)), np.ones((9, 4)) + 1e-7 * np.random.rand(9, 4)):
            with self.assertRaisesRegex(NotMeasurable, "all 9 images are the same"):
                check_varied(constant, "features")
        check_finite(np.arange(3), "labels")
        with self.assertRaisesRegex(NotMeasurable, "features of 2 of 3 images are not finite"):
            check_finite(np.array([[0.0], [np.inf], [np.nan]]), "features")

    def test_a_probe_that_diverged_has_no_accuracy(self):
        subject = Subject(None, images(source(np.arange(60) % 3)), Probe())
        numbers = Linear(preset="moco", lr=1e38, epochs=3).measure(subject)
        self.assertTrue(all(map(math.isnan, numbers.values())), numbers)

    def test_one_answer_for_all_is_no_score(self):
        labels = np.arange(20) % 2
        self.assertTrue(math.isnan(accuracies(np.zeros(20, int), labels, "knn")["knn_top1"]))
        self.assertEqual(accuracies(np.zeros(20, int), labels * 0, "knn")["knn_top1"], 1)

    def test_notes(self):
        train = source(np.arange(40) % 4)
        self.assertEqual(images(train).notes(), [])
        self.assertEqual(images(MixSource("mix", [(train, 100)])).notes(), [])
        (same,) = images(train, source(np.arange(40) % 4)).notes()
        self.assertIn("40 of 40 evaluation images are training images too", same)
        note = images(source(np.arange(40) % 3), train).notes()[0]
        self.assertIn("10 of 40 evaluation examples are of classes that the training", note)
        named_source = source(np.arange(8) % 4, 7)
        named_source.class_names = ("a", "b", "c", "d")
        self.assertIn("matched by their numbers", images(train, named_source).notes()[0])

    def test_without_protocols_nothing_is_measured(self):
        evaluator, messages = self.evaluator(source([0]), protocols=())
        self.assertEqual((evaluator.baselines(encoder()), messages), ({}, []))

    def test_baselines_are_left_out_if_the_config_wants_none(self):
        labels = source(np.arange(40) % 2)
        for wanted in (True, False):
            evaluator, _ = self.evaluator(labels, protocols=("knn",), baselines=wanted)
            self.assertEqual("pixels/eval/knn_top1" in evaluator.baselines(encoder()), wanted)


class ProtocolsTest(parameterized.TestCase):
    def test_the_protocol_of_the_docs_page_is_one_file(self):
        page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
        folder = self.create_tempdir()
        folder.create_file("class_mean.py", re.findall(r"```python\n(.*?)```", page, re.S)[0])
        with mock.patch.object(protocols, "__path__", [*protocols.__path__, folder.full_path]):
            protocols.known.cache_clear()
            self.addCleanup(protocols.known.cache_clear)
            self.addCleanup(sys.modules.pop, f"{protocols.__name__}.class_mean", None)
            section = {"protocols": ("class_mean", "knn"), "class_mean": {"power": 0.5}}
            made = config.build(with_protocols(EvalsConfig.__base__), section, "evals")
            self.assertEqual(protocols.title("class_mean_top1"), "nearest class mean")
            self.assertIn("class_mean", protocols.scores())
            self.assertIn("class_mean_top1", protocols.decisive())
            train, test = source(np.arange(40) % 4), source(np.arange(20) % 4, 1)
            numbers = Evaluator(Method(), made, train, test, mesh()).measure(encoder())
        self.assertGreater(numbers["eval/class_mean_top1"], 0.5)  # chance is 0.25
        self.assertEqual(made.in_use()["class_mean"], {"stage": None, "pool": None, "power": 0.5})

    def test_a_protocol_is_named_for_its_file(self):
        self.assertContainsSubset({"knn", "cluster_head", "online"}, protocols.known())
        for name, kind in protocols.known().items():
            self.assertEqual((kind.name(), type(getattr(EvalsConfig(), name))), (name, kind))
        with self.assertRaisesRegex(UserError, "unknown evaluation 'kn'; .*knn"):
            EvalsConfig(protocols=("kn",))

    def test_in_use_are_those_measured_and_those_set(self):
        section = config.build(EvalsConfig, {"protocols": ("knn",), "svm": {"draws": 2}}, "evals")
        names = section.in_use().keys() & protocols.known().keys()
        self.assertEqual(names, {"knn", "svm"})
        self.assertEqual(config.build(EvalsConfig, section.in_use(), "evals"), section)
        everything = dataclasses.asdict(section)  # as older versions wrote it
        self.assertEqual(config.build(EvalsConfig, everything, "evals"), section)


if __name__ == "__main__":
    absltest.main()
