"""Networks of files: inference from names and shapes, resizing of positions, refusals."""

import json
from pathlib import Path

import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.weights import conversion, networks, vit
from ssl_jax.weights.files import TensorFile
from tests.weights.releases_test import (
    BOTTLENECK,
    CONVNEXT,
    EFFICIENTNET,
    RESNET,
    SWIN,
    VIT,
    plain,
    random_tensors,
    variables,
)

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
        CONVNEXT,
        CONVNEXT | {"grn": True, "patch": 2},
        EFFICIENTNET,
        EFFICIENTNET | {"stem_width": 4, "head_width": 12},
    )
    def test_same_variables(self, **backbone):
        options = {"heads": 2} | ({"mlp": "gelu"} if "pre_norm" in backbone else {})
        weights = of(plain(backbone), options if backbone["name"] == "vit" else None)
        like = conversion.flat(*networks.shapes(networks.build(backbone, 3)))
        inferred = conversion.flat(*networks.shapes(weights.net))
        shapes = lambda tree: {path: leaf.shape for path, leaf in tree.items()}  # noqa: E731
        self.assertEqual(shapes(inferred), shapes(like))
        self.assertEqual(weights.channels, 3)

    @parameterized.parameters(
        ({"name": "resnet", "depth": 18}, {"stem": "imagenet"}),
        ({"name": "vit", "size": "tiny"}, {"image_size": 224}),
        ({"name": "vit", "size": "tiny", "patch": 8}, {"image_size": 224}),
        ({"name": "vit", "size": "tiny", "image_size": 96}, {}),
    )
    def test_published_ones_by_name(self, backbone, more):
        shapes = conversion.flat(*networks.shapes(networks.build(backbone, 3)))
        zeros = {path: np.zeros(leaf.shape, np.float16) for path, leaf in shapes.items()}
        inferred = of(conversion.to_timm(zeros, backbone)).backbone
        self.assertEqual(inferred | backbone | more, inferred)

    def test_fixed_positions_are_no_parameters(self):
        for name, order in vit.FIXED_ORDERS.items():
            table = vit.sincos(8, (4, 4), order, True)[None]
            file = plain(VIT | {"position": name}) | {"pos_embed": table.astype(np.float32)}
            weights = of(file, {"heads": 2})
            self.assertEqual(weights.backbone["position"], name)
            self.assertNotIn("pos_embed", conversion.flat(*weights.variables()))
        self.assertEqual(of(file, {"heads": 2, "position": "learned"}).backbone["image_size"], 16)

    def test_the_small_vit_of_moco_v3_has_12_heads(self):
        backbone = {"name": "vit", "size": "small", "heads": 12, "position": "sincos_mocov3"}
        shapes = conversion.flat(*networks.shapes(networks.build(backbone, 3)))
        zeros = {path: np.zeros(leaf.shape, np.float16) for path, leaf in shapes.items()}
        table = vit.sincos(384, (14, 14), "mocov3", True)[None]
        inferred = of(conversion.to_timm(zeros, backbone) | {"pos_embed": table}).backbone
        self.assertEqual(inferred | backbone, inferred)

    def test_what_we_exported_says_what_it_is(self):
        section = VIT | {"heads": 4}
        metadata = {"format": "timm", "backbone": json.dumps(section), "channels": "3"}
        weights = networks.of_file(TensorFile(plain(VIT), metadata), "F")
        self.assertEqual(weights.backbone, section)

    def test_known_names_with_unexpected_tensors(self):
        file = {name: np.zeros(3, np.float32) for name in plain(VIT)}
        with self.assertRaisesRegex(
            UserError, "F: names of a known layout, but unexpected tensors"
        ):
            of(file)

    @parameterized.parameters(
        ({}, 192, 3), ({}, 384, 6), ({"heads": 4}, 384, 4), ({"name": "vit", "heads": 2}, 16, 2)
    )
    def test_heads_of_a_published_width_or_from_the_config(self, options, dim, heads):
        backbone = VIT | {"dim": dim, "depth": 1, "heads": 1, "image_size": 8}
        options = backbone | options if "name" in options else options
        self.assertEqual(of(plain(backbone), options).backbone["heads"], heads)

    def test_heads_of_widths_on_which_networks_disagree(self):
        for more in ({"dim": 128}, {"dim": 768, "mlp_ratio": 3.0}):
            with self.assertRaisesRegex(UserError, "do not show the number of heads for width"):
                of(plain(VIT | {"depth": 1, "heads": 1} | more))

    def test_a_config_beside_it_tells_heads_and_more(self):
        beside = {"config": {"hidden_size": 8, "num_attention_heads": 2, "hidden_act": "gelu"}}
        beside["config"] |= {"layer_norm_eps": 1e-5, "num_hidden_layers": 2, "patch_size": 4}
        file = TensorFile(plain(VIT), {}, beside)
        inferred = networks.of_file(file, "F").backbone
        self.assertEqual(
            (inferred["heads"], inferred["mlp"], inferred["norm_eps"]), (2, "gelu", 1e-5)
        )
        for key, value, message in (
            ("hidden_act", "relu", "F: config.json: unsupported hidden_act='relu'; expected gelu"),
            (
                "hidden_size",
                16,
                "the config beside the file has dim=16, but its tensors have dim=8",
            ),
            ("num_attention_heads", "x", "num_attention_heads='x'; expected a positive whole"),
            ("layer_norm_eps", [], "layer_norm_eps"),
        ):
            with self.assertRaisesRegex(UserError, message):
                other = {"config": beside["config"] | {key: value}}
                networks.of_file(TensorFile(plain(VIT), {}, other), "F")
        with self.assertRaisesRegex(UserError, "F: backbone.heads is 4 in the config but 2 in the"):
            networks.of_file(file, "F", VIT | {"heads": 4, "norm_eps": 1e-5}, 3)
        with self.assertRaisesRegex(UserError, "set --config.backbone.norm_eps=1e-05"):
            networks.of_file(file, "F", VIT, 3)

    def test_settings_of_timm_and_open_clip_beside_it(self):
        clip = plain(VIT | {"pre_norm": True})
        timm = {"architecture": "vit_x_clip_quickgelu_224", "model_args": {"num_heads": 4}}
        inferred = networks.of_file(TensorFile(clip, {}, {"config": timm}), "F").backbone
        self.assertEqual((inferred["heads"], inferred["mlp"]), (4, "quick_gelu"))
        vision = {"width": 8, "patch_size": 4, "head_width": 4}
        open_clip = {"open_clip": {"model_cfg": {"vision_cfg": vision}}}
        inferred = networks.of_file(TensorFile(clip, {}, open_clip), "F").backbone
        self.assertEqual((inferred["heads"], inferred["mlp"]), (2, "gelu"))

    def test_tensorflow_networks_of_timm_have_their_padding(self):
        config = {"architecture": "tf_efficientnet_b0.ns_jft_in1k", "model_args": {}}
        file = TensorFile(plain(EFFICIENTNET), {}, {"config": config})
        inferred = networks.of_file(file, "F").backbone
        self.assertEqual((inferred["padding"], inferred["norm_eps"]), ("same", 1e-3))
        with self.assertRaisesRegex(
            UserError, "set --config.backbone.(padding=same|norm_eps=0.001)"
        ):
            networks.of_file(file, "F", EFFICIENTNET, 3)

    def test_the_number_of_heads_is_required(self):
        with self.assertRaisesRegex(UserError, "F: .* for width 8; set --config.backbone.heads"):
            of(plain(VIT))

    def test_an_unsupported_resnet(self):
        file = plain(RESNET)
        file = {k: v for k, v in file.items() if not k.startswith("layer4")}
        with self.assertRaisesRegex(
            UserError, r"F: unsupported ResNet with basic blocks \(2, 2, 2\)"
        ):
            of(file)


