"""Superclasses of a level, and BREEDS' draws, by hand and by the authors' loops written out."""

from pathlib import Path

import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.evals.class_hierarchy import BREEDS, Hierarchy, Recipe
from ssl_jax.evals.superclasses import read_superclasses

# A cat is a pet by a longer path than as a mammal; "thing" is above no class; the poodle is a dog.
EDGES = """entity animal
entity artefact
entity thing
animal mammal
animal fish
mammal cat
mammal pet
pet cat
pet dog
dog poodle
mammal cow
fish tench
fish shark
artefact car
artefact boat
artefact tool
tool saw
"""
PAIRS = [tuple(line.split()) for line in EDGES.splitlines()]
CLASSES = ("tench", "shark", "cat", "dog", "cow", "car", "boat", "saw")


def levels(edges, root):
    """Walk down all paths, as `_make_level_dict` does."""
    depth, paths = {}, [(root, 0)]
    while paths:
        node, length = paths.pop()
        depth[node] = max(depth.get(node, 0), length)
        paths += [(below, length + 1) for above, below in edges if above == node]
    return depth


class HierarchyTest(parameterized.TestCase):
    def hierarchy(self, classes=CLASSES, edges=PAIRS):
        return Hierarchy(edges, classes, "here")

    def test_levels_are_longest_paths(self):
        expected = levels([pair for pair in PAIRS if pair[1] not in ("thing", "poodle")], "entity")
        self.assertEqual(dict(self.hierarchy()._levels), expected)
        self.assertEqual(expected["cat"], 4)

    @parameterized.parameters(
        (
            1,
            {"animal": ["cat", "cow", "dog", "shark", "tench"], "artefact": ["boat", "car", "saw"]},
        ),
        (
            2,
            {
                "boat": ["boat"],
                "car": ["car"],
                "fish": ["shark", "tench"],
                "mammal": ["cat", "cow", "dog"],
                "tool": ["saw"],
            },
        ),
        (
            3,
            {
                "cow": ["cow"],
                "pet": ["cat", "dog"],
                "saw": ["saw"],
                "shark": ["shark"],
                "tench": ["tench"],
            },
        ),
    )
    def test_nodes_of_a_level(self, level, expected):
        self.assertEqual(self.hierarchy().superclasses(Recipe(level)), expected)

    def test_below_an_ancestor_with_enough_classes(self):
        below = self.hierarchy().superclasses(Recipe(2, ancestor="animal"))
        self.assertEqual(list(below), ["fish", "mammal"])
        rng = np.random.RandomState(2)
        expected = {
            "fish": rng.choice(["shark", "tench"], 2, replace=False).tolist(),
            "mammal": rng.choice(["cat", "cow", "dog"], 2, replace=False).tolist(),
        }
        self.assertEqual(self.hierarchy().superclasses(Recipe(2, 2)), expected)

    def test_the_data_set_s_classes_alone(self):
        """Nodes above none of them are no superclasses."""
        some = self.hierarchy(("cat", "dog", "tench", "shark"))
        with self.assertRaisesRegex(UserError, "1 superclasses at level 1 .* two or more"):
            some.superclasses(Recipe(1))
        self.assertEqual(list(some.superclasses(Recipe(2))), ["fish", "mammal"])

    def test_a_class_below_a_class(self):
        """The search stops at a class, as in the authors' code."""
        both = self.hierarchy((*CLASSES, "poodle"))
        self.assertEqual(both.classes_below("pet"), ["cat", "dog"])
        self.assertEqual(both.classes_below("dog"), ["dog", "poodle"])

    def test_what_is_no_hierarchy(self):
        with self.assertRaisesRegex(UserError, "here: no node is a class of the data set"):
            self.hierarchy(("zebra",))
        with self.assertRaisesRegex(UserError, "expected one root, got .*cycle"):
            self.hierarchy(edges=[("a", "b"), ("b", "a"), ("a", "cat")])
        with self.assertRaisesRegex(UserError, "the edges form a cycle"):
            self.hierarchy(edges=[("entity", "a"), ("a", "b"), ("b", "a"), ("b", "cat")])
        with self.assertRaisesRegex(UserError, "expected one root, got animal, thing"):
            self.hierarchy(edges=[("animal", "cat"), ("thing", "car")])
        with self.assertRaisesRegex(UserError, "no node 'rock' above any class"):
            self.hierarchy().superclasses(Recipe(2, ancestor="rock"))


