"""VQ-KD against the release: codes, losses, gradients; its codebook over steps; errors."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core import tree
from ssl_jax.core.errors import UserError
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.parts import codebook
from ssl_jax.objectives.vqkd import VQKD
from ssl_jax.weights.places import layers, under
from tests.losses.forms import load
from tests.nets import weights as torch
from tests.objectives.feature_distillation_test import given_tokens

SPEC = Spec(4, 100, 0, 10, 100)


def with_class_token(tokens):
    return np.concatenate([np.zeros_like(tokens[:, :1]), tokens], axis=1)


def linears(weights, name):
    """The two layers of a perceptron, under our names."""
    return {
        f"linear{i + 1}": {
            "kernel": weights[f"{name}.{2 * i}.weight"].T,
            "bias": weights[f"{name}.{2 * i}.bias"],
        }
        for i in range(2)
    }


class GoldenTest(parameterized.TestCase):
    @parameterized.parameters((False, 1e-4), (True, 1e-9))
    def test_step(self, wide, rtol):
        """The fixture has no gradient of the encoder's patches in float64."""
        data, dtype = load("beit2_vqkd", wide), np.float64 if wide else np.float32
        weights = under(data, "in_sd.")
        encoder, decoder = under(weights, "encoder."), under(weights, "decoder.")
        codes, inputs = weights["quantize.embedding.weight"], []
        size = data["in_x"].shape[-1]
        net = vit(
            None,
            int(data["hp_patch"]),
            size,
            dim=encoder["fc_norm.weight"].size,
            depth=layers(encoder, "blocks."),
            heads=int(data["hp_heads"]),
        )
        made = VQKD(
            net,
            SPEC,
            view=View(size, recipe="vqkd"),
            teacher_recipe="normalize_clip" if data["hp_clip_norm"] else "normalize",
            vocabulary=len(codes),
            code_dim=codes.shape[1],
            decoder_depth=layers(decoder, "blocks."),
            kmeans_iterations=0,
        )
        made.__dict__["teacher_net"] = given_tokens(with_class_token(data["in_teacher"]), inputs)
        params = {
            "backbone": torch.convert(net, encoder)[0],
            "tokenizer": linears(weights, "encode_task_layer"),
            "decoder": torch.convert(made.networks.nets["decoder"], decoder)[0],
            "head": linears(weights, "decode_task_layer"),
        }
        none: dict = {name: {} for name in params}
        extra = {
            "stats": none,
            "fixed": {"params": {"backbone": {}}, "stats": {"backbone": {}}},
            "codebook": {"codes": codes, "counts": weights["quantize.cluster_size"]},
        }
        images = 2 * torch.nhwc(data["in_x"]) - 1
        np.testing.assert_allclose(images, torch.nhwc(data["out_pre"]), atol=1e-6)

        def loss(params, extra, images):
            batch = {"views": (images[:, None],), "index": jnp.arange(len(images))}
            value, aux = made.loss(params, extra, batch, jax.random.key(0), 0)
            return value, (aux.metrics, made.encoder(params, extra).codes(images))

        with jax.enable_x64(wide):
            params, extra, images = jax.tree.map(
                lambda x: jnp.asarray(x, dtype), (params, extra, images)
            )
            run = torch.jit(jax.value_and_grad(loss, has_aux=True))
            (value, (metrics, index)), grads = jax.device_get(run(params, extra, images))
            again = made.for_teacher(images)
        np.testing.assert_array_equal(index.reshape(len(index), -1), data["out_codes"])
        used = np.unique(data["out_codes"], return_counts=True)[1]
        self.assertEqual(metrics["codes_used"], len(used))
        share = used / used.sum()
        np.testing.assert_allclose(
            metrics["code_perplexity"], np.exp(-np.sum(share * np.log(share))), rtol=1e-5
        )
        for name, ours in (
            ("out_loss", value),
            ("out_emb_loss", metrics["commitment"]),
            ("out_rec_loss", metrics["distillation"]),
            ("grad_enc_patch_proj", _conv(grads["backbone"])),
            ("grad_enc_task_last", grads["tokenizer"]["linear2"]["kernel"].T),
            ("grad_dec_patch_proj", _conv(grads["decoder"])),
            ("grad_dec_task_last", grads["head"]["linear2"]["kernel"].T),
        ):
            rounded = name == "grad_enc_patch_proj"
            torch.assert_close(ours, data[name], max(rtol, 1e-5) if rounded else rtol, name)
        torch.assert_close(again, torch.nhwc(data["out_teacher_input"]), 1e-5)

    def test_published_sizes(self):
        """The release has no biases of keys, and ours no codebook among the parameters."""
        data = np.load(torch.GOLDEN / "param_counts_mim.npz")
        net = vit("base")
        for depth in (1, 3):
            made = VQKD(net, Spec(512, 9, 0, 9, 9), decoder_depth=depth)
            made.__dict__["teacher_net"] = given_tokens(np.zeros((1, 197, 512), np.float32))
            params, extra = jax.eval_shape(made.init, jax.random.key(0))
            count = tree.count(params) - (12 + depth) * 768
            self.assertEqual(count, data[f"out_vqkd_base_dec{depth}_clip_trainable"])
            self.assertEqual(tree.count(extra["codebook"]), 8192 * 33)