class HostileTest(parameterized.TestCase):
    @parameterized.parameters(
        ({"backbone": "[1]"}, r"F: invalid network: backbone=\[1\], channels=3"),
        ({"backbone": "[" * 100_000}, "metadata do not describe the network"),
        ({"backbone": '{"name": "vit", "size": [1]}'}, "F: "),
        ({"backbone": '{"name": "vit", "image_size": 1e400}'}, "F: "),
        ({"backbone": '{"name": "resnet", "depth": "x"}'}, "F: "),
        ({"channels": "1e9"}, "F: .* channels"),
        ({"channels": "-1"}, "F: images of -1 channels"),
    )
    def test_metadata_of_our_own_format(self, more, message):
        metadata = {"format": "ssl_jax", "channels": "3", "backbone": json.dumps(RESNET)} | more
        with self.assertRaisesRegex(UserError, message):
            networks.of_file(TensorFile({"a": np.zeros(2, np.float32)}, metadata), "F")

    @parameterized.parameters((), (0,), (3, 0), (1, 1, 1, 1), (2, 2, 2, 2, 2))
    def test_shapes_of_a_public_one(self, *shape):
        for backbone in (VIT, RESNET, SWIN):
            file = {name: np.zeros(shape, np.float32) for name in plain(backbone)}
            with self.assertRaisesRegex(UserError, "^F: "):
                of(file, {"heads": 1})

    def test_strings_instead_of_numbers(self):
        with self.assertRaisesRegex(UserError, "F: x holds <U1, not numbers"):
            of(plain(RESNET) | {"x": np.array(["a"])})


