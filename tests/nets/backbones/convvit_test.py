"""ConvViT against the release's network for fine-tuning; its stages, sizes and errors."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import count
from ssl_jax.nets.backbones.convvit import make as convvit
from ssl_jax.weights.places import layers
from tests.nets import weights as torch

NAMES = {  # of the release's modules, and ours
    r"patch_embed(\d)\.proj": r"backbone/embed\1/conv",
    r"patch_embed(\d)": r"backbone/embed\1",
    r"stage(\d)_output_decode": r"backbone/fuse\1",
    r"blocks3\.\d+": "backbone/blocks",
    r"decoder_blocks\.\d+": "decoder/blocks",
    r"blocks(\d\.\d+)\.attn": r"backbone/stage\1/depthwise",
    r"blocks(\d\.\d+)(\.mlp)?": r"backbone/stage\1",
    r"decoder_": "decoder/",
    r"(fc_)?norm": "backbone/norm",
}


def converted(weights):
    """Our parameters by network from the release's state dictionary, without its tokens and tables.

    The blocks of its transformers are stacked.
    """
    parts: dict[str, list[np.ndarray]] = {}
    for name, value in weights.items():
        module, _, leaf = name.rpartition(".")
        if not module:
            continue
        path = next(re.sub(f"^{a}", b, module) for a, b in NAMES.items() if re.match(a, module))
        if leaf == "weight":
            leaf = "scale" if "norm" in module else "kernel"
            value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
            value = value[0, 0] if value.shape[:2] == (1, 1) else value
        parts.setdefault(f"{path}/{leaf}".replace(".", "/"), []).append(value)
    return torch.nested({k: np.stack(v) if "/blocks" in k else v[0] for k, v in parts.items()})


def golden_convvit(weights, side, heads, **options):
    """Build the network of a fixture, for images of this side."""
    return convvit(
        None,
        side,
        dims=tuple(len(weights[f"patch_embed{i}.proj.bias"]) for i in (1, 2, 3)),
        depths=tuple(layers(weights, f"blocks{i}.") for i in (1, 2, 3)),
        heads=int(heads),
        mlp_ratio=weights["blocks3.0.mlp.fc1.weight"].shape[0] / len(weights["patch_embed4.bias"]),
        **options,
    )


def tiny(**options):
    sizes = {"dims": (4, 4, 8), "depths": (1, 1, 1), "heads": 2, "image_size": 32}
    return convvit(None, **(sizes | options))


class ConvViTTest(parameterized.TestCase):
    def test_network_for_finetuning(self):
        weights, data = torch.load("convvit_finetune")
        kernel, bias = weights.pop("head.weight"), weights.pop("head.bias")
        form = {"position": "learned", "fusion": False, "norm_after_pool": True}
        side = data["in_x"].shape[-1]
        net = golden_convvit(weights, side, data["hp_heads"], **form)
        params = converted(weights)["backbone"] | {"pos_embed": weights["pos_embed"]}

        def loss(params, images):
            features = net.apply(params, {}, images, train=True)[0].pooled
            logits = features @ kernel.T + bias
            return jnp.sum(jnp.square(logits)), (features, logits)

        with jax.enable_x64(True):
            args = (params, torch.nhwc(data["in_x"]))
            args = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), args)
            (_, (features, logits)), grads = torch.jit(jax.value_and_grad(loss, has_aux=True))(
                *args
            )
            for key, actual in (
                ("out_features", features),
                ("out_logits", logits),
                ("grad_pos_embed", grads["pos_embed"]),
                ("grad_dw0", grads["stage1"]["0"]["depthwise"]["kernel"].transpose(3, 2, 0, 1)),
            ):
                torch.assert_close(actual, data[f"f64_{key}"], 1e-7, key)

    def test_published_sizes(self):
        """The release's numbers for fine-tuning contain a classifier of 1000 classes."""
        form = {"position": "learned", "fusion": False, "norm_after_pool": True}
        for size, width, expected in (("base", 768, 85_374_824),):
            params = jax.eval_shape(convvit(size, **form).init, jax.random.key(0))
            self.assertEqual(count(params) + 1000 * (width + 1), expected)

    def test_stages(self):
        net = tiny()
        params, _ = torch.random_variables(net)
        images = torch.random_images(2, 48, 32, 3)  # positions of another grid
        keep = np.array([[5, 0, 3], [1, 2, 4]])

        def run(images):
            whole = net.apply(params, {}, images, train=False, stages=True)[0]
            return whole, net.apply(params, {}, images, keep=keep, train=False, stages=True)[0]

        whole, part = torch.jit(run)(images)
        self.assertEqual(whole.names, ["stage1", "stage2", "block1"])
        self.assertEqual(
            [s.map.shape[1:] for s in whole.stages], [(12, 8, 4), (6, 4, 4), (3, 2, 8)]
        )
        self.assertEqual([s.tokens.shape for s in part.stages], [(2, 3, 4), (2, 3, 4), (2, 3, 8)])
        np.testing.assert_allclose(part.pooled, part.tokens.mean(1), atol=1e-5)

    def test_stochastic_depth(self):
        net = tiny(drop_path=0.9)
        params, _ = torch.random_variables(net)
        x = torch.random_images(2, 32, 32, 3)
        keys = jax.random.split(jax.random.key(0), 2)
        run = torch.jit(lambda keys: net.apply(params, {}, x, keys=keys, train=True)[0].pooled)
        self.assertGreater(np.abs(run(keys) - run(keys[::-1])).max(), 1e-3)
        with self.assertRaisesRegex(UserError, "draws no stochastic depth"):
            net.apply(params, {}, x, train=True)

    @parameterized.parameters(
        ({"size": "huge"}, "no ConvViT of size 'huge'"),
        ({"size": None}, "needs dims, depths and heads"),
        ({"heads": 5}, "5 heads do not divide a width of 768"),
        ({"image_size": 40}, "a patch of 16 pixels does not divide"),
        ({"dims": (4, 4, 6), "heads": 2}, "divisible by 4, got 6"),
        ({"position": "relative"}, "unknown position 'relative'"),
        ({"remat": "all"}, "remat"),
    )
    def test_user_errors(self, options, message):
        with self.assertRaisesRegex(UserError, message) as caught:
            convvit(**options)
        self.assertNotIn("\n", str(caught.exception))


if __name__ == "__main__":
    absltest.main()
