"""Superclass files, and agreement with superclasses, by hand."""

from pathlib import Path

import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.evals.protocols.clustering import agreement, agreements, named_classes
from ssl_jax.evals.superclasses import Superclasses, read_superclasses

CLASSES = ("cat", "great white shark", "dog", "tench")


class SuperclassesTest(parameterized.TestCase):
    def write(self, text):
        path = Path(self.create_tempdir().full_path) / "some.txt"
        path.write_text(text)
        return str(path)

    @parameterized.parameters(
        '{"cat": "mammal", "great white shark": "fish", "dog": "mammal"}',
        '{"0": "mammal", "1": "fish", "2": "mammal"}',
        "cat\tmammal\ngreat white shark\tfish\n\ndog\tmammal\n",
        "cat,mammal\ngreat white shark, fish\ndog,mammal\n",
        "0 mammal\n1 fish\n2  mammal\n",
    )
    def test_forms(self, text):
        superclasses = read_superclasses(self.write(text), CLASSES)
        np.testing.assert_array_equal(superclasses.of, [1, 0, 1, -1])
        self.assertEqual(superclasses.names, ("fish", "mammal"))
        np.testing.assert_array_equal(superclasses.rows(np.array([3, 1, 0, 7])), [1, 2])
        with self.assertRaisesRegex(UserError, "no example belongs to a class"):
            superclasses.rows(np.array([3, 3]))

    @parameterized.parameters(
        ('{"cow": 1, "cat": 2}', "no class 'cow' here; expected classes like cat"),
        ('{"cat": 1, "dog": 1}', "expected two or more superclasses, got 1"),
        ("", "expected two or more superclasses, got 0"),
        ('{"mammal": ["cat", "dog"]}', "expected an object {class: superclass}"),
        ('{"cat": ', "Expecting value"),
        ("cat mammal\ndog\n", "line 2: expected CLASS SUPERCLASS, got 'dog'"),
        ("cat mammal\n0 fish\n", "class '0' is listed twice"),
    )
    def test_bad_files(self, text, message):
        with self.assertRaisesRegex(UserError, message):
            read_superclasses(self.write(text), CLASSES)
        with self.assertRaisesRegex(UserError, "No such file"):
            read_superclasses("/nowhere", CLASSES)

    def test_clusters_are_assigned_to_classes_first(self):
        """Two clusters mix classes of one superclass, a third mixes superclasses."""
        labels = np.array([0, 0, 1, 1, 1, 0, 2, 2, 3, 0])
        clusters = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 2])
        above = Superclasses(np.array([0, 0, 1, 1]), ("a", "b"))
        np.testing.assert_array_equal(
            named_classes(clusters, labels), [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
        )
        numbers = agreements(clusters, labels, above)
        self.assertAlmostEqual(numbers["acc"], 0.6)
        self.assertAlmostEqual(numbers["super_acc"], 0.9)
        direct = agreement(clusters, np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 0]))
        self.assertAlmostEqual(numbers["direct_nmi"], direct.nmi)
        self.assertAlmostEqual(numbers["direct_acc"], direct.acc)

    def test_gaps_between_numbers_do_not_matter(self):
        draw = np.random.default_rng(0)
        labels = draw.integers(0, 3, 60)
        clusters = np.where(draw.random(60) < 0.5, labels, draw.integers(0, 5, 60))
        far = np.array([0, 2, 7])[labels]
        self.assertEqual(agreement(clusters, far), agreement(clusters, labels))
        self.assertEqual(agreement(60_000 * clusters, far), agreement(clusters, labels))
        np.testing.assert_array_equal(
            named_classes(clusters, far), np.array([0, 2, 7])[named_classes(clusters, labels)]
        )


if __name__ == "__main__":
    absltest.main()
