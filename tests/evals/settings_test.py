"""Every setting of every protocol changes the measurement, or is refused, and every number has a
title. The tables below must name each field: a new setting without a second value fails the test.
"""

import dataclasses
import tempfile
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.evals import protocols
from ssl_jax.evals.base import Subject, measured
from ssl_jax.evals.evaluator import EvalsConfig
from ssl_jax.evals.images import Images
from ssl_jax.evals.protocols import corruptions
from ssl_jax.evals.titles import titles_of
from ssl_jax.nets.features import Features, Stage
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import Encoder, Heads, ImageTranslator, Probe, TextTower
from ssl_jax.run import suites
from ssl_jax.training import online_probe
from tests.evals.setting_files import files, squares

LAYER = {"stage": -2, "pool": "avg"}

# Base settings, so that measuring is quick and no number is at its limit.
BASE = {
    "diagnostics": {"examples": 30},
    "lidar": {"examples": 20, "views": 3},
    "layers": {"examples": 30},
    "similarity": {"examples": 30, "other": "1"},
    "zipf": {"examples": 30, "clusters": 4},
    "attention": {"examples": 16},
    "knn": {"k": 9},
    "fewshot": {"shots": (1,), "draws": 2},
    "clustering": {"runs": 1},
    "linear": {"preset": "simclr", "lr": 9.0, "epochs": 9, "batch_size": 16, "holdout": 0.2},
    "linear_grid": {"paper": "dino", "epochs": 9, "batch_size": 16, "rates": (9.0,)},
    "logistic": {"count": 4, "holdout": 0.3},
    "attentive": {"epochs": 2, "batch_size": 16, "heads": 2, "lr": 0.05, "holdout": 0.2},
    "svm": {"shots": (2,), "draws": 1, "costs": (0.1,), "full": False},
    "image_retrieval": {"k": (1,)},
    "retrieval": {"k": 2},
    "corruptions": {"examples": 40},
    "shifts": {"sets": ("npz:{shift}",)},
    "backgrounds": {"data": "{grounds}"},
    "cue_conflict": {"data": "folder:{cues}"},
    "patches": {"train": "{masks}", "test": "{masks2}", "size": 16, "per_image": 4},
    "segmentation": {
        "train": "{masks}",
        "test": "{masks}",
        "size": 16,
        "steps": 9,
        "batch_size": 2,
        "lr": 0.3,
    },
    "depth": {
        "train": "{masks}",
        "test": "{masks}",
        "size": 16,
        "steps": 3,
        "batch_size": 2,
        "lr": 0.1,
        "crop": "eigen",
    },
    "box_patches": {
        "train": "coco:{boxes}",
        "test": "coco:{boxes}#val",
        "size": 16,
        "steps": 3,
        "batch_size": 2,
        "lr": 0.1,
    },
    "normals": {
        "train": "{masks}",
        "test": "{masks}",
        "size": 16,
        "steps": 3,
        "batch_size": 2,
        "lr": 0.1,
    },
    "segmentation_heads": {
        "train": "{masks}",
        "test": "{masks}",
        "head": "fcn",
        "channels": 4,
        "size": 16,
        "scales": (2.0,),
        "steps": 40,
        "batch_size": 4,
        "lr": 0.03,
    },
    "translation": {},
    "few_shot_episodes": {"shots": (1,), "episodes": 9, "ways": 3},
    "copy_detection": {"data": "{copies}", "size": 32},
    "instance_retrieval": {"data": "{oxford}", "size": 32},
    "propagation": {"data": "{videos}", "size": 64, "context": 1, "radius": 2, "k": 2},
}
# A second value of each setting.
OTHER = {
    "diagnostics": {"examples": 20},
    "lidar": {"examples": 10, "views": 2, "delta": 0.5},
    "layers": {"examples": 20},
    "similarity": {"examples": 20, "other": "2"},
    "distance": {},
    "translation": {"target": "{masks}", "examples": 9},
    "zipf": {"examples": 20, "clusters": 3, "exponent": 2.0, "sigma": 3.0, "starts": 1, "draw": 1},
    "attention": {"examples": 8},
    "online": {},
    "knn": {"k": 3, "temperature": 1e-4},
    "fewshot": {"shots": (5,), "fractions": (0.5,), "lists": ("{list}",), "draws": 5},
    "clustering": {
        "part": "test",
        "scaling": "none",
        "clusters": 9,
        "factor": 0.5,
        "runs": 3,
        "superclasses": "{superclasses}",
    },
    "cluster_head": {"head": 1, "part": "train", "superclasses": "{superclasses}"},
    "classifier": {},
    "linear": {
        "preset": "moco",
        "lr": 0.1,
        "weight_decay": 2.0,
        "epochs": 1,
        "batch_size": 5,
        "holdout": 0.5,
        "seed": 1,
    },
    "linear_grid": {
        "paper": "beit",
        "rates": (0.01, 3.0),
        "epochs": 1,
        "batch_size": 5,
        "holdout": 0.5,
        "seed": 1,
    },
    "logistic": {"preset": "dinov2", "count": 1, "holdout": 0.6, "seed": 3},
    "attentive": {
        "lr": 1.0,
        "weight_decay": 20.0,
        "epochs": 20,
        "batch_size": 5,
        "heads": 1,
        "holdout": 0.5,
        "seed": 1,
    },
    "svm": {"shots": (4,), "draws": 3, "full": True, "costs": (100.0,)},
    "image_retrieval": {"k": (3,)},
    "retrieval": {"k": 5},
    "zero_shot": {"templates": "{templates}", "names": "{names}"},
    "corruptions": {"classifier": "knn", "baseline": "alexnet", "examples": 20, "size": 64}
    | {"data": "{corrupted}"},
    "shifts": {"sets": ("npz:{shift2}",), "classifier": "knn", "restrict": False, "examples": 9},
    "backgrounds": {"data": "{grounds2}", "classes": "{swapped}", "classifier": "knn"}
    | {"examples": 9},
    "cue_conflict": {"data": "folder:{cues2}", "classes": "{swapped}", "classifier": "knn"},
    "patches": {
        "train": "{masks2}",
        "test": "{masks}",
        "size": 32,
        "reduce_zero_label": True,
        "per_image": 13,
        "max_images": 2,
        "patch": 2,
    },
    "segmentation": {
        "train": "{masks2}",
        "test": "{masks2}",
        "size": 32,
        "reduce_zero_label": True,
        "steps": 15,
        "batch_size": 3,
        "lr": 2.0,
        "weight_decay": 1.0,
        "seed": 1,
        "patch": 2,
    },
    "depth": {
        "train": "{masks2}",
        "test": "{masks2}",
        "unit": 500.0,
        "far": 2.0,
        "crop": "all",
        "gradient": 0.5,
        "head": "dpt",
        "channels": 8,
        "readout": "project",
        "size": 32,
        "stages": (-2,),
        "steps": 5,
        "batch_size": 3,
        "lr": 3.0,
        "weight_decay": 20.0,
        "seed": 1,
        "patch": 2,
    },
    "box_patches": {"train": "coco:{boxes2}", "test": "coco:{boxes2}#val", "size": 32, "seed": 1}
    | {"max_images": 2, "steps": 5, "batch_size": 3, "lr": 3.0, "weight_decay": 20.0, "patch": 2},
    "normals": {
        "train": "{masks2}",
        "test": "{masks2}",
        "head": "dpt",
        "channels": 8,
        "readout": "project",
        "size": 32,
        "stages": (-2,),
        "steps": 5,
        "batch_size": 3,
        "lr": 3.0,
        "weight_decay": 20.0,
        "seed": 1,
        "patch": 2,
    },
    "segmentation_heads": {
        "train": "{masks2}",
        "test": "{masks2}",
        "head": "upernet",
        "stages": (-2,),
        "channels": 8,
        "size": 12,
        "stride": 8,
        "scales": (1.0,),
        "reduce_zero_label": True,
        "steps": 60,
        "batch_size": 3,
        "lr": 0.3,
        "weight_decay": 20.0,
        "seed": 1,
        "patch": 2,
    },
    "few_shot_episodes": {
        "ways": 4,
        "shots": (5,),
        "queries": 2,
        "episodes": 5,
        "classifier": "logistic",
        "seed": 1,
    },
    "copy_detection": {
        "data": "{copies2}",
        "distractors": "{copies2}",
        "whitening": "{copies2}",
        "descriptor": "pooled",
        "size": 64,
        "first": 1,
    },
    "instance_retrieval": {
        "data": "{oxford2}",
        "whitening": "{copies2}",
        "descriptor": "gem",
        "size": 64,
        "scales": (1.0, 2.0),
        "crop": False,
    },
    "propagation": {
        "data": "{videos2}",
        "size": 128,
        "context": 2,
        "radius": 5,
        "k": 9,
        "temperature": 10.0,
        "patch": 4,
    },
}
REFUSED = {("corruptions", "baseline"): "these data have 4"}  # values that do not fit these data
REFUSED |= dict.fromkeys((("depth", "channels"), ("normals", "channels")), "set head=dpt")
ELSEWHERE = ("episodes", "detection")  # need an environment and torch, see their own tests
FIELDS = [
    (f"_{name}_{field.name}", name, field.name)
    for name in protocols.known()
    if name not in ELSEWHERE
    for field in dataclasses.fields(EvalsConfig().protocol(name))
]


class SettingsTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        cls.files = files(Path(cls.folder.name))
        mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
        how = {"view": View(16, recipe="flip"), "channels": 3, "batch_size": 16, "mesh": mesh}
        how["streams"] = {"target": squares(30, 2)}
        images = Images.of(squares(60, 0), squares(40, 1), 1000, 1000, **how)
        other = lambda seed: (encoder(int(seed)), how["view"])  # noqa: E731
        cls.subject = Subject(encoder(), images, Probe(pool="pooled"), network=other)
        cls.measured = {}

    def setUp(self):
        super().setUp()
        self.enterContext(mock.patch.object(corruptions, "CORRUPTIONS", ("gaussian_noise",)))
        self.enterContext(mock.patch.object(corruptions, "SEVERITIES", (3,)))

    def numbers(self, name, **settings):
        """Return the sorted numbers, as some settings are part of their names."""
        chosen = {k: self.filled(v) for k, v in (BASE.get(name, {}) | settings).items()}
        protocol = dataclasses.replace(EvalsConfig().protocol(name), **chosen)
        if protocol not in self.measured:
            self.assertTrue(protocol.applies(self.subject))
            ((_, numbers),) = measured([protocol], self.subject)
            names = {key.partition("/")[2] for key in numbers}
            untitled = names - titles_of(names, protocol.titles).keys()
            self.assertEmpty(untitled, f"name them in {name}.titles")
            self.measured[protocol] = sorted(numbers.values())
        return self.measured[protocol]

    def filled(self, value):
        if isinstance(value, tuple):
            return tuple(self.filled(v) for v in value)
        return value.format(**self.files) if isinstance(value, str) else value

    @parameterized.named_parameters(*FIELDS)
    def test_changes_the_numbers_or_is_refused(self, name, field):
        protocol = EvalsConfig().protocol(name)
        others = OTHER.get(name, {}) | {k: v for k, v in LAYER.items() if hasattr(protocol, k)}
        self.assertIn(field, others, f"give {name}.{field} a second value in OTHER")
        if field in protocol.of_pixels:
            with self.assertRaisesRegex(UserError, f"{name}.{field} would change nothing"):
                suites.settings(protocol, name, [{field: others[field]}])
            subject = Subject(None, self.subject.images, self.subject.probe)
            with mock.patch.multiple(self, subject=subject, measured={}, create=True):
                self.assertNotEqual(
                    self.numbers(name), self.numbers(name, **{field: others[field]})
                )
        elif (name, field) in REFUSED:
            with self.assertRaisesRegex(UserError, REFUSED[name, field]):
                self.numbers(name, **{field: others[field]})
        else:
            self.assertNotEqual(self.numbers(name), self.numbers(name, **{field: others[field]}))

    @parameterized.parameters(
        ("linear", {"preset": "lbfgs", "lr": 0.1}, "linear.lr: 0.1 would change nothing"),
        ("linear", {"preset": "lbfgs", "epochs": 3}, "epochs: 3 .* choose preset=moco"),
        ("linear", {"preset": "lbfgs", "batch_size": 8}, "batch_size"),
        ("linear", {"seed": 1}, "linear.seed: 1 .* draws nothing without a holdout"),
        ("linear", {"batch_size": 61}, "batch_size = 61 is more than the 60 training examples"),
        ("linear", {"holdout": 0.001}, "holdout = 0.001 of 60 examples holds out none"),
        ("attentive", {"batch_size": 61}, "batch_size = 61 is more than the 60"),
        ("attentive", {"holdout": 0.001}, "holds out none"),
        ("clustering", {"clusters": 3, "factor": 2.0}, "factor: 2.0 .* clusters = 3"),
        ("fewshot", {"shots": (), "lists": ("{list}",), "draws": 3}, "draws: 3 .* not drawn"),
        ("fewshot", {"shots": (50,)}, r"shots \[50\]: no class has more than 15"),
        ("svm", {"shots": (), "draws": 3}, "draws: 3 would change nothing"),
        ("svm", {"shots": (50,)}, "no class has more than 15"),
        ("corruptions", {"size": 40}, "size: 40 would change nothing"),
        ("corruptions", {"size": 64, "data": "{corrupted}"}, "size: 64 .* corrupted already"),
        ("patches", {"size": 32}, "size: 32 .* no masks"),
        ("patches", {"reduce_zero_label": True}, "no masks"),
        ("patches", {"per_image": 17}, "per_image = 17 is more than the 16 patches"),
        ("knn", {"pool": "pooled", "stage": -2}, "the network's own output, after its last"),
    )
    def test_settings_that_nothing_reads_are_refused(self, name, settings, message):
        settings = {k: self.filled(v) for k, v in settings.items()}
        protocol = dataclasses.replace(EvalsConfig().protocol(name), **settings)
        view = View(48 if name == "corruptions" else 16, recipe="flip")
        images = dataclasses.replace(self.subject.images, view=view)
        subject = Subject(self.subject.encoder, images, self.subject.probe)
        with self.assertRaisesRegex(UserError, message):
            list(measured([protocol], subject))

    def test_a_sweep_over_the_rate_is_applied(self):
        """The README's sweep sets no preset."""
        made = suites.settings(EvalsConfig().linear, "linear", [{"lr": 0.01}, {"lr": 30.0}])
        self.assertEqual([setting.settled().preset for setting in made], ["simclr", "simclr"])
        (_, low), (_, high) = measured(made, self.subject)
        self.assertNotEqual(low, high)
        self.assertEqual(EvalsConfig().linear.settled().preset, "lbfgs")

    def test_neighbours_that_are_the_same(self):
        knn = EvalsConfig().knn
        made = [dataclasses.replace(knn, k=k) for k in (20, 60, 100)]
        with self.assertRaisesRegex(UserError, r"k = \[20, 60, 100\] .* 60 training examples"):
            list(measured(made, self.subject))

    def test_the_batch_does_not_depend_on_the_devices(self):
        """Seven examples or four scenes are no multiple of eight devices."""
        mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices())
        images = dataclasses.replace(self.subject.images, mesh=mesh)
        many = Subject(self.subject.encoder, images, self.subject.probe)
        for name in ("linear", "attentive", "segmentation"):
            settings = {"batch_size": 4 if name == "segmentation" else 7}
            one = self.numbers(name, **settings)
            with (
                mock.patch.multiple(self, subject=many, measured={}, create=True),
                jax.set_mesh(mesh),
            ):
                np.testing.assert_allclose(self.numbers(name, **settings), one, atol=1e-6)


