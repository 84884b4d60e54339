"""The discrete VAE against the released networks and losses; its properties, and bad input."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core import tree
from ssl_jax.core.errors import UserError
from ssl_jax.losses.discrete_codes import code_usage, gumbel_softmax, uniform_divergence
from ssl_jax.losses.reconstruction import logit_laplace_error
from ssl_jax.nets.backbones.dalle import make as dalle
from ssl_jax.nets.backbones.discrete_vae import make as discrete_vae
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.dvae import DVAE
from ssl_jax.objectives.parts.schedules import cosine
from tests.nets import weights as torch

SPEC = Spec(4, 100, 0, 10, 100)


def layer(weights, name, weight="weight", bias="bias"):
    """A convolution (OIHW) of PyTorch with a name, as ours; one of 1x1 also fits `nnx.Linear`."""
    kernel = np.transpose(weights[f"{name}{weight}"], (2, 3, 1, 0))
    return {"kernel": kernel, "bias": weights[f"{name}{bias}"]}


def linear(weights, name):
    conv = layer(weights, name)
    return conv | {"kernel": conv["kernel"][0, 0]}


def block(weights, name):
    return {f"conv{i + 1}": layer(weights, f"{name}net.{2 * i}.") for i in range(3)}


def up(weights, name):
    """A transposed convolution (IOHW): see `nets.convolutional.Upsampler`."""
    kernel = np.transpose(weights[f"{name}weight"], (2, 3, 0, 1))[::-1, ::-1]
    return {"kernel": kernel, "bias": weights[f"{name}bias"]}


def of_lucidrains(w, layers, count):
    """Strided layers, and `count` residual blocks at the encoder's end and the decoder's start."""
    encoder = {f"stage{i + 1}": {"conv": layer(w, f"encoder.{i}.0.")} for i in range(layers)}
    encoder[f"stage{layers}"]["blocks"] = {
        str(i): block(w, f"encoder.{layers + i}.") for i in range(count)
    }
    ups = {f"stage{i + 1}": {"conv": up(w, f"decoder.{1 + count + i}.0.")} for i in range(layers)}
    decoder = ups | {
        "codebook": {"kernel": w["codebook.weight"]},
        "input": linear(w, "decoder.0."),
        "blocks": {str(i): block(w, f"decoder.{1 + i}.") for i in range(count)},
        "out": linear(w, f"decoder.{1 + count + layers}."),
    }
    head = {"linear1": linear(w, f"encoder.{layers + count}.")}
    return {"backbone": encoder, "decoder": decoder, "tokenizer": head}


def of_beit(w, layers):
    """Strided layers, each with a residual block, in encoder and decoder."""
    encoder, decoder = (
        {
            f"stage{i + 1}": {
                "conv": conv(w, f"{name}.{2 * i}.0."),
                "blocks": {"0": block(w, f"{name}.{2 * i + 1}.")},
            }
            for i in range(layers)
        }
        for name, conv in (("encoder", layer), ("decoder", up))
    )
    out = linear(w, f"decoder.{2 * layers}.")
    decoder |= {"codebook": {"kernel": w["codebook.weight"]}, "out": out}
    head = {"linear1": linear(w, f"encoder.{2 * layers}.")}
    return {"backbone": encoder, "decoder": decoder, "tokenizer": head}


def dalle_part(w, part, blocks):
    """The groups of DALL-E's encoder or decoder, with its first convolution."""
    out = {"input" if part == "enc" else "codebook": layer(w, f"{part}.blocks.input.", "w", "b")}
    for g in range(1, 5):
        group = {}
        for b in range(blocks):
            name = f"{part}.blocks.group_{g}.block_{b + 1}."
            convs = {
                f"conv{i}": layer(w, f"{name}res_path.conv_{i}.", "w", "b") for i in range(1, 5)
            }
            if f"{name}id_path.w" in w:
                convs["shortcut"] = layer(w, f"{name}id_path.", "w", "b")
            group[str(b)] = convs
        out[f"group{g}"] = {"blocks": group}
    return out


