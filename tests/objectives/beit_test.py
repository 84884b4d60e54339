"""BEiT against the release: logits, loss and gradients; what the network and the tokenizer see; the
tokenizer from a run or a file of any method that has one; errors.
"""

import dataclasses
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.cli import run as command
from ssl_jax.core import files
from ssl_jax.core.errors import UserError
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.objectives.base import FIXED, Spec, View
from ssl_jax.objectives.beit import BEiT
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.run import fixed
from ssl_jax.run.configs import load_config, override
from ssl_jax.run.console import terminal
from ssl_jax.run.experiment import Experiment
from ssl_jax.training import state
from ssl_jax.training.checkpoint import Checkpoints
from ssl_jax.training.state import InitialWeights
from ssl_jax.weights.places import layers
from ssl_jax.weights.vit import TABLE
from tests.losses.forms import load
from tests.nets import weights as torch

NARROW = {"name": "discrete_vae", "layers": 2, "width": 4}
TOKENIZER = {"backbone": NARROW, "vocabulary": 8, "size": 0, "recipe": ""}


def beit(**hyper):
    sizes = {"dim": 8, "depth": 2, "heads": 2, "mask_token": True, "position": "relative"}
    defaults = {"view": {"size": 16}, "min_patches": 2, "tokenizer": TOKENIZER}
    return BEiT.make(vit(None, 4, 16, **sizes), Spec(2, 100, 0, 10, 100), **(defaults | hyper))


class GoldenTest(parameterized.TestCase):
    @parameterized.parameters(False, True)
    def test_loss_and_gradients(self, wide):
        data, dtype = load("beit_mim", wide), np.float64 if wide else np.float32
        weights = {k.removeprefix("in_sd."): v for k, v in data.items() if k.startswith("in_sd.")}
        lm_head = {k: weights.pop(f"lm_head.{k}") for k in ("weight", "bias")}
        mask, size = jnp.asarray(data["in_mask"], bool), data["in_x"].shape[-2:]
        images = len(mask)
        net = vit(
            None,
            int(data["hp_patch"]),
            tuple(size),
            dim=weights["norm.weight"].size,
            depth=layers(weights, "blocks."),
            heads=weights[TABLE].shape[1],
            position="relative",
            mask_token=True,
            layer_scale=0.1,
        )
        codes = jnp.asarray(data["in_codes"], jnp.int32).reshape(mask.shape)

        class Injected(BEiT):
            masks = lambda self, keys: mask  # noqa: E731
            codes = lambda self, fixed, images: codes  # noqa: E731

        tokenizer = TOKENIZER | {"vocabulary": len(lm_head["bias"])}
        spec = Spec(images, 100, 0, 10, 100)
        view = {"size": tuple(size)}
        made = Injected.make(net, spec, view=view, min_patches=1, tokenizer=tokenizer)
        head = {"linear1": {"kernel": lm_head["weight"].T, "bias": lm_head["bias"]}}
        params = {"backbone": torch.convert(net, weights)[0], "head": head}

        def loss(params, x):
            batch = {"views": (x[:, None],), "index": jnp.arange(images)}
            extra = {"stats": {"backbone": {}, "head": {}}, FIXED: {}}
            value, aux = made.loss(params, extra, batch, jax.random.key(0), 0)
            nets = made.networks.bind(params, extra["stats"])
            logits = made.predict(nets, x, mask, jax.random.split(jax.random.key(0), images))[0]
            return value, (aux.metrics["code_accuracy"], logits)

        with jax.enable_x64(wide):
            cast = lambda x: jnp.asarray(x, dtype)  # noqa: E731
            step = torch.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
            (value, (accuracy, logits)), (grads, slope) = step(
                *jax.tree.map(cast, (params, torch.nhwc(data["in_x"])))
            )
        backbone, dim = grads["backbone"], weights["norm.weight"].size
        rtol, attention = (1e-9 if wide else 1e-4), backbone["blocks"]["attn"]["qkv"]
        for name, ours in {
            "out_loss": value,
            "out_mlm_acc": accuracy,
            "out_logits_all": logits,
            "grad_mask_token": backbone["mask_token"],
            "grad_cls_token": backbone["cls_token"],
            "grad_rel_table": backbone["relative"]["table"],
            "grad_q_bias0": attention["bias"][0, :dim],
            "grad_v_bias0": attention["bias"][0, -dim:],
            "grad_norm_weight": backbone["norm"]["scale"],
            "grad_lm_head_weight": grads["head"]["linear1"]["kernel"].T,
        }.items():
            torch.assert_close(ours, data[name], 1e-6 if name == "out_mlm_acc" else rtol, name)
        hidden = mask.repeat(int(data["hp_patch"]), 1).repeat(int(data["hp_patch"]), 2)
        np.testing.assert_array_equal(slope[np.asarray(hidden)], 0)


