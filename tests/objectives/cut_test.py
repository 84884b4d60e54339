"""CUT and FastCUT: whole training steps of the released code; networks, draws and messages."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from ssl_jax.augment.patches import random_places
from ssl_jax.core import tree
from ssl_jax.core.chain import Transform
from ssl_jax.core.errors import UserError
from ssl_jax.data.sources import ArraySource
from ssl_jax.nets.backbones import resnet_generator, resnet_small
from ssl_jax.nets.discriminators import patch_discriminator
from ssl_jax.nets.resampling import doubled, halved, reflected
from ssl_jax.objectives import cut
from ssl_jax.objectives.base import Spec, View
from ssl_jax.optim.factory import OptimConfig, make_optimizer
from ssl_jax.run.configs import load_config
from ssl_jax.run.experiment import Experiment
from tests.losses.forms import load
from tests.objectives import released
from tests.objectives.released import hyper

PLAIN = Transform(mean=(0.5,), std=(0.5,))
NETWORKS = ("G", "D", "F")
LAYERS = (0, 4, 8, 12, 16)  # of the release, in the order of `CUT.layers`
# The release's layer -> ours; it has biases before an instance norm, which cancels them.
GENERATOR = {"model.1": "backbone/stem", "model.4": "backbone/down1", "model.8": "backbone/down2"}
GENERATOR |= {
    f"model.{12 + i}.conv_block.{1 if c == 1 else 5}": f"backbone/blocks/{i}/conv{c}"
    for i in range(6)
    for c in (1, 2)
}
GENERATOR |= {
    "model.19": "decoder/up1",
    "model.23": "decoder/up2",
    "model.27": "decoder/out",
}
DISCRIMINATOR = {
    "model.0": "discriminator/conv1",
    "model.3": "discriminator/conv2",
    "model.7": "discriminator/conv3",
    "model.11": "discriminator/conv4",
    "model.14": "discriminator/out",
}
PROJECTIONS = {
    f"mlp_{i}.{0 if k == 0 else 2}": f"projections/map{i + 1}/{k}"
    for i in range(5)
    for k in range(2)
}
BIASED = ("down1", "down2", "decoder/out", "discriminator/conv1", "discriminator/out", "map")


def params_of(data, kind, dtype=np.float32):
    """The three networks under `kind` ("in", "grad", "out") as our parameters."""
    merged = {}
    names = (GENERATOR, DISCRIMINATOR, PROJECTIONS)
    for network, layers in zip(NETWORKS, names, strict=True):
        own = {
            key: value
            for key, value in data.items()
            if key.startswith(f"{kind}_{network}.")
            and (value.ndim > 1 or any(b in layers[bare(key, kind)] for b in BIASED))
        }
        for path, leaf in tree.named_leaves(
            released.weights(own, f"{kind}_{network}.", layers, dtype=dtype)
        ).items():
            *outer, last = path.split("/")
            at = merged
            for part in outer:
                at = at.setdefault(part, {})
            at["bias" if leaf.ndim == 1 else last] = leaf
    return merged


def bare(key, kind):
    return key.removeprefix(f"{kind}_")[2:].rpartition(".")[0]


def nhwc(x):
    return np.moveaxis(x, -3, -1)


def generator(params):
    return resnet_generator.make(6, params["backbone"]["stem"]["kernel"].shape[-1])


class Injected(cut.CUT):
    """Losses with the fixture's mirroring, which the test puts into `__dict__`."""

    def draw_mirror(self, key):
        return self.__dict__["injected_mirror"]


def make(side=16, channels=3, blocks=2, **hyper):
    """A small generator, with the layers that it has."""
    view = View(side, area=(1.0, 1.0), recipe=PLAIN)
    small = {"view": view, "patches": 8, "patch_width": 4, "layers": ("image", "down2", "block1")}
    sizes = {"discriminator_width": 2, "discriminator_layers": 1}
    net = resnet_generator.make(blocks, 2, channels=channels)
    spec = Spec(2, 100, 0, 1, 3, channels=channels)
    return cut.make(net, spec, **(small | sizes | hyper))


