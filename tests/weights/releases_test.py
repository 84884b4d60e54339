"""Layouts of public releases: a plain state dictionary, wrapped and renamed like each release, is
read like the plain one.
"""

import re

import jax
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import map_with_name
from ssl_jax.nets.text import text_transformer
from ssl_jax.weights import conversion, networks, torchvision, vit
from ssl_jax.weights.files import TensorFile
from ssl_jax.weights.networks import STUDENT, TEACHER
from ssl_jax.weights.places import under

RESNET = {"name": "resnet", "depth": 18, "num_filters": 4}
BOTTLENECK = {"name": "resnet", "depth": 50, "num_filters": 4}
VIT = {"name": "vit", "size": None, "patch": 4, "image_size": 16, "dim": 8, "depth": 2, "heads": 2}
CONVNEXT = {"name": "convnext", "size": None, "depths": (1, 2), "dims": (8, 16)}
EFFICIENTNET = {"name": "efficientnet", "size": None, "depths": (1, 2), "widths": (8, 16)}
SWIN = {
    "name": "swin", "size": None, "dim": 8, "depths": (2, 4), "heads": (2, 4), "window": 2,
    "image_size": 16,
}  # fmt: skip


def random_tensors(shapes, seed=0):
    """Draw random tensors of these shapes, float32."""
    draws = np.random.default_rng(seed)
    return {k: draws.normal(size=shape).astype(np.float32) for k, shape in shapes.items()}


def variables(backbone, seed=0):
    """Draw random variables of a backbone, by our paths."""
    draws = np.random.default_rng(seed)
    draw = lambda _, like: draws.normal(size=like.shape).astype(np.float32)  # noqa: E731
    return conversion.flat(*map_with_name(draw, networks.shapes(networks.build(backbone, 3))))


def plain(backbone, seed=0):
    """Draw the same variables as `variables`, by timm's names."""
    return conversion.to_timm(variables(backbone, seed), backbone)


def prefixed(prefix, tensors):
    return {prefix + name: array for name, array in tensors.items()}


def renamed(tensors, *swaps):
    out = dict(tensors)
    for pattern, replacement in swaps:
        out = {re.sub(pattern, replacement, name): array for name, array in out.items()}
    return out


def sequential(*layers, seed=1):
    """Draw a PyTorch Sequential: ("0", in, out) is a linear layer with bias, ("1", width) a batch
    norm.
    """
    shapes = {}
    for name, *sizes in layers:
        if len(sizes) == 2:
            shapes |= {f"{name}.weight": sizes[::-1], f"{name}.bias": sizes[1:]}
        else:
            norm = ("weight", "bias", "running_mean", "running_var")
            shapes |= {f"{name}.{leaf}": sizes for leaf in norm}
    counters = {f"{n}.num_batches_tracked": np.array(3) for n, *s in layers if len(s) == 1}
    return random_tensors(shapes, seed) | counters


def dino_head(seed=2):
    mlp = sequential(("mlp.0", 8, 6), ("mlp.2", 6, 6), ("mlp.4", 6, 5), seed=seed)
    last = random_tensors({"last_layer.weight_v": (7, 5)}, seed)
    return mlp | last | {"last_layer.weight_g": np.ones((7, 1), np.float32)}


