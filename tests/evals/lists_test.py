"""Lists of labelled examples: how names match examples, and errors of bad lists."""

from pathlib import Path
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.data.sources import ArraySource
from ssl_jax.evals.lists import listed_rows

NAMES = ("train/cat/1.jpg", "train/cat/2.jpg", "train/dog/1.jpg", "train/dog/a dog 3.jpg")


def named_source(names=NAMES):
    source = ArraySource("pictures", np.zeros((4, 2, 2, 1), np.uint8))
    source.names = names
    return source


class ListsTest(parameterized.TestCase):
    def write(self, text):
        path = Path(self.create_tempdir().full_path) / "some.txt"
        path.write_text(text)
        return str(path)

    @parameterized.parameters(
        ("train/dog/1.jpg 1\n\ntrain/cat/2.jpg\t0\n", [1, 2]),  # with labels
        ("2.jpg\n", [1]),  # SimCLR's lists: the file's name alone
        ("/data/pets/train/cat/1.jpg\n", [0]),  # the list's root is above that of the data
        ("dog/1.jpg\ncat/1.jpg\ndog/1.jpg\n", [0, 2]),
        ("a dog 3.jpg\n", [3]),
    )
    def test_names(self, text, rows):
        np.testing.assert_array_equal(listed_rows(self.write(text), named_source()), rows)

    def test_a_list_in_the_home_folder(self):
        home = str(Path(self.write("2.jpg\n")).parent)
        with mock.patch.dict("os.environ", {"HOME": home}):
            np.testing.assert_array_equal(listed_rows("~/some.txt", named_source()), [1])

    @parameterized.parameters(
        ("", "it is empty"),
        (" \n\n", "it is empty"),
        ("2.jpg\n9.jpg 1\n8.jpg\n", "2 of 3 names match no example of pictures, such as 9.jpg"),
        ("g/1.jpg\n", "1 of 1 names"),  # folders are whole
        ("1.jpg\n", "1.jpg matches 2 examples of pictures, such as train/cat/1.jpg"),
    )
    def test_bad_lists(self, text, message):
        with self.assertRaisesRegex(UserError, message):
            listed_rows(self.write(text), named_source())

    def test_no_file_and_no_names(self):
        with self.assertRaisesRegex(UserError, "list /nowhere: No such file"):
            listed_rows("/nowhere", named_source())
        with self.assertRaisesRegex(UserError, "the examples of pictures have no names"):
            listed_rows(self.write("2.jpg"), named_source(None))


if __name__ == "__main__":
    absltest.main()
