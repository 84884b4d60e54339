import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.data import levels


def ramp(low: float, high: float, dtype: type, bands: int = 1) -> np.ndarray:
    image = np.linspace(low, high, 64 * 64).reshape(64, 64, 1)
    return np.repeat(image, bands, -1).astype(dtype)


class LevelsTest(parameterized.TestCase):
    @parameterized.parameters(
        (0, 4095, np.uint16, (0, 4095)),
        (3, 4090, np.uint16, (0, 4095)),
        (0, 65535, np.uint16, (0, 65535)),
        (0, 250, np.int64, (0, 255)),
        (0, 0.98, np.float32, (0, 1)),
        (-1, 1, np.float64, (-1, 1)),
        (0, 255, np.float32, (0, 255)),
    )
    def test_a_usual_range(self, low, high, dtype, want):
        self.assertEqual(levels.measure([ramp(low, high, dtype)]), want)

    @parameterized.parameters(
        (-1000, 1500, np.int16), (1900, 2200, np.uint16), (0, 12000, np.uint16), (0, 0.01, float)
    )
    def test_a_range_of_its_own_without_outliers(self, low, high, dtype):
        image = ramp(low, high, dtype)
        image[0, 0] = 1e9 if dtype is float else np.iinfo(dtype).max  # a hot pixel
        made = levels.measure([image])
        np.testing.assert_allclose(made, (low, high), atol=0.01 * (high - low))
        self.assertGreater(len(np.unique(levels.to_uint8(image, made))), 200)

    def test_bands_of_different_scale_have_a_range_each(self):
        image = np.concatenate([ramp(0, s, np.uint16) for s in (200, 4000, 60000, 9)], -1)
        made = levels.measure([image])
        self.assertEqual(made[:6], (0, 255, 0, 4095, 0, 65535))
        self.assertGreater(len(np.unique(levels.to_uint8(image, made)[..., 3])), 8)
        self.assertLen(levels.measure([ramp(0, 4000, np.uint16, 5)]), 2)  # all alike

    def test_rounds_clips_and_leaves_uint8_alone(self):
        wide = np.array([[[-5, 0, 1, 257, 65535, 70000]]], np.int32).reshape(1, 6, 1)
        got = levels.to_uint8(wide, (0, 65535))
        np.testing.assert_array_equal(got.reshape(-1), [0, 0, 0, 1, 255, 255])
        every = np.arange(65536).reshape(256, 256, 1)
        want = ((every + 128) // 257).astype(np.uint8)  # what versions before `range` made
        np.testing.assert_array_equal(levels.to_uint8(every.astype(np.uint16), (0, 65535)), want)
        byte = np.zeros((2, 2, 1), np.uint8)
        self.assertIs(levels.to_uint8(byte, (0, 7)), byte)

    def test_what_is_no_number_is_black(self):
        image = ramp(-1000, 1000, np.float32)
        image[:8], image[8, 0] = np.nan, np.inf
        got = levels.to_uint8(image)
        self.assertEqual((got[:8].max(), got[8, 0, 0], got[-1, -1, 0]), (0, 255, 255))
        self.assertEqual(levels.to_uint8(np.full((4, 4, 1), np.nan)).max(), 0)
        self.assertEqual(levels.to_uint8(np.full((4, 4, 1), 7, np.uint16)).shape, (4, 4, 1))

    @parameterized.parameters((0,), (5, 5), (7, 1), (0, float("nan")), (0, 1, 0, 1))
    def test_no_range(self, *values):
        with self.assertRaisesRegex(UserError, "data.range: expected LOW,HIGH"):
            levels.check(tuple(map(float, values)), bands=3)

    def test_ranges(self):
        for values in ((), (0.0, 1.0), (0.0, 1.0) * 3):
            levels.check(values, bands=3)

    def test_span(self):
        self.assertIn(levels.span([ramp(0, 15, np.uint8)]), (15, 16))
        self.assertGreater(levels.span([ramp(0, 255, np.uint8, 3)]), 250)


if __name__ == "__main__":
    absltest.main()
