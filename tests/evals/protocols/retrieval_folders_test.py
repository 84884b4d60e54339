"""Copy detection and instance retrieval on folders of files; few-shot episodes by hand."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.data.sources import ArraySource
from ssl_jax.evals.base import Subject, measured
from ssl_jax.evals.checks import DoesNotApply, NotMeasurable
from ssl_jax.evals.descriptors import _shape, describe, files_in
from ssl_jax.evals.images import Images
from ssl_jax.evals.protocols.copy_detection import CopyDetection
from ssl_jax.evals.protocols.few_shot_episodes import FewShotEpisodes
from ssl_jax.evals.protocols.instance_retrieval import InstanceRetrieval, read_truth
from ssl_jax.nets.features import Features, Stage
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import Encoder, Probe


def forward(params, stats, images, *, train, **_):
    """A map of the means of 16 x 16 pixels, and the mean as class token."""
    batch, height, width, channels = images.shape
    cells = images.reshape(batch, height // 16, 16, width // 16, 16, channels)
    x = cells.mean((2, 4))
    mean = x.mean((1, 2)) + 3
    return Features(pooled=mean, map=x, cls=mean, stages=(Stage(name="b1", map=x, cls=mean),)), {}


def subject(encoder, devices=1, labels=None):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 6 if labels is None else labels
    images = rng.integers(0, 99, (len(labels), 8, 8, 3)) + 25 * labels[:, None, None, None]
    source = ArraySource("pictures", np.clip(images, 0, 255).astype(np.uint8), labels)
    mesh = sharding.make_mesh(sharding.MeshConfig(data=devices), jax.devices()[:devices])
    how = {"view": View(8), "channels": 3, "batch_size": 4, "mesh": mesh}
    return Subject(encoder, Images.of(source, source, 99, 99, **how), Probe())


def encoder():
    return Encoder({}, {}, Net(lambda key: ({}, {}), forward, "means"))


def measure(protocol, some):
    ((_, numbers),) = measured([protocol], some)
    return {name.removeprefix("eval/"): value for name, value in numbers.items()}


class Folders(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.root = Path(self.create_tempdir().full_path)
        self.rng = np.random.default_rng(0)

    def image(self, path, shape=(64, 64), value=None):
        value = self.rng.integers(0, 256, 3) if value is None else value
        pixels = np.clip(self.rng.normal(0, 5, (*shape, 3)) + value, 0, 255).astype(np.uint8)
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(self.root / path)
        return value


class CopyDetectionTest(Folders):
    def copydays(self):
        for i in range(5):
            value = self.image(f"data/original/{i:04}00.png")
            self.image(f"data/strong/{i:04}01.png", value=value)
            self.image(f"data/strong/{i:04}02.png", (40, 90), value=value)
            self.image(f"data/crops/50/{i:04}00.png", value=255 - value)
        return str(self.root / "data")

    def test_copies_of_the_same_colour(self):
        setting = CopyDetection(data=self.copydays(), size=32)
        numbers = measure(setting, subject(encoder()))
        self.assertEqual(set(numbers), {"copy_detection_strong_map", "copy_detection_crops_50_map"})
        self.assertEqual(numbers["copy_detection_strong_map"], 1.0)
        self.assertLess(numbers["copy_detection_crops_50_map"], 1.0)
        self.assertGreater(measure(setting, subject(None))["copy_detection_strong_map"], 0.9)

    def test_on_eight_devices_as_on_one(self):
        setting = CopyDetection(data=self.copydays(), size=32)
        one, some = measure(setting, subject(encoder())), subject(encoder(), 8)
        with jax.set_mesh(some.images.mesh):
            self.assertEqual(measure(setting, some), one)

    def test_distractors_and_whitening(self):
        """A distractor that is the copy itself goes before the original: (0 + 1/2) / 2."""
        colours = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200], [180, 180, 60]])
        for i, colour in enumerate(colours):
            self.image(f"data/original/{i:04}00.png", value=colour)
            self.image(f"data/strong/{i:04}01.png", value=np.add(colour, [30, -30, 20]))
            copy = (self.root / f"data/strong/{i:04}01.png").read_bytes()
            (self.root / "more").mkdir(exist_ok=True)
            (self.root / f"more/{i}.png").write_bytes(copy)
        data, more = str(self.root / "data"), str(self.root / "more")
        settings = {"data": data, "size": 32, "descriptor": "gem"}
        name = "copy_detection_strong_map"
        self.assertEqual(measure(CopyDetection(**settings), subject(encoder()))[name], 1.0)
        among = CopyDetection(**settings, distractors=more)
        self.assertEqual(measure(among, subject(encoder()))[name], 0.25)
        first = CopyDetection(**settings, distractors=more, first=1)
        self.assertEqual(measure(first, subject(encoder()))[name], 0.0)
        white = CopyDetection(**settings, whitening=data)
        self.assertGreater(measure(white, subject(encoder()))[name], 0.5)

    def test_what_is_wrong(self):
        with self.assertRaisesRegex(DoesNotApply, "a folder of originals and copies"):
            measure(CopyDetection(), subject(encoder()))
        with self.assertRaisesRegex(UserError, "original: no such folder"):
            measure(CopyDetection(data=str(self.root)), subject(encoder()))
        self.image("original/000000.png")
        with self.assertRaisesRegex(UserError, "no folder of copies, such as strong/"):
            measure(CopyDetection(data=str(self.root)), subject(encoder()))
        self.image("strong/000100.png")
        with self.assertRaisesRegex(UserError, "no image in .*original begins with '0001'"):
            measure(CopyDetection(data=str(self.root), size=32), subject(encoder()))

    def test_equal_descriptors_have_no_score(self):
        def constant(params, stats, images, **_):
            x = jnp.ones((len(images), 1, 1, 2))
            return Features(pooled=x[:, 0, 0], map=x, stages=(Stage(name="b1", map=x),)), {}

        collapsed = Encoder({}, {}, Net(lambda key: ({}, {}), constant, "constant"))
        with self.assertRaisesRegex(NotMeasurable, "features of all 5 images are the same"):
            measure(CopyDetection(data=self.copydays(), size=32), subject(collapsed))


class DescriptorsTest(Folders):
    @parameterized.parameters(
        (768, 1024, 224, (160, 224)),
        (1024, 768, 1024, (1024, 768)),
        (10, 500, 320, (32, 320)),
        (500, 500, 20, (32, 32)),
    )
    def test_shapes(self, height, width, side, expected):
        self.assertEqual(_shape(height, width, side), expected)

    def test_by_hand(self):
        self.image("a.png", (64, 32), value=200)
        self.image("b.png", (64, 64), value=50)
        files = files_in(self.root)
        some = subject(encoder())
        pooled = describe(some, files, "pooled", 64)
        self.assertGreater(pooled[0].mean(), pooled[1].mean())
        both = describe(some, files, "cls_gem", 64)
        np.testing.assert_allclose(both[:, :3], pooled, rtol=1e-6)
        np.testing.assert_allclose(both[:, 3:], describe(some, files, "gem", 64), rtol=1e-6)
        half = describe(some, files, "gem", 32)
        two = describe(some, files, "gem", 64, scales=(1.0, 0.5))
        np.testing.assert_allclose(two, (both[:, 3:] + half) / 2, rtol=1e-5)
        np.testing.assert_allclose(both[0, 3:], both[0, :3] - 3, rtol=0.05)  # an even image

    def test_a_box(self):
        left = np.zeros((64, 64, 3), np.uint8)
        left[:, 32:] = 255
        Image.fromarray(left).save(self.root / "a.png")
        Image.fromarray(255 - left).save(self.root / "b.png")
        files, some = files_in(self.root), subject(encoder())
        dark = describe(some, files, "pooled", 32, boxes=[(0, 0, 32, 64), None])
        self.assertLess(dark[0].mean(), dark[1].mean())
        with self.assertRaisesRegex(UserError, "the box .* holds no pixel of 64 x 64"):
            describe(some, files, "pooled", 32, boxes=[(70, 0, 80, 64), None])


class InstanceRetrievalTest(Folders):
    def oxford(self, **changes):
        values = [self.image(f"jpg/{i}.jpg") for i in range(6)]
        for i in range(3):
            self.image(f"jpg/q{i}.jpg", (80, 40), value=values[i])
        gnd = [{"easy": [i], "hard": [], "junk": [], "bbx": [0, 0, 40, 80]} for i in range(3)]
        gnd[0] |= {"hard": [1], "junk": [2]}
        content = {"imlist": [str(i) for i in range(6)], "qimlist": ["q0", "q1", "q2"], "gnd": gnd}
        (self.root / "gnd.json").write_text(json.dumps(content | changes))
        return str(self.root)

    def test_images_of_the_same_colour(self):
        numbers = measure(InstanceRetrieval(data=self.oxford(), size=64), subject(encoder()))
        self.assertEqual(numbers["instance_retrieval_easy_map"], 1.0)
        self.assertEqual(numbers["instance_retrieval_easy_mp1"], 1.0)
        self.assertGreater(numbers["instance_retrieval_medium_map"], 0.8)
        self.assertLess(numbers["instance_retrieval_hard_map"], 1.0)

    @parameterized.parameters(
        ({"gnd": []}, "one entry of gnd per query, got 6, 3 and 0"),
        ({"imlist": ["a"]}, "image 2 of gnd is none of the 1 of imlist"),
        ({"qimlist": ["../q0", "q1", "q2"]}, "'../q0' leads out of the folder"),
        ({"qimlist": [1, 2, 3]}, "expected names of images"),
        ({"gnd": [{"easy": [-1], "hard": [], "junk": []}] * 3}, "numbers of images that are none"),
        ({"gnd": [{"easy": [0], "hard": [], "junk": [], "bbx": [0, 1]}] * 3}, r"bbx \[0, 1\]"),
        ({"gnd": [{"easy": [0]}] * 3}, "KeyError 'hard'"),
    )
    def test_files_of_another_format(self, changes, message):
        with self.assertRaisesRegex(UserError, message):
            read_truth(Path(self.oxford(**changes)) / "gnd.json")

    def test_no_file(self):
        with self.assertRaisesRegex(UserError, "gnd.json: expected an object .*No such file"):
            measure(InstanceRetrieval(data=str(self.root)), subject(encoder()))
        with self.assertRaisesRegex(UserError, "give scales"):
            InstanceRetrieval(scales=())


class FewShotEpisodesTest(parameterized.TestCase):
    def test_separate_classes_are_told_apart(self):
        """With a point per class every episode is right, and the interval is empty."""
        some = subject(None)
        rows = some.test(FewShotEpisodes())
        rows.features[:] = np.eye(rows.features.shape[1])[rows.labels]
        for classifier in ("centroid", "logistic"):
            setting = FewShotEpisodes(episodes=5, classifier=classifier)
            numbers = measure(setting, some)
            self.assertEqual(numbers["few_shot_episodes_5way_1shot"], 1.0)
            self.assertEqual(numbers["few_shot_interval_5way_5shot"], 0.0)

    def test_chance(self):
        some = subject(None)
        rows = some.test(FewShotEpisodes())
        rows.features[:] = np.random.default_rng(0).normal(size=rows.features.shape)
        numbers = measure(FewShotEpisodes(episodes=300, shots=(1,)), some)
        interval = numbers["few_shot_interval_5way_1shot"]
        self.assertAlmostEqual(numbers["few_shot_episodes_5way_1shot"], 0.2, delta=0.03)
        self.assertBetween(interval, 0.001, 0.03)

    def test_an_episode_by_hand(self):
        some = subject(None)
        setting = FewShotEpisodes(ways=3, shots=(2,), queries=4, episodes=7)
        test = some.test(setting)
        ways, episodes = setting._episodes(test.labels, 2)
        self.assertEqual(ways, 3)
        values = []
        for support, queries in episodes:
            self.assertEqual((len(support), len(queries)), (6, 12))
            self.assertEmpty(np.intersect1d(support, queries))
            unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
            x, y = unit(test.features), test.labels
            classes = np.unique(y[support])
            means = [unit(np.mean([x[r] for r in support if y[r] == c], 0)) for c in classes]
            guesses = [classes[np.argmax([x[q] @ m for m in means])] for q in queries]
            values.append(np.mean(guesses == y[queries]))
        numbers = measure(setting, some)
        self.assertAlmostEqual(numbers["few_shot_episodes_3way_2shot"], np.mean(values), places=6)
        error = np.std(values, ddof=1) / np.sqrt(7)
        self.assertAlmostEqual(numbers["few_shot_interval_3way_2shot"], 1.96 * error, places=6)

    def test_what_the_data_do_not_allow(self):
        few = subject(None, labels=np.array([0] * 5 + [1] * 5 + [2]))
        self.assertIn(
            "few_shot_episodes_2way_1shot", measure(FewShotEpisodes(shots=(1,), episodes=3), few)
        )
        with self.assertRaisesRegex(NotMeasurable, "0 of 3 test classes have more than 9 images"):
            measure(FewShotEpisodes(shots=(9,)), few)
        with self.assertRaisesRegex(UserError, "ways = 3 is more than the 2 test classes with"):
            measure(FewShotEpisodes(shots=(1,), ways=3), few)
        with self.assertRaisesRegex(UserError, "give shots"):
            FewShotEpisodes(shots=())


if __name__ == "__main__":
    absltest.main()
