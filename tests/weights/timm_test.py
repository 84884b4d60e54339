"""Networks by timm's and torchvision's names; `benchmarks/interchange.py` loads them there."""

import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.weights import conversion, networks, timm
from ssl_jax.weights.files import TensorFile
from tests.weights.releases_test import CONVNEXT, EFFICIENTNET, SWIN, VIT, variables

RESNET = {"name": "resnet", "depth": 18}


class ExportTest(parameterized.TestCase):
    @parameterized.parameters(
        (RESNET, "timm", 3),
        (RESNET | {"stem": "cifar"}, "timm", 3),
        (RESNET | {"num_filters": 4, "stem": "small"}, "timm", 3),
        ({"name": "resnet_small", "width": 4}, "torchvision", 1),  # what `auto` trains on a CPU
        (VIT, "timm", 1),
        (VIT | {"position": "sincos"}, "timm", 3),
        (VIT | {"cls_token": False, "pool": "avg", "norm_after_pool": True}, "timm", 3),
        (VIT | {"pre_norm": True, "norm_eps": 1e-5}, "timm", 3),
        (SWIN, "timm", 3),
        (CONVNEXT, "timm", 3),
        (CONVNEXT | {"grn": True, "patch": 2}, "timm", 1),
        (EFFICIENTNET, "timm", 3),
        (EFFICIENTNET | {"stem": "cifar", "padding": "same"}, "timm", 3),
        (RESNET, "torchvision", 3),
        (VIT, "torchvision", 3),
    )
    def test_and_back_to_the_bit(self, backbone, library, channels):
        net = networks.build(backbone, channels)
        draws = np.random.default_rng(0)
        own = {
            path: draws.normal(size=leaf.shape).astype(np.float32)
            for path, leaf in conversion.flat(*networks.shapes(net)).items()
        }
        tensors, lines = timm.export(own, backbone, channels, library)
        compile("\n".join(lines), "lines", "exec")
        back = networks.of_file(TensorFile(tensors, {}), "F", backbone, channels)
        loaded = back.networks["student"]
        for path, array in own.items():
            np.testing.assert_array_equal(loaded[f"backbone/{path}"], array, err_msg=path)

    def test_names_and_layouts(self):
        tensors, lines = timm.export(variables(RESNET), RESNET, 3, "timm")
        self.assertEqual(tensors["layer2.0.downsample.0.weight"].shape, (128, 64, 1, 1))
        self.assertEqual(tensors["bn1.num_batches_tracked"].dtype, np.int64)
        self.assertEqual(
            lines[-1], "model = timm.create_model('resnet18', num_classes=0, in_chans=3)"
        )
        thin = {"name": "resnet", "depth": 50, "num_filters": 4}
        _, lines = timm.export(variables(thin), thin, 3, "timm")
        self.assertIn(
            "model.layer1 = nn.Sequential(Block(4, 4, 1, nn.Sequential(nn.Conv2d(4, 16, 1, 1, "
            "bias=False), nn.BatchNorm2d(16))), Block(16, 4), Block(16, 4))",
            lines,
        )
        tensors, lines = timm.export(variables(VIT), VIT, 3, "torchvision")
        self.assertIn("encoder.layers.encoder_layer_0.self_attention.in_proj_weight", tensors)

    @parameterized.parameters(
        ({"name": "resnet", "depth": 50, "sk_ratio": 0.1}, "timm", "sk_ratio=0.1"),
        ({"name": "resnet", "depth": 50, "stride_in_1x1": True}, "timm", "stride_in_1x1"),
        (VIT | {"norm_eps": 1e-5}, "timm", "norm_eps"),
        (VIT | {"mlp": "quick_gelu"}, "timm", "quick_gelu"),
        (VIT | {"mlp": "swiglu"}, "torchvision", "swiglu"),
        (VIT | {"registers": 1}, "torchvision", "registers=1"),
        (VIT | {"layer_scale": 0.1}, "torchvision", "layer_scale=0.1"),
        (VIT | {"cls_token": False, "pool": "avg"}, "torchvision", "cls_token=False"),
        (SWIN, "torchvision", "swin"),
        (CONVNEXT, "torchvision", "convnext"),
        (EFFICIENTNET, "torchvision", "efficientnet"),
        (CONVNEXT | {"depths": (1,) * 5, "dims": (8,) * 5}, "timm", "5 stages"),
    )
    def test_unsupported_networks(self, backbone, library, message):
        with self.assertRaisesRegex(UserError, f"{library} has no network with .*{message}"):
            own = variables(backbone) if backbone["name"] == "vit" else {}
            timm.export(own, backbone, 3, library)


if __name__ == "__main__":
    absltest.main()
