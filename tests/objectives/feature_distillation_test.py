"""Feature distillation against the release: loss, ViT student, CLIP's input and norm; the frozen
teacher from a run or a file; errors.
"""

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core import files, tree
from ssl_jax.core.errors import UserError
from ssl_jax.losses.feature_distillation import feature_distillation, whiten
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.feature_distillation import FeatureDistillation
from ssl_jax.run import fixed
from ssl_jax.run.configs import load_config, override
from ssl_jax.run.console import terminal
from ssl_jax.run.experiment import Experiment
from ssl_jax.training import state
from ssl_jax.training.checkpoint import Checkpoints
from ssl_jax.training.state import InitialWeights
from ssl_jax.training.step import make_train_step
from ssl_jax.weights.places import layers, under
from tests.nets import weights as torch

SPEC = Spec(4, 100, 0, 10, 100)


class LossTest(parameterized.TestCase):
    @parameterized.parameters((False, 1e-5, 1e-4), (True, 1e-9, 1e-9))
    def test_golden(self, wide, rtol, rtol_gradient):
        _, data = torch.load("feature_distillation")
        prefix, dtype = ("f64_", np.float64) if wide else ("", np.float32)
        with jax.enable_x64(wide):
            names = ("student", "teacher", "teacher_norm_weight", "teacher_norm_bias")
            names += ("decoder.0.weight", "decoder.0.bias")
            student, teacher, scale, offset, weight, bias = (
                jnp.asarray(data[f"in_{name}"], dtype) for name in names
            )
            if data["hp_after_norm"]:
                teacher = whiten(teacher) * scale + offset

            def loss(student, weight, bias):
                return feature_distillation(student @ weight[..., 0].T + bias, teacher)

            value, grads = torch.jit(jax.value_and_grad(loss, (0, 1, 2)))(student, weight, bias)
            torch.assert_close(value, data[prefix + "out_loss"], rtol)
            torch.assert_close(whiten(teacher), data[prefix + "out_target"], rtol)
        for name, actual in zip(("student", "weight", "bias"), grads, strict=True):
            torch.assert_close(actual, data[f"{prefix}grad_{name}"], rtol_gradient, name)

    def test_small_golden(self):
        _, data = torch.load("fd_vit")
        loss = lambda x: feature_distillation(x, data["in_small_teacher"])  # noqa: E731
        value, slope = jax.value_and_grad(loss)(jnp.asarray(data["in_small_pred"]))
        np.testing.assert_allclose(value, data["out_small_loss"], rtol=1e-5)
        torch.assert_close(slope, data["grad_small_pred"], 1e-4)

    @parameterized.parameters((3.0, 2.0), (1.0, 0.25), (2.0, 1.0), (0.0, 0.0))
    def test_closed_forms(self, distance, expected):
        teacher = torch.random_images(2, 5, 16)
        value = feature_distillation(whiten(teacher) + distance, teacher)
        np.testing.assert_allclose(value, expected, atol=1e-6)

    def test_a_whitened_token_has_no_scale_and_no_offset(self):
        x = np.random.default_rng(0).normal(size=(3, 4, 64))
        target = whiten(x)
        np.testing.assert_allclose(target.mean(-1), 0, atol=1e-6)
        np.testing.assert_allclose(target.var(-1), 1, atol=1e-4)
        scale = np.random.default_rng(1).uniform(1, 9, (3, 4, 1))
        np.testing.assert_allclose(whiten(scale * x + 7), target, atol=1e-4)

    def test_no_gradient_reaches_the_teacher(self):
        x, y = torch.random_images(2, 3, 8), torch.random_images(4, 3, 8)[:2]
        np.testing.assert_array_equal(jax.grad(feature_distillation, 1)(x, y), 0)
        with self.assertRaisesRegex(ValueError, "expected prediction, teacher"):
            feature_distillation(x, y[:, :2])


def given_tokens(tokens, inputs=None) -> Net:
    """A teacher that returns these tokens, the class token first, and records its input."""
    side = round((tokens.shape[1] - 1) ** 0.5)

    def apply(params, stats, images, **_):
        if inputs is not None and len(images) == len(tokens):
            inputs.append(images)
        x = jnp.asarray(tokens[: len(images)], images.dtype)
        grid = x[:, 1:].reshape(len(x), side, side, -1)
        return Features(pooled=x[:, 0], map=grid, tokens=x, cls=x[:, 0]), stats

    return Net(lambda key: ({}, {}), apply, "given")


