from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from absl.testing import absltest, parameterized

from ssl_jax.core import config
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.core.plain import Text
from ssl_jax.core.ranges import Count, Positive


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
        self.assertEqual(
            made.view, View(32, recipe="mae")
        )  # keys that are not named keep their defaults
        self.assertEqual(made.views, (View(8),))
        self.assertIsNone(config.build(Section, {"clip": None}, "s").clip)

    @parameterized.parameters(
        ({"lrr": 1}, r"s: unknown key 'lrr'; did you mean 'lr'"),
        ({"lr": "big"}, r"s.lr: expected float, got 'big'"),
        ({"steps": 1.5}, r"s.steps: expected int, got 1.5"),
        ({"steps": True}, r"s.steps: expected int, got True"),
        ({"flip": 1}, r"s.flip: expected bool, got 1"),
        ({"name": "adam"}, r"s.name: expected one of 'adamw', 'sgd', got 'adam'"),
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


@dataclass(frozen=True)
class Typed:
    text: str = ""
    maybe: str | None = "x"
    choice: Literal["none", "device"] = "device"
    norm: Literal["batch"] | None = "batch"
    number: Positive = 1.0
    count: Count = 1
    clip: Positive | None = 1.0
    flag: bool = False
    shots: tuple[int, ...] = ()
    rules: tuple[tuple[str, float], ...] | None = None
    recipe: str | Mapping[str, float] = "a"
    streams: Mapping[str, str] = field(default_factory=dict)
    view: View = View(224)


class TextTest(parameterized.TestCase):
    """Values of a command line, `Text`."""

    @parameterized.parameters(
        ("text", "5", "5"),
        ("text", "none", "none"),
        ("text", "True", "True"),
        ("text", "1e-3", "1e-3"),
        ("text", "(1, 2)", "(1, 2)"),
        ("text", "'7'", "7"),  # with its own quotes
        ("maybe", "none", None),
        ("maybe", "None", None),
        ("maybe", "7", "7"),
        ("choice", "none", "none"),
        ("norm", "none", None),
        ("norm", "batch", "batch"),
        ("number", "3", 3.0),
        ("number", "1e-3", 1e-3),
        ("count", "12", 12),
        ("clip", "none", None),
        ("clip", "3", 3.0),
        ("flag", "true", True),
        ("flag", "False", False),
        ("shots", "1,5", (1, 5)),
        ("shots", "(7,)", (7,)),
        ("rules", "(('a', 1), ('.*', 0.5))", (("a", 1.0), (".*", 0.5))),
        ("rules", "none", None),
        ("recipe", "none", "none"),
        ("recipe", "{'flip': 0.5}", {"flip": 0.5}),
    )
    def test_the_declared_type_decides(self, key, text, expected):
        made = getattr(config.build(Typed, {key: Text(text)}, "s"), key)
        self.assertEqual((made, type(made)), (expected, type(expected)))
        plain = config.settle(Typed, {key: Text(text)}, "s")[key]
        self.assertNotIsInstance(plain, Text)
        self.assertEqual(getattr(config.build(Typed, {key: plain}, "s"), key), expected)

    def test_nested_keys(self):
        values = {"streams": {"a": Text("5")}, "view": {"size": Text("32"), "recipe": Text("none")}}
        plain = {"streams": {"a": "5"}, "view": {"size": 32, "recipe": "none"}}
        self.assertEqual(config.settle(Typed, values, "s"), plain)
        self.assertEqual(config.build(Typed, values, "s").view, View(32, recipe="none"))

    @parameterized.parameters(
        ("number", "fast", "s.number: expected float, got 'fast'"),
        ("number", "nan", "s.number: expected float, got 'nan'"),
        ("number", "0", "s.number: expected a number above 0, got 0"),
        ("count", "1.5", "s.count: expected int, got 1.5"),
        ("count", "none", "s.count: expected int, got None"),
        ("clip", "-1", "s.clip: expected a number above 0, got -1"),
        ("flag", "1", "s.flag: expected bool, got 1"),
        ("choice", "gpu", "s.choice: expected one of 'none', 'device', got 'gpu'"),
        ("shots", "5,x", r"s.shots\[1\]: expected int, got 'x'"),
    )
    def test_errors_name_the_key_and_its_type(self, key, text, message):
        for run in (config.build, config.settle):
            with self.assertRaisesRegex(UserError, f"^{message}"):
                run(Typed, {key: Text(text)}, "s")


if __name__ == "__main__":
    absltest.main()
