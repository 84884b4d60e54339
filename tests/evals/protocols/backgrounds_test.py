import json
from pathlib import Path
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest
from PIL import Image

from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.data.sources import ArraySource
from ssl_jax.evals.base import Subject
from ssl_jax.evals.images import Images
from ssl_jax.evals.protocols import backgrounds
from ssl_jax.evals.protocols.backgrounds import Backgrounds
from ssl_jax.evals.shifted_sets import open_labelled
from ssl_jax.objectives.base import Probe

# Four classes, each a bright quarter of the image, of two wider ones and one of none.
QUARTERS = {"ant": 0, "bee": 1, "cow": 2, "fog": 3}
WIDER = {"ant": "insect", "bee": "insect", "cow": "mammal", "fog": "-1"}


def picture(name):
    """Return the image (4, 4) uint8 of a class."""
    row, column = divmod(QUARTERS[name], 2)
    image = np.full((4, 4), 20, np.uint8)
    image[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = 200
    return image


def subject():
    labels = np.arange(80) % 4
    noise = np.random.default_rng(0).integers(-9, 10, (80, 4, 4))
    images = (np.stack([picture(name) for name in QUARTERS])[labels] + noise).astype(np.uint8)
    source = ArraySource("animals", images[..., None], labels, tuple(QUARTERS))
    mesh = jax.make_mesh((1, 1, 1), ("replica", "data", "fsdp"))
    how = dict(view=View(4), channels=1, batch_size=16, mesh=mesh)
    return Subject(None, Images.of(source, None, 1000, 1000, **how), Probe())


class BackgroundsTest(absltest.TestCase):
    def folder(self, variations, inside="val"):
        """Write VARIATION/val/CLASS/NUMBER.png, pictures of the given classes."""
        root = Path(self.create_tempdir().full_path)
        for variation, classes in variations.items():
            for name, shown in classes.items():
                for i, of in enumerate(shown):
                    path = root / variation / inside / name / f"{i}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(picture(of)).save(path)
        return str(root)

    def file(self, content):
        path = Path(self.create_tempdir().full_path) / "map.json"
        path.write_text(json.dumps(content))
        return str(path)

    def test_the_gap_by_hand(self):
        """Five of six images are right on mixed_same, three on mixed_rand."""
        data = self.folder(
            {
                "mixed_same": {"insect": ["ant", "bee", "ant", "bee"], "mammal": ["cow", "ant"]},
                "mixed_rand": {"insect": ["ant", "cow", "fog", "bee"], "mammal": ["cow", "bee"]},
                "only_fg": {"insect": ["cow"], "mammal": ["cow", "ant"]},
            }
        )
        for classifier in ("linear", "knn"):
            protocol = Backgrounds(data=data, classes=self.file(WIDER), classifier=classifier)
            numbers = protocol.measure(subject())
            self.assertAlmostEqual(numbers["backgrounds_mixed_same_top1"], 5 / 6)
            self.assertAlmostEqual(numbers["backgrounds_mixed_rand_top1"], 3 / 6)
            self.assertAlmostEqual(numbers["backgrounds_gap"], 2 / 6)
            self.assertAlmostEqual(numbers["backgrounds_only_fg_top1"], 1 / 3)
            per_class = (2 / 4 + 1 / 2) / 2
            self.assertAlmostEqual(numbers["backgrounds_mixed_rand_mean_per_class"], per_class)

    def test_classes_of_the_same_names_need_no_file(self):
        shown = {name: [name] for name in QUARTERS}
        data = self.folder({"mixed_same": shown, "mixed_rand": shown}, inside="")
        self.assertEqual(Backgrounds(data=data).measure(subject())["backgrounds_gap"], 0)

    def test_folders_are_listed_once(self):
        """For checks and measurements of all networks on one training set."""
        shown = {name: [name] for name in QUARTERS}
        (Path(data := self.folder({"mixed_same": shown, "mixed_rand": shown})) / ".git").mkdir()
        first, protocol = subject(), Backgrounds(data=data)
        second = Subject(None, first.images, Probe())
        with mock.patch.object(backgrounds, "open_labelled", wraps=open_labelled) as opened:
            for some in (first, second):
                protocol.check(some)
                protocol.measure(some)
            self.assertEqual(opened.call_count, 2)
            protocol.check(subject())  # another training set
            self.assertEqual(opened.call_count, 4)

    def test_errors(self):
        both = {"insect": ["ant"], "mammal": ["cow"]}
        with self.assertRaisesRegex(UserError, "backgrounds.data: no folder /nowhere/mixed_same"):
            Backgrounds(data="/nowhere").check(subject())
        with self.assertRaisesRegex(UserError, "no folder .*/mixed_rand"):
            Backgrounds(data=self.folder({"mixed_same": both})).check(subject())
        data = self.folder({"mixed_same": both, "mixed_rand": both})
        with self.assertRaisesRegex(UserError, "classes, without a file: class 'insect' and 1 "):
            Backgrounds(data=data).check(subject())
        fewer = self.folder({"mixed_same": both, "mixed_rand": both | {"fish": ["fog"]}})
        with self.assertRaisesRegex(UserError, "mixed_rand has the classes fish, insect, mammal"):
            Backgrounds(data=fewer, classes=self.file(WIDER)).check(subject())
        self.assertFalse(Backgrounds().applies(subject()))


if __name__ == "__main__":
    absltest.main()
