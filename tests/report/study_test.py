"""Pages of studies: tables, fits, rankings and figures, from numbers that are known."""

import math
import re
from pathlib import Path
from xml.etree import ElementTree

from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.report import figures
from ssl_jax.report.study import StudyFacts, StudyPage, write
from ssl_jax.report.study_sections import (
    Fit,
    Heat,
    Lines,
    MeanTable,
    Point,
    Ranking,
    Scatter,
    tau,
)


def run(value=None, **labels):
    return Point(labels, {} if value is None else {"eval/knn_top1": value})


def body(section, *points):
    """Return the section's text, with the figures as [title]."""
    return "\n".join(section.body(section.select(points), lambda title, figure: f"[{title}]"))


KNN = {"kNN": "eval/knn_top1"}


class SectionsTest(parameterized.TestCase):
    def test_means_over_seeds_and_cells_that_were_not_run(self):
        text = body(
            MeanTable(title="t", rows=("width",), columns="task", metrics=KNN),
            *(run(0.5, width=8, task="a", seed=0), run(0.7, width=8, task="a", seed=1)),
            *(run(width=8, task="b", seed=0), run(0.25, width=16, task="b", seed=0)),
        )
        self.assertIn("| width | a | b |", text)
        self.assertIn("| 8 | 0.600 ± 0.141 | not run |", text)
        self.assertIn("| 16 |  | 0.250 |", text)
        self.assertIn("2 seeds", text)
        one = body(MeanTable(title="t", rows=("width",), metrics=KNN), run(0.5, width=8, seed=0))
        self.assertIn("1 seed: no difference is told from chance.", one)

    def test_equal_baselines_are_shown_once(self):
        both = {"eval/knn_top1": 0.5, "pixels/eval/knn_top1": 0.25}
        table = MeanTable(title="t", rows=("task", "width"), metrics=KNN, baselines=True)
        points = [Point({"task": "a", "width": width}, both) for width in (8, 16)]
        text = body(table, *points)
        self.assertEqual(text.count("|  | *raw pixels* | 0.250 |"), 1)
        self.assertNotIn("untrained", text)

    def test_points_of_records_are_selected_by_their_protocol(self):
        own, record = run(0.5, width=8), run(0.75, width=8, protocol="knn", stage=-1)
        table = {"title": "t", "rows": ("width",), "metrics": KNN}
        self.assertIn("| 8 | 0.500 |", body(MeanTable(**table), own, record))
        self.assertIn(
            "| 8 | 0.750 |", body(MeanTable(**table, where={"protocol": "knn"}), own, record)
        )
        either = MeanTable(**table, where={"width": (8, None)})
        self.assertLen(either.select([own, record, run(1.0), run(1.0, width=9)]), 2)

    def test_a_planted_slope(self):
        points = [
            run(0.5 + slope * math.log10(share), share=share, seed=seed, width=8)
            for seed, slope in ((0, 0.2), (1, 0.3))
            for share in (0.01, 0.1, 1.0)
        ]
        fit = Fit(title="t", metrics=KNN, x="share", curve=("width",))
        half = 12.706205 * 0.05  # Student's t with one degree of freedom, times the standard error
        interval = f"{0.25 - half:.3f} to {0.25 + half:.3f}"
        self.assertIn(f"| width 8 | kNN | +0.250 | {interval} | 2 | no |", body(fit, *points))
        self.assertIn("| one seed | 1 | unknown |", body(fit, *points[:3]))
        clear = [run(0.5 + math.log10(x) * b, share=x, seed=s) for s, b in ((0, 0.2), (1, 0.2001))
                 for x in (0.1, 1.0)]  # fmt: skip
        self.assertIn("| 2 | yes |", body(fit, *clear))
        self.assertIn("| width 8 | kNN | not run |", body(fit, run(share=0.1, width=8)))

    def test_rankings(self):
        scores = {"a": (0.1, 0.2, 0.3), "b": (0.5, 0.6, 0.9), "c": (0.9, 0.5, 0.1)}
        points = [
            run(value, task=task, width=width)
            for task, values in scores.items()
            for width, value in zip((4, 8, 16), values, strict=True)
        ]
        text = body(
            Ranking(title="t", metric="eval/knn_top1", items=("width",), by="task"), *points
        )
        self.assertIn("| a | width 16 > width 8 > width 4 |", text)
        self.assertIn("| a, b | +1.00 | 3 |", text)
        self.assertIn("| b, c | -1.00 | 3 |", text)

    def test_tau_by_hand(self):
        """Four of the six pairs of (1, 3), (2, 1), (3, 2), (4, 4) agree, two do not."""
        self.assertEqual(tau([(1, 3), (2, 1), (3, 2), (4, 4)]), "+0.33")
        self.assertEqual(tau([(1, 2), (2, 1)]), "unknown")
        self.assertEqual(tau([(1, 1), (2, 1), (3, 1)]), "unknown")

    def test_curves_by_a_number_in_the_name(self):
        point = Point({"network": "a"}, {f"d_{i}_{h}": i + h / 10 for i in (0, 1) for h in (0, 1)})
        shown = []
        Lines(title="t", metric="d_{}_{}", name="n", x="block", curve=("network",)).body(
            [point], lambda title, figure: shown.append(figure) or ""
        )
        self.assertEqual(shown[0].count("<circle"), 4 + 1)  # and one in the key
        self.assertLen(re.findall(r'points="[^"]*"', shown[0]), 1)

    def test_the_first_metric_of_several(self):
        lines = Lines(title="t", metric=("eval/a", "eval/knn_top1"), name="n", x="share", log=True)
        self.assertEqual(lines._placed(run(0.5, share=0.1)), [(0.1, 0.5)])
        both = Point({"share": 0.1}, {"eval/knn_top1": 0.5, "eval/a": 0.25})
        self.assertEqual(lines._placed(both), [(0.1, 0.25)])
        self.assertEqual(lines._placed(run(0.5, share=0.0)), [])  # no place on a logarithmic axis

    def test_heat_maps_are_completed_by_symmetry(self):
        shown = []
        heat = Heat(title="t", metric="cka_{}_{}", row="a", column="b", symmetric=True)
        point = Point({}, {"cka_0_1": 0.25})
        text = heat.body([point, point], lambda title, figure: shown.append(figure) or "")
        self.assertEqual(shown[0].count("0.25</text>"), 2)
        self.assertEqual(shown[0].count("1.00</text>"), 2)
        self.assertIn("Mean of 2 seeds.", text)

    @parameterized.parameters(
        Lines(title="t", metric="eval/x", name="n", x="share"),
        Heat(title="t", metric="cka_{}_{}", row="a", column="b"),
        Ranking(title="t", metric="eval/x", items=("share",), by="share"),
        Scatter(title="t", x="a", y="b", x_name="a", y_name="b", colour=(), within=()),
    )
    def test_nothing_was_run(self, section):
        self.assertEqual(body(section, run(share=1.0)), "not run.")

    def test_a_label_that_no_run_has(self):
        with self.assertRaisesRegex(UserError, "page: no run has the label 'taks'.*task"):
            body(
                MeanTable(title="t", rows=("task",), columns="taks", metrics=KNN),
                run(1.0, task="a"),
            )


