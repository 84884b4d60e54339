import ast
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import ssl_jax
from ssl_jax.losses.shapes import check_shapes

PACKAGE = Path(ssl_jax.__file__).parent
# Modules that the losses are built from; they take arrays of any shape.
PARTS = ("axes", "normalize", "pairs", "shapes")
# Any shape is right, or another function that is called checks the arguments.
OTHERS = ("estimate_partition", "virtual_adversarial", "zipf_prior")


def public_losses():
    for path in sorted(PACKAGE.glob("losses/*.py")):
        if path.stem in PARTS:
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                yield path.stem, node


class ShapesTest(parameterized.TestCase):
    @parameterized.parameters(
        ("f: z (2B, d) with two rows per example", [(4, 3)]),
        ("f: x, y (B, d), labels (B) int", [(4, 3), (4, 3), (4,)]),
        ("f: logits (..., C), labels (...)", [(2, 3, 4), (2, 3)]),
        ("f: logits (..., C), labels (...)", [(4,), ()]),
        ("f: z (B, ..., d)", [(4, 3)]),
        ("f: ab (..., 2)", [(5, 2)]),
        ("f: prior (313)", [(313,)]),
    )
    def test_right_shapes(self, expected, shapes):
        check_shapes(expected, *(np.ones(shape, np.int32) for shape in shapes))
        check_shapes(expected, *(None for _ in shapes))

    @parameterized.parameters(
        ("f: z (2B, d)", [(3, 4)], "f: expected z (2B, d), got (3, 4) float32"),
        (
            "f: x, y (B, d)",
            [(3, 4), (4, 4)],
            "f: expected x, y (B, d), got (3, 4) float32 and (4, 4) float32",
        ),
        ("f: z (B, d)", [(3,)], "f: expected z (B, d), got (3,) float32"),
        ("f: z (..., N, D)", [(3,)], "f: expected z (..., N, D), got (3,) float32"),
        ("f: i (B) int", [(3,)], "f: expected i (B) int, got (3,) float32"),
        (
            "f: x (..., C), y (...)",
            [(2, 3, 4), (2,)],
            "f: expected x (..., C), y (...), got (2, 3, 4) float32 and (2,) float32",
        ),
        ("f: ab (..., 2)", [(5, 4)], "f: expected ab (..., 2), got (5, 4) float32"),
    )
    def test_wrong_shapes(self, expected, shapes, message):
        arrays = [np.ones(shape, np.float32) for shape in shapes]
        with self.assertRaisesRegex(ValueError, f"^{re.escape(message)}$"):
            check_shapes(expected, *arrays)
        with self.assertRaisesRegex(ValueError, f"^{re.escape(message)}$"):
            jax.eval_shape(lambda *x: check_shapes(expected, *x), *arrays)

    def test_a_compiled_function_does_not_check(self):
        def f(x):
            check_shapes("f: x (B, d)", x)
            return x

        self.assertEqual(str(jax.make_jaxpr(f)(jnp.ones((2, 3)))).count("="), 0)

    @parameterized.named_parameters((f"_{m}_{node.name}", node) for m, node in public_losses())
    def test_every_public_loss_checks_its_arrays(self, node):
        calls = [c for c in ast.walk(node) if isinstance(c, ast.Call)]
        checks = [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "check_shapes"]
        if node.name not in OTHERS:
            self.assertNotEmpty(checks)
        for check in checks:
            if isinstance(check.args[0], ast.Constant):
                self.assertStartsWith(check.args[0].value, f"{node.name}: ")


if __name__ == "__main__":
    absltest.main()