def encoder(seed=0):
    """A stand-in for a ViT of two blocks, without the parts that take long to compile."""
    rng = np.random.default_rng(seed)
    shapes = {"patch": (48, 6), "mix": (6, 6), "token": (6, 6), "text": (300, 6)}
    params = {k: rng.normal(size=shape).astype(np.float32) for k, shape in shapes.items()}
    params["patch"] *= 0.1
    heads = Heads({}, lambda _, pooled: [pooled[:, :4], pooled[:, 1:6]])
    text = TextTower(params, 24, lambda _, x: x, lambda p, x: p["text"][x].mean(1))
    net = Net(lambda key: (params, {}), forward, "vit", attention=True)
    weights = online_probe.fresh(6, 4) | {"kernel": jnp.asarray(rng.normal(size=(6, 4)))}
    probe = Heads(weights, online_probe.logits)
    larger = lambda p, s, x, **_: (jnp.tanh(x[..., :3]).repeat(4, 1).repeat(4, 2), s)  # noqa: E731
    translator = ImageTranslator({}, Net(lambda key: ({}, {}), larger, "larger"))
    return Encoder(params, {}, net, text, heads, heads, probe, translator=translator)


def forward(params, stats, images, *, train, stages=True, attention=False):
    batch, height, width, channels = images.shape
    cells = images.reshape(batch, height // 4, 4, width // 4, 4, channels).swapaxes(2, 3)
    first = jnp.tanh(cells.reshape(*cells.shape[:3], -1) @ params["patch"])
    second = jnp.tanh(first @ params["mix"] + first.mean((1, 2), keepdims=True))
    tokens = [jnp.sin(x.max((1, 2)) @ params["token"]) for x in (first, second)]
    blocks = enumerate(zip((first, second), tokens, strict=True))
    flat = [x.reshape(batch, -1, x.shape[-1]) for x in (first, second)]
    each = [jax.nn.softmax(x @ x.swapaxes(1, 2))[:, None] for x in flat]
    out = Features(
        pooled=jnp.tanh(second.mean((1, 2)) @ params["token"]),
        map=second,
        cls=tokens[1],
        stages=tuple(
            Stage(name=f"block{i + 1}", map=x, cls=cls, normed_cls=jnp.tanh(cls))
            for i, (x, cls) in blocks
        ),
        attention=jnp.stack(each, 1) if attention else None,
    )
    return out, stats


if __name__ == "__main__":
    absltest.main()