# timm's names -> those of a release, in this order.
CONVNEXT_NAMES = {
    "convnext_authors": (
        (r"stem\.", "downsample_layers.0."),
        (r"stages\.(\d+)\.downsample\.", r"downsample_layers.\1."),
        (r"stages\.(\d+)\.blocks\.", r"stages.\1."),
        (r"(.*)\.conv_dw\.", r"\1.dwconv."),
        (r"(.*)\.mlp\.fc", r"\1.pwconv"),
        (r"(.*)\.mlp\.grn\.weight", r"\1.grn.gamma"),
        (r"(.*)\.mlp\.grn\.bias", r"\1.grn.beta"),
        (r"head\.norm\.", "norm."),
    ),
    "huggingface_convnext": (
        (r"stem\.0\.", "embeddings.patch_embeddings."),
        (r"stem\.1\.", "embeddings.layernorm."),
        (r"stages\.(\d+)\.downsample\.", r"encoder.stages.\1.downsampling_layer."),
        (r"stages\.(\d+)\.blocks\.", r"encoder.stages.\1.layers."),
        (r"(encoder.*)\.norm\.", r"\1.layernorm."),
        (r"(.*)\.conv_dw\.", r"\1.dwconv."),
        (r"(.*)\.mlp\.fc", r"\1.pwconv"),
        (r"(.*)\.mlp\.grn\.", r"\1.grn."),
        (r"head\.norm\.", "layernorm."),
    ),
    "torchvision_convnext": (
        (r"stem\.", "features.0."),
        (r"stages\.(\d+)\.downsample\.", lambda m: f"features.{2 * int(m[1])}."),
        (r"stages\.(\d+)\.blocks\.(\d+)\.", lambda m: f"features.{2 * int(m[1]) + 1}.{m[2]}."),
        (r"(.*)\.conv_dw\.", r"\1.block.0."),
        (r"(features.*)\.norm\.", r"\1.block.2."),
        (r"(.*)\.mlp\.fc1\.", r"\1.block.3."),
        (r"(.*)\.mlp\.fc2\.", r"\1.block.5."),
        (r"(.*)\.gamma$", r"\1.layer_scale"),
        (r"head\.norm\.", "classifier.0."),
    ),
}


def read(tensors, backbone, **options):
    return networks.of_file(TensorFile(tensors, {}), "F", backbone, 3, **options)


HIDDEN = [("0", 32, 6), ("2", 6, 5)]  # MoCo v2's head
NORMED = [("0", 32, 6), ("1", 6), ("3", 6, 5)]  # SwAV's and many others'


