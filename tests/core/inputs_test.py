"""Sizes of views, and the description of a batch."""

import numpy as np
from absl.testing import absltest

from ssl_jax.core import config
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import ArrayShape, Inputs, View
from ssl_jax.core.plain import Text


class ViewTest(absltest.TestCase):
    def test_a_size_is_a_side_or_two(self):
        for value, sides in ((Text("8"), (8, 8)), (Text("(8, 12)"), (8, 12)), ([8, 12], (8, 12))):
            view = config.build(View, {"size": value}, "view")
            self.assertEqual(view.sides, sides)
            hash(view)  # static under jit
        for value in (Text("(8, 12, 3)"), Text("(0, 8)"), Text("0"), Text("a"), 8.0):
            with self.assertRaisesRegex(UserError, "view.size"):
                config.build(View, {"size": value}, "view")

    def test_what_works_with_squares_only(self):
        self.assertEqual(View((8, 8)).side, 8)
        with self.assertRaisesRegex(UserError, "expected a square view, got 8 x 12"):
            _ = View((8, 12)).side


class InputsTest(absltest.TestCase):
    def test_every_array_of_a_batch(self):
        views = (View((4, 6), 2), View(3))
        clips = Inputs((View(5),), frames=7, flow=True, sound=9, label=True)
        inputs = Inputs(views, text=8, placement=True, masks=True, streams=(("clips", clips),))
        want = {
            "views": (((16, 2, 4, 6, 3), "u1"), ((16, 1, 3, 3, 3), "u1")),
            "placement": (((16, 2, 2, 3), "f4"), ((16, 1, 2, 3), "f4")),
            "masks": (((16, 2, 4, 6), "u1"), ((16, 1, 3, 3), "u1")),
            "index": ((16,), "i4"),
            "text": ((16, 8), "i4"),
            "clips": {
                "views": (((16, 1, 5, 5, 3), "u1"),),
                "index": ((16,), "i4"),
                "label": ((16,), "i4"),
                "frames": ((16, 7, 5, 5, 3), "u1"),
                "flow": ((16, 7, 5, 5, 2), "f4"),
                "sound": ((16, 9), "i2"),
            },
        }
        self.assertEqual(plain(inputs.shapes(16, 3)), want)
        self.assertEqual(set(Inputs(views).shapes(16, 3)), {"views", "index"})


def plain(part):
    if isinstance(part, ArrayShape):
        return part.shape, np.dtype(part.dtype).str[1:]
    if isinstance(part, dict):
        return {name: plain(inner) for name, inner in part.items()}
    return tuple(map(plain, part))


if __name__ == "__main__":
    absltest.main()