def golden_objective(weights, data, tokens, recipe, inputs=None):
    """The objective with the fixture's student, and its params; the teacher returns `tokens`."""
    encoder = under(weights, "encoder.")
    dim, _, patch, _ = encoder["patch_embed.proj.weight"].shape
    size = data["in_x"].shape[-1]
    student = vit(
        None,
        patch,
        size,
        dim=dim,
        depth=layers(encoder, "blocks."),
        heads=int(data["hp_heads"]),
        position="relative",
        layer_scale=0.1,
        pool="avg",
    )
    made = FeatureDistillation(student, SPEC, view=View(size, recipe="mae"), teacher_recipe=recipe)
    made.__dict__["teacher_net"] = given_tokens(tokens, inputs)
    params, _ = torch.convert(student, {k: v for k, v in weights.items() if "feature_" not in k})
    kernel = weights["decoder.0.weight"][..., 0].T
    decoder = {"linear1": {"kernel": kernel, "bias": weights["decoder.0.bias"]}}
    return made, {"backbone": params, "decoder": decoder}


def golden_gradient(made, params, images, dtype):
    extra = {
        "stats": {"backbone": {}, "decoder": {}},
        "fixed": {"params": {"backbone": {}}, "stats": {"backbone": {}}},
    }

    def loss(params, images):
        batch = {"views": (images[:, None],), "index": np.arange(len(images), dtype=np.int32)}
        return made.loss(params, extra, batch, jax.random.key(0), 0)[0]

    cast = lambda x: jnp.asarray(x, dtype)  # noqa: E731
    return torch.jit(jax.value_and_grad(loss))(*jax.tree.map(cast, (params, images)))


class GoldenTest(parameterized.TestCase):
    @parameterized.parameters(False, True)
    def test_vit(self, wide):
        weights, data = torch.load("fd_vit")
        prefix, rtol, dtype = ("f64_", 1e-9, np.float64) if wide else ("", 1e-4, np.float32)
        with jax.enable_x64(wide):
            made, params = golden_objective(weights, data, data["in_teacher"], "")
            value, grads = golden_gradient(made, params, torch.nhwc(data["in_x"]), dtype)
        backbone, dim = grads["backbone"], data["grad_norm_weight"].size
        for key, actual in (
            ("out_loss", value),
            ("grad_decoder_weight", grads["decoder"]["linear1"]["kernel"].T[..., None]),
            ("grad_rel_table", backbone["relative"]["table"]),
            ("grad_cls_token", backbone["cls_token"]),
            ("grad_q_bias0", backbone["blocks"]["attn"]["qkv"]["bias"][0, :dim]),
            ("grad_norm_weight", backbone["norm"]["scale"]),
        ):
            torch.assert_close(actual, data[prefix + key], rtol, key)

    def test_clip(self):
        """CLIP's own norm and input statistics; its norm is applied to all tokens."""
        weights, data = torch.load("fd_clip_path")
        tokens = data["in_teacher_base"] @ data["in_teacher_mix"]
        norm = under(weights, "feature_model.visual.ln_post.")
        tokens, inputs = whiten(tokens) * norm["weight"] + norm["bias"], []
        made, params = golden_objective(weights, data, tokens, "normalize_clip", inputs)
        value, grads = golden_gradient(made, params, torch.nhwc(data["in_x"]), np.float32)
        images = made.for_teacher(jnp.asarray(torch.nhwc(data["in_x"])))
        torch.assert_close(images, torch.nhwc(data["out_teacher_input"]), 1e-5)
        self.assertLen(inputs, 1)  # the teacher was called with the whole batch, once
        torch.assert_close(value, data["out_loss"], 1e-5)
        torch.assert_close(whiten(tokens)[:, 0], data["out_target_first_token"], 1e-4)
        torch.assert_close(grads["backbone"]["cls_token"], data["grad_cls_token"], 1e-4)
        torch.assert_close(grads["backbone"]["norm"]["scale"], data["grad_norm_weight"], 1e-4)

    def test_published_sizes(self):
        """The release has LayerScale, and no biases of keys."""
        net = vit("base", 16, position="relative", pool="avg", layer_scale=0.1)
        params, _ = jax.eval_shape(FeatureDistillation(net, SPEC).init, jax.random.key(0))
        self.assertEqual(tree.count(params["decoder"]), 590_592)
        self.assertEqual(tree.count(params["backbone"]) - 12 * 768, 85_665_360)