TEACHER = {"name": "vit", "size": None, "dim": 8, "depth": 1, "heads": 2, "patch": 4}
TEACHER |= {"image_size": 16}


def vqkd(net=None, **hyper):
    sizes = {"view": View(16), "vocabulary": 6, "code_dim": 4, "decoder_depth": 1}
    sizes |= {"teacher_backbone": TEACHER, "teacher_recipe": ""}
    return VQKD(net or vit(None, 4, 16, dim=8, depth=1, heads=2), SPEC, **(sizes | hyper))


class CodebookTest(parameterized.TestCase):
    def test_starts_from_the_clusters_of_the_first_batch_only(self):
        made, key = vqkd(), jax.random.key(0)
        vectors = l2_normalize(jnp.asarray(torch.random_images(4, 4, 4, 4)))
        codes = l2_normalize(jnp.ones((6, 4)))
        empty, used = ({"codes": codes, "counts": jnp.full(6, n)} for n in (0.0, 0.1))
        start = jax.jit(made.started)
        self.assertIs(vqkd(kmeans_iterations=0).started(empty, vectors, key), empty)
        jax.tree.map(np.testing.assert_array_equal, start(used, vectors, key), used)
        want = codebook.kmeans_codebook(vectors, 6, key, 10)
        first = start(empty, vectors, key)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), first, want)
        self.assertLess(first["counts"].max(), len(vectors) * 16)  # more than one is in use

    def test_is_in_the_encoder_and_not_among_the_parameters(self):
        made = vqkd()
        params, extra = jax.eval_shape(made.init, jax.random.key(0))
        self.assertNotIn("codebook", params["tokenizer"])
        encoder = jax.eval_shape(made.encoder, params, extra)
        self.assertEqual(encoder.tokenizer.params["codebook"].shape, (6, 4))
        images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
        codes = jax.eval_shape(lambda encoder, x: encoder.codes(x), encoder, images)
        self.assertEqual((codes.shape, codes.dtype), ((2, 4, 4), jnp.int32))


class ErrorsTest(parameterized.TestCase):
    @parameterized.parameters(
        ({"vocabulary": 65}, "vocabulary: 65 codes start as clusters of the 64 patches"),
        ({"net": resnet_small(8)}, "backbone: a network without tokens"),
        ({"teacher_backbone": TEACHER | {"patch": 8}}, "2 x 2 patches per image, the student has"),
        ({"teacher_backbone": {"name": "resnet_small"}}, "teacher_backbone: a network without"),
        ({"momentum": 1.5}, "momentum"),
    )
    def test_user_errors(self, options, message):
        with self.assertRaisesRegex(UserError, message) as caught:
            _ = vqkd(**options).networks
        self.assertNotIn("\n", str(caught.exception))


def _conv(grads):
    return grads["patch_embed"]["kernel"].transpose(3, 2, 0, 1)


if __name__ == "__main__":
    absltest.main()
