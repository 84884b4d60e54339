"""MSN against its release, on embeddings and with its networks; PMSN against lightly's."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.msn import MSN
from ssl_jax.objectives.pmsn import PMSN
from ssl_jax.weights.places import layers
from tests.losses.forms import load
from tests.nets import weights
from tests.objectives import released

LAYERS = {"fc1": "linear1", "bn1": "norm1", "fc2": "linear2", "bn2": "norm2", "fc3": "linear3"}
KEYS = jax.random.split(jax.random.key(0), 4)


def tiny(cls=MSN, net=None, spec=None, **hyper):
    net = net or vit(None, 4, 16, dim=8, depth=1, heads=2)
    sizes = {"views": (View(16, 3), View(8, 2)), "projector": (8, 4), "prototypes": 6}
    return cls(net, spec or Spec(4, 64, 10, 16, 100), **(sizes | hyper))


def values(data, *names):
    """Hyper-parameters of a fixture, by the names that the method gives them."""
    ours = {"tau": "temperature", "T": "sharpening", "memax_weight": "prior_weight",
            "reg_weight": "prior_weight", "ent_weight": "entropy_weight",
            "power_law_exponent": "exponent", "patch_drop": "patch_drop"}  # fmt: skip
    return {ours[name]: float(data[f"hp_{name}"]) for name in names}


def assert_close(actual, expected, rtol):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=rtol * np.abs(expected).max())


class EmbeddedMSN(MSN):
    """The method on embeddings (B, V, 1, 1, D) in place of images."""

    def embed(self, nets, crops, keep=None):
        return crops[:, :, 0, 0]


class EmbeddedPMSN(EmbeddedMSN, PMSN):
    pass


def on_embeddings(cls, data, **hyper):
    """Compute the loss of a fixture's embeddings, and its gradient to anchors and prototypes."""
    method = tiny(cls, views=(View(16, 2),), prototypes=len(data["in_protos"]), **hyper)
    extra = {name: {} for name in ("stats", "teacher", "teacher_stats")}
    target, anchors, prototypes = (
        jnp.asarray(data[f"in_{name}"]) for name in ("target", "anchor", "protos")
    )

    def run(anchors, prototypes):
        rows = anchors.reshape(int(data["hp_num_views"]), *target.shape)  # one view after another
        crops = jnp.stack([target, *rows], axis=1)[:, :, None, None]
        batch = {"views": (crops,), "index": jnp.arange(len(target))}
        params = {"prototypes": prototypes}
        return method.loss(params, extra, batch, jax.random.key(0), jnp.int32(0))

    run = jax.jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True))
    (loss, aux), slopes = run(anchors, prototypes)
    return loss, aux.metrics, slopes