SMALL = (("train.batch_size", 8), ("train.steps", 4), ("train.seed", 0))
NARROW = {"name": "vit", "dim": 16, "depth": 1, "heads": 2, "patch": 4, "image_size": 16}
NARROW |= {"pool": "avg", "cls_token": False}
STUDENT = vit(None, 4, 16, dim=8, depth=1, heads=2)


def experiment(method, **changes):
    config = load_config(f"{method}:digits")
    config["backbone"] = NARROW | ({"depth": 2} if method == "feature_distillation" else {})
    override(config, [*SMALL, *changes.items()])
    return Experiment.from_config(config, devices=jax.devices()[:1])


def saved(folder):
    """Save a checkpoint of a run; return its encoder."""
    run = experiment("simclr")
    start = state.create(run.objective, run.tx, 7, run.placed)
    Path(folder).mkdir(exist_ok=True)
    files.write_json(Path(folder) / "config.json", run.resolved())
    with Checkpoints(Path(folder) / "checkpoints") as checkpoints:
        checkpoints.save(3, start, {})
    return jax.device_get(run.objective.encoder(start.params, start.extra))


class TeacherTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = self.enterContext(tempfile.TemporaryDirectory())

    def student(self, **teacher):
        run = experiment("feature_distillation", **{"train.teacher_from": self.folder})
        run.raw["objective"]["teacher_backbone"] = NARROW | teacher
        return run

    def test_is_loaded_from_a_run_and_stays_frozen(self):
        encoder, run = saved(self.folder), self.student()
        weights = InitialWeights(None, fixed.load(run, terminal()))
        current = run.fresh_state(weights)
        loaded = jax.device_get(current.extra["fixed"])
        jax.tree.map(np.testing.assert_array_equal, loaded["params"]["backbone"], encoder.params)
        before = jax.device_get(current.params)
        step = make_train_step(run.objective, run.tx, run.schedule, run.mesh, run.placed)
        for batch in run.batches(0, 2):
            current, metrics = step(current, batch)
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(current.extra["fixed"]), loaded)
        moved = tree.global_norm(
            jax.tree.map(lambda a, b: a - b, jax.device_get(current.params), before)
        )
        self.assertGreater(moved, 0)
        self.assertTrue(np.isfinite(metrics["train/loss"]))

    def test_another_network_is_one_line(self):
        saved(self.folder)
        for teacher, message in (
            ({"dim": 24}, "another network than the method's teacher: of another shape"),
            ({"heads": 4}, r"backbone.heads is 4 in the config but 2"),
        ):
            with self.assertRaisesRegex(UserError, message) as caught:
                fixed.check(self.student(**teacher))
            self.assertNotIn("\n", str(caught.exception))
        missing = str(Path(self.folder) / "none.npz")
        run = experiment("feature_distillation", **{"train.teacher_from": missing})
        with self.assertRaisesRegex(UserError, "train.teacher_from: .*none.npz"):
            fixed.check(run)

    @parameterized.parameters(
        (resnet_small(8), NARROW, "backbone: a network without tokens"),
        (STUDENT, {"name": "resnet_small"}, "teacher_backbone: a network without tokens"),
        (
            STUDENT,
            NARROW | {"patch": 8},
            "teacher_backbone: 2 x 2 patches per image, the student has 4 x 4",
        ),
        (STUDENT, {"name": "vitt"}, "objective.teacher_backbone: unknown backbone 'vitt'"),
    )
    def test_user_errors(self, student, teacher, message):
        made = FeatureDistillation(student, SPEC, view=View(16), teacher_backbone=teacher)
        with self.assertRaisesRegex(UserError, message):
            _ = made.networks

    def test_a_class_token_is_learned_if_both_have_one(self):
        x = torch.random_images(1, 17, 8)
        features = Features(pooled=x[:, 0], tokens=x, cls=x[:, 0])
        for own, expected in ((True, x), (False, x[:, 1:])):
            teacher = NARROW | {"cls_token": own}
            made = FeatureDistillation(STUDENT, SPEC, view=View(16), teacher_backbone=teacher)
            np.testing.assert_array_equal(made.tokens(features), expected)


if __name__ == "__main__":
    absltest.main()
