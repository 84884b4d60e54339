"""data2vec for images against fairseq: losses, gradients and the teacher's average; what each
network sees; errors.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core import tree
from ssl_jax.core.errors import UserError
from ssl_jax.losses.layer_targets import layer_targets
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.data2vec import AVERAGED, Data2Vec
from ssl_jax.weights.places import layers, under
from ssl_jax.weights.vit import TABLE
from tests.losses.forms import load
from tests.nets import weights as torch

SPEC = Spec(4, 100, 0, 10, 100)
# Variant of the fixture -> normalisation of each layer and of the average.
VARIANTS = {
    "ln": ("none", "layer"),
    "in": ("instance", "none"),
    "ln_layer_fc": ("layer", "none"),
    "bn_in": ("batch", "instance"),
    "plain_l2": ("none", "none"),
}
RENAMED = (
    (r"^encoder\.", ""),
    (r"^(cls|mask)_emb$", r"\1_token"),
    (r"^patch_embed\.conv\.", "patch_embed.proj."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.2\.", ".mlp.fc2."),
)


def backbone(**options):
    sizes = {"dim": 8, "depth": 3, "heads": 2, "mask_token": True, "position": "relative"}
    return vit(None, 4, 16, **(sizes | options))


def data2vec(net=None, **hyper):
    sizes = {"view": View(16), "min_patches": 2, "layers": 2}
    return Data2Vec(net or backbone(), SPEC, **(sizes | hyper))


def state(made):
    """Random (params, extra), whose teacher is the student."""
    params = {"backbone": torch.random_variables(made.backbone)[0]}
    none = {"backbone": {}}
    return params, {"stats": none, "teacher": params, "teacher_stats": none}


def in_timm_names(weights):
    for pattern, name in RENAMED:
        weights = {re.sub(pattern, name, k): v for k, v in weights.items()}
    return weights


class GoldenTest(parameterized.TestCase):
    @parameterized.product(variant=list(VARIANTS), wide=(False, True))
    def test_loss(self, variant, wide):
        data, dtype = load("data2vec_vision", wide), np.float64 if wide else np.float32
        student = in_timm_names(under(data, "in_sd."))
        embeddings = {k: v for k, v in student.items() if not re.match("blocks|norm|rel_pos", k)}
        average = embeddings | in_timm_names(under(data, "in_ema."))
        size, dim = data["in_x"].shape[-1], student["norm.weight"].size
        net = vit(
            None,
            int(data["hp_patch"]),
            size,
            dim=dim,
            depth=layers(student, "blocks."),
            heads=student[TABLE].shape[1],
            position="relative",
            mask_token=True,
            layer_scale=1e-4,
            norm_eps=1e-5,
        )
        mask, count = jnp.asarray(data["in_mask"], bool), int(data["out_sample_size"])
        each, mean = VARIANTS[variant]
        branches = data["out_teacher_fc"][-int(data["hp_top_k"]) :].astype(dtype)

        class Injected(Data2Vec):
            def masks(self, keys):
                return mask

            def targets(self, nets, images):
                if variant == "ln_layer_fc":  # of the perceptrons' branches, which ours lacks
                    return layer_targets(branches, each, mean)
                return super().targets(nets, images)

        made = Injected(
            net,
            Spec(len(mask), 100, 0, 10, 100),
            view=View(size),
            min_patches=1,
            layers=int(data["hp_top_k"]),
            layer_norm=each,
            target_norm=mean,
            beta=0.0 if variant == "plain_l2" else float(data["hp_beta"]),
            loss_scale=float(dim) ** 0.5,
        )
        with jax.enable_x64(wide):
            params, teacher, images = jax.tree.map(
                lambda x: jnp.asarray(x, dtype),
                (
                    {"backbone": torch.convert(net, student)[0]},
                    {"backbone": torch.convert(net, average)[0]},
                    torch.nhwc(data["in_x"])[:, None],
                ),
            )
            none = {"backbone": {}}
            extra = {"stats": none, "teacher": teacher, "teacher_stats": none}
            batch = {"views": (images,), "index": jnp.arange(len(mask))}
            loss = lambda p: made.loss(p, extra, batch, jax.random.key(0), 0)[0]  # noqa: E731
            value, grads = torch.jit(jax.value_and_grad(loss))(params)
        grads = jax.tree.map(lambda g: g * count, grads["backbone"])  # fairseq's are of the sum
        checked = {
            f"out_{variant}_loss_per_token": value,
            f"grad_{variant}_mask_emb": grads["mask_token"],
            f"grad_{variant}_norm_weight": grads["norm"]["scale"],
        }
        if variant == "ln":
            checked |= {
                "grad_ln_patch_conv": grads["patch_embed"]["kernel"].transpose(3, 2, 0, 1),
                "grad_ln_block0_qkv": grads["blocks"]["attn"]["qkv"]["kernel"][0].T,
                "grad_ln_rel_table": grads["relative"]["table"],
            }
        for name, ours in checked.items():
            # fairseq takes targets and losses in float32, also in its run in float64.
            torch.assert_close(ours, data[name], 1e-5 if wide else 1e-4, name)

    def test_targets(self):
        data = np.load(torch.GOLDEN / "data2vec_vision.npz")
        top = jnp.asarray(data["out_teacher_end"][-int(data["hp_top_k"]) :])
        torch.assert_close(layer_targets(top), data["out_ln_targets"], 1e-5)

    def test_average(self):
        data = np.load(torch.GOLDEN / "data2vec_vision.npz")
        start, end, steps = data["hp_ema"].tolist()
        made = dataclasses.replace(
            data2vec(momentum=(start, end)), spec=Spec(4, 100, 0, 10, int(steps))
        )
        averages, extra = [], {"teacher": {"backbone": {"blocks": jnp.float32(0)}}}
        student = data["in_ema_student"]
        decay = data["out_ema_decay"]
        first = (data["out_ema_value"][0] - (1 - decay[0]) * student[0]) / decay[0]
        extra = {"teacher": {"backbone": {"blocks": jnp.float32(first), "patch_embed": 0.0}}}
        for step, value in enumerate(student):
            params = {"backbone": {"blocks": jnp.float32(value), "patch_embed": step}}
            _, extra = made.after_update(params, extra, {}, jnp.int32(step))
            averages.append(extra["teacher"]["backbone"]["blocks"])
            self.assertEqual(extra["teacher"]["backbone"]["patch_embed"], step)  # the student's
        np.testing.assert_allclose(averages, data["out_ema_value"], rtol=1e-6, atol=1e-6)

    def test_published_size(self):
        data = np.load(torch.GOLDEN / "param_counts_mim.npz")
        net = vit("base", 16, position="relative", mask_token=True, layer_scale=1e-4)
        params, extra = jax.eval_shape(Data2Vec(net, SPEC).init, jax.random.key(0))
        keys = 12 * 768  # biases of the keys, which the release lacks
        want = int(data["out_data2vec_vision_base_without_unused_proj"])
        self.assertEqual(tree.count(params) - keys, want)
        self.assertEqual(tree.count(extra["teacher"]), tree.count(params))


class PropertiesTest(parameterized.TestCase):
    def test_hidden_pixels_reach_the_targets_only(self):
        made = data2vec()
        params, extra = state(made)
        keys = jax.random.split(jax.random.key(1), 2)
        mask = made.masks(keys)
        self.assertBetween(mask.sum((1, 2)).min(), 2, made.hidden)
        images = jax.random.normal(jax.random.key(2), (2, 16, 16, 3))
        noise = jax.random.normal(jax.random.key(3), images.shape)
        other = jnp.where(mask.repeat(4, 1).repeat(4, 2)[..., None], images + noise, images)

        @jax.jit
        def both(images):
            student = made.networks.bind(params, extra["stats"])
            teacher = made.teacher_networks.bind(extra["teacher"], extra["teacher_stats"])
            return made.predict(student, images, mask, keys), made.targets(teacher, images)

        (prediction, target), (same, changed) = both(images), both(other)
        np.testing.assert_array_equal(prediction, same)
        self.assertGreater(np.abs(changed - target).max(), 0.1)

    def test_targets_are_not_normed_by_the_last_norm(self):
        made = data2vec(layers=1, layer_norm="none", target_norm="none")
        params, extra = state(made)
        size = params["backbone"]["norm"]["scale"].size
        params["backbone"]["norm"] = {"scale": jnp.full(size, 3.0), "bias": jnp.zeros(size)}
        images = jax.random.normal(jax.random.key(2), (2, 16, 16, 3))

        @jax.jit
        def both(images):
            teacher = made.teacher_networks.bind(params, extra["teacher_stats"])
            student = made.networks.bind(params, extra["stats"])
            return made.targets(teacher, images), student.backbone(images).patches

        last, normed = both(images)
        variance = last.var(-1, keepdims=True)
        want = 3 * (last - last.mean(-1, keepdims=True)) / np.sqrt(variance + 1e-6)
        np.testing.assert_allclose(normed, want, rtol=1e-4, atol=1e-4)

    def test_a_momentum_of_one_keeps_the_transformer(self):
        made = data2vec(momentum=(1.0, 1.0))
        params, extra = state(made)
        moved = jax.tree.map(lambda x: x + 1, params)
        _, after = made.after_update(moved, extra, {}, jnp.int32(3))
        for name, part in after["teacher"]["backbone"].items():
            source = params if name in AVERAGED else moved
            jax.tree.map(np.testing.assert_array_equal, part, source["backbone"][name])

    def test_only_the_student_drops(self):
        made = data2vec(backbone(drop_path=0.5))
        params, extra = state(made)
        images = jax.random.normal(jax.random.key(2), (4, 1, 16, 16, 3))
        targets = []

        class Spy(Data2Vec):
            def targets(self, nets, images):
                targets.append(super().targets(nets, images))
                return targets[-1]

        spy = Spy(**{f.name: getattr(made, f.name) for f in dataclasses.fields(made)})
        batch = {"views": (images,), "index": jnp.arange(4)}

        @jax.jit
        def run(key):
            return spy.loss(params, extra, batch, key, jnp.int32(0))[0], targets.pop()

        (loss, target), (other, same) = (run(jax.random.key(k)) for k in range(2))
        self.assertNotEqual(loss, other)
        np.testing.assert_array_equal(target, same)


class ErrorsTest(parameterized.TestCase):
    @parameterized.parameters(
        ({"layers": 4}, "layers: expected at most the backbone's 3 blocks, got 4"),
        ({"min_patches": 11}, "min_patches: 11 patches per block are more than the 10 to hide"),
        ({"net": resnet_small(8)}, "no patches"),
        ({"beta": -1.0}, "beta"),
    )
    def test_user_errors(self, options, message):
        with self.assertRaisesRegex(UserError, message) as caught:
            data2vec(**options).init(jax.random.key(0))
        self.assertNotIn("\n", str(caught.exception))

    def test_unknown_norm(self):
        with self.assertRaisesRegex(ValueError, "expected one of .*'layer'.*, got 'group'"):
            layer_targets(jnp.ones((2, 2, 3, 4)), "group")


if __name__ == "__main__":
    absltest.main()