class GoldenTest(parameterized.TestCase):
    @parameterized.parameters((0, ""), (3, "_sinkhorn"))
    def test_msn(self, iterations, suffix):
        data = load("msn", True)
        with jax.enable_x64(True):
            hyper = values(data, "tau", "T")
            _, metrics, slopes = on_embeddings(EmbeddedMSN, data, iterations=iterations, **hyper)
        for ours, theirs in (
            (metrics["prediction_loss"], "ce"),
            (metrics["prior_divergence"], "me_max"),
            (metrics["entropy"], "ent"),
        ):
            np.testing.assert_allclose(ours, data[f"out_{theirs}{suffix}"], rtol=1e-7)
        assert_close(slopes[0], data[f"grad_anchor{suffix}"], 1e-7)
        assert_close(slopes[1], data[f"grad_protos{suffix}"], 1e-7)

    @parameterized.parameters((0, "_nosk"), (3, ""))
    def test_pmsn(self, iterations, suffix):
        data = load("pmsn", True)
        with jax.enable_x64(True):
            hyper = values(data, "tau", "T", "reg_weight", "power_law_exponent")
            hyper["iterations"] = iterations
            loss, metrics, slopes = on_embeddings(EmbeddedPMSN, data, **hyper)
        np.testing.assert_allclose(loss, data[f"out_loss{suffix}"], rtol=1e-7)
        # The prior is in float32 there.
        np.testing.assert_allclose(metrics["prior_divergence"], data["out_reg"], atol=1e-7)
        assert_close(slopes[0], data[f"grad_anchor{suffix}"], 1e-7)
        assert_close(slopes[1], data[f"grad_protos{suffix}"], 1e-7)

    def test_whole_step(self):
        """The release's networks: dropped patches, resized positions, batch norm per size."""
        with jax.enable_x64(True):
            self.check_step(load("msn_step", True))

    def check_step(self, data):
        target, anchor = (data[f"in_{name}_view"] for name in ("target", "anchor"))
        focal = np.moveaxis(data["in_focal_views"], 0, 1)
        batch, _, side, _ = target.shape
        patches = {k: v for k, v in data.items() if ".fc." not in k}
        encoders = {
            name: {
                k.removeprefix(f"in_sd.{name}."): v
                for k, v in patches.items()
                if k.startswith(f"in_sd.{name}.")
            }
            for name in ("enc", "tgt")
        }
        dim = data["grad_cls_token"].shape[-1]
        net = vit(
            None,
            int(data["hp_patch"]),
            side,
            dim=dim,
            depth=layers(encoders["enc"], "blocks."),
            heads=int(data["hp_heads"]),
            mlp_ratio=len(encoders["enc"]["blocks.0.mlp.fc1.bias"]) / dim,
        )
        perm = jnp.asarray(data["in_perm"], jnp.int32)

        class Injected(MSN):
            def keep(self, keys):
                count = super().keep(keys).shape[-1]
                return jnp.broadcast_to(perm[:count], (batch, 1, count))

        fc1, fc3 = data["grad_fc1"], data["grad_fc3"]
        method = tiny(
            Injected,
            net,
            Spec(batch, 64, 10, 16, 100),
            views=(View(side, 2), View(focal.shape[-1], focal.shape[1])),
            projector=(len(fc1), len(fc1), len(fc3)),
            head_norm="batch" if data["hp_use_bn"] else None,
            prototypes=len(data["in_prototypes"]),
            iterations=3 * int(data["hp_use_sinkhorn"]),
            **values(data, "T", "patch_drop", "memax_weight", "ent_weight"),
        )
        names = {f"fc.{theirs}": ours for theirs, ours in LAYERS.items()}
        online, average = (
            {
                "backbone": weights.convert(net, encoders[name])[0],
                "projector": released.weights(data, f"in_sd.{name}.", names),
            }
            for name in ("enc", "tgt")
        )
        if method.head_norm:  # the batch norm takes the bias before it away again
            for name in ("linear1", "linear2"):
                del online["projector"][name]["bias"], average["projector"][name]["bias"]
        online["prototypes"] = data["in_prototypes"]
        wide = lambda t: jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), t)  # noqa: E731
        shapes = jax.eval_shape(method.init, jax.random.key(0))[1]["stats"]
        stats = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes)  # training does not read them
        extra = {"stats": stats, "teacher": wide(average), "teacher_stats": stats}
        crops = released.images(target, anchor), released.images(focal)
        views = {"views": crops, "index": jnp.arange(batch)}

        @jax.jit
        def run(params):
            return method.loss(params, extra, views, jax.random.key(0), jnp.int32(0))

        (loss, aux), slopes = jax.value_and_grad(run, has_aux=True)(wide(online))
        np.testing.assert_allclose(loss, data["out_loss"], rtol=1e-7)
        ours = [aux.metrics[k] for k in ("prediction_loss", "prior_divergence")]
        np.testing.assert_allclose(ours, [data["out_ploss"], data["out_memax"]], rtol=1e-6)
        if method.entropy_weight:
            np.testing.assert_allclose(aux.metrics["entropy"], data["out_ent"], rtol=1e-6)
        backbone, projector = slopes["backbone"], slopes["projector"]
        for ours, theirs in (
            (slopes["prototypes"], "prototypes"),
            (backbone["cls_token"], "cls_token"),
            (backbone["pos_embed"], "pos_embed"),
            (backbone["patch_embed"]["kernel"].transpose(3, 2, 0, 1), "patch_proj"),
            (backbone["blocks"]["attn"]["qkv"]["kernel"][0].T, "qkv0"),
            (projector["linear1"]["kernel"].T, "fc1"),
            (projector["linear3"]["kernel"].T, "fc3"),
        ):
            assert_close(ours, data[f"grad_{theirs}"], 1e-6)


class MSNTest(parameterized.TestCase):
    def test_patches_belong_to_the_example_and_differ_between_anchors(self):
        draw = jax.jit(tiny(patch_drop=0.3).keep)
        keep = np.asarray(draw(KEYS))
        self.assertEqual(keep.shape, (4, 2, 11))
        self.assertTrue(all(len(set(row)) == 11 for row in keep.reshape(-1, 11)))
        self.assertTrue((keep[:, 0] != keep[:, 1]).any())
        np.testing.assert_array_equal(draw(KEYS[::-1]), keep[::-1])

    def test_the_average_is_of_the_encoder_and_never_complete(self):
        method = tiny()
        params, extra = jax.eval_shape(method.init, jax.random.key(0))
        self.assertEqual(set(params) - set(extra["teacher"]), {"prototypes"})
        params, average = {"projector": 1.0, "prototypes": 1.0}, {"teacher": {"projector": 0.0}}
        params, average = jax.tree.map(jnp.asarray, (params, average))
        for step, change in ((0, 0.004), (100, 0.0008)):  # of 100 steps
            _, after = method.after_update(params, average, {}, jnp.int32(step))
            np.testing.assert_allclose(after["teacher"]["projector"], change, rtol=1e-4)

    def test_the_prior_moves_the_mean_assignment(self):
        """At PMSN's minimum the k-th prototype has its share of the power law, at MSN's 1 / K."""
        shares = np.arange(1, 7) ** -0.5
        law, even = shares / shares.sum(), np.full(6, 1 / 6)
        for method, best, other in (
            (tiny(PMSN, exponent=0.5), law, even),
            (tiny(MSN), even, law),
        ):
            np.testing.assert_allclose(method.prior_divergence(jnp.log(best)), 0, atol=1e-6)
            self.assertGreater(method.prior_divergence(jnp.log(other)), 0.01)

    @parameterized.parameters(
        (lambda: tiny(views=(View(16), View(8, 2))), "set its count to 2 or more"),
        (lambda: tiny(views=()), "set its count to 2 or more"),
        (lambda: tiny(net=resnet_small(width=8)).networks, "needs a ViT backbone"),
        (lambda: jax.eval_shape(tiny(patch_drop=0.99).keep, KEYS), "leaves none of 16 patches"),
    )
    def test_errors(self, make, message):
        with self.assertRaisesRegex(UserError, message):
            make()


if __name__ == "__main__":
    absltest.main()
