"""Names of numbers in tables. That each number of each protocol has one is tested where they are
measured, in `settings_test` and `multi_label_test`; here are those that neither measures.
"""

from absl.testing import absltest, parameterized

from ssl_jax.evals import protocols
from ssl_jax.evals.detection_scores import NAMES
from ssl_jax.evals.protocols.detection import Detection
from ssl_jax.evals.protocols.episodes import Episodes
from ssl_jax.evals.titles import titles_of
from tests.evals.settings_test import ELSEWHERE

DECLARED = {
    "knn_top1": "neighbours",
    "svm1_map": "1 label",
    "svm{k}_map": "{k} labels",
    "svm{k}_{set}_map": "{k} labels of {set}",
    "svm_map": "all labels",
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

    def test_no_two_names_have_one_title(self):
        declared = {k: v for kind in protocols.known().values() for k, v in kind.titles.items()}
        self.assertLen(set(declared.values()), len(declared))

    @parameterized.parameters(*sorted(set(protocols.known()) - set(ELSEWHERE)))
    def test_settings_test_measures_it(self, name):
        self.assertNotEmpty(protocols.known()[name].titles)

    def test_detection_and_episodes(self):
        numbers = {f"detection_{mask}{name}" for name in NAMES for mask in ("", "mask_")}
        numbers |= {"detection_agnostic_ap50", "detection_ap_a_b", "detection_ap50_a_b"}
        self.assertEqual(titles_of(numbers, Detection.titles).keys(), numbers)
        self.assertEqual(titles_of(numbers, Detection.titles)["detection_ap50_a_b"][-6:], "of a_b")
        numbers = {"return", "std_of_return"}
        self.assertEqual(titles_of(numbers, Episodes.titles).keys(), numbers)
        self.assertCountEqual(ELSEWHERE, ("detection", "episodes"))


if __name__ == "__main__":
    absltest.main()
