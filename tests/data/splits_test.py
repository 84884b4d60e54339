from absl.testing import absltest, parameterized

from ssl_jax.data.splits import choose, choose_files, part_of, top_folders


def rows(paths, *tops):
    return [i for i, path in enumerate(paths) if path.split("/")[0] in tops]


class SplitsTest(parameterized.TestCase):
    @parameterized.parameters(
        ("train", ["train", "Training", "TRAIN", "train2017", "train_images", "train-set"]),
        ("validation", ["val", "valid", "Validation", "val2017", "eval", "dev", "held_out"]),
        ("test", ["test", "Testing", "test_set"]),
        ("unlabelled", ["unlabeled", "Unlabelled", "unlabeled2017"]),
        (None, ["trains", "cat", "devil", "value", "tests_of_cats", "", "12"]),
    )
    def test_names_of_parts(self, part, names):
        for name in names:
            self.assertEqual(part_of(name), part, name)

    @parameterized.parameters(
        ("Training", "Testing"),
        ("train", "Validation"),
        ("TRAIN", "val"),
        ("train2017", "val2017"),
        ("seg_train", "seg_test"),
        ("my-data train", "my-data val"),
    )
    def test_parts_in_other_spelling_are_no_classes_and_held_out(self, train, held):
        paths = [f"{top}/{c}/{i}.png" for top in (train, held) for c in "ab" for i in range(3)]
        labels, names = top_folders(paths)
        self.assertEqual((labels.tolist(), names), ([0, 0, 0, 1, 1, 1] * 2, ("a", "b")))
        chosen = choose(paths, "", "train")
        self.assertEqual(chosen.rows.tolist(), rows(paths, train))
        self.assertEqual(chosen.left_out, {f"in {held}/, held out for evaluation": 6})
        chosen = choose(paths, "", "eval")
        self.assertEqual((chosen.rows.tolist(), chosen.part), (rows(paths, held), held))

    def test_unlabelled_images_are_trained_on_and_have_no_label(self):
        paths = ["x/train/a/1.png", "x/train/b/1.png", "x/test/a/1.png", "x/unlabeled/1.png"]
        labels, names = top_folders(paths)
        self.assertEqual((labels.tolist(), names), ([0, 1, 0, -1], ("a", "b")))
        self.assertEqual(choose(paths, "", "train").rows.tolist(), [0, 1, 3])
        self.assertEqual(choose(paths, "", "eval").part, "x/test")

    def test_a_prefix_that_all_parts_share(self):
        """Each part lies in a folder of its own name, as in Intel's scenes."""
        paths = [f"seg_{part}/seg_{part}/{c}/1.png" for part in ("test", "train") for c in "ab"]
        paths.append("seg_pred/seg_pred/1.png")
        labels, names = top_folders(paths)
        self.assertEqual((labels.tolist(), names), ([0, 1, 0, 1, -1], ("a", "b")))
        self.assertEqual(choose(paths, "", "train").rows.tolist(), [2, 3, 4])
        self.assertEqual(choose(paths, "", "eval").part, "seg_test")
        trains = [f"{kind}_train/1.png" for kind in ("bullet", "steam")]  # classes
        self.assertEqual(top_folders(trains)[1], ("bullet_train", "steam_train"))

    def test_validation_is_held_out_and_the_test_part_is_neither(self):
        paths = [f"{top}/{c}/1.png" for top in ("test", "train", "val") for c in "ab"]
        self.assertEqual(choose(paths, "", "eval").part, "val")
        left_out = choose(paths, "", "train").left_out
        self.assertEqual(left_out["in test/, neither trained nor evaluated on"], 2)
        self.assertEqual(left_out["in val/, held out for evaluation"], 2)

    def test_a_held_out_part_without_labels_is_of_no_use(self):
        paths = ["test/1.png", "train/a/1.png", "train/b/1.png"]
        self.assertEqual(top_folders(paths)[0].tolist(), [-1, 0, 1])
        self.assertLen(choose(paths, "", "eval").rows, 3)

    @parameterized.parameters(
        (["train/a/1.png", "train/b/2.png"],),
        (["train/1.png", "bus/1.png", "val/1.png"],),  # classes, one of them a vehicle
        (["val/1.png", "test/1.png"],),
    )
    def test_nothing_is_held_out_elsewhere(self, paths):
        for which in ("train", "eval"):
            self.assertEqual(choose(paths, "", which).rows.tolist(), list(range(len(paths))))

    def test_a_part_by_its_name(self):
        paths = ["train/a/1.png", "val/a/1.png", "valley/1.png"]
        self.assertEqual(choose(paths, "val/", "train").rows.tolist(), [1])
        self.assertEqual(choose(paths, ".", "train").rows.tolist(), [0, 1, 2])

    def test_files_of_tables(self):
        files = ["d/test-0.parquet", "d/train-0.parquet", "d/validation-0.parquet"]
        trained, left_out, part = choose_files(files, "train")
        self.assertEqual((trained, part), (["d/train-0.parquet"], ""))
        self.assertLen(left_out, 2)
        self.assertEqual(choose_files(files, "eval")[::2], (files[2:], "validation"))
        self.assertEqual(choose_files(["d/a.parquet", *files], "train")[0], ["d/a.parquet", *files])
        mnist = ["mnist_test.parquet", "mnist_train.parquet"]
        self.assertEqual(choose_files(mnist, "train")[0], mnist[1:])
        self.assertEqual(choose_files(mnist, "eval")[::2], (mnist[:1], "test"))
        folders = ["d/train/0000.parquet", "d/test/0000.parquet"]
        self.assertEqual(choose_files(folders, "eval")[0], folders[1:])


if __name__ == "__main__":
    absltest.main()
