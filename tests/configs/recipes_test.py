"""Every recipe resolves to the values stored here, so that a changed default shows in the diff.

`defaults.json` holds the default of every key that all methods share, one line per key, without
those of protocols that are not measured by default, and those of every backbone as
`backbone.NAME.KEY`. `resolved/METHOD.json` holds the defaults of the method's own fields, and per
recipe the keys whose values differ. After an intended change:
`python tests/configs/recipes_test.py --update`.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from ssl_jax import nets
from ssl_jax.core.config import defaults
from ssl_jax.core.errors import UserError
from ssl_jax.data.sources import ArraySource
from ssl_jax.evals.evaluator import EvalsConfig
from ssl_jax.evals.protocols import known
from ssl_jax.run import configs
from ssl_jax.run.configs import load_config, methods, recipes
from ssl_jax.run.experiment import Experiment
from ssl_jax.training.workdir import check_resumable

DEFAULTS = Path(__file__).parent / "defaults.json"
STORED = Path(__file__).parent / "resolved"
RECIPES = [(f"_{m}_{r}", m, r) for m in methods() for r in recipes(m)]
SIZES = {
    "cifar10": (50_000, 10),
    "imagenet": (1_281_167, 1000),
    "voc07": (5011, 20),
    "flickr": (900, 0),
    "coco": (118_287, 0),
    "jft300m": (300_000_000, 18_291),
    "yfcc": (1_600_000, 0),
    "videomix2m": (2_000_000, 0),
    "horse2zebra": (1067, 0),
    "photo2sketch": (440, 0),
    "youtube": (2_000_000, 0),
    "av": (70, 11),
    "cartpole": (100_000, 0),
}
ACTIONS = {"cartpole": 1}  # numbers of an action, of environments
BANDS = {"cartpole": 9}


class Data(ArraySource):
    """A data set of the recipe's size without its pixels."""

    def __init__(self, count: int, classes: int, actions: int = 0, bands: int = 3):
        self.actions = actions
        pixels = np.zeros((1, 1, 1, bands), np.uint8)
        super().__init__("stand-in", pixels, captions=[("a photo of a dog",)])
        self.class_names = tuple(map(str, range(classes)))
        self._count = count

    def read(self, index: int) -> np.ndarray:
        return super().read(0)

    def __len__(self) -> int:
        return self._count


def resolve(method: str, recipe: str) -> Experiment:
    made = Experiment.from_config(load_config(f"{method}:{recipe}"))
    data = recipe.split("_")[0]  # imagenet_swin
    if data in SIZES:
        # In the place of what --data and --config.data.streams would open.
        control = ACTIONS.get(data, 0), BANDS.get(data, 3)
        made.__dict__["_parts"] = Data(*SIZES[data], *control), None
        made.__dict__["streams"] = {name: Data(*SIZES[data]) for name in made.data.streams}
    return made


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value; an empty mapping is a value."""
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves


def shared(made: Experiment) -> dict[str, Any]:
    """The defaults of all sections but the method's own, and those of every backbone."""
    common = {k: v for k, v in made.defaults().items() if k not in ("objective", "backbone")}
    families = {name: defaults(nets.backbone_class(name)) for name in nets.BACKBONES}
    return json.loads(json.dumps(flat(common) | flat({"backbone": families})))  # tuples as lists


def protocol_of(key: str) -> str:
    """The protocol that a key "evals.NAME.SETTING" belongs to, "" for other keys."""
    section, name, *_ = key.split(".")
    return name if section == "evals" and name in known() else ""


