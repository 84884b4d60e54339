import io
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from ssl_jax.core.errors import UserError
from ssl_jax.data import records
from ssl_jax.data.pipeline import eval_arrays
from ssl_jax.data.sources import held_out, open_source

FEATURES = "tensorflow_datasets.core.features."
SIZES = {"train": (3, 2), "test": (4,)}  # examples a shard


def png(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(out, "PNG")
    return out.getvalue()


def prepare(root: Path, splits=SIZES, image="image", file_format="array_record") -> Path:
    """A prepared data set `mini` 1.0.0, as TFDS lays it out; pixel and label come from the row."""
    folder = root / "mini" / "1.0.0"
    folder.mkdir(parents=True)
    features = {
        image: {
            "pythonClassName": FEATURES + "image_feature.Image",
            "image": {
                "dtype": "uint8",
                "encodingFormat": "png",
                "shape": {"dimensions": ["-1", "-1", "3"]},
            },
        },
        "label": {
            "pythonClassName": FEATURES + "class_label_feature.ClassLabel",
            "classLabel": {"numClasses": "2"},
        },
    }
    if not image:
        del features[image]
    info = {"name": "mini", "version": "1.0.0", "fileFormat": file_format, "splits": []}
    for split, shards in splits.items():
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        lengths = [str(n) for n in shards]
        info["splits"].append(
            {"name": split, "filepathTemplate": template, "shardLengths": lengths, "numBytes": "9"}
        )
        for s, n in enumerate(shards):
            name = f"mini-{split}.{file_format}-{s:05}-of-{len(shards):05}"
            writer = ArrayRecordWriter(str(folder / name), "group_size:1")
            for i in range(n):
                row = {image: [png(10 * s + i)], "label": [i % 2]}
                writer.write(records.encode_features(row))
            writer.close()
    kind = FEATURES + "features_dict.FeaturesDict"
    content = {"pythonClassName": kind, "featuresDict": {"features": features}}
    (folder / "features.json").write_text(json.dumps(content))
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "label.labels.txt").write_text("cat\ndog\n")
    return folder


class TfdsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.root = Path(self.create_tempdir().full_path)
        place = self.create_tempdir().full_path
        self.enterContext(mock.patch.dict(os.environ, {"SSL_JAX_CACHE": place}))

    def test_images_and_labels(self):
        source = open_source(f"tfds:{prepare(self.root)}")
        self.assertEqual((len(source), source.class_names), (5, ("cat", "dog")))
        self.assertEqual(source.read(3), png(10))  # as it was stored
        np.testing.assert_array_equal(source.labels, [0, 1, 0, 0, 1])
        ((images, index),) = eval_arrays(source, 4, batch=5)
        np.testing.assert_array_equal(index, range(5))
        np.testing.assert_array_equal(images[:, 0, 0, 0], [0, 1, 2, 10, 11])

    def test_splits(self):
        spec = f"tfds:{prepare(self.root)}"
        sizes = {"": 5, ":train": 5, ":test": 4, ":train[:60%]": 3, ":train[3:]": 2}
        for split, size in sizes.items():
            self.assertLen(open_source(spec + split), size)
        self.assertEqual(open_source(spec + ":train[3:]").read(0), png(10))
        self.assertLen(open_source(spec, "eval"), 4)
        self.assertLen(open_source(spec + ":train", "eval"), 5)
        self.assertLen({open_source(spec + s).fingerprint() for s in sizes}, 4)
        with self.assertRaisesRegex(UserError, "no split dev; it has train, test"):
            open_source(spec + ":dev")
        with self.assertRaisesRegex(UserError, r"train\[oops\]: cannot be read"):
            open_source(spec + ":train[oops]")

    def test_held_out(self):
        spec = f"tfds:{prepare(self.root)}"
        self.assertLen(held_out(spec), 4)
        self.assertLen(held_out(spec + ":train[:50%]"), 4)
        self.assertIsNone(held_out(spec + ":test"))
        only = f"tfds:{prepare(self.root / 'b', {'train': (2,), 'validation': (1,)})}"
        self.assertLen(held_out(only), 1)
        none = f"tfds:{prepare(self.root / 'c', {'train': (2,)})}"
        self.assertIsNone(held_out(none))
        with self.assertRaisesRegex(UserError, "no split test or validation; it has train"):
            open_source(none, "eval")

    def test_another_name_of_the_image(self):
        source = open_source(f"tfds:{prepare(self.root, image='photo')}:test")
        self.assertEqual(source.read(2), png(2))

    def test_bad(self):
        folder = prepare(self.root)
        for path, message in (
            ("", "expected a data set"),
            (self.root, "no dataset_info.json in it; .* such as /.*/1.0.0"),
            ("/nowhere/1.0.0", "tfds:/nowhere/1.0.0: no dataset_info.json"),
            ("no_such_data_set_anywhere", "tfds:no_such_data_set_anywhere: "),
            (prepare(self.root / "b", image=""), "no feature is an image; it has label"),
            (
                prepare(self.root / "c", file_format="tfrecord"),
                "holds tfrecord files; expected array_record",
            ),
        ):
            with self.assertRaisesRegex(UserError, message) as caught:
                open_source(f"tfds:{path}")
            self.assertNotIn("\n", str(caught.exception))
        next(folder.glob("*train*00001-of*")).unlink()
        with self.assertRaisesRegex(UserError, "cannot be read"):
            open_source(f"tfds:{folder}")

    def test_not_prepared(self):
        with (
            mock.patch.dict(os.environ, {"TFDS_DATA_DIR": str(self.root)}),
            self.assertRaisesRegex(UserError, "tfds:mnist: not prepared in .*; .* run python"),
        ):
            open_source("tfds:mnist")

    def test_no_tensorflow(self):
        code = (
            "import sys\n"
            "from ssl_jax.data.sources import held_out, open_source\n"
            "for source in (open_source(sys.argv[1]), held_out(sys.argv[1])):\n"
            "    print(len(source.read(0)), source.labels.tolist())\n"
            "print('tensorflow' in sys.modules)"
        )
        spec = f"tfds:{prepare(self.root)}"
        environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
        out = subprocess.run(
            [sys.executable, "-c", code, spec], env=environment, capture_output=True, text=True
        )
        size = len(png(0))
        want = [f"{size} [0, 1, 0, 0, 1]", f"{size} [0, 1, 0, 1]", "False"]
        self.assertEqual(out.stdout.splitlines(), want, out.stderr)


if __name__ == "__main__":
    absltest.main()