class NumbersTest(parameterized.TestCase):
    @parameterized.parameters(
        (np.int8, 3, "holds int8; expected floats, not quantized"),
        (np.float32, np.nan, "is not finite: damaged, or of a run that diverged"),
        (np.float16, np.inf, "is not finite"),
    )
    def test_what_is_no_weight(self, dtype, value, message):
        tensors = plain(VIT)
        tensors["norm.weight"] = np.full_like(tensors["norm.weight"], value, dtype)
        with self.assertRaisesRegex(UserError, f"^F: backbone/norm/scale {message}"):
            of(tensors, {"heads": 2})
        own = {"backbone/norm/scale": tensors["norm.weight"]}
        metadata = {"format": "ssl_jax", "channels": "3", "backbone": json.dumps(VIT)}
        with self.assertRaisesRegex(UserError, f"^F: backbone/norm/scale {message}"):
            networks.of_file(TensorFile(own, metadata), "F")

    def test_other_numbers_stay(self):
        tensors = plain(RESNET) | {"bn1.num_batches_tracked": np.array(7)}
        of(tensors)


class PositionsTest(parameterized.TestCase):
    @parameterized.parameters(3, 7)
    def test_resized_as_timm(self, side):
        with np.load(GOLDEN / "resample_abs_pos_embed.npz") as data:
            table, expected = data["in_table"], data[f"out_{side}"]
        like = {"cls_token": (1, 1, 6), "pos_embed": expected.shape}
        resized = vit.fitted({"pos_embed": table, "cls_token": table[:, :1]}, like)
        np.testing.assert_allclose(resized["pos_embed"], expected, rtol=1e-5, atol=1e-6)

    def test_with_and_without_a_class_token(self):
        table = random_tensors({"x": (1, 17, 8)})["x"]
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
        table = conversion.flat(*weights.variables())["relative/table"]
        own = variables(backbone)["relative/table"]
        self.assertEqual(table.shape, (11 * 11 + 3, 2))
        np.testing.assert_array_equal(table[-3:], own[-3:])
        # In the middle, offset 0, bicubic interpolation at the same place.
        np.testing.assert_allclose(table[60], own[24], rtol=1e-5)

    def test_a_whole_network_of_another_grid(self):
        weights = of(plain(VIT), VIT | {"image_size": 24}, 3)
        loaded = conversion.flat(*weights.variables())
        self.assertEqual(loaded["pos_embed"].shape, (1, 37, 8))
        np.testing.assert_array_equal(loaded["pos_embed"][:, 0], variables(VIT)["pos_embed"][:, 0])


