"""Sources of several labels per image: COCO, VOC, tables, arrays and mixtures."""

import json
from pathlib import Path

import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from ssl_jax.core.errors import UserError
from ssl_jax.data.sources import absolute, held_out, open_source
from ssl_jax.data.subset import Subset

VOC = """<annotation><filename>{name}.jpg</filename>{objects}</annotation>"""
OBJECT = "<object><name>{}</name><difficult>{}</difficult></object>"


class Case(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.root = Path(self.create_tempdir().full_path)

    def image(self, path):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(file)

    def write(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def sets(self, source):
        names = source.class_names
        return [sorted(names[c] for c in source.label_sets[i]) for i in range(len(source))]


class CocoTest(Case):
    def setUp(self):
        super().setUp()
        for part, pictures in (("train2017", "abc"), ("val2017", "d")):
            for name in pictures:
                self.image(f"{part}/{name}.jpg")
            self.write(f"annotations/instances_{part}.json", json.dumps(self.content(pictures)))

    def content(self, pictures):
        return {
            "categories": [
                {"id": 18, "name": "dog", "supercategory": "animal"},
                {"id": 1, "name": "person", "supercategory": "person"},
                {"id": 17, "name": "cat", "supercategory": "animal"},
            ],
            "images": [{"id": i, "file_name": f"{name}.jpg"} for i, name in enumerate(pictures)],
            "annotations": [
                {"image_id": 0, "category_id": 17, "iscrowd": 0},
                {"image_id": 0, "category_id": 18, "iscrowd": 1},
                {"image_id": 0, "category_id": 17, "iscrowd": 0},
                *([{"image_id": 2, "category_id": 1}] if len(pictures) > 2 else []),
            ],
        }

    def test_categories_of_the_objects(self):
        source = open_source(f"coco:{self.root}")
        self.assertEqual(source.class_names, ("dog", "person", "cat"))
        self.assertEqual(self.sets(source), [["cat", "dog"], [], ["person"]])
        self.assertEqual((source.names, source.labels), (["a.jpg", "b.jpg", "c.jpg"], None))
        self.assertIn("instances_train2017.json", source.name)
        self.assertNotEmpty(source.read(0))
        held = held_out(f"coco:{self.root}")
        self.assertEqual(
            (self.sets(held), held.class_names), ([["cat", "dog"]], source.class_names)
        )
        self.assertEqual(open_source(f"coco:{self.root}", "eval").fingerprint(), held.fingerprint())

    def test_supercategories(self):
        source = open_source(f"coco:{self.root}#label=supercategory")
        self.assertEqual(self.sets(source), [["animal"], [], ["person"]])
        self.assertNotEqual(source.fingerprint(), open_source(f"coco:{self.root}").fingerprint())
        self.assertLen(held_out(f"coco:{self.root}#label=supercategory"), 1)

    def test_a_part_and_a_file(self):
        for spec in (f"{self.root}#val2017", f"{self.root}/annotations/instances_val2017.json"):
            self.assertEqual(open_source(f"coco:{spec}").names, ["d.jpg"])
            self.assertIsNone(held_out(f"coco:{spec}"))
        file = f"coco:{self.root}/annotations/instances_val2017.json#images=../val2017"
        self.assertEqual(open_source(file).names, ["d.jpg"])
        self.assertEqual(absolute(file), file)

    @parameterized.parameters(
        ("#test2017", "no part 'test2017'; it has train2017, val2017"),
        ("#label=colour", "expected label=name or label=supercategory, got 'colour'"),
        ("#lable=name", "unknown 'lable' after '#'; did you mean 'label'"),
        ("#label=name&label=name", "at most once"),
        ("#images=nowhere", "no image a.jpg in .*nowhere; name it with #images=FOLDER"),
        ("/nowhere", "expected .*nowhere/annotations/instances_PART.json, or a file"),
        ("/annotations/instances_val2017.json#val2017", "is one file; leave out 'val2017'"),
    )
    def test_what_does_not_exist(self, end, message):
        with self.assertRaisesRegex(UserError, message):
            open_source(f"coco:{self.root}{end}")

    @parameterized.parameters(
        ("[1]", "no annotations in COCO's format"),
        ("{", "no annotations in COCO's format"),
        ('{"categories": [], "images": []}', "KeyError 'annotations'"),
        ('{"categories": [], "images": [], "annotations": []}', "lists no image"),
        (
            '{"categories": [], "images": [{"id": 1, "file_name": "a.jpg"}], "annotations": '
            '[{"image_id": 1, "category_id": 3}]}',
            "KeyError 3",
        ),
        (
            '{"categories": [], "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, '
            '"file_name": "../val2017/d.jpg"}], "annotations": []}',
            "leads out of",
        ),
    )
    def test_files_of_another_format(self, text, message):
        self.write("annotations/instances_train2017.json", text)
        with self.assertRaisesRegex(UserError, message) as caught:
            open_source(f"coco:{self.root}#train2017")
        self.assertLen(str(caught.exception).splitlines(), 1)


class VocTest(Case):
    def part(self, name, **images):
        self.write(f"ImageSets/Main/{name}.txt", "".join(f"{image}\n" for image in images))
        for image, objects in images.items():
            self.image(f"JPEGImages/{image}.jpg")
            text = "".join(OBJECT.format(*each) for each in objects)
            self.write(f"Annotations/{image}.xml", VOC.format(name=image, objects=text))

    def test_classes_of_the_objects(self):
        self.part("trainval", i1=[("dog", 0), ("dog", 1)], i2=[("person", 1), ("cat", 0)], i3=[])
        self.part("test", i4=[("sofa", 0)])
        source = open_source(f"voc:{self.root}")
        self.assertLen(source.class_names, 20)
        self.assertEqual(self.sets(source), [["dog"], ["cat"], []])
        unsure = [[source.class_names[c] for c in source.unsure[i]] for i in range(3)]
        self.assertEqual(unsure, [[], ["person"], []])
        self.assertEqual([len(Subset(source, [1], "x").unsure[0])], [1])
        held = held_out(f"voc:{self.root}")
        self.assertEqual((self.sets(held), held.unsure), ([["sofa"]], None))
        self.assertEqual(open_source(f"voc:{self.root}#test").names, ["i4.jpg"])

    def test_the_fingerprint_knows_what_is_difficult(self):
        self.part("trainval", i1=[("dog", 0)], i2=[("cat", 1)])
        first = open_source(f"voc:{self.root}").fingerprint()
        self.part("trainval", i1=[("dog", 0)], i2=[])
        self.assertNotEqual(open_source(f"voc:{self.root}").fingerprint(), first)

    def test_without_a_test_part(self):
        """VOC 2012: trainval would hold the validation images too."""
        images = {"i1": [("dog", 0)], "i2": [("cat", 0)]}
        self.part("trainval", **images)
        self.part("train", i1=images["i1"])
        self.part("val", i2=images["i2"])
        self.assertEqual(open_source(f"voc:{self.root}").names, ["i1.jpg"])
        self.assertEqual(held_out(f"voc:{self.root}").names, ["i2.jpg"])
        self.assertIsNone(held_out(f"voc:{self.root}#val"))

    def test_other_classes(self):
        self.part("trainval", i1=[("zebra", 0)], i2=[("ant", 0)])
        self.assertEqual(open_source(f"voc:{self.root}").class_names, ("ant", "zebra"))
        self.assertIsNone(held_out(f"voc:{self.root}"))

    def test_what_is_wrong(self):
        with self.assertRaisesRegex(UserError, "expected a folder with ImageSets/Main/PART.txt"):
            open_source(f"voc:{self.root}")
        self.assertIsNone(held_out(f"voc:{self.root}"))
        self.part("trainval", i1=[("dog", 0)])
        for end in ("#", "#a=b", "#a&b"):
            with self.assertRaisesRegex(UserError, "expected the name of a part after '#'"):
                open_source(f"voc:{self.root}{end}")
        with self.assertRaisesRegex(UserError, "no part 'test'; it has trainval"):
            open_source(f"voc:{self.root}#test")
        self.write("Annotations/i1.xml", "<annotation>")
        with self.assertRaisesRegex(UserError, "i1.xml holds no annotations in VOC's format"):
            open_source(f"voc:{self.root}")
        self.write("ImageSets/Main/trainval.txt", "../../x\n")
        with self.assertRaisesRegex(UserError, "leads out of"):
            open_source(f"voc:{self.root}")
        self.write("ImageSets/Main/trainval.txt", "\n")
        with self.assertRaisesRegex(UserError, "the part is empty"):
            open_source(f"voc:{self.root}")


class CsvTest(Case):
    def table(self, text, end=""):
        for name in "abc":
            self.image(f"pictures/{name}.png")
        self.write("labels.csv", text)
        return open_source(f"csv:{self.root}/labels.csv#images=pictures{end}")

    def test_columns_of_0_and_1(self):
        text = "file,x:cat,x:dog,y\na.png,1,0,0\nb.png,1,1,1\nc.png,,-1,0\n"
        source = self.table(text)
        self.assertEqual(source.class_names, ("x:cat", "x:dog", "y"))
        self.assertEqual(self.sets(source), [["x:cat"], ["x:cat", "x:dog", "y"], []])
        self.assertEqual(source.unsure[2].tolist(), [0, 1])
        some = self.table(text, "&labels=x:*")
        self.assertEqual(self.sets(some), [["x:cat"], ["x:cat", "x:dog"], []])
        self.assertNotEqual(some.fingerprint(), source.fingerprint())

    @parameterized.parameters("cat;dog", "cat | dog")
    def test_a_column_of_labels(self, several):
        source = self.table(f"file_name,label\na.png,{several}\nb.png,dog\nc.png,\n")
        self.assertEqual(self.sets(source), [["cat", "dog"], ["dog"], []])
        numbers = self.table("path,label\na.png,0;2\nb.png,1\nc.png,\n")
        self.assertEqual(self.sets(numbers), [["0", "2"], ["1"], []])

    def test_one_label_per_image(self):
        source = self.table("file,note,kind\na.png,x,dog\nb.png,y,cat\nc.png,z,\n", "&label=kind")
        self.assertIsNone(source.label_sets)
        self.assertEqual(source.class_names, ("cat", "dog"))
        np.testing.assert_array_equal(source.labels, [1, 0, -1])

    def test_images_alone(self):
        source = self.table("file\na.png\nb.png\n")
        self.assertEqual((source.labels, source.label_sets, len(source)), (None, None, 2))

    @parameterized.parameters(
        ("file,x\na.png,1\n", "&labels=z*", r"no column matches 'z\*'"),
        ("file,x\na.png,2\n", "", "label 2.0 of class x at index 0; expected 1 if"),
        ("file,x\na.png,0\n", "", "no image shows any of its 1 classes"),
        ("file,x\na.png,red\n", "", "columns x are not all of 0 and 1; select the classes"),
        ("file,x\na.png\n", "", "row 1 has 1 cells; expected 2"),
        ("photo,x\na.png,1\n", "", "no column file or .*; name one with '#image=COLUMN'"),
        ("file,x\nz.png,1\n", "", "no file .*z.png; name the folder with '#images=FOLDER'"),
        ("file,x\n../a.png,1\n", "", r"row 1: '../a.png' is no path in"),
        ("file,x\n,1\n", "", "row 1: '' is no path in"),
        ("file,x\n", "", "a header and no row"),
        ("file,x\na.png,1\n", "&label=kind", "no column 'kind'"),
        (
            "file,x\na.png,1\n",
            "&label=x&labels=x",
            "expected label= or labels= after '#'",
        ),
        ("file,x\na.png,1\n", "&word", "invalid 'word' after '#'"),
    )
    def test_what_is_wrong(self, text, end, message):
        with self.assertRaisesRegex(UserError, message) as caught:
            self.table(text, end)
        self.assertLen(str(caught.exception).splitlines(), 1)

    def test_no_file(self):
        with self.assertRaisesRegex(UserError, "No such file"):
            open_source(f"csv:{self.root}/labels.csv")


class ArraysTest(Case):
    def npz(self, labels):
        path = self.root / "x.npz"
        np.savez(path, images=np.zeros((3, 4, 4, 1), np.uint8), labels=labels)
        return open_source(str(path))

    @parameterized.parameters("i1", "i8", "f4")
    def test_a_table_in_npz(self, dtype):
        source = self.npz(np.array([[1, 0], [1, 1], [-1, 0]], dtype))
        self.assertEqual((self.sets(source), source.labels), ([["0"], ["0", "1"], []], None))
        self.assertEqual(source.unsure[2].tolist(), [0])

    def test_a_table_that_is_none(self):
        with self.assertRaisesRegex(UserError, "label 5 of class 1 at index 1"):
            self.npz(np.array([[1, 0], [0, 5], [0, 0]]))
        with self.assertRaisesRegex(UserError, r"expected labels of shape \(3, 2\), a row per"):
            self.npz(np.array([[1, 0], [0, 1]]))

    def test_a_mixture(self):
        """A class of another set, and one of an image without a label, is not known."""
        self.npz(np.array([[1, 0], [1, 1], [-1, 0]]))
        other = self.root / "y.npz"
        images = np.ones((2, 4, 4, 1), np.uint8)
        np.savez(other, images=images, labels=np.array([2, -1]))
        mix = open_source(f"mix:npz:{self.root}/x.npz+npz:{other}")
        self.assertEqual(mix.class_names, ("0", "1", "2"))
        self.assertEqual(self.sets(mix), [["0"], ["0", "1"], [], ["2"], []])
        unsure = [mix.unsure[i].tolist() for i in range(5)]
        self.assertEqual(unsure, [[2], [2], [0, 2], [], [0, 1, 2]])
        self.assertIsNone(mix.labels)
        alone = open_source(f"mix:2*npz:{self.root}/x.npz+1*npz:{self.root}/x.npz")
        self.assertLen(alone, 9)
        self.assertEqual(self.sets(alone)[3:6], self.sets(alone)[:3])
        self.assertEqual(alone.unsure.most, 1)


if __name__ == "__main__":
    absltest.main()