class ReleasesTest(parameterized.TestCase):
    def assert_network(self, weights, role, backbone, seed=0, heads=()):
        loaded = weights.networks[role]
        expected = variables(backbone, seed)
        got = under(loaded, "backbone/")
        self.assertEqual(set(got), set(expected))
        for path, array in expected.items():
            np.testing.assert_array_equal(got[path], array, err_msg=path)
        self.assertEqual({p.split("/")[0] for p in loaded} - {"backbone"}, set(heads))

    @parameterized.parameters(RESNET, BOTTLENECK, VIT, SWIN, CONVNEXT, EFFICIENTNET)
    def test_plain(self, **backbone):
        weights = read(plain(backbone), backbone)
        self.assert_network(weights, STUDENT, backbone)
        self.assertEqual(weights.report.skipped, ())
        self.assertEqual(weights.report.loaded, len(plain(backbone)))

    @parameterized.parameters(
        ("convnext_authors", True),
        ("huggingface_convnext", True),
        ("torchvision_convnext", False),
    )
    def test_convnext(self, layout, grn):
        """`timm_models_test.py` has torchvision's own file; the others' names are those of
        facebookresearch/ConvNeXt-V2 and of transformers' ConvNextV2Model.
        """
        backbone = CONVNEXT | {"grn": grn}
        file = {}
        for name, array in plain(backbone).items():
            for pattern, replacement in CONVNEXT_NAMES[layout]:
                name = re.sub(f"^{pattern}", replacement, name)
            narrow = ".grn." in name
            file[f"module.{name}"] = array[None, None, None] if narrow else array
        weights = read(file, backbone)
        self.assert_network(weights, STUDENT, backbone)
        self.assertEqual(weights.report.networks, (f"{layout} at 'module.'",))

    def test_moco_v1_and_v2(self):
        for head, kernel in (({"weight": (5, 32), "bias": (5,)}, "linear1"), (None, "linear2")):
            fc = random_tensors(head) if head else sequential(*HIDDEN)
            encoder = {**plain(RESNET), **prefixed("fc.", fc)}
            slow = {**plain(RESNET, 7), **prefixed("fc.", fc)}
            file = {
                **prefixed("state_dict.module.encoder_q.", encoder),
                **prefixed("state_dict.module.encoder_k.", slow),
                **random_tensors({"state_dict.module.queue": (5, 16)}),
                "state_dict.module.queue_ptr": np.array([3]),
            }
            weights = read(file, RESNET)
            self.assertEqual(weights.encoder, STUDENT)
            self.assert_network(weights, STUDENT, RESNET, heads=["projector"])
            self.assert_network(weights, TEACHER, RESNET, 7, heads=["projector"])
            last = "weight" if head else "2.weight"
            got = weights.networks[STUDENT][f"projector/{kernel}/kernel"]
            np.testing.assert_array_equal(got, fc[last].T)
            skipped = {"state_dict.module.queue", "state_dict.module.queue_ptr"}
            self.assertEqual(set(weights.report.skipped), skipped)

    @parameterized.parameters((RESNET, "fc."), (VIT, "head."))
    def test_moco_v3(self, backbone, name):
        width = 32 if backbone is RESNET else 8
        head = prefixed(name, sequential(("0", width, 6), ("1", 6), ("3", 6, 5), ("4", 5)))
        predictor = sequential(("0", 5, 6), ("1", 6), ("3", 6, 5))
        file = {
            **prefixed("state_dict.module.base_encoder.", plain(backbone) | head),
            **prefixed("state_dict.module.momentum_encoder.", plain(backbone, 7) | head),
            **prefixed("state_dict.module.predictor.", predictor),
        }
        weights = read(file, backbone)
        self.assertEqual(weights.encoder, STUDENT)
        self.assert_network(weights, STUDENT, backbone, heads=["projector", "predictor"])
        self.assert_network(weights, TEACHER, backbone, 7, heads=["projector"])
        got = weights.networks[STUDENT]
        np.testing.assert_array_equal(got["predictor/linear2/kernel"], predictor["3.weight"].T)
        np.testing.assert_array_equal(got["projector/norm2/mean"], head[f"{name}4.running_mean"])
        self.assertEqual(weights.report.skipped, ())

    def test_swav(self):
        head, prototypes = sequential(*NORMED), random_tensors({"weight": (9, 5)})
        file = prefixed(
            "module.",
            plain(RESNET)
            | prefixed("projection_head.", head)
            | prefixed("prototypes.", prototypes),
        )
        weights = read(file, RESNET)
        self.assert_network(weights, STUDENT, RESNET, heads=["projector", "prototypes"])
        got = weights.networks[STUDENT]
        np.testing.assert_array_equal(got["prototypes"], prototypes["weight"])
        np.testing.assert_array_equal(got["projector/norm1/var"], head["1.running_var"])

    @parameterized.parameters(
        ("state_dict.backbone.", "state_dict.momentum_backbone.", "state_dict.momentum_projector."),
        ("online_encoder.net.", "target_encoder.net.", ""),
        ("online_network.encoder.", "target_network.encoder.", "target_network.projector."),
    )
    def test_byol(self, online, target, target_head):
        outer = online[: online[:-1].rindex(".") + 1]
        heads = prefixed(outer, prefixed("projector.", sequential(*NORMED)))
        heads |= prefixed(outer, prefixed("predictor.", sequential(*NORMED)))
        if target_head:
            heads |= prefixed(target_head, sequential(*NORMED, seed=4))
        file = prefixed(online, plain(RESNET)) | prefixed(target, plain(RESNET, 7)) | heads
        weights = read(file, RESNET)
        self.assertEqual(weights.encoder, STUDENT)
        self.assert_network(weights, STUDENT, RESNET, heads=["projector", "predictor"])
        self.assert_network(weights, TEACHER, RESNET, 7, heads=["projector"] if target_head else [])
        self.assertEqual(weights.report.skipped, ())
        if target_head:
            student, average = (
                weights.networks[r]["projector/linear1/kernel"] for r in (STUDENT, TEACHER)
            )
            self.assertFalse(np.array_equal(student, average))

    def test_children_of_a_resnet(self):
        children = {"conv1": "0", "bn1": "1", **{f"layer{s}": str(s + 3) for s in range(1, 5)}}
        file = {}
        for name, array in plain(RESNET).items():
            first, rest = name.split(".", 1)
            file[f"backbone.{children[first]}.{rest}"] = array
        self.assert_network(read(file, RESNET), STUDENT, RESNET)

    def test_barlow_twins_and_vicreg(self):
        head = sequential(*NORMED)
        file = prefixed("model.module.backbone.", plain(RESNET))
        file |= prefixed("model.module.projector.", head)
        weights = read(file | random_tensors({"model.module.bn.running_mean": (5,)}), RESNET)
        self.assert_network(weights, STUDENT, RESNET, heads=["projector"])
        self.assertEqual(weights.report.skipped, ("model.module.bn.running_mean",))

    @parameterized.parameters(False, True)
    def test_dino_and_ibot(self, masked):
        backbone = VIT | ({"mask_token": True} if masked else {})
        swap = (r"mask_token", "masked_embed")

        def release(seed):
            tensors = renamed(plain(backbone, seed), swap)
            if masked:
                tensors["masked_embed"] = tensors["masked_embed"][0]
            head = dino_head(seed + 2) | (
                random_tensors({"last_layer2.weight_v": (7, 5)}) if masked else {}
            )
            return prefixed("backbone.", tensors) | prefixed("head.", head)

        file = prefixed("student.module.", release(0)) | prefixed("teacher.", release(7))
        weights = read(file, backbone)
        self.assertEqual(weights.encoder, TEACHER)
        self.assert_network(weights, STUDENT, backbone, heads=["head"])
        self.assert_network(weights, TEACHER, backbone, 7, heads=["head"])
        own = ("student.module.head.", "teacher.head.") if masked else ()
        self.assertEqual(weights.report.skipped, tuple(f"{o}last_layer2.weight_v" for o in own))
        got = weights.networks[TEACHER]
        expected = dino_head(9)
        np.testing.assert_array_equal(got["head/mlp/linear3/bias"], expected["mlp.4.bias"])
        np.testing.assert_array_equal(got["head/last_layer/v"], expected["last_layer.weight_v"].T)
        np.testing.assert_array_equal(got["head/last_layer/g"], np.ones(7))

    @parameterized.parameters(False, True)
    def test_dinov2(self, training):
        backbone = VIT | {"registers": 3, "layer_scale": 0.1, "mlp": "swiglu", "mask_token": True}
        file = renamed(
            plain(backbone),
            (r"reg_token", "register_tokens"),
            (r"mlp\.fc1", "mlp.w12"),
            (r"mlp\.fc2", "mlp.w3"),
        )
        file["mask_token"] = file["mask_token"][0]
        if training:  # blocks in chunks of one, two heads
            file = renamed(file, (r"^blocks\.(\d+)\.", r"blocks.\1.\1."))
            file = prefixed("teacher.backbone.", file)
            file |= prefixed("teacher.dino_head.", dino_head())
            file |= prefixed("teacher.ibot_head.", dino_head(5))
        weights = read(file, backbone)
        heads = ["head", "patch_head"] if training else []
        self.assert_network(weights, weights.encoder, backbone, heads=heads)
        self.assertEqual(weights.encoder, TEACHER if training else STUDENT)
        self.assertEqual(weights.report.skipped, ())

    @parameterized.parameters("", "model.")
    def test_mae(self, prefix):
        backbone = VIT | {"position": "sincos"}
        table = random_tensors({"x": (1, 17, 8)})["x"] * 0
        table[0] = vit.sincos(8, (4, 4), "mae", True)
        decoder = renamed(plain(VIT, 3), (r"^blocks", "decoder_blocks"), (r"^norm", "decoder_norm"))
        decoder = {k: v for k, v in decoder.items() if k.startswith("decoder_")}
        decoder |= prefixed("decoder_embed.", random_tensors({"weight": (8, 8), "bias": (8,)}))
        decoder |= prefixed("decoder_pred.", random_tensors({"weight": (48, 8), "bias": (48,)}))
        decoder |= {"decoder_pos_embed": table, "mask_token": random_tensors({"x": (1, 1, 8)})["x"]}
        file = prefixed(prefix, plain(backbone) | {"pos_embed": table} | decoder)
        weights = read(file, backbone)
        self.assert_network(weights, STUDENT, backbone, heads=["decoder"])
        got = weights.networks[STUDENT]
        np.testing.assert_array_equal(got["decoder/mask_token"], decoder["mask_token"])
        np.testing.assert_array_equal(
            got["decoder/blocks/mlp/fc1/kernel"][1], decoder["decoder_blocks.1.mlp.fc1.weight"].T
        )
        self.assertEqual(weights.report.skipped, ())
        with self.assertRaisesRegex(UserError, "not the fixed table"):
            read(file, backbone | {"position": "sincos_mocov3"})

    @parameterized.parameters("simmim", "beit")
    def test_simmim_and_beit(self, kind):
        backbone = VIT | {"position": "relative", "layer_scale": 0.1, "mask_token": True}
        tensors = renamed(plain(backbone), (r"ls([12])\.gamma", r"gamma_\1"))
        for i in range(2):
            bias = tensors.pop(f"blocks.{i}.attn.qkv.bias")
            tensors[f"blocks.{i}.attn.q_bias"], _, tensors[f"blocks.{i}.attn.v_bias"] = np.split(
                bias, 3
            )
        tensors["rel_pos_bias.relative_position_index"] = np.zeros((17, 17), np.int64)
        if kind == "simmim":
            file = prefixed("model.encoder.", tensors)
            file |= prefixed(
                "model.decoder.0.", random_tensors({"weight": (48, 8, 1, 1), "bias": (48,)})
            )
        else:
            file = prefixed("model.", tensors | random_tensors({"lm_head.weight": (11, 8)}))
        weights = read(file, backbone)
        expected = variables(backbone)
        expected["blocks/attn/qkv/bias"][:, 8:16] = 0  # of the keys there is none
        got = under(weights.networks[STUDENT], "backbone/")
        self.assertEqual(set(got), set(expected))
        for path, array in expected.items():
            np.testing.assert_array_equal(got[path], array, err_msg=path)
        skipped = () if kind == "simmim" else ("model.lm_head.weight",)
        self.assertEqual(weights.report.skipped, skipped)
        self.assertEqual(weights.heads, ("decoder",) if kind == "simmim" else ())

    def test_simmim_swin(self):
        merged = lambda m: f"layers.{int(m[1]) - 1}.downsample"  # noqa: E731
        file = renamed(plain(SWIN), (r"layers\.(\d+)\.downsample", merged))
        file["layers.0.blocks.1.attn_mask"] = np.zeros((4, 4))
        self.assert_network(read(prefixed("model.encoder.", file), SWIN), STUDENT, SWIN)

    def test_relative_positions_of_each_block(self):
        backbone = VIT | {"position": "relative"}
        shared = plain(backbone)
        table = shared.pop("rel_pos_bias.relative_position_bias_table")
        names = [f"blocks.{i}.attn.relative_position_bias_table" for i in range(2)]
        weights = read(shared | dict.fromkeys(names, table), backbone)
        self.assert_network(weights, STUDENT, backbone)
        own = {name: table + i for i, name in enumerate(names)}
        weights = read(shared | own, backbone | {"position": "relative_per_block"})
        self.assertEqual(weights.backbone["position"], "relative_per_block")
        ours = weights.variables()[0]["relative"]["table"]
        np.testing.assert_array_equal(ours, np.stack(list(own.values())))

    @parameterized.parameters("", "module.")
    def test_open_clip(self, prefix):
        backbone = VIT | {"pre_norm": True, "norm_eps": 1e-5}
        clip = (
            (r"^blocks\.", "transformer.resblocks."),
            (r"norm([12])\.", r"ln_\1."),
            (r"attn\.qkv\.", "attn.in_proj_"),
            (r"attn\.proj\.", "attn.out_proj."),
            (r"mlp\.fc1\.", "mlp.c_fc."),
            (r"mlp\.fc2\.", "mlp.c_proj."),
        )
        top = ((r"^norm_pre\.", "ln_pre."), (r"^norm\.", "ln_post."))
        visual = renamed(plain(backbone), *clip, *top, (r"^patch_embed\.proj", "conv1"))
        visual["class_embedding"] = visual.pop("cls_token").reshape(-1)
        visual["positional_embedding"] = visual.pop("pos_embed")[0]
        text = {k: v for k, v in plain(VIT, 5).items() if k.startswith("blocks.")}
        shapes = {
            "positional_embedding": (6, 8),
            "token_embedding.weight": (20, 8),
            "ln_final.weight": (8,),
            "ln_final.bias": (8,),
            "text_projection": (8, 5),
            "visual.proj": (8, 5),
            "logit_scale": (),
        }
        file = prefixed("visual.", visual) | renamed(text, *clip) | random_tensors(shapes)
        weights = read(prefixed(prefix, file), backbone)
        heads = ["image_projection", "text", "text_projection", "temperature"]
        self.assert_network(weights, STUDENT, backbone, heads=heads)
        got = weights.networks[STUDENT]
        np.testing.assert_array_equal(got["text/embedding"], file["token_embedding.weight"])
        np.testing.assert_array_equal(got["temperature/scale"], file["logit_scale"])
        tower = conversion.flat(*networks.shapes(text_transformer(20, 6, 8, 2, 2)))
        self.assertEqual(set(under(got, "text/")), set(tower))
        np.testing.assert_array_equal(
            got["text/blocks/attn/qkv/bias"][1], text["blocks.1.attn.qkv.bias"]
        )
        self.assertEqual(weights.report.skipped, ())
        with self.assertRaisesRegex(UserError, "F: shapes do not show the nonlinearity of CLIP's"):
            networks.of_file(TensorFile(file, {}), "F", {"heads": 2})
        options = {"heads": 2, "mlp": "quick_gelu"}
        inferred = networks.of_file(TensorFile(file, {}), "F", options).backbone
        self.assertEqual(inferred["mlp"], "quick_gelu")
        self.assertTrue(inferred["pre_norm"])
        self.assertEqual(inferred["norm_eps"], 1e-5)

    def test_torchvision_vit(self):
        file = torchvision.from_timm(plain(VIT))
        self.assertIn("encoder.layers.encoder_layer_1.self_attention.in_proj_weight", file)
        self.assert_network(read(file, VIT), STUDENT, VIT)
        back = torchvision.to_timm(file)
        jax.tree.map(np.testing.assert_array_equal, back, plain(VIT))

    def test_several_networks_and_none(self):
        both = prefixed("a.", plain(RESNET)) | prefixed("b.", plain(RESNET, 7))
        with self.assertRaisesRegex(UserError, r"F: several networks, 'a.', 'b.'; choose one with"):
            read(both, RESNET)
        weights = read(both, RESNET, prefix="b.")
        self.assert_network(weights, STUDENT, RESNET, 7)
        self.assertIn("a.conv1.weight", weights.report.skipped)
        with self.assertRaisesRegex(UserError, "no network of a known layout .* like x, y"):
            read(random_tensors({"x": (1,), "y": (1,)}), RESNET)
        with self.assertRaisesRegex(UserError, "no network of a known layout"):
            read(plain(RESNET), RESNET, layout="vit")
        with self.assertRaisesRegex(UserError, "did you mean 'resnet'"):
            read(plain(RESNET), RESNET, layout="resnets")


if __name__ == "__main__":
    absltest.main()
