"""Every number in every config has a range; values outside are refused by the key's name."""

import dataclasses
import math
import types
import typing

from absl.testing import absltest, parameterized

from ssl_jax import nets
from ssl_jax.core import config
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Range
from ssl_jax.objectives.base import Spec
from ssl_jax.run.configs import load_method, methods
from ssl_jax.run.sections import SECTIONS
from ssl_jax.run.suites import DataSet

METHODS = {name: load_method(name).make.__self__ for name in methods()}
SPEC = Spec(8, 100, 10, 5, 10)


def leaves(hint, where):
    """Yield (path, type, range or None, wrapper of a value) of the numbers in a type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated and dataclasses.is_dataclass(args[0]):
        yield from leaves_inside(args[0], args[1:], where)
    elif origin is typing.Annotated and typing.get_origin(args[0]) is tuple:
        yield from leaves(args[0], where)
    elif origin is typing.Annotated:
        limits = next((a for a in args[1:] if isinstance(a, Range)), None)
        yield where, args[0], limits, lambda value: value
    elif hint in (int, float):
        yield where, hint, None, lambda value: value
    elif origin in (types.UnionType, typing.Union):
        for arg in args:
            yield from leaves(arg, where)
    elif origin is tuple and args[-1] is Ellipsis:
        for path, kind, limits, wrap in leaves(args[0], f"{where}[0]"):
            yield path, kind, limits, lambda value, wrap=wrap: [wrap(value)]
    elif origin is tuple:
        for i, arg in enumerate(args):
            for path, kind, limits, wrap in leaves(arg, f"{where}[{i}]"):
                filled = [filler(a) for a in args]
                yield (
                    path,
                    kind,
                    limits,
                    lambda value, wrap=wrap, i=i, filled=filled: [
                        *filled[:i],
                        wrap(value),
                        *filled[i + 1 :],
                    ],
                )
    elif dataclasses.is_dataclass(hint):
        needed = {"size": 224} if "size" in {f.name for f in dataclasses.fields(hint)} else {}
        for path, kind, limits, key, wrap in of_class(hint, where):
            yield path, kind, limits, lambda v, key=key, wrap=wrap: needed | {key: wrap(v)}


def leaves_inside(hint, marks, where):
    """Yield the leaves of a dataclass with narrower ranges of some fields: a view of two crops."""
    narrower = {mark.field: mark.hint for mark in marks}
    least = {name: next(leaves(kind, where))[2].low for name, kind in narrower.items()}
    for path, kind, limits, wrap in leaves(hint, where):
        name = path.removeprefix(f"{where}.")
        if name in narrower:
            limits = next(leaves(narrower[name], path))[2]
        yield path, kind, limits, lambda value, wrap=wrap: {**least, **wrap(value)}


def filler(hint):
    if typing.get_origin(hint) is typing.Annotated and dataclasses.is_dataclass(hint.__origin__):
        least = {m.field: typing.get_args(m.hint)[1].low for m in hint.__metadata__}
        return {"size": 224, **least}
    if dataclasses.is_dataclass(hint):
        return {"size": 224}
    if typing.get_origin(hint) is typing.Annotated and typing.get_args(hint)[0] is int:
        return 224
    return "x" if hint is str else 0.5


def of_class(cls, where):
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        if field.init and field.name not in ("backbone", "spec"):
            for path, kind, limits, wrap in leaves(hints[field.name], f"{where}.{field.name}"):
                yield path, kind, limits, field.name, wrap


def outside(kind, limits):
    step = 1 if kind is int else 1e-6
    if math.isfinite(limits.low):
        yield kind(limits.low) if limits.open_low else limits.low - step
    if math.isfinite(limits.high):
        yield kind(limits.high) if limits.open_high else limits.high + step
    yield from (math.nan, math.inf, -math.inf) if kind is float else ()


class RangesTest(parameterized.TestCase):
    def refuse(self, numbers, build):
        count = 0
        for path, kind, limits, key, wrap in numbers:
            with self.subTest(path):
                self.assertIsNotNone(limits, f"{path} declares no range (core/ranges.py)")
                for value in outside(kind, limits):
                    value = value if kind is float else int(value)
                    with self.assertRaises(UserError) as caught:
                        build({key: wrap(value)})
                    message = str(caught.exception)
                    self.assertStartsWith(message, f"{path}: expected ")
                    self.assertNotIn("\n", message)
                    count += 1
        return count

    @parameterized.named_parameters((f"_{name}", name) for name in METHODS)
    def test_methods(self, name):
        def build(values):
            return config.build(METHODS[name], values, "objective", backbone=None, spec=SPEC)

        self.assertGreaterEqual(self.refuse(of_class(METHODS[name], "objective"), build), 5)

    @parameterized.parameters(*SECTIONS, "suite")
    def test_sections(self, name):
        section = SECTIONS.get(name, DataSet)
        build = lambda values: config.build(section, values, name)  # noqa: E731
        self.assertGreater(self.refuse(of_class(section, name), build), 1)

    @parameterized.named_parameters((f"_{name}", name) for name in nets.BACKBONES)
    def test_backbones(self, name):
        made = nets.backbone_class(name)
        hints = typing.get_type_hints(made, include_extras=True)
        hints = {f.name: hints[f.name] for f in dataclasses.fields(made)}
        numbers = [
            (path, kind, limits, key, wrap)
            for key in hints.keys() - {"dtype"}
            for path, kind, limits, wrap in leaves(hints[key], f"backbone.{key}")
        ]
        self.refuse(numbers, lambda values: nets.make_backbone(name, 3, values))

    @parameterized.named_parameters((f"_{name}", name) for name in METHODS)
    def test_defaults_lie_in_their_ranges(self, name):
        for cls in (METHODS[name], *SECTIONS.values()):
            for field, hint in typing.get_type_hints(cls, include_extras=True).items():
                value = config.defaults(cls).get(field)
                if value is not None:
                    config._check_ranges(value, hint, field)

    @parameterized.parameters(
        ("mae", {"mask_ratio": 75}, r"objective.mask_ratio: expected a number in \(0, 1\), got 75"),
        ("simclr", {"temperature": 0}, "objective.temperature: expected a number above 0, got 0"),
        ("simclr", {"view": {"area": (0.9, 0.1)}}, "area: .* is reversed"),
        ("vjepa", {"aspect": (2.0, 1.0)}, r"objective.aspect: expected a rising range, got \(2.0,"),
        ("ibot", {"mask_ratios": (0.3,), "mask_spreads": (0.4,)}, r"leaves \[0, 1\]"),
        ("ibot", {"image_weight": 0, "patch_weight": 0}, "both 0"),
    )
    def test_messages_and_pairs(self, name, values, message):
        with self.assertRaisesRegex(UserError, message):
            config.build(METHODS[name], values, "objective", backbone=None, spec=SPEC)


if __name__ == "__main__":
    absltest.main()
