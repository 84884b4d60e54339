"""Names of numbers in tables. That each number of each protocol has one is tested where they are
measured, in `settings_test` and `multi_label_test`; here are those that neither measures.
"""

import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.evals import protocols
from ssl_jax.evals.average_precision import mean_average_precision
from ssl_jax.evals.detection_scores import NAMES
from ssl_jax.evals.scores import accuracies
from ssl_jax.evals.titles import titles_of
from tests.evals.settings_test import FIELDS

DECLARED = {
    "knn_top1": "neighbours",
    "svm1_map": "1 label",
    "svm{k}_map": "{k} labels",
    "svm{k}_{set}_map": "{k} labels of {set}",
    "svm_map": "all labels",
}
# The numbers of protocols without settings, or that need torch or an environment.
UNMEASURED = {
    "classifier": {
        *accuracies(np.zeros((2, 5), int), np.arange(2), "classifier"),
        *mean_average_precision(np.eye(2), np.eye(2, dtype=int), "classifier"),
    },
    "online": {"online_top1"},
    "episodes": {"return", "std_of_return"},
    "detection": {
        *(f"detection_{mask}{name}" for name in NAMES for mask in ("", "mask_")),
        *("detection_agnostic_ap50", "detection_ap_a_b", "detection_ap50_a_b"),
    },
}


class TitlesTest(parameterized.TestCase):
    def test_the_family_with_most_letters(self):
        names = ("svm5_map", "svm1_map", "svm2_cars_map", "svm_map", "svm5_map_2")
        titles = titles_of(names, DECLARED)
        self.assertEqual(titles["svm5_map"], "5 labels")
        self.assertEqual(titles["svm1_map"], "1 label")
        self.assertEqual(titles["svm2_cars_map"], "2 labels of cars")
        self.assertEqual(titles["svm_map"], "all labels")
        self.assertNotIn("svm5_map_2", titles)

    def test_in_the_order_of_the_declarations_and_of_numbers(self):
        names = ("svm_map", "svm16_map", "svm4_map", "svm1_map", "knn_top1")
        order = ["knn_top1", "svm1_map", "svm4_map", "svm16_map", "svm_map"]
        self.assertEqual([*titles_of(names, DECLARED)], order)

    def test_without_families(self):
        self.assertEqual([*titles_of(("svm4_map", "svm_map"), DECLARED, False)], ["svm_map"])

    def test_no_two_protocols_write_one_number(self):
        names = [f"{k.prefix}/{name}" for k in protocols.known().values() for name in k.titles]
        self.assertLen(set(names), len(names))

    def test_no_two_names_have_one_title(self):
        declared = {k: v for kind in protocols.known().values() for k, v in kind.titles.items()}
        self.assertLen(set(declared.values()), len(declared))

    def test_settings_test_measures_the_others(self):
        elsewhere = set(protocols.known()) - {name for _, name, _ in FIELDS}
        self.assertEqual(elsewhere, set(UNMEASURED))

    @parameterized.parameters(*UNMEASURED)
    def test_numbers_that_are_measured_elsewhere(self, name):
        titles = titles_of(UNMEASURED[name], protocols.known()[name].titles)
        self.assertEqual(titles.keys(), UNMEASURED[name])


if __name__ == "__main__":
    absltest.main()