class RefusalsTest(parameterized.TestCase):
    @parameterized.parameters(
        ({"layers": ("image", "block3")}, "no layer 'block3'; expected some of image, down1, "),
        ({"layers": ()}, "none; PatchNCE compares"),
        ({"side": 18}, "view.size: 18 px do not fit .*; use 16 x 16"),
        ({"view": View(16, recipe="flip")}, r"images are in \[-1, 1\]; set mean and std"),
        ({"view": View(16, count=2, recipe=PLAIN)}, "view.count: expected 1, got 2"),
        ({"mirror": 1.5}, "mirror"),
    )
    def test_settings(self, hyper, message):
        with self.assertRaisesRegex(UserError, message) as caught:
            make(**hyper)
        self.assertLen(str(caught.exception).splitlines(), 1)

    def test_other_backbones(self):
        with self.assertRaisesRegex(UserError, "no decoder of images; set backbone.name='resnet_g"):
            make().with_backbone(resnet_small.make(4))

    def test_images_too_small_for_the_discriminator(self):
        net = patch_discriminator(3, 2, 3)
        with self.assertRaisesRegex(UserError, "16 x 16 px are too small for 3 layers"):
            jax.eval_shape(
                lambda: net.apply(
                    net.init(jax.random.key(0))[0], {}, jnp.zeros((1, 16, 16, 3)), train=True
                )
            )

    def test_a_target_with_other_channels(self):
        config = load_config("cut:digits")
        made = Experiment.from_config(config)
        made.__dict__["streams"] = {"target": ArraySource("rgbn", np.zeros((9, 8, 8, 4), np.uint8))}
        with self.assertRaisesRegex(UserError, "rgbn has 4 channels, and .* are read with 1"):
            made.spec  # noqa: B018
        colour = ArraySource("rgb", np.zeros((9, 5, 7, 3), np.uint8))  # sizes may differ
        made.__dict__["streams"] = {"target": colour}
        self.assertEqual(made.spec.channels, 1)


class DrawsTest(absltest.TestCase):
    def test_places_are_drawn_without_repetition(self):
        few, many = random_places(jax.random.key(0), [5, 100], 8)
        self.assertCountEqual(few.tolist(), range(5))
        self.assertLen(set(many.tolist()), 8)
        self.assertLess(int(many.max()), 100)

    def test_both_turns_mirror_alike(self):
        made = make(mirror=0.5)
        image = jnp.arange(2 * 16 * 16 * 3, dtype=jnp.float32).reshape(2, 1, 16, 16, 3)
        batch = {"views": (image,), "target": {"views": (image,)}}
        draws = [made.shown(batch, jax.random.key(i)) for i in range(20)]
        for source, target, mirrored in draws:
            np.testing.assert_array_equal(source, target)
            np.testing.assert_array_equal(source, image[:, 0, :, :: -1 if mirrored else 1])
        self.assertBetween(sum(int(m) for *_, m in draws), 4, 16)