class FileTest(parameterized.TestCase):
    def write(self, text=EDGES):
        path = Path(self.create_tempdir().full_path) / "class_hierarchy.txt"
        path.write_text(text)
        return str(path)

    def test_a_level(self):
        above = read_superclasses(f"{self.write()}#level=2", CLASSES)
        self.assertEqual(above.names, ("boat", "car", "fish", "mammal", "tool"))
        np.testing.assert_array_equal(above.of, [2, 2, 3, 3, 3, 1, 0, 4])
        few = read_superclasses(f"{self.write()}#level=2&subclasses=2&ancestor=animal", CLASSES)
        self.assertEqual(few.names, ("fish", "mammal"))
        self.assertEqual([int(np.sum(few.of == i)) for i in (0, 1)], [2, 2])
        np.testing.assert_array_equal(few.of[5:], -1)

    def test_a_class_below_two_nodes_belongs_to_the_first(self):
        above = read_superclasses(f"{self.write(EDGES + 'tool car')}#level=2", CLASSES)
        self.assertEqual(above.names[above.of[5]], "tool")
        both = read_superclasses(f"{self.write(EDGES + 'fish cow')}#level=2", CLASSES)
        self.assertEqual(both.names[both.of[4]], "fish")

    def test_breeds(self):
        """A tree of WordNet's upper nodes with the leaves that each data set needs."""
        edges, classes = [], []
        for kind, ancestor in (("living", "n00004258"), ("thing", "n00021939")):
            edges.append(("n00001740", ancestor))
            edges += [(ancestor, f"{kind}2"), (f"{kind}2", f"{kind}3"), (f"{kind}3", f"{kind}4")]
            edges += [(f"{kind}2", f"{kind}3b"), (f"{kind}3b", f"{kind}4b")]
            for branch in ("", "b"):
                for i in range(3):
                    group = f"{kind}5{branch}{i}"
                    edges.append((f"{kind}4{branch}", group))
                    leaves = [f"{group}-{j}" for j in range(3 + 4 * (i > 0))]
                    edges += [(group, leaf) for leaf in leaves]
                    classes += leaves
        path = self.write("".join(f"{a} {b}\n" for a, b in edges))
        for name, count, each in (("living17", 4, 4), ("nonliving26", 4, 4), ("entity30", 4, 8)):
            above = read_superclasses(f"{path}#{name}", classes)
            self.assertLen(above.names, count, name)
            sizes = np.bincount(above.of[above.of >= 0])
            np.testing.assert_array_equal(sizes, each)
            kind = {"living17": "living5", "nonliving26": "thing5"}.get(name, "")
            self.assertTrue(all(n.startswith(kind) for n in above.names))
        with self.assertRaisesRegex(UserError, "0 superclasses at level 3 with at least 20"):
            read_superclasses(f"{path}#entity13", classes)
        self.assertEqual(BREEDS["entity13"], Recipe(3, 20))

    @parameterized.parameters(
        ("#level=0", "expected level=N after '#', N a number from 1; got '0'"),
        ("#level=two", "expected level=N"),
        ("#ancestor=animal", "expected level=N"),
        ("#entity14", "expected level=N or one of entity13, entity30, living17, nonliving26"),
        ("#entity13&level=2", "expected level=N or one of"),
        ("#depth=2", "unknown 'depth' after '#'"),
        ("#level=9", "0 superclasses at level 9 .* a level from 1 to 4"),
    )
    def test_what_is_wrong(self, end, message):
        with self.assertRaisesRegex(UserError, message) as caught:
            read_superclasses(self.write() + end, CLASSES)
        self.assertLen(str(caught.exception).splitlines(), 1)


if __name__ == "__main__":
    absltest.main()
