"""Each kind of collapse is forced and diagnosed, and healthy runs are not."""

import io
import math

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from rich.console import Console

from ssl_jax.core import sharding
from ssl_jax.core.inputs import View
from ssl_jax.data.sources import open_source
from ssl_jax.evals.base import Subject
from ssl_jax.evals.collapse import Kind, cluster_entropy, diagnose
from ssl_jax.evals.images import Images
from ssl_jax.evals.protocols.diagnostics import Diagnostics
from ssl_jax.nets.backbones.discrete_vae import make as discrete_vae
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.nets.codes import code_head
from ssl_jax.nets.features import Features, Stage
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import Encoder, Heads, ImageTokenizer, Probe
from ssl_jax.run.console import final_table
from ssl_jax.run.trainer import alarmed

# Last evaluations of runs of the digits recipes that learned (kNN well above the untrained net's).
HEALTHY = {  # feature_std, rankme, then those of the untrained network; 64 dimensions each
    "byol": (0.635, 24.7, 0.457, 36.5),
    "simclr": (0.608, 29.0, 0.457, 36.5),
    "sela": (0.781, 23.0, 0.457, 36.5),
    "mae": (0.524, 17.4, 0.130, 4.21),
    "ibot": (0.211, 4.39, 0.230, 4.47),
    "simmim": (0.129, 5.32, 0.235, 4.46),
    "moco_v3": (0.165, 6.62, 0.109, 4.62),
    "dino": (0.139, 5.41, 0.109, 4.62),
    "context_prediction": (0.233, 32.8, 0.303, 46.7),
}


def numbers(std=0.6, rank=29.0, **more):
    return {"feature_std": std, "rankme": rank, "dimensions": 64.0} | more


def subject(encoder):
    source = open_source("digits", "train")
    mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
    view = View(16, recipe="digits")
    images = Images.of(source, None, 128, 128, view=view, channels=1, batch_size=128, mesh=mesh)
    return Subject(encoder, images, Probe(pool="avg"))


def made(stage, clusters=None):
    """An encoder whose only stage is a function of the mean pixel and the row of its batch."""

    def apply(params, stats, images, *, train, stages):
        rows = stage(images)
        layer = Stage(name="stage1", map=rows[:, None, None])
        return Features(pooled=rows, stages=(layer,)), stats

    heads = clusters and Heads({}, lambda _, pooled: [clusters(pooled)])
    return Encoder({}, {}, Net(lambda key: ({}, {}), apply), clusters=heads)


def spread_out(images):
    return images.reshape(len(images), -1)[:, :64]


class DiagnoseTest(parameterized.TestCase):
    @parameterized.named_parameters((name, *row) for name, row in HEALTHY.items())
    def test_runs_that_learned_are_healthy(self, std, rank, std_before, rank_before):
        finding = diagnose(numbers(std, rank), numbers(std_before, rank_before))
        self.assertEqual(finding.kind, Kind.NONE)

    @parameterized.named_parameters(
        ("far_below_untrained", numbers(0.12), numbers(0.45), Kind.CONSTANT),
        ("without_baseline", numbers(0.02), None, Kind.CONSTANT),
        ("low_as_the_untrained", numbers(0.12), numbers(0.13), Kind.NONE),
        ("low_without_baseline", numbers(0.12), None, Kind.NONE),
        ("rank_fell", numbers(rank=5.0), numbers(rank=36.0), Kind.DIMENSIONAL),
        ("rank_fell_not_far_enough", numbers(rank=7.0), numbers(rank=36.0), Kind.NONE),
        ("rank_one", numbers(rank=1.0), None, Kind.DIMENSIONAL),
        ("constant_goes_first", numbers(0.01, 1.0), None, Kind.CONSTANT),
        ("few_clusters", numbers(cluster_entropy=0.1), numbers(cluster_entropy=0.5), Kind.CLUSTER),
        ("as_untrained", numbers(cluster_entropy=0.1), numbers(cluster_entropy=0.1), Kind.NONE),
        ("one_cluster", numbers(cluster_entropy=0.04), None, Kind.CLUSTER),
        ("many_clusters", numbers(cluster_entropy=0.5), None, Kind.NONE),
        ("few_codes", numbers(code_entropy=0.1), numbers(code_entropy=0.5), Kind.CODES),
        ("one_code", numbers(code_entropy=0.04), None, Kind.CODES),
        ("codes_in_use", numbers(code_entropy=0.4), numbers(code_entropy=0.9), Kind.NONE),
        ("no_numbers", {}, None, Kind.NONE),
        ("two_images_have_no_rank", numbers(rank=1.5) | {"dimensions": 2.0}, None, Kind.NONE),
    )
    def test_thresholds(self, measurement, untrained, kind):
        self.assertEqual(diagnose(measurement, untrained).kind, kind)

    def test_entropy_of_clusters(self):
        even = np.eye(8)[np.arange(64) % 8]
        self.assertAlmostEqual(float(cluster_entropy([jnp.asarray(even)])), 1.0, places=6)
        constant = np.eye(8)[np.zeros(64, int)]
        self.assertEqual(float(cluster_entropy([jnp.asarray(constant)])), 0.0)
        half = np.eye(8)[np.arange(64) % 2]
        self.assertAlmostEqual(float(cluster_entropy([jnp.asarray(half)])), 1 / 3, places=6)
        self.assertEqual(float(cluster_entropy([jnp.asarray(even), jnp.asarray(constant)])), 0.0)
        few_images = np.eye(1000)[np.arange(10)]
        self.assertAlmostEqual(float(cluster_entropy([jnp.asarray(few_images)])), 1.0, places=6)


