"""The crops of scikit-learn's photographs."""

import numpy as np
from absl.testing import absltest

from ssl_jax.core.errors import UserError
from ssl_jax.data.sources import held_out, open_source


class PhotosTest(absltest.TestCase):
    def test_parts_have_all_classes_and_share_no_pixels(self):
        train, evaluation = open_source("photos"), held_out("photos")
        self.assertEqual(train.arrays.shape, (900, 32, 32, 3))
        self.assertEqual(evaluation.arrays.shape, (180, 32, 32, 3))
        for source, each in ((train, 45), (evaluation, 9)):
            np.testing.assert_array_equal(np.bincount(source.labels), np.full(20, each))
            self.assertEqual(source.class_names[0], "temple 1-1")
            self.assertEqual(source.class_names[19], "flower 2-5")
        # 8 x 8 cells of the textured half of the crops; of the sky many are the same.
        cells = [
            {cell.tobytes() for image in source.arrays for cell in _cells(image) if cell.std() > 8}
            for source in (train, evaluation)
        ]
        self.assertGreater(len(cells[1]), 500)
        self.assertEmpty(cells[0] & cells[1])

    def test_a_run_recognises_them(self):
        again = open_source("photos")
        self.assertTrue(again.matches(open_source("photos").fingerprint()))
        self.assertFalse(again.matches(held_out("photos").fingerprint()))

    def test_a_path_is_an_error(self):
        with self.assertRaisesRegex(UserError, "photos takes no path; use 'photos'"):
            open_source("photos:/tmp")


def _cells(image):
    return image.reshape(4, 8, 4, 8, 3).swapaxes(1, 2).reshape(16, 8, 8, 3)


if __name__ == "__main__":
    absltest.main()
