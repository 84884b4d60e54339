"""Boxes of COCO's and VOC's annotations, by hand."""

import json
from pathlib import Path

import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from ssl_jax.core.errors import UserError
from ssl_jax.data.boxes import BoxedImages


def write_coco(root, part, pictures, names, objects, **more):
    """Write a part in COCO's layout; `objects` are (image, class, [x, y, w, h], further keys)."""
    annotations = [
        {"id": i, "image_id": image, "category_id": 10 * kind, "bbox": box, "iscrowd": 0}
        | {"area": box[2] * box[3]}
        | extra
        for i, (image, kind, box, extra) in enumerate(objects, 1)
    ]
    content = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(len(pictures))],
        "categories": [{"id": 10 * i, "name": name} for i, name in enumerate(names)],
        "annotations": annotations,
    } | more
    file = root / "annotations" / f"instances_{part}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    (root / part).mkdir(exist_ok=True)
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(root / part / f"{i}.png")


def write_voc(root, parts):
    """Write `parts`: name -> image -> [(class, difficult, corners)]."""
    for folder in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for part, images in parts.items():
        (root / "ImageSets/Main" / f"{part}.txt").write_text("\n".join(images))
        for name, objects in images.items():
            Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(root / f"JPEGImages/{name}.jpg")
            text = ""
            for kind, difficult, box in objects:
                sides = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
                inside = "".join(f"<{key}>{value}</{key}>" for key, value in sides)
                text += f"<object><name>{kind}</name><difficult>{difficult}</difficult>"
                text += "<part><name>head</name><bndbox><xmin>9</xmin></bndbox></part>"
                text += f"<bndbox>{inside}</bndbox></object>"
            (root / f"Annotations/{name}.xml").write_text(f"<annotation>{text}</annotation>")


class BoxesTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.root = Path(self.create_tempdir().full_path)
        self.blank = np.zeros((20, 30, 3), np.uint8)

    def test_coco(self):
        outline = [[0, 0, 5, 0, 5, 5]]
        objects = [
            (1, 1, [2, 3, 10, 4.5], {"segmentation": outline}),
            (1, 0, [0, 0, 5, 5], {"iscrowd": 1}),
            (1, 0, [4, 4, 0, 5], {}),  # empty
        ]
        write_coco(self.root, "train2017", [self.blank] * 2, ("ant", "bee"), objects)
        write_coco(
            self.root, "val2017", [self.blank], ("cow", "bee"), [(0, 0, [1, 1, 2, 2], {})] * 2
        )
        train, test = BoxedImages.pair(f"coco:{self.root}", "")
        self.assertCountEqual(train.classes, ("ant", "bee", "cow"))
        self.assertEqual([file.name for file in train.files], ["0.png", "1.png"])
        none, some = train.objects
        self.assertEqual(none.corners.shape, (0, 4))
        np.testing.assert_array_equal(some.corners, [[2, 3, 12, 7.5], [0, 0, 5, 5]])
        self.assertEqual([train.classes[c] for c in some.classes], ["bee", "ant"])
        np.testing.assert_array_equal(some.ignored, [False, True])
        self.assertEqual(some.outlines, (outline, None))
        self.assertEqual([test.classes[c] for c in test.objects[0].classes], ["cow", "cow"])

    def test_voc_counts_pixels_from_one(self):
        parts = {
            "trainval": {"a": [("dog", 0, (1, 2, 30, 20)), ("cat", 1, (3, 3, 5, 5))]},
            "test": {"b": [("dog", 0, (2, 2, 3, 3))]},
        }
        write_voc(self.root, parts)
        train, test = BoxedImages.pair(f"voc:{self.root}", "")
        np.testing.assert_array_equal(train.objects[0].corners, [[0, 1, 30, 20], [2, 2, 5, 5]])
        np.testing.assert_array_equal(train.objects[0].ignored, [False, True])
        self.assertEqual([train.classes[c] for c in train.objects[0].classes], ["dog", "cat"])
        self.assertEqual([file.name for file in test.files], ["b.jpg"])
        self.assertEqual(train.classes[0], "aeroplane")

    @parameterized.parameters(
        ("folder:/x", "has no boxes; expected coco:PATH or voc:PATH"),
        ("coco", "'coco' has no boxes"),
        ("coco:{root}#train2017", "has no held-out part; set test"),
        ("coco:{root}", "no box of an object in it"),
    )
    def test_what_has_no_boxes(self, spec, message):
        objects = [(0, 0, [1, 1, 5, 5], {})]
        write_coco(self.root, "train2017", [self.blank], ("ant",), objects)
        write_coco(self.root, "val2017", [self.blank], ("ant",), [(0, 0, [1, 1, 5, 0], {})])
        with self.assertRaisesRegex(UserError, message) as caught:
            BoxedImages.pair(spec.format(root=self.root), "")
        self.assertLen(str(caught.exception).splitlines(), 1)

    @parameterized.parameters({"bbox": [1, 2]}, {"bbox": None}, {"bbox": ["a"] * 4})
    def test_annotations_without_a_box(self, **extra):
        objects = [(0, 0, [1, 1, 5, 5], extra)]
        write_coco(self.root, "train2017", [self.blank], ("ant",), objects)
        with self.assertRaisesRegex(UserError, r"expected a bbox \[left, top, width, height\]"):
            BoxedImages.of(f"coco:{self.root}", "train")

    def test_voc_without_a_box(self):
        write_voc(self.root, {"train": {"a": [("dog", 0, (1, 2, "", 20))]}})
        with self.assertRaisesRegex(UserError, "a.xml: expected a bndbox of four numbers"):
            BoxedImages.of(f"voc:{self.root}", "train")


if __name__ == "__main__":
    absltest.main()
