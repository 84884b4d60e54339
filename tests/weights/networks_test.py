"""From a file to a network: what names and shapes say, positions of another grid, and refusals."""

import json
from pathlib import Path

import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.weights import networks, vit
from ssl_jax.weights.files import TensorFile
from tests.weights.releases_test import BOTTLENECK, RESNET, SWIN, VIT, drawn, plain, variables

GOLDEN = Path(__file__).parents[1] / "golden"


def of(tensors, backbone=None, channels=None, **options):
    return networks.of_file(TensorFile(tensors, {}), "F", backbone, channels, **options)


class InferenceTest(parameterized.TestCase):
    @parameterized.parameters(
        RESNET,
        BOTTLENECK,
        RESNET | {"stem": "cifar"},
        VIT,
        VIT | {"position": "relative", "mask_token": True, "layer_scale": 0.1},
        VIT | {"cls_token": False, "pool": "avg", "qkv_bias": False},
        VIT | {"registers": 2, "mlp": "swiglu", "mlp_ratio": 3.0},
        VIT | {"pre_norm": True},
        SWIN,
    )
    def test_same_variables(self, **backbone):
        asked = {"heads": 2} | ({"mlp": "gelu"} if "pre_norm" in backbone else {})
        weights = of(plain(backbone), asked if backbone["name"] == "vit" else None)
        like = networks.flat(*networks.shapes(networks.build(backbone, 3)))
        found = networks.flat(*networks.shapes(weights.net))
        shapes = lambda tree: {path: leaf.shape for path, leaf in tree.items()}  # noqa: E731
        self.assertEqual(shapes(found), shapes(like))
        self.assertEqual(weights.channels, 3)

    @parameterized.parameters(
        ({"name": "resnet", "depth": 18}, {"stem": "imagenet"}),
        ({"name": "vit", "size": "tiny"}, {"image_size": 224}),
        ({"name": "vit", "size": "tiny", "patch": 8}, {"image_size": 224}),
        ({"name": "vit", "size": "tiny", "image_size": 96}, {}),
    )
    def test_published_ones_by_name(self, backbone, more):
        shapes = networks.flat(*networks.shapes(networks.build(backbone, 3)))
        zeros = {path: np.zeros(leaf.shape, np.float16) for path, leaf in shapes.items()}
        found = of(networks.to_timm(zeros, backbone)).backbone
        self.assertEqual(found | backbone | more, found)

    def test_fixed_positions_are_no_parameters(self):
        for name, order in vit.FIXED_ORDERS.items():
            table = vit.sincos(8, (4, 4), order, True)[None]
            file = plain(VIT | {"position": name}) | {"pos_embed": table.astype(np.float32)}
            weights = of(file, {"heads": 2})
            self.assertEqual(weights.backbone["position"], name)
            self.assertNotIn("pos_embed", networks.flat(*weights.variables()))
        self.assertEqual(of(file, {"heads": 2, "position": "learned"}).backbone["image_size"], 16)

    def test_the_small_vit_of_moco_v3_has_12_heads(self):
        backbone = {"name": "vit", "size": "small", "heads": 12, "position": "sincos_mocov3"}
        shapes = networks.flat(*networks.shapes(networks.build(backbone, 3)))
        zeros = {path: np.zeros(leaf.shape, np.float16) for path, leaf in shapes.items()}
        table = vit.sincos(384, (14, 14), "mocov3", True)[None]
        found = of(networks.to_timm(zeros, backbone) | {"pos_embed": table}).backbone
        self.assertEqual(found | backbone, found)

    def test_what_we_exported_says_what_it_is(self):
        said = VIT | {"heads": 4}
        metadata = {"format": "timm", "backbone": json.dumps(said), "channels": "3"}
        weights = networks.of_file(TensorFile(plain(VIT), metadata), "F")
        self.assertEqual(weights.backbone, said)

    def test_known_names_of_other_tensors(self):
        file = {name: np.zeros(3, np.float32) for name in plain(VIT)}
        with self.assertRaisesRegex(UserError, "F: names of a known layout, but other tensors"):
            of(file)

    def test_heads_are_asked_for(self):
        with self.assertRaisesRegex(UserError, "F: .*width of 8 has; give --config.backbone.heads"):
            of(plain(VIT))

    def test_a_resnet_that_is_none_of_ours(self):
        file = plain(RESNET)
        file = {k: v for k, v in file.items() if not k.startswith("layer4")}
        with self.assertRaisesRegex(
            UserError, r"F: no ResNet of ours has basic blocks \(2, 2, 2\)"
        ):
            of(file)