class FiguresTest(parameterized.TestCase):
    def test_files_are_svg_with_escaped_text(self):
        figure = figures.lines({"<a & b>": [(0.1, 1), (1, 2)], "c": [(1, 3)]}, "x", "y", log=True)
        root = ElementTree.fromstring(figure)
        self.assertEqual(root.tag, "{http://www.w3.org/2000/svg}svg")
        texts = [node.text for node in root.iter() if node.tag.endswith("text")]
        self.assertIn("<a & b>", texts)
        self.assertIn("x (logarithmic)", texts)

    def test_equal_values_have_an_axis(self):
        for points in ([(1, 0.5)], [(1, 0.0), (1, 0.0)]):
            ElementTree.fromstring(figures.scatter({"": points}, "x", "y"))

    def test_higher_values_are_higher(self):
        root = ElementTree.fromstring(figures.scatter({"": [(1, 0.2), (2, 0.8)]}, "x", "y"))
        low, high = [node for node in root.iter() if node.tag.endswith("circle")]
        self.assertLess(float(high.get("cy")), float(low.get("cy")))
        self.assertLess(float(low.get("cx")), float(high.get("cx")))


class PageTest(absltest.TestCase):
    def test_the_page_and_its_figures(self):
        path = Path(self.create_tempdir().full_path) / "new" / "sizes.md"
        page = StudyPage(
            title="Sizes",
            question="Does size matter?",
            setup="Toys.",
            sections=(
                Lines(title="By size!", metric="eval/knn_top1", name="kNN", x="size"),
                MeanTable(title="All", text="Numbers.", rows=("size",), metrics=KNN),
            ),
            limits=("Two points.",),
        )
        facts = StudyFacts(command="ssl-jax study", planned=3, finished=2, seconds=90.0, timed=2)
        write(path, page, [run(0.5, size=1), run(0.6, size=2), run(size=3)], facts)
        text = path.read_text()
        self.assertTrue((path.parent / "sizes-by-size.svg").read_text().startswith("<svg"))
        headings = ["# Sizes", "## By size!", "![By size!](sizes-by-size.svg)", "## All"]
        places = [text.index(part) for part in [*headings, "| 3 | not run |", "- Two points."]]
        self.assertEqual(places, sorted(places))
        self.assertIn("2 of 3 runs are finished", text)
        self.assertIn("2 of them took 1.5 CPU minutes", text)


if __name__ == "__main__":
    absltest.main()