class ForcedTest(parameterized.TestCase):
    """Each kind, from encoders to the line in the terminal."""

    def kind(self, encoder):
        return diagnose(Diagnostics().measure(subject(encoder))).kind

    def test_the_same_features_for_all_images(self):
        constant = lambda images: jnp.ones((len(images), 64)) + 1e-3 * spread_out(images)  # noqa: E731
        self.assertEqual(self.kind(made(constant)), Kind.CONSTANT)

    def test_features_of_rank_one(self):
        line = jax.random.normal(jax.random.key(0), (64,))
        mean = lambda images: images.mean((1, 2, 3))  # noqa: E731
        features_of = lambda images: (mean(images) - mean(images).mean())[:, None] * line  # noqa: E731
        self.assertEqual(self.kind(made(features_of)), Kind.DIMENSIONAL)

    def test_one_cluster(self):
        first = lambda pooled: jnp.eye(10)[jnp.zeros(len(pooled), int)]  # noqa: E731
        self.assertEqual(self.kind(made(spread_out, first)), Kind.CLUSTER)
        by_pixel = lambda pooled: pooled[:, 24:34]  # noqa: E731
        self.assertEqual(self.kind(made(spread_out, by_pixel)), Kind.NONE)

    def test_one_code(self):
        """A tokenizer whose head prefers one code at every place, and one that follows the map."""
        net, head = discrete_vae(2, 4, channels=1), code_head(4, 4)
        params, stats = net.init(jax.random.key(0))
        measured = {}
        for name, bias in (("constant", 1e3), ("varied", 0.0)):
            linear = {"kernel": jnp.eye(4), "bias": bias * jnp.eye(4)[0]}
            tokenizer = ImageTokenizer({"linear1": linear}, head)
            encoder = Encoder(params, stats, net, tokenizer=tokenizer)
            numbers = Diagnostics().measure(subject(encoder))
            codes = encoder.codes(jnp.zeros((1, 16, 16, 1)))
            self.assertEqual(codes.shape, (1, 4, 4))
            measured[name] = {k: numbers[k] for k in ("code_entropy", "codes_used")}
        self.assertEqual(measured["constant"], {"code_entropy": 0.0, "codes_used": 1.0})
        self.assertEqual(diagnose(measured["constant"]).kind, Kind.CODES)
        self.assertGreater(measured["varied"]["codes_used"], 1)

    def test_untrained_networks_are_healthy(self):
        tokens = vit(None, 4, 16, dim=64, depth=2, heads=2, channels=1)
        for net in (resnet_small(width=16, channels=1), tokens):
            encoder = Encoder(*net.init(jax.random.key(0)), net)
            self.assertEqual(self.kind(encoder), Kind.NONE)


class TerminalTest(parameterized.TestCase):
    def test_one_line_while_it_lasts_and_a_metric_all_the_time(self):
        console = Console(file=io.StringIO(), width=300)
        before = {f"untrained/diag/{k}": v for k, v in numbers(0.45).items()}
        record = {f"diag/{k}": v for k, v in numbers(0.01).items()}
        last = dict(before)
        for step, values in ((10, numbers()), (20, numbers(0.01)), (30, numbers(0.01))):
            last |= alarmed(console, step, {f"diag/{k}": v for k, v in values.items()}, last)
        self.assertEqual(last["diag/collapse"], 1.0)
        lines = console.file.getvalue().strip().splitlines()
        self.assertLen(lines, 1)
        self.assertStartsWith(lines[0], "step 20: constant collapse")
        self.assertIn("feature_std 0.01, untrained 0.45", lines[0])
        self.assertIn("try a lower optim.lr", lines[0])
        final_table(console, last, "stage -1")
        self.assertIn("constant collapse", console.file.getvalue().splitlines()[-1])
        self.assertEqual(alarmed(console, 40, {"eval/knn_top1": 1.0}, last), {"eval/knn_top1": 1.0})
        self.assertEqual(alarmed(console, 40, record, {})["diag/collapse"], 1.0)

    def test_what_is_not_finite_is_no_finding(self):
        console = Console(file=io.StringIO(), width=200)
        values = numbers(math.nan, math.nan, cluster_entropy=0.0)  # argmax of NaN is one cluster
        measured = {f"diag/{k}": v for k, v in values.items()}
        metrics = alarmed(console, 10, measured, {"diag/collapse": 0.0})
        self.assertTrue(math.isnan(metrics["diag/collapse"]))
        final_table(console, metrics, "stage -1")
        self.assertNotIn("collapse:", console.file.getvalue())


if __name__ == "__main__":
    absltest.main()