class FineTunedTest(parameterized.TestCase):
    @parameterized.parameters(False, True)
    def test_network(self, wide):
        """The network that BEiT fine-tunes: positions of each block, the mean of the patches before
        the last norm, no positions in the input (`VisionTransformer` of beit/modeling_finetune.py).
        """
        data, dtype = load("beit_finetune_vit", wide), np.float64 if wide else np.float32
        weights = {k.removeprefix("in_sd."): v for k, v in data.items() if k.startswith("in_sd.")}
        classifier = [weights.pop(f"head.{k}").astype(dtype) for k in ("weight", "bias")]
        net = vit(
            None,
            int(data["hp_patch"]),
            tuple(data["in_x"].shape[-2:]),
            dim=weights["fc_norm.weight"].size,
            depth=layers(weights, "blocks."),
            heads=int(data["hp_heads"]),
            position="relative_per_block",
            pool="avg",
            norm_after_pool=True,
            layer_scale=0.1,
        )

        def loss(params, images):
            features = net.apply(params, {}, images, train=True)[0].pooled
            logits = features @ classifier[0].T + classifier[1]
            return jnp.sum(jnp.square(logits)), (features, logits)

        with jax.enable_x64(wide):
            cast = lambda x: jnp.asarray(x, dtype)  # noqa: E731
            params = jax.tree.map(cast, torch.convert(net, weights)[0])
            step = torch.jit(jax.grad(loss, has_aux=True))
            grads, (features, logits) = step(params, cast(torch.nhwc(data["in_x"])))
        for name, ours in {
            "out_features": features,
            "out_logits": logits,
            "grad_rel_table0": grads["relative"]["table"][0],
            "grad_fc_norm_weight": grads["norm"]["scale"],
        }.items():
            torch.assert_close(ours, data[name], 1e-9 if wide else 1e-4, name)


class PropertiesTest(absltest.TestCase):
    def test_views_need_not_be_square(self):
        sizes = {"dim": 8, "depth": 1, "heads": 2, "mask_token": True, "position": "relative"}
        made = BEiT.make(
            vit(None, 4, (16, 24), **sizes),
            Spec(2, 100, 0, 10, 100),
            view={"size": (16, 24)},
            min_patches=2,
            tokenizer=TOKENIZER,
        )
        masks = made.masks(jax.random.split(jax.random.key(0), 2))
        self.assertEqual(masks.shape, (2, 4, 6))
        shapes = jax.eval_shape(made.init, jax.random.key(0))
        batch = {
            "views": (jax.ShapeDtypeStruct((2, 1, 16, 24, 3), jnp.float32),),
            "index": jax.ShapeDtypeStruct((2,), jnp.int32),
        }
        loss, _ = jax.eval_shape(made.loss, *shapes, batch, jax.random.key(1), jnp.int32(0))
        self.assertEqual(loss.shape, ())

    def test_a_head_of_zeros_has_the_loss_of_chance(self):
        made = beit()
        shapes = jax.eval_shape(made.init, jax.random.key(0))
        params, extra = jax.tree.map(lambda x: jnp.full(x.shape, 0.1), shapes)
        params["head"] = jax.tree.map(jnp.zeros_like, params["head"])
        images = torch.random_images(2, 1, 16, 16, 3)
        batch = {"views": (images,), "index": jnp.arange(2)}
        loss, _ = torch.jit(made.loss)(params, extra, batch, jax.random.key(1), jnp.int32(0))
        np.testing.assert_allclose(loss, np.log(8), rtol=1e-6)

    def test_tokenizer_reads_the_whole_image_in_its_own_size_and_scale(self):
        own = {"size": 32, "recipe": "none", "backbone": NARROW | {"layers": 3}}
        made = beit(view={"size": 16, "recipe": "beit"}, tokenizer=TOKENIZER | own)
        networks, inputs = made.fixed_networks, []
        net = networks.nets["backbone"]

        def apply(params, stats, images, **options):
            inputs.append(images)
            return net.apply(params, stats, images, **options)

        watched = {"backbone": dataclasses.replace(net, apply=apply)}
        made.__dict__["fixed_networks"] = Networks(dict(networks.nets) | watched)
        shapes = jax.eval_shape(networks.init, jax.random.key(0))
        params, stats = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes)
        white = jnp.ones((2, 16, 16, 3))  # in the chain's range, from -1 to 1
        codes = made.codes({"params": params, "stats": stats}, white)
        self.assertEqual((codes.shape, codes.dtype), ((2, 4, 4), jnp.int32))
        np.testing.assert_allclose(inputs[-1], np.ones((2, 32, 32, 3)), atol=1e-5)


