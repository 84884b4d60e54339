"""Options of networks: applied, or refused where nothing reads them."""

from absl.testing import absltest, parameterized

from ssl_jax import nets
from ssl_jax.core.errors import UserError

VIT = {"size": None, "dim": 8, "depth": 1, "heads": 1, "patch": 4, "image_size": 8}
SWIN = {"size": None, "dim": 8, "depths": (2,), "heads": (1,), "patch": 4, "image_size": 16}


class OptionsTest(parameterized.TestCase):
    @parameterized.named_parameters(
        (f"_{name}_{dtype}", name, dtype)
        for name in nets.BACKBONES
        for dtype in ("float16", "float64", "float8_e4m3fn", "int8", "float99", "half", "double")
    )
    def test_what_is_not_computed_in(self, name, dtype):
        with self.assertRaisesRegex(UserError, "backbone.dtype: expected 'float32' or 'bfloat16'"):
            nets.make_backbone(name, 3, {"dtype": dtype})

    @parameterized.named_parameters(
        (f"_{name}_{dtype}", name, dtype)
        for name in nets.BACKBONES
        for dtype in ("float32", "bfloat16", None)
    )
    def test_what_is(self, name, dtype):
        nets.make_backbone(name, 3, {"dtype": dtype})

    @parameterized.parameters(
        ("resnet", {"depth": 18, "stride_in_1x1": True}, "basic ones have no 1x1"),
        ("resnet", {"depth": 18, "sk_ratio": 0.1}, "only with bottleneck"),
        ("vit", VIT | {"drop_path": 0.1}, "the first never drops"),
        (
            "vit",
            VIT | {"position": "relative", "interpolate_offset": 0.1},
            "relative positions lack",
        ),
        ("swin", SWIN | {"window": 8}, "windows of 8 patches do not tile the 4 x 4"),
    )
    def test_what_nothing_would_read(self, name, options, message):
        with self.assertRaisesRegex(UserError, message):
            nets.make_backbone(name, 3, options)


if __name__ == "__main__":
    absltest.main()
