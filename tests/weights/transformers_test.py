"""Networks of transformers: names, settings and, in the full set, their features."""

import json
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.weights import conversion, files, networks, transformers
from ssl_jax.weights.places import under

VIT = {"name": "vit", "size": None, "patch": 4, "image_size": 16, "dim": 8, "depth": 2, "heads": 2}
RESNET = {"name": "resnet", "depth": 18, "num_filters": 4}
NETWORKS = {
    "vit": ("ViTModel", VIT),
    "vit_mean": ("ViTModel", VIT | {"pool": "avg", "mask_token": True}),
    "vit_fixed": ("ViTModel", VIT | {"position": "sincos"}),
    "vit_mocov3": ("ViTModel", VIT | {"position": "sincos_mocov3", "norm_eps": 1e-5}),
    "vit_no_bias": ("ViTModel", VIT | {"qkv_bias": False, "mlp_ratio": 2.5}),
    "vit_quick": ("ViTModel", VIT | {"mlp": "quick_gelu"}),
    "dinov2": ("Dinov2Model", VIT | {"layer_scale": 0.1, "mask_token": True}),
    "swiglu": ("Dinov2Model", VIT | {"mlp": "swiglu"}),
    "registers": ("Dinov2WithRegistersModel", VIT | {"layer_scale": 0.1, "registers": 3}),
    "registers_swiglu": ("Dinov2WithRegistersModel", VIT | {"mlp": "swiglu", "registers": 2}),
    "resnet": ("ResNetModel", RESNET),
    "resnet50": ("ResNetModel", RESNET | {"depth": 50}),
    "resnet_three_stages": ("ResNetModel", RESNET | {"depth": 8, "width": 2}),
    "resnet_v1": ("ResNetModel", RESNET | {"depth": 50, "stride_in_1x1": True}),
}
PREPROCESSING = {"size": 32, "crop": 0.875, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.3]}


def random_variables(backbone, channels=3):
    """Draw random variables of a backbone, by path; variances are positive."""
    shapes = conversion.flat(*networks.shapes(networks.build(backbone, channels)))
    draws = np.random.default_rng(0)
    random = {p: draws.normal(0, 0.3, s.shape).astype(np.float32) for p, s in shapes.items()}
    return {p: abs(x) + 0.5 if p.endswith("/var") else x for p, x in random.items()}


def written(folder, backbone, channels=3):
    """Write the folder of a random network; return the network and its variables."""
    variables = random_variables(backbone, channels)
    model = transformers.export(variables, backbone, channels)
    files.write(folder / "model.safetensors", model.tensors, {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(model.config))
    feed = transformers.preprocessor(PREPROCESSING, channels)
    (folder / "preprocessor_config.json").write_text(json.dumps(feed))
    return model, variables


class TransformersTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))

    @parameterized.named_parameters((name, *case) for name, case in NETWORKS.items())
    def test_a_folder_is_read_back(self, name, backbone):
        """The reader of public folders finds the same variables, and the settings that shapes do
        not show.
        """
        model, variables = written(self.folder, backbone)
        self.assertEqual(model.name, name)
        self.assertEqual(model.config["architectures"], [name])
        plain = name in ("ViTModel", "ResNetModel")
        other = {"layer_scale": 1.0, "mask_token": True}  # by 1, and of zeros
        expected = (
            {k: v for k, v in backbone.items() if k != "mask_token"}
            if plain
            else {**backbone, **other}
        )
        weights = networks.load(self.folder, expected)
        loaded = under(weights.networks["student"], "backbone/")
        for path, array in variables.items():
            if path == "mask_token" and name == "ViTModel":
                continue
            np.testing.assert_array_equal(loaded[path], array, err_msg=path)
        inferred = networks.load(self.folder).backbone
        for key in ("heads", "norm_eps", "stride_in_1x1"):
            if key in backbone:
                self.assertEqual(inferred[key], backbone[key])

    def test_the_preprocessing(self):
        feed = transformers.preprocessor(PREPROCESSING, 3)
        self.assertEqual(feed["size"], {"shortest_edge": 37})
        self.assertEqual(feed["crop_size"], {"height": 32, "width": 32})
        self.assertEqual(
            (feed["image_mean"], feed["image_std"]), ([0.5, 0.4, 0.3], [0.2, 0.2, 0.3])
        )
        with self.assertRaisesRegex(UserError, "crop squares"):
            transformers.preprocessor(PREPROCESSING | {"size": [32, 24]}, 3)

    @parameterized.parameters(
        (VIT | {"position": "relative"}, "position='relative'"),
        (VIT | {"cls_token": False, "pool": "avg"}, "cls_token=False"),
        (VIT | {"norm_after_pool": True, "pool": "avg"}, "norm_after_pool=True"),
        (VIT | {"pre_norm": True}, "pre_norm=True"),
        (RESNET | {"stem": "cifar"}, "stem='cifar'"),
        (RESNET | {"neck": (8,)}, r"neck=\(8,\)"),
        (RESNET | {"depth": 50, "sk_ratio": 0.0625}, "sk_ratio=0.0625"),
        ({"name": "swin"}, "name='swin'"),
    )
    def test_networks_that_it_does_not_have(self, backbone, message):
        with self.assertRaisesRegex(UserError, f"transformers has no network with .*{message}"):
            transformers.export({}, backbone, 3)

    @parameterized.named_parameters((name, *case) for name, case in NETWORKS.items())
    @pytest.mark.full
    def test_the_same_features(self, name, backbone):
        """Features of the real library, of every pooling, to 1e-4 of the largest."""
        torch = pytest.importorskip("torch")
        library = pytest.importorskip("transformers")
        channels = 1 if backbone is VIT else 3
        model, variables = written(self.folder, backbone, channels)
        options = {"output_loading_info": True}
        module, info = getattr(library, name).from_pretrained(self.folder, **options)
        self.assertEqual([list(info[key]) for key in ("missing_keys", "unexpected_keys")], [[], []])
        images = np.random.default_rng(1).normal(size=(3, 16, 16, channels)).astype(np.float32)
        with torch.no_grad():
            out = module.eval()(torch.tensor(images.transpose(0, 3, 1, 2)))
        net = networks.build(backbone, channels)
        params, stats = conversion.fill(variables, networks.shapes(net), "random")
        features, _ = jax.jit(lambda x: net.apply(params, stats, x, train=False))(images)
        last = {"pooled": features.pooled, "avg": features.map.mean((1, 2)), "cls": features.cls}
        for pool, expression in model.features.items():
            expected = np.asarray(last[pool])
            error = np.abs(eval(expression, {"out": out}).numpy() - expected).max()
            self.assertLess(error / np.abs(expected).max(), 1e-4, pool)
        if name == "ViTModel":
            np.testing.assert_allclose(out.pooler_output, features.cls, rtol=1e-4, atol=1e-4)


if __name__ == "__main__":
    absltest.main()