class PositionsTest(parameterized.TestCase):
    @parameterized.parameters(3, 7)
    def test_resized_as_timm(self, side):
        with np.load(GOLDEN / "resample_abs_pos_embed.npz") as data:
            table, expected = data["in_table"], data[f"out_{side}"]
        like = {"cls_token": (1, 1, 6), "pos_embed": expected.shape}
        found = vit.fitted({"pos_embed": table, "cls_token": table[:, :1]}, like)
        np.testing.assert_allclose(found["pos_embed"], expected, rtol=1e-5, atol=1e-6)

    def test_with_and_without_a_class_token(self):
        table = drawn({"x": (1, 17, 8)})["x"]
        tensors = {"pos_embed": table, "cls_token": table[:, :1]}
        without = vit.fitted(tensors, {"pos_embed": (1, 16, 8)})["pos_embed"]
        np.testing.assert_array_equal(without, table[:, 1:])
        like = {"pos_embed": (1, 17, 8), "cls_token": (1, 1, 8)}
        added = vit.fitted({"pos_embed": without}, like)["pos_embed"]
        np.testing.assert_array_equal(added[:, 1:], without)
        np.testing.assert_array_equal(added[:, 0], 0)

    def test_relative_ones(self):
        backbone = VIT | {"position": "relative"}
        weights = of(plain(backbone), backbone | {"image_size": 24}, 3)
        table = networks.flat(*weights.variables())["relative/table"]
        own = variables(backbone)["relative/table"]
        self.assertEqual(table.shape, (11 * 11 + 3, 2))
        np.testing.assert_array_equal(table[-3:], own[-3:])
        # In the middle, offset 0, bicubic interpolation at the same place.
        np.testing.assert_allclose(table[60], own[24], rtol=1e-5)

    def test_a_whole_network_of_another_grid(self):
        weights = of(plain(VIT), VIT | {"image_size": 24}, 3)
        found = networks.flat(*weights.variables())
        self.assertEqual(found["pos_embed"].shape, (1, 37, 8))
        np.testing.assert_array_equal(found["pos_embed"][:, 0], variables(VIT)["pos_embed"][:, 0])


class FitTest(parameterized.TestCase):
    def test_another_network_is_named(self):
        with self.assertRaisesRegex(
            UserError,
            r"of another shape stage1/0/layers/0/conv/kernel .* and 97 more"
            r".*The file's is: name='resnet', depth=18.*num_filters=4",
        ):
            of(plain(RESNET), RESNET | {"num_filters": 8}, 3)
        with self.assertRaisesRegex(UserError, "F: it holds a vit, and backbone.name is 'resnet'"):
            of(plain(VIT), RESNET, 3)
        with self.assertRaisesRegex(UserError, r"missing mask_token \(mask_token\)"):
            of(plain(VIT), VIT | {"mask_token": True}, 3)
        with self.assertRaisesRegex(UserError, r"patch_embed/kernel \(4, 4, 3, 8\) for \(4, 4, 1"):
            of(plain(VIT), VIT, 1)

    def test_not_strict(self):
        file = plain(RESNET) | drawn({"extra.weight": (3,)})
        del file["layer2.0.conv1.weight"]
        file["conv1.weight"] = file["conv1.weight"][:2]
        weights = of(file, RESNET, 3, strict=False)
        self.assertEqual(weights.report.skipped, ("extra.weight",))
        missing = ("stage2/0/layers/0/conv/kernel (layer2.0.conv1.weight)",)
        self.assertEqual(weights.report.missing, missing)
        self.assertLen(weights.report.wrong, 1)
        self.assertLen(weights.networks["student"], len(variables(RESNET)) - 2)

    def test_own_files(self):
        named = {f"backbone/{path}": array for path, array in variables(RESNET).items()}
        metadata = {"format": "ssl_jax", "channels": "3", "backbone": json.dumps(RESNET)}
        weights = networks.of_file(TensorFile(named, metadata), "F")
        self.assertEqual(weights.backbone, RESNET)
        params, _ = weights.variables()
        np.testing.assert_array_equal(
            params["stem"]["0"]["conv"]["kernel"], named["backbone/stem/0/conv/kernel"]
        )
        with self.assertRaisesRegex(UserError, "another network than `backbone`: of another shape"):
            networks.of_file(TensorFile(named, metadata), "F", RESNET | {"num_filters": 8}, 3)
        with self.assertRaisesRegex(UserError, "do not say which network"):
            networks.of_file(TensorFile(named, {"format": "ssl_jax"}), "F")


if __name__ == "__main__":
    absltest.main()
