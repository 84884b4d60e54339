"""Pictures of every method that has them: finite, of the shapes that the contract says."""

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from ssl_jax.objectives.base import Objective
from ssl_jax.objectives.parts.pictures import board, prototypes
from tests.objectives import harness


def drawn_images(objective: Objective) -> np.ndarray:
    view, channels = objective.inputs().views[0], objective.spec.channels
    draw = np.random.default_rng(0)
    return draw.normal(size=(20, *view.sides, channels)).astype(np.float32)


class PicturesTest(parameterized.TestCase):
    @parameterized.named_parameters(*harness.METHODS)
    def test_shapes(self, method):
        made = harness.experiment(method)
        images, state = drawn_images(made.objective), made.abstract_state
        pictures = jax.eval_shape(
            made.objective.pictures, state.params, state.extra, images, jax.random.key(1)
        )
        for title, picture in pictures.items():
            rows, columns, height, width, depth = picture.images.shape
            self.assertEqual(height, width, title)
            self.assertEqual(depth, images.shape[-1])
            self.assertTrue(picture.caption.endswith("."), title)
            self.assertIn(len(picture.columns), (0, columns))
            self.assertEqual(picture.prediction is None, picture.truth is None)
            for answers in (picture.prediction, picture.truth):
                if answers is not None:
                    self.assertEqual(answers.shape, (rows, columns))
                    self.assertEqual(answers.dtype, np.int32)

    @parameterized.named_parameters(*harness.METHODS)
    @pytest.mark.full
    def test_values(self, method):
        objective = harness.experiment(method).objective
        params, extra = jax.jit(objective.init)(jax.random.key(0))
        pictures = jax.jit(objective.pictures)(
            params, extra, drawn_images(objective), jax.random.key(1)
        )
        for title, picture in pictures.items():
            self.assertTrue(np.isfinite(picture.images).all(), title)
            for answers in (picture.prediction, picture.truth):
                if answers is not None:
                    self.assertGreaterEqual(answers.min(), -1)
                    if picture.answers:
                        self.assertLess(answers.max(), len(picture.answers))

    @parameterized.parameters("mae", "simmim")
    def test_what_is_not_hidden_is_the_image(self, method):
        objective = harness.experiment(method).objective
        params, extra = jax.jit(objective.init)(jax.random.key(0))
        size = objective.view.size
        images = np.random.default_rng(0).normal(size=(8, size, size, 1)).astype(np.float32)
        (made,) = objective.pictures(params, extra, images, jax.random.key(1)).values()
        visible, prediction, whole = np.moveaxis(np.asarray(made.images), 1, 0)
        np.testing.assert_array_equal(whole, images)
        hidden = visible == 0
        self.assertAlmostEqual(hidden.mean(), objective.mask_ratio, delta=0.07)
        np.testing.assert_allclose(prediction[~hidden], images[~hidden], atol=1e-6)
        self.assertFalse(np.allclose(prediction[hidden], images[hidden], atol=0.1))

    def test_a_puzzle_put_together_rightly_is_the_solution(self):
        objective = harness.experiment("jigsaw").objective
        params, extra = jax.jit(objective.init)(jax.random.key(0))
        size = objective.view.size
        images = np.random.default_rng(0).normal(size=(8, size, size, 1)).astype(np.float32)
        (made,) = objective.pictures(params, extra, images, jax.random.key(1)).values()
        puzzle, solved, solution = np.moveaxis(np.asarray(made.images), 1, 0)
        for i in range(8):
            # The tiles are the same ones, in another order.
            for other in (puzzle[i], solved[i]):
                np.testing.assert_allclose(np.sort(other, None), np.sort(solution[i], None))
            right = made.prediction[i, 1] == made.truth[i, 1]
            self.assertEqual(bool(right), np.array_equal(solved[i], solution[i]))

    def test_the_most_used_prototypes_and_their_best_images(self):
        scores = np.array([[9, 0, 1], [8, 0, 1], [7, 1, 8], [0, 2, 6], [3, 0, 1]], np.float32)
        images = np.arange(5, dtype=np.float32).reshape(5, 1, 1, 1)
        rows = np.asarray(prototypes(images, scores).images)[:, :, 0, 0, 0]
        np.testing.assert_array_equal(rows[0], [0, 1, 2, 4, 3])  # three prefer the first
        np.testing.assert_array_equal(rows[1][:2], [2, 3])
        np.testing.assert_array_equal(rows[2][:2], [3, 2])

    def test_a_board_puts_tiles_row_by_row(self):
        tiles = np.arange(1, 5, dtype=np.float32).reshape(1, 4, 1, 1, 1)
        made = np.asarray(board(tiles, 2))[0, :, :, 0]
        np.testing.assert_array_equal(made, [[1, 0, 2], [0, 0, 0], [3, 0, 4]])


if __name__ == "__main__":
    absltest.main()
