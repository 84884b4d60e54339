"""Every recipe resolves, and to the text that is stored here: a changed default shows in the diff.

After a change that is meant: `python tests/configs/recipes_test.py --update`.
"""

import json
import sys
from pathlib import Path

import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.cli.configs import load_config, methods
from ssl_jax.cli.experiment import Experiment
from ssl_jax.cli.methods import recipes
from ssl_jax.data.sources import ArraySource

STORED = Path(__file__).parent / "resolved"
RECIPES = [(f"_{m}_{r}", m, r) for m in methods() for r in recipes(m)]
SIZES = {"cifar10": (50_000, 10), "imagenet": (1_281_167, 1000), "flickr": (900, 0)}


class Data(ArraySource):
    """A data set of the recipe's size without its pixels."""

    def __init__(self, count: int, classes: int):
        pixels = np.zeros((1, 1, 1, 3), np.uint8)
        super().__init__("stand-in", pixels, captions=[("a photo of a dog",)])
        self.class_names = tuple(map(str, range(classes)))
        self._count = count

    def __len__(self) -> int:
        return self._count


def resolve(method: str, recipe: str) -> Experiment:
    made = Experiment.from_config(load_config(f"{method}:{recipe}"))
    data = recipe.split("_")[0]  # imagenet_swin
    if data in SIZES:
        made.__dict__["source"] = Data(*SIZES[data])  # in the place of what --data would open
    return made


class RecipesTest(parameterized.TestCase):
    def test_every_method_has_the_three_recipes(self):
        for method in methods():
            self.assertContainsSubset({"digits", "cifar10", "imagenet"}, recipes(method), method)

    @parameterized.named_parameters(*RECIPES)
    def test_resolved(self, method, recipe):
        stored = json.loads((STORED / f"{method}_{recipe}.json").read_text())
        self.assertEqual(resolve(method, recipe).resolved(), stored)

    @parameterized.named_parameters(*RECIPES)
    def test_the_state_has_a_shape_and_a_resolved_config_is_a_config(self, method, recipe):
        made = resolve(method, recipe)
        again = Experiment.from_config(made.resolved())
        self.assertEqual(str(again.abstract_state), str(made.abstract_state))
        self.assertEqual(again.resolved(), made.resolved())


if __name__ == "__main__":
    if "--update" in sys.argv:
        STORED.mkdir(exist_ok=True)
        for _, method, recipe in RECIPES:
            text = json.dumps(resolve(method, recipe).resolved(), indent=1, sort_keys=True)
            (STORED / f"{method}_{recipe}.json").write_text(text + "\n")
    else:
        absltest.main()
