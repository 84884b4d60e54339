"""The rules of the language: names are nouns, docstrings have a subject; marks of tests apply."""

import ast
import functools
import itertools
from collections.abc import Iterator
from pathlib import Path

from absl.testing import absltest

ROOT = Path(__file__).parent.parent
PARTICIPLES = {"asked", "drawn", "found", "given", "kept", "said", "seen", "told"}
DISCOVERED = ("methods()", "known()", "schemes()", "BACKBONES", "METHODS")  # lists of files
OPENERS = {"As", "From", "How", "Of", "That", "Told", "What", "Where", "Whether", "Which"}


@functools.cache
def trees() -> list[tuple[Path, ast.Module]]:
    return [
        (path.relative_to(ROOT), ast.parse(path.read_text()))
        for folder in ("ssl_jax", "configs", "launch", "benchmarks", "tests")
        for path in (ROOT / folder).rglob("*.py")
    ]


def bindings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and the name of every variable, argument, function and class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.lineno, node.name


class StyleTest(absltest.TestCase):
    def test_no_name_is_a_bare_participle(self):
        names = [
            f"{path}:{line}: {name}"
            for path, tree in trees()
            for line, name in bindings(tree)
            if name in PARTICIPLES
        ]
        self.assertEqual(names, [])

    def test_docstrings_start_with_a_verb_or_a_noun(self):
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        openings = [
            f"{path}: {text.splitlines()[0]}"
            for path, tree in trees()
            for node in ast.walk(tree)
            if isinstance(node, kinds) and (text := ast.get_docstring(node))
            if text.split()[0] in OPENERS
        ]
        self.assertEqual(openings, [])

    def test_marks_are_below_the_parameters(self):
        """Absl makes one test per row of the function below it; a mark above has no effect."""
        lost = [
            f"{path}:{node.lineno}: {node.name}"
            for path, tree in trees()
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef)
            for above, below in itertools.pairwise(map(ast.unparse, node.decorator_list))
            if above.startswith("pytest.mark") and below.startswith("parameterized.")
        ]
        self.assertEqual(lost, [])

    def test_what_is_found_by_name_is_tested_by_name(self):
        """A number shifts with every file that is added, and `slow.txt` lists tests by name."""
        numbered = [
            f"{path}:{node.lineno}: {node.name}"
            for path, tree in trees()
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef)
            for text in map(ast.unparse, node.decorator_list)
            if text.startswith(("parameterized.parameters(", "parameterized.product("))
            if any(source in text for source in DISCOVERED)
        ]
        self.assertEqual(numbered, [])


if __name__ == "__main__":
    absltest.main()