def by_default(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` without those of protocols that are not measured by default."""
    return {k: v for k, v in values.items() if protocol_of(k) in ("", *EvalsConfig.protocols)}


def own(made: Experiment) -> dict[str, Any]:
    """The defaults of the method's fields."""
    return flat({"objective": made.defaults()["objective"]})


def changed(made: Experiment) -> dict[str, Any]:
    """The keys whose resolved value is not the default."""
    usual, resolved = flat(made.defaults()), flat(made.resolved())
    absent = {k: "(absent)" for k in usual if k not in resolved and not protocol_of(k)}
    missing = object()
    return {k: v for k, v in resolved.items() if usual.get(k, missing) != v} | absent


class RecipesTest(parameterized.TestCase):
    def test_every_method_has_a_small_recipe_and_its_papers(self):
        for method in methods():
            small, paper, *_ = recipes(method)
            made = Experiment.from_config(load_config(f"{method}:{small}"))
            embedded = "^(digits|noisy_digits|moving_digits|photos|control:pendulum)"  # no download
            self.assertRegex(made.source.name, embedded, method)
            self.assertLess(made.spec.total_steps * made.spec.global_batch, 250_000, method)
            self.assertEqual(load_config(method), load_config(f"{method}:{paper}"), method)

    @parameterized.parameters(
        ("byol:digit", "unknown recipe 'digit'; did you mean 'digits'"),
        ("biol:digits", "no config 'biol'; did you mean 'byol'"),
    )
    def test_near_names_are_suggested(self, name, message):
        with self.assertRaisesRegex(UserError, message):
            load_config(name)

    def test_a_config_must_say_which_recipes_it_offers(self):
        folder = Path(self.create_tempdir().full_path)
        (folder / "byol.py").write_text("def get_config(recipe=''):\n    return {}\n")
        with (
            mock.patch.object(configs, "configs_folder", lambda: folder),
            self.assertRaisesRegex(UserError, "no RECIPES"),
        ):
            recipes("byol")

    @parameterized.named_parameters(*RECIPES)
    def test_resolved(self, method, recipe):
        made, stored = resolve(method, recipe), json.loads((STORED / f"{method}.json").read_text())
        self.assertEqual(by_default(shared(made)), json.loads(DEFAULTS.read_text()))
        self.assertEqual(own(made), stored["defaults"])
        self.assertEqual(changed(made), stored["recipes"][recipe])

    def test_a_run_from_before_the_defaults_of_backbones_resumes(self):
        """Its config.json holds only what the config set; a changed option is refused."""
        made = Experiment.from_config(load_config("simclr:digits"))
        backbone = {"name": "resnet_small"}
        for stored in (backbone, backbone | {"width": 16}):
            check_resumable(
                made.resolved() | {"backbone": stored}, made.resolved(), "W", made.defaults()
            )
        other = made.resolved() | {"backbone": backbone | {"width": 8}}
        with self.assertRaisesRegex(UserError, r"backbone.width \(was 8, now 16\)"):
            check_resumable(other, made.resolved(), "W", made.defaults())

    def test_nothing_is_stored_that_is_not_there(self):
        self.assertEqual({path.stem for path in STORED.iterdir()}, set(methods()))
        for method in methods():
            stored = json.loads((STORED / f"{method}.json").read_text())
            self.assertEqual(set(stored["recipes"]), set(recipes(method)), method)

    @parameterized.named_parameters(*RECIPES)
    def test_a_resolved_config_is_a_config(self, method, recipe):
        made = resolve(method, recipe).resolved()
        self.assertEqual(Experiment.from_config(made).resolved(), made)

    @parameterized.named_parameters(*RECIPES)
    @pytest.mark.full
    def test_the_state_has_a_shape(self, method, recipe):
        self.assertTrue(jax.tree.leaves(resolve(method, recipe).abstract_state.params))


if __name__ == "__main__":
    if "--update" in sys.argv:
        STORED.mkdir(exist_ok=True)
        for name in methods():
            made = {recipe: resolve(name, recipe) for recipe in recipes(name)}
            any_of_them = next(iter(made.values()))
            common = by_default(shared(any_of_them))
            DEFAULTS.write_text(json.dumps(common, indent=1, sort_keys=True) + "\n")
            values = {recipe: changed(config) for recipe, config in made.items()}
            text = json.dumps({"defaults": own(any_of_them), "recipes": values}, indent=1)
            (STORED / f"{name}.json").write_text(text + "\n")
    else:
        absltest.main()
