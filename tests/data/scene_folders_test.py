"""Layouts of folders of images with masks."""

from pathlib import Path

from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.data.scene_folders import scene_pairs


class LayoutsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.root = Path(self.create_tempdir().full_path)

    def touch(self, *paths, text=""):
        for path in paths:
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_text(text)

    def pairs(self, end=""):
        files = scene_pairs(f"{self.root}{end}")
        return [tuple(str(file.relative_to(self.root)) for file in pair) for pair in files]

    def test_by_name(self):
        self.touch("images/b.jpg", "images/a.jpg", "images/c.jpg", "masks/a.png", "masks/b.png")
        expected = [("images/a.jpg", "masks/a.png"), ("images/b.jpg", "masks/b.png")]
        self.assertEqual(self.pairs(), expected)

    def test_ade20k(self):
        self.touch("images/validation/x.jpg", "annotations/validation/x.png")
        expected = [("images/validation/x.jpg", "annotations/validation/x.png")]
        self.assertEqual(self.pairs("#validation"), expected)

    def test_cityscapes(self):
        image, mask = "ulm/u_1_leftImg8bit.png", "ulm/u_1_gtFine_labelTrainIds.png"
        self.touch(f"leftImg8bit/val/{image}", "leftImg8bit/val/ulm/u_2_leftImg8bit.png")
        with self.assertRaisesRegex(UserError, "has a mask gtFine/val/CITY/NAME_gtFine_labelTrain"):
            self.pairs("#val")
        self.touch(f"gtFine/val/{mask}")
        expected = [(f"leftImg8bit/val/{image}", f"gtFine/val/{mask}")]
        self.assertEqual(self.pairs("#val"), expected)

    def test_voc(self):
        self.touch("ImageSets/Segmentation/val.txt", text="2007_1\n2007_2\n")
        with self.assertRaisesRegex(UserError, "no image of it has a mask in .*SegmentationClass"):
            self.pairs("#val")
        self.touch("SegmentationClass/2007_2.png")
        expected = [("JPEGImages/2007_2.jpg", "SegmentationClass/2007_2.png")]
        self.assertEqual(self.pairs("#val"), expected)
        self.touch("ImageSets/Segmentation/val.txt", text="../x\n")
        with self.assertRaisesRegex(UserError, "'../x' is no name of an image"):
            self.pairs("#val")

    @parameterized.parameters(
        ("", "images: no such folder; expected images/ and masks/; or, with #PART"),
        ("#val", "expected images/ and masks/; or, with #PART"),
        ("#..", "'..' after '#' is no name of a part"),
        ("#a=b", "expected the name of a part after '#'"),
    )
    def test_none_of_them(self, end, message):
        with self.assertRaisesRegex(UserError, message):
            self.pairs(end)


if __name__ == "__main__":
    absltest.main()