class GoldenTest(parameterized.TestCase):
    @parameterized.product(release=("lucidrains", "beit"), hard=(False, True))
    def test_loss_and_gradients(self, release, hard):
        weights, data = torch.load(f"dvae_{release}")
        layers, count = int(data["hp_layers"]), int(data["hp_resblocks"])
        order, count, params = (
            ("end", count, of_lucidrains(weights, layers, count))
            if release == "lucidrains"
            else ("each", 1, of_beit(weights, layers))
        )
        width = params["tokenizer"]["linear1"]["kernel"].shape[0]
        vocabulary, code_dim = weights["codebook.weight"].shape
        batch, _, side, _ = data["in_x"].shape
        grid = data["in_gumbel"].shape[2:]
        made = DVAE(
            discrete_vae(layers, width, blocks=count, order=order),
            SPEC,
            view=View(side, recipe="none"),
            vocabulary=vocabulary,
            code_dim=code_dim,
            temperature=(1.0, float(data["hp_tau"])),
            # The release sums over the batch and all places.
            kl_weight=float(data["hp_kl_weight"]) * batch * grid[0] * grid[1],
            kl_per="place",
            straight_through=hard,
            likelihood="smooth_l1" if data["hp_smooth_l1"] else "squared",
            average=0.0,
            temperature_steps=1,
            kl_steps=1,
        )
        noise = np.moveaxis(data["in_gumbel"], 1, -1)
        made.__dict__["noise"] = lambda keys, shape: jnp.asarray(noise)
        images = torch.nhwc(data["in_x"])
        if release == "lucidrains":
            images = (images - 0.5) / 0.5
        extra = {"stats": {"backbone": {}, "decoder": {}, "tokenizer": {}}}

        def loss(params):
            views = {"views": (images[:, None],), "index": np.arange(batch, dtype=np.int32)}
            value, aux = made.loss(params, extra, views, jax.random.key(0), 1)
            return value, aux.metrics

        step = torch.jit(jax.value_and_grad(loss, has_aux=True))
        (value, metrics), grads = step(jax.tree.map(jnp.asarray, params))
        suffix = "_hard" if hard else ""
        np.testing.assert_allclose(value, data[f"out_loss{suffix}"], rtol=1e-5)
        if not hard:
            np.testing.assert_allclose(metrics["reconstruction"], data["out_recon_loss"], rtol=1e-5)
            kl = metrics["kl_per_place"] * batch * grid[0] * grid[1]
            np.testing.assert_allclose(kl, data["out_kl"], rtol=1e-5)
            codes = made.encoder(params, extra).codes(images)
            np.testing.assert_array_equal(codes.reshape(batch, -1), data["out_indices"])
        for key, actual in (
            ("codebook", grads["decoder"]["codebook"]["kernel"]),
            ("enc_last_w", grads["tokenizer"]["linear1"]["kernel"].T[..., None, None]),
        ):
            torch.assert_close(actual, data[f"grad_{key}{suffix}"], 1e-4, key)
        if not hard:
            first = np.transpose(grads["backbone"]["stage1"]["conv"]["kernel"], (3, 2, 0, 1))
            torch.assert_close(first, data["grad_enc_first_w"], 1e-4)

    def test_dalle(self):
        weights, data = torch.load("dalle_dvae")
        width, blocks = int(data["hp_n_hid"]), int(data["hp_blk"])
        code_dim, vocabulary = weights["dec.blocks.input.w"].shape[:2]
        side = data["in_x01"].shape[-1]
        made = DVAE(
            dalle(width, blocks),
            SPEC,
            view=View(side, recipe="dalle"),
            average=0.0,
            vocabulary=vocabulary,
            code_dim=code_dim,
        )
        output = layer(weights, "enc.blocks.output.conv.", "w", "b")
        decoder = dalle_part(weights, "dec", blocks)
        decoder["out"] = layer(weights, "dec.blocks.output.conv.", "w", "b")
        params = {
            "backbone": dalle_part(weights, "enc", blocks),
            "decoder": decoder,
            "tokenizer": {"linear1": output | {"kernel": output["kernel"][0, 0]}},
        }
        images = torch.nhwc(data["in_x01"]) * 0.8 + 0.1
        torch.assert_close(images, torch.nhwc(data["out_mapped"]), 1e-6)

        def run(params):
            nets = made.networks.bind(params, {}, train=False)
            logits = nets.tokenizer(nets.backbone(images).map)
            codes = jnp.argmax(logits, -1)
            hard = nets.decoder(jax.nn.one_hot(codes, vocabulary))
            soft = nets.decoder(jax.nn.softmax(logits))
            score = jnp.mean(logits**2) + jnp.mean(hard**2)
            return score, (logits, codes, hard, soft, made.decode(nets, codes))

        step = torch.jit(jax.value_and_grad(run, has_aux=True))
        (_, (logits, codes, hard, soft, decoded)), grads = step(jax.tree.map(jnp.asarray, params))
        np.testing.assert_array_equal(codes, data["out_codes"])
        for key, actual in (("logits", logits), ("dec_stats", hard), ("dec_stats_soft", soft)):
            torch.assert_close(actual, torch.nhwc(data[f"out_{key}"]), 1e-4, key)
        recon = np.clip((decoded - 0.1) / 0.8, 0, 1)
        torch.assert_close(recon, torch.nhwc(data["out_recon"]), 1e-4)
        first = np.transpose(grads["backbone"]["input"]["kernel"], (3, 2, 0, 1))
        torch.assert_close(first, data["grad_enc_input_w"], 1e-4)
        last = np.transpose(grads["decoder"]["out"]["kernel"], (3, 2, 0, 1))
        torch.assert_close(last, data["grad_dec_out_w"], 1e-4)
        error = logit_laplace_error(soft, images)
        np.testing.assert_allclose(error, data["out_nll_soft_own"], rtol=1e-4)

    @parameterized.parameters(
        (dalle(), 8192, 128, "logit_laplace", 53_786_240 + 43_829_766),
        (discrete_vae(3, 256), 8192, 512, "squared", 20_081_411),
        (discrete_vae(4, 256), 8192, 512, "squared", 24_670_979),
        (discrete_vae(3, 64), 8192, 512, "squared", 5_984_963),
    )
    def test_published_sizes(self, net, vocabulary, code_dim, likelihood, expected):
        made = DVAE(
            net,
            SPEC,
            view=View(112, recipe="dalle"),
            vocabulary=vocabulary,
            code_dim=code_dim,
            likelihood=likelihood,
        )
        params, _ = jax.eval_shape(made.init, jax.random.key(0))
        self.assertEqual(tree.count(params), expected)
        self.assertEqual(made.shapes.map.shape[0], 112 // (16 if expected == 24_670_979 else 8))


class PiecesTest(parameterized.TestCase):
    def test_divergence_of_a_uniform_and_of_a_certain_code(self):
        logits = jnp.stack([jnp.full(8, 3.0), 1e4 * jax.nn.one_hot(2, 8)])
        np.testing.assert_allclose(uniform_divergence(logits), [0, np.log(8)], atol=1e-6)

    def test_cold_samples_are_one_hot_and_follow_the_distribution(self):
        logits = jnp.log(jnp.array([0.5, 0.3, 0.2]))
        noise = jax.random.gumbel(jax.random.key(0), (20_000, 3))
        samples = gumbel_softmax(jnp.broadcast_to(logits, noise.shape), noise, 1e-4)
        np.testing.assert_allclose(samples.sum(-1), 1, atol=1e-5)
        np.testing.assert_allclose(samples.mean(0), [0.5, 0.3, 0.2], atol=0.015)
        self.assertGreater(float(jnp.mean(samples.max(-1) > 0.99)), 0.99)

    def test_straight_through_is_hard_forward_and_soft_backward(self):
        logits, noise = (torch.random_images(2, 5)[i] for i in range(2))
        weights = torch.random_images(3, 5)[2]
        hard = gumbel_softmax(logits, noise, 0.7, hard=True)
        self.assertEqual(sorted(np.unique(np.round(hard, 6)).tolist()), [0, 1])
        slopes = [
            jax.grad(lambda x, h=h: jnp.sum(weights * gumbel_softmax(x, noise, 0.7, h)))(logits)
            for h in (False, True)
        ]
        np.testing.assert_allclose(*slopes, rtol=1e-5)

    def test_logit_laplace_is_a_density(self):
        x = np.linspace(1e-4, 1 - 1e-4, 20_001).reshape(-1, 1, 1, 1)
        for mean, log_scale in ((0.0, 0.0), (0.8, -1.0)):
            prediction = np.broadcast_to(np.array([mean, log_scale]), (*x.shape[:3], 2))
            each = jax.vmap(logit_laplace_error)(prediction[:, None], x[:, None])
            total = np.trapezoid(np.exp(-np.asarray(each)), x.ravel())
            np.testing.assert_allclose(total, 1, atol=2e-3)

    def test_usage(self):
        used, perplexity = code_usage(jnp.array([[0, 1], [5, 5]]), 8)
        np.testing.assert_allclose((used, perplexity), (3, 2**1.5), rtol=1e-6)

    def test_schedule(self):
        values = [float(cosine(jnp.int32(s), 100, 1.0, 1 / 16)) for s in (0, 50, 100, 500)]
        np.testing.assert_allclose(values, [1, (1 + 1 / 16) / 2, 1 / 16, 1 / 16], rtol=1e-6)


class ErrorsTest(parameterized.TestCase):
    @parameterized.parameters(
        (resnet_small(8), {}, "resnet8 has no decoder of codes"),
        (discrete_vae(2, 8), {"size": 30}, "view.size: 30 px do not fit .* use 32"),
        (discrete_vae(2, 8), {"recipe": "mae"}, "'logit_laplace' needs pixels within"),
    )
    def test_one_line(self, net, view, message):
        view = {"size": 16, "recipe": "dalle"} | view
        with self.assertRaisesRegex(UserError, message) as caught:
            _ = DVAE.make(net, SPEC, view=view).networks
        self.assertNotIn("\n", str(caught.exception))


if __name__ == "__main__":
    absltest.main()
