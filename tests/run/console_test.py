"""The verdict under a table, and numbers that are not finite."""

import io

from absl.testing import absltest
from rich.console import Console

from ssl_jax.run.console import evaluation_line, final_table, verdict


def run(**measures):
    """Build the summary of a run from metric -> (trained, untrained, raw pixels)."""
    kinds = ("", "untrained/", "pixels/")
    return {
        f"{kind}eval/{name}": value
        for name, values in measures.items()
        for kind, value in zip(kinds, values, strict=True)
    }


class TableTest(absltest.TestCase):
    def test_what_is_not_beaten_is_named_with_what_helps(self):
        line = verdict(run(knn_top1=(0.383, 0.3, 0.45), fewshot5_top1=(0.2, 0.2, 0.1)))
        self.assertLen(line.splitlines(), 1)
        self.assertIn("do not beat raw pixels in 2 of 2 measures", line)
        self.assertIn("(worst: nearest neighbours (kNN), 0.383 against 0.450)", line)
        for help_ in ("longer run", "another method", "milder crops", "weights to start from"):
            self.assertIn(help_, line)
        lone = verdict({"eval/linear_top1": 0.5, "untrained/eval/linear_top1": 0.6})
        self.assertIn("do not beat the untrained network (linear", lone)
        self.assertIn(
            "weights it started from", verdict(run(knn_top1=(0.1, 0.3, 0.2)), "at the start")
        )

    def test_what_is_beaten_is_not(self):
        self.assertEqual(verdict(run(knn_top1=(0.9, 0.3, 0.45), kmeans_acc=(0.1, 0.5, 0.5))), "")
        self.assertEqual(verdict({"eval/knn_top1": 0.1}), "")
        some = run(
            knn_top1=(0.98, 0.9, 0.99), **{f"fewshot{n}_top1": (0.9, 0.1, 0.2) for n in (1, 5)}
        )
        self.assertIn("do not beat raw pixels in 1 of 3 measures", verdict(some))
        self.assertNotIn("usually helps", verdict(some))

    def test_what_is_not_finite_is_no_score(self):
        last = run(knn_top1=(float("nan"), 0.3, 0.45), linear_top1=(0.9, 0.1, float("inf")))
        self.assertEqual(verdict(last), "")
        out = io.StringIO()
        final_table(Console(file=out, width=120), last, "layer")
        self.assertEqual(out.getvalue().count("no score"), 2)

    def test_rows_have_titles_in_reading_order(self):
        names = ("diag/rankme", "eval/fewshot10_top1", "eval/fewshot5_top1", "eval/fewshot1_top1")
        names += ("eval/knn_mean_per_class", "eval/own_number", "diag/dimensions")
        out = io.StringIO()
        final_table(Console(file=out, width=120), dict.fromkeys(names, 0.5), "layer")
        rows = [line.strip("│ ").split("│")[0].strip() for line in out.getvalue().splitlines()]
        shots = ["linear classifier, 1 label per class"]
        shots += [f"linear classifier, {n} labels per class" for n in (5, 10)]
        self.assertContainsSubsequence(rows, [*shots, "effective rank (RankMe)", "own_number"])
        self.assertNotIn("knn", out.getvalue())
        self.assertNotIn("kNN", out.getvalue())

    def test_a_line_while_a_run_goes(self):
        numbers = {"eval/knn_top1": 0.5, "eval/knn_mean_per_class": 0.4, "diag/rankme": 7.0}
        self.assertEqual(evaluation_line(20, numbers), "step 20: knn_top1 0.500, rankme 7.000")
        self.assertEqual(evaluation_line(20, {"diag/alignment": 1.0}), "")
        many = {"eval/corruptions_error": 0.25, "eval/corruptions_fog_error": 0.5}
        self.assertEqual(evaluation_line(3, many), "step 3: corruptions_error 0.250")


if __name__ == "__main__":
    absltest.main()
