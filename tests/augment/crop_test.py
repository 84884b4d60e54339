import jax
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.augment.crop import crop_resize, take_views
from ssl_jax.core.inputs import Inputs, View
from ssl_jax.core.placement import replicate
from ssl_jax.data import decode
from ssl_jax.data.pipeline import batches
from ssl_jax.data.sources import ArraySource


def images(n=8, height=20, width=28, channels=3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, height, width, channels)).astype(np.uint8)


class CropResizeTest(parameterized.TestCase):
    """Against OpenCV, through the host's own function."""

    @parameterized.product(
        interpolation=["bilinear", "bicubic"], size=[3, 6, 16, (4, 32)], channels=[1, 3]
    )
    def test_against_the_host(self, interpolation, size, channels):
        image = images(channels=channels)[0]
        boxes = [(0, 0, 20, 28), (3, 5, 6, 6), (19, 27, 1, 1), (2, 1, 17, 3), (0, 10, 5, 18)]
        boxes += [(1, 2, 16, 16), (4, 4, 13, 11), (0, 0, 20, 1)]
        cut = jax.jit(lambda box: crop_resize(image, box, size, interpolation))
        for box in boxes:
            want = decode.crop_resize(image, box, size, interpolation).astype(int)
            got = np.asarray(cut(np.array(box, np.int32)))
            self.assertEqual(got.dtype, np.uint8)
            # Fixed-point weights of the host, and where it averages a rounding in between.
            self.assertLessEqual(np.abs(got - want).max(), 1, box)

    def test_a_box_of_the_size_is_a_copy(self):
        image = images()[0]
        got = crop_resize(image, np.array([7, 9, 8, 8], np.int32), 8)
        np.testing.assert_array_equal(got, image[7:15, 9:17])


class TakeViewsTest(parameterized.TestCase):
    @parameterized.parameters(1, 3)
    def test_the_batches_of_the_host(self, channels):
        source = ArraySource("random", images(22, 12, 12, channels), np.arange(22) % 3)
        inputs = Inputs(
            (
                View(8, 2, (0.2, 1.0)),
                View(6, 2, (1.0, 1.0)),
                View(4, 3, (0.1, 0.4), interpolation="bicubic", crop="one_draw"),
                View(18, 1, (1.0, 1.0), interpolation="bicubic"),
            ),
            label=True,
        )
        options = {"global_batch": 8, "seed": 3, "stop_step": 5}
        host = batches(source, inputs, **options)
        boxed = batches(source, inputs, boxes_only=True, **options)
        everywhere = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        sets = replicate(boxed.sets(), everywhere)
        take = jax.jit(take_views, static_argnums=0)
        for want, batch in zip(host, boxed, strict=True):
            got = jax.device_get(take(inputs, sets, batch))
            self.assertEqual(got.keys(), want.keys())
            np.testing.assert_array_equal(got["index"], want["index"])
            np.testing.assert_array_equal(got["label"], want["label"])
            for view, a, b in zip(inputs.views, got["views"], want["views"], strict=True):
                self.assertEqual((a.shape, a.dtype), (b.shape, b.dtype))
                if view.whole:
                    np.testing.assert_array_equal(a, b)
                else:
                    self.assertLessEqual(np.abs(a.astype(int) - b).max(), 1)


if __name__ == "__main__":
    absltest.main()
