from dataclasses import dataclass, field
from typing import Literal

from absl.testing import absltest, parameterized

from ssl_jax.core import config
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View


@dataclass(frozen=True)
class Section:
    lr: float = 0.1
    steps: int = 5
    name: Literal["adamw", "sgd"] = "adamw"
    shots: tuple[int, ...] = (1, 5)
    pair: tuple[float, float] = (0.0, 1.0)
    clip: float | None = None
    flip: bool = False
    view: View = View(224, recipe="mae")
    views: tuple[View, ...] = ()
    notes: dict = field(default_factory=dict)


class ConfigTest(parameterized.TestCase):
    def test_values_are_coerced(self):
        made = config.build(
            Section,
            {"lr": 1, "shots": [2, 3], "clip": 3, "view": {"size": 32}, "views": [{"size": 8}]},
            "s",
        )
        self.assertIsInstance(made.lr, float)
        self.assertEqual(made.shots, (2, 3))
        self.assertEqual(made.clip, 3.0)
        self.assertEqual(made.view, View(32, recipe="mae"))  # what is not named keeps its default
        self.assertEqual(made.views, (View(8),))
        self.assertIsNone(config.build(Section, {"clip": None}, "s").clip)

    @parameterized.parameters(
        ({"lrr": 1}, r"s: unknown key 'lrr'; did you mean 'lr'"),
        ({"lr": "big"}, r"s.lr: expected float, got 'big'"),
        ({"steps": 1.5}, r"s.steps: expected int, got 1.5"),
        ({"steps": True}, r"s.steps: expected int, got True"),
        ({"flip": 1}, r"s.flip: expected bool, got 1"),
        ({"name": "adam"}, r"s.name: 'adam' is not one of 'adamw', 'sgd'"),
        ({"shots": 3}, r"s.shots: expected .*tuple.*, got 3"),
        ({"shots": [1, "x"]}, r"s.shots\[1\]: expected int"),
        ({"pair": [1.0]}, r"s.pair: expected 2 values, got 1"),
        ({"view": {"sizes": 3}}, r"s.view: unknown key 'sizes'; did you mean 'size'"),
        ({"views": [{"count": 2}]}, r"s.views\[0\]: missing key 'size'"),
        ({"clip": "no"}, r"s.clip: expected float \| None, got 'no'"),
        ({"notes": 3}, r"s.notes: expected dict, got 3"),
    )
    def test_errors_name_the_key_and_what_would_be_right(self, values, message):
        with self.assertRaisesRegex(UserError, message):
            config.build(Section, values, "s")

    def test_given_fields_are_not_the_users(self):
        self.assertEqual(config.build(Section, {}, "s", lr=3.0).lr, 3.0)
        with self.assertRaisesRegex(UserError, "unknown key 'lr'"):
            config.build(Section, {"lr": 1.0}, "s", lr=3.0)


if __name__ == "__main__":
    absltest.main()
