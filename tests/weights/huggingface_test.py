"""Names of transformers and of mmpretrain: each file is read like the plain network."""

import re

import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.weights import huggingface, networks
from ssl_jax.weights.files import TensorFile
from ssl_jax.weights.places import under
from tests.weights.releases_test import BOTTLENECK, RESNET, VIT, plain, variables

VIT_BLOCK = (
    (r"^blocks\.(\d+)\.", r"encoder.layer.\1."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.qkv\.", ".attention.attention.qkv."),
)
VIT_TOP = (
    (r"^(cls_token|mask_token)", r"embeddings.\1"),
    (r"^pos_embed", "embeddings.position_embeddings"),
    (r"^reg_token", "embeddings.register_tokens"),
    (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"),
    (r"^norm\.", "layernorm."),
)
GOOGLES = (
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)
DINOV2 = (
    (r"\.ls(\d)\.gamma", r".layer_scale\1.lambda1"),
    (r"\.mlp\.fc1\.", ".mlp.weights_in."),
    (r"\.mlp\.fc2\.", ".mlp.weights_out."),
)
CLIP = (
    (r"^blocks\.(\d+)\.", r"encoder.layers.\1."),
    (r"\.attn\.proj\.", ".self_attn.out_proj."),
    (r"\.attn\.qkv\.", ".self_attn.qkv_proj."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"^norm_pre\.", "pre_layrnorm."),
    (r"^norm\.", "post_layernorm."),
    (r"^patch_embed\.proj", "embeddings.patch_embedding"),
)
MMPRETRAIN = (
    (r"^patch_embed\.proj", "patch_embed.projection"),
    (r"^norm\.", "ln1."),
    (r"^blocks\.", "layers."),
    (r"\.norm(\d)\.", r".ln\1."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
    (r"\.ls1\.gamma", ".attn.gamma1.weight"),
    (r"\.ls2\.gamma", ".ffn.gamma2.weight"),
)
RESNETS = (
    (r"^conv1\.", "embedder.embedder.convolution."),
    (r"^bn1\.", "embedder.embedder.normalization."),
    (r"\.downsample\.0\.", ".shortcut.convolution."),
    (r"\.downsample\.1\.", ".shortcut.normalization."),
    (r"\.conv(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.convolution."),
    (r"\.bn(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.normalization."),
    (r"^layer(\d)\.", lambda m: f"encoder.stages.{int(m[1]) - 1}.layers."),
)


def named(tensors, *swaps, prefix=""):
    """Rename tensors; split "qkv" into queries, keys and values."""
    out = {}
    for name, array in tensors.items():
        for old, replacement in swaps:
            name = re.sub(old, replacement, name)
        parts = {"attention.qkv": ("query", "key", "value"), "self_attn.qkv": ("q", "k", "v")}
        fused = next((key for key in parts if key in name), None)
        for i, part in enumerate(parts[fused] if fused else ("",)):
            single = name.replace("qkv", part) if fused else name
            out[prefix + single] = np.split(array, 3)[i] if fused else array
    return out


def read(tensors, backbone=None, config=None, **options):
    beside = {"config": {"model_type": "x", "num_attention_heads": 2} | (config or {})}
    return networks.of_file(TensorFile(tensors, {}, beside), "F", backbone or options, 3)


class NamesTest(parameterized.TestCase):
    def assert_network(self, weights, backbone):
        expected, loaded = variables(backbone), under(weights.networks["student"], "backbone/")
        self.assertEqual(set(loaded), set(expected))
        for path, array in expected.items():
            np.testing.assert_array_equal(loaded[path], array, err_msg=path)

    @parameterized.parameters("", "vit.")
    def test_vit(self, prefix):
        file = named(plain(VIT), *VIT_BLOCK, *VIT_TOP, *GOOGLES, prefix=prefix)
        beside = {"pooler.dense.weight": np.ones((8, 8)), "classifier.bias": np.ones(3)}
        weights = read(file | beside)
        self.assert_network(weights, VIT)
        self.assertEqual(weights.backbone["norm_eps"], 1e-12)  # transformers' default
        self.assertEqual(set(weights.report.skipped), set(beside))
        with self.assertRaisesRegex(UserError, r"also has blocks\.\*\.attention.rotary"):
            read(file | {f"{prefix}encoder.layer.0.attention.rotary": np.ones(3)})

    def test_dinov2(self):
        backbone = VIT | {"registers": 3, "layer_scale": 0.1, "mlp": "swiglu", "mask_token": True}
        file = named(plain(backbone), *VIT_BLOCK, *VIT_TOP, *DINOV2)
        file["embeddings.mask_token"] = file["embeddings.mask_token"][0]
        config = {"layer_norm_eps": 1e-6, "use_swiglu_ffn": True}
        self.assert_network(read(file, config=config), backbone)

    def test_clip(self):
        backbone = VIT | {"pre_norm": True, "norm_eps": 1e-5}
        file = named(plain(backbone), *CLIP)
        file["embeddings.class_embedding"] = file.pop("cls_token").reshape(-1)
        file["embeddings.position_embedding.weight"] = file.pop("pos_embed")[0]
        file["embeddings.position_ids"] = np.arange(17)[None]
        file = {f"vision_model.{name}": array for name, array in file.items()}
        file |= {"visual_projection.weight": np.ones((4, 8)), "text_model.x.weight": np.ones(2)}
        vision = {"num_attention_heads": 4, "hidden_act": "quick_gelu"}
        weights = read(file, config={"vision_config": vision})
        self.assert_network(weights, backbone)
        self.assertEqual((weights.backbone["heads"], weights.backbone["mlp"]), (4, "quick_gelu"))
        with self.assertRaisesRegex(UserError, "nonlinearity of CLIP's"):
            read(file)

    @parameterized.parameters(RESNET, BOTTLENECK)
    def test_resnet(self, **backbone):
        file = named(plain(backbone), *RESNETS, prefix="resnet.")
        self.assert_network(read(file, config={"hidden_act": "relu"}), backbone)
        with self.assertRaisesRegex(UserError, "hidden_act='gelu'; expected relu"):
            read(file, config={"hidden_act": "gelu"})

    def test_mmpretrain(self):
        backbone = VIT | {"layer_scale": 0.1}
        file = named(plain(backbone), *MMPRETRAIN, prefix="state_dict.backbone.")
        self.assert_network(read(file | {"state_dict.head.fc.weight": np.ones(3)}), backbone)

    def test_a_bias_that_keys_lack_is_zero(self):
        file = named(plain(VIT), *VIT_BLOCK, *VIT_TOP, *GOOGLES)
        for i in range(2):
            del file[f"encoder.layer.{i}.attention.attention.key.bias"]
        bias = read(file).networks["student"]["backbone/blocks/attn/qkv/bias"]
        np.testing.assert_array_equal(bias[:, 8:16], 0)
        np.testing.assert_array_equal(bias[:, :8], variables(VIT)["blocks/attn/qkv/bias"][:, :8])


class StatisticsTest(parameterized.TestCase):
    def test_mean_and_deviation_beside_a_file(self):
        half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        self.assertEqual(huggingface.statistics({"preprocessor": half}), ([0.5] * 3, [0.5] * 3))
        timm = {"pretrained_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3}}
        self.assertEqual(huggingface.statistics({"config": timm}), ([0.1] * 3, [0.2] * 3))
        self.assertIsNone(huggingface.statistics({"config": {"hidden_size": 3}}))
        with self.assertRaisesRegex(UserError, "expected 3 numbers each"):
            huggingface.statistics({"preprocessor": half | {"image_std": "x"}})


if __name__ == "__main__":
    absltest.main()