SMALL = (("train.batch_size", 8), ("train.steps", 4), ("backbone.width", 4))


def tokenizer_run(folder, method="dvae", **changes):
    """Save a checkpoint of a run; return its encoder."""
    config = load_config(f"{method}:digits")
    override(config, [*SMALL, *changes.items()])
    run = Experiment.from_config(config, devices=jax.devices()[:1])
    start = state.create(run.objective, run.tx, 7, run.placed)
    files.write_json(Path(folder) / "config.json", run.resolved())
    with Checkpoints(Path(folder) / "checkpoints") as checkpoints:
        checkpoints.save(3, start, {})
    return jax.device_get(run.objective.encoder(start.params, start.extra))


class TokenizerTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = self.enterContext(tempfile.TemporaryDirectory())

    def student(self, name="", **tokenizer):
        config = load_config("beit:digits")
        changes = {"backbone.width": 4} | tokenizer
        override(
            config,
            [
                *SMALL[:2],
                ("backbone.dim", 8),
                ("train.teacher_from", name or self.folder),
                *((f"objective.tokenizer.{key}", value) for key, value in changes.items()),
            ],
        )
        return Experiment.from_config(config, devices=jax.devices()[:1])

    def test_of_a_run_and_of_a_file(self):
        encoder, run = tokenizer_run(self.folder), self.student()
        current = run.fresh_state(InitialWeights(None, fixed.load(run, terminal())))
        loaded = jax.device_get(current.extra[FIXED]["params"])
        expected = {"backbone": encoder.params, "tokenizer": encoder.tokenizer.params}
        jax.tree.map(np.testing.assert_array_equal, loaded, expected)

        file = Path(self.folder) / "tokenizer.safetensors"
        flags = {"workdir": self.folder, "output": file, "format": "safetensors", "part": "all"}
        self.assertEqual(command(["export", *(f"--{k}={v}" for k, v in flags.items())]), 0)
        run = self.student(str(file))
        current = run.fresh_state(InitialWeights(None, fixed.load(run, terminal())))
        loaded = jax.device_get(current.extra[FIXED]["params"])
        jax.tree.map(np.testing.assert_array_equal, loaded, expected)

    def test_another_tokenizer_is_one_line(self):
        tokenizer_run(self.folder)
        for change, message in (
            ({"vocabulary": 16}, r"set objective.tokenizer.vocabulary=32 and .*code_dim=0"),
            ({"code_dim": 4}, r"set objective.tokenizer.vocabulary=32 and .*code_dim=0"),
            ({"backbone.width": 8}, "give objective.tokenizer.backbone the values"),
            (
                {"size": 32},
                "tokenizer.size: 8 x 8 codes for images of 32 x 32 px, .* 4 x 4 patches",
            ),
        ):
            with self.assertRaisesRegex(UserError, message) as caught:
                fixed.check(self.student(**change))
            self.assertNotIn("\n", str(caught.exception))

    def test_a_run_without_codes_is_one_line(self):
        tokenizer_run(self.folder, "simclr")
        with self.assertRaisesRegex(UserError, "has no codes: it is not a tokenizer"):
            fixed.check(self.student())

    def test_more_patches_per_block_than_hidden(self):
        with self.assertRaisesRegex(UserError, "min_patches: 9 patches per block are more than"):
            _ = beit(min_patches=9, view=View(16)).networks


if __name__ == "__main__":
    absltest.main()