class FitTest(parameterized.TestCase):
    def test_another_network_is_named(self):
        with self.assertRaisesRegex(
            UserError,
            r"of another shape stage1/0/layers/0/conv/kernel .* and 97 more"
            r".*The file's network is: name='resnet', depth=18.*num_filters=4",
        ):
            of(plain(RESNET), RESNET | {"num_filters": 8}, 3)
        with self.assertRaisesRegex(
            UserError, "F: the file holds a vit, but backbone.name is 'resnet'"
        ):
            of(plain(VIT), RESNET, 3)
        with self.assertRaisesRegex(UserError, r"missing mask_token \(mask_token\)"):
            of(plain(VIT), VIT | {"mask_token": True}, 3)
        with self.assertRaisesRegex(UserError, r"patch_embed/kernel \(4, 4, 3, 8\) for \(4, 4, 1"):
            of(plain(VIT), VIT, 1)

    @parameterized.parameters(
        (VIT, "blocks.{}.attn.q_norm.weight", "blocks.*.attn.q_norm.weight"),
        (VIT, "blocks.{}.attn.gate", "blocks.*.attn.gate"),
        (VIT, "fc_norm.weight", "fc_norm.weight"),
        (VIT, "dist_token", "dist_token"),
        (VIT, "attn_pool.latent", "attn_pool.latent"),
        (RESNET, "layer1.{}.se.fc1.weight", "layer1.*.se.fc1.weight"),
        (RESNET, "global_pool.weight", "global_pool.weight"),
        (SWIN, "layers.0.blocks.{}.attn.logit_scale", "layers.*.blocks.*.attn.logit_scale"),
    )
    def test_more_in_the_network_than_in_ours_is_refused(self, backbone, name, message):
        more = {name.format(i): np.ones(3, np.float32) for i in range(2)}
        file, options = plain(backbone) | more, {"heads": 2} if backbone is VIT else None
        with self.assertRaises(UserError) as caught:
            of(file, options)
        self.assertIn(f"the file also has {message}. Without", str(caught.exception))
        with self.assertRaisesRegex(UserError, "also has"):
            of(file, backbone, 3)
        self.assertEqual(set(of(file, options, strict=False).report.skipped), set(more))

    def test_what_follows_the_network_is_left(self):
        names = ("head.weight", "fc.bias", "pre_logits.fc.weight", "lm_head.weight", "mask_token")
        names += ("projection_head.9.x", "pooler.dense.weight", "decoder_pos_embed", "queue")
        weights = of(plain(VIT) | dict.fromkeys(names, np.ones((1, 1, 8))), {"heads": 2})
        self.assertContainsSubset(set(weights.report.skipped), names)

    def test_more_blocks_than_ours(self):
        with self.assertRaisesRegex(UserError, r"also has blocks\.\*\.attn"):
            of(plain(VIT), VIT | {"depth": 1}, 3)

    def test_the_summary_line(self):
        text = of(plain(VIT) | {"queue": np.ones((3, 8))}, {"heads": 2}).taken
        self.assertRegex(text, r"^F: \d+ tensors, vit; backbone: .*heads=2.*3 channels")
        self.assertEndsWith(text, "; skipped: queue")

    def test_not_strict(self):
        file = plain(RESNET) | random_tensors({"extra.weight": (3,)})
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
        with self.assertRaisesRegex(
            UserError, "the network does not match `backbone`: of another shape"
        ):
            networks.of_file(TensorFile(named, metadata), "F", RESNET | {"num_filters": 8}, 3)
        more = named | {"backbone/registers": np.zeros((1, 2, 4), np.float32)}
        with self.assertRaisesRegex(UserError, "the file also has registers"):
            networks.of_file(TensorFile(more, metadata), "F").variables()
        vit = {f"backbone/{path}": array for path, array in variables(VIT).items()}
        file = TensorFile(vit, metadata | {"backbone": json.dumps(VIT)})
        with self.assertRaisesRegex(UserError, "F: backbone.heads is 4 in the config but 2 in the"):
            networks.of_file(file, "F", VIT | {"heads": 4}, 3)
        for changed in ({"heads": 4}, {"dim": 16}):  # without a name: changes of the file's own
            with self.assertRaisesRegex(UserError, "^F: .*(heads is 4|another shape)"):
                networks.of_file(file, "F", changed)
        self.assertEqual(networks.of_file(file, "F", {"heads": 2}).backbone, VIT)
        for option in ({"layout": "timm"}, {"prefix": "x."}):
            with self.assertRaisesRegex(UserError, "F is a file of ssl_jax; leave --layout and"):
                networks.of_file(file, "F", **option)
        with self.assertRaisesRegex(UserError, "metadata do not describe the network"):
            networks.of_file(TensorFile(named, {"format": "ssl_jax"}), "F")


if __name__ == "__main__":
    absltest.main()