class GoldenTest(parameterized.TestCase):
    def test_networks(self):
        data = load("cut_networks", wide=False)
        params = params_of(data, "in")
        net = generator(params)
        decoder = net.config.image_decoder(3)
        width = params["discriminator"]["conv1"]["bias"].size
        discriminator = patch_discriminator(3, width, 3)

        def run(x):
            out = net.apply(params["backbone"], {}, x, train=True, stages=True)[0]
            image = decoder.apply(params["decoder"], {}, out.map, train=True)[0]
            scores = discriminator.apply(params["discriminator"], {}, image, train=True)[0]
            layers = [reflected(x, 3), *(out[n] for n in ("down1", "down2", "block1", "block5"))]
            return jnp.sum(scores * nhwc(data["in_w"])), (image, scores, layers)

        x = jnp.asarray(nhwc(data["in_x"]))
        grad, (image, scores, layers) = jax.jit(jax.grad(run, has_aux=True))(x)
        close = lambda a, b: np.testing.assert_allclose(a, nhwc(b), rtol=1e-4, atol=1e-4)  # noqa: E731
        close(image, data["out_G"])
        close(scores, data["out_D"])
        for layer, number in zip(layers, LAYERS, strict=True):
            close(layer, data[f"out_feat_l{number}"])
        expected = nhwc(data["grad_x"])
        np.testing.assert_allclose(grad, expected, rtol=0, atol=1e-3 * np.abs(expected).max())

    def test_resampling(self):
        data = load("cut_networks", wide=False)
        small = jnp.asarray(nhwc(data["in_small"]))
        np.testing.assert_allclose(halved(small), nhwc(data["out_downsample"]), rtol=1e-5)
        np.testing.assert_allclose(doubled(small), nhwc(data["out_upsample"]), rtol=1e-5)

    def test_training_steps_of_cut(self):
        self.check_steps("cut_step")

    @pytest.mark.full
    def test_training_steps_of_fastcut(self):
        self.check_steps("fastcut_step")

    def check_steps(self, name):
        """Losses of three steps, gradients of the first, and the weights after the last."""
        data = load(name, wide=False)
        params = params_of(data, "in")
        side, batch = data["in_A"].shape[-1], data["in_A"].shape[1]
        made = Injected(
            generator(params),
            Spec(batch, 100, 0, 1, 3),
            view=View(side, area=(1.0, 1.0), recipe=PLAIN),
            patches=int(data["hp_num_patches"]),
            patch_width=params["projections"]["map1"]["0"]["bias"].size,
            temperature=hyper(data, "nce_T"),
            nce_weight=hyper(data, "lambda_NCE"),
            identity=bool(data["hp_nce_idt"]),
            mirror=0.5 if "in_flip" in data else 0.0,
            discriminator_width=params["discriminator"]["conv1"]["bias"].size,
        )
        config = OptimConfig(
            name="adamw",
            lr=hyper(data, "lr"),
            lr_scaling="none",
            schedule="constant",
            b1=hyper(data, "betas", (0,)),
            b2=hyper(data, "betas", (1,)),
        )
        sizes = {"batch_size": batch, "total_steps": 3, "steps_per_epoch": 1}
        tx, _ = make_optimizer(config, params, made.groups(), **sizes)
        state, extra = tx.init(params), {"stats": {n: {} for n in made.networks.nets}}
        step = released.train_step(made, tx)

        @jax.jit
        def run(params, extra, state, batch, number, places, mirror):
            made.__dict__["injected_mirror"], draws = mirror, iter(places)
            with mock.patch.object(cut, "random_places", lambda *_: next(draws)):
                return step(params, extra, state, batch, number)

        for s in range(len(data["in_A"])):
            index = jnp.arange(batch)
            source, target = (
                {"views": (jnp.asarray(nhwc(data[k][s])[:, None]),), "index": index}
                for k in ("in_A", "in_B")
            )
            places = [
                [jnp.asarray(data[f"in_ids_{which}_l{n}"][s]) for n in LAYERS]
                for which in ("A", "Y")
                if f"in_ids_{which}_l0" in data
            ]
            mirror = jnp.asarray(bool(data["in_flip"][s])) if "in_flip" in data else None
            whole = source | {"target": target}
            loss, params, extra, state = run(
                params, extra, state, whole, jnp.int32(s), places, mirror
            )
            total = data["out_loss_D"][s] + data["out_loss_G"][s]
            np.testing.assert_allclose(loss, total, rtol=1e-4)
            if s == 0:  # Adam's first moment is 1 - b1 of the gradient
                grads = tree.named_leaves(params_of(data, "grad"))
                moments = {}
                for group in state.values():
                    moments |= tree.named_leaves(group.mu)
                self.assertEqual(moments.keys(), grads.keys())
                for path, grad in grads.items():
                    np.testing.assert_allclose(
                        moments[path] / (1 - config.b1),
                        grad,
                        rtol=0,
                        atol=1e-3 * np.abs(grad).max(),
                        err_msg=path,
                    )
        expected = tree.named_leaves(params_of(data, "out"))
        ours = tree.named_leaves(params)
        self.assertEqual(ours.keys(), expected.keys())
        for path, leaf in expected.items():
            close = np.abs(ours[path] - leaf) < 0.1 * config.lr
            self.assertGreater(np.mean(close), 0.99, path)


if __name__ == "__main__":
    absltest.main()
