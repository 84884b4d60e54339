"""Pages of studies: tables, fits, rankings and figures, from numbers that are known."""

import math
import re
from pathlib import Path
from xml.etree import ElementTree

from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.report import figures
from ssl_jax.report.study import StudyFacts, StudyPage, write
from ssl_jax.report.study_figures import Heat, Lines
from ssl_jax.report.study_findings import Best, Contrast, Fit, Ranking, Scatter, tau
from ssl_jax.report.study_sections import MeanTable, Point


def run(value=None, **labels):
    return Point(labels, {} if value is None else {"eval/knn_top1": value})


def body(section, *points):
    """Return the section's text, with the figures as [title]."""
    return "\n".join(section.body(section.select(points), lambda title, figure: f"[{title}]"))


def findings(section, *points):
    return section.findings(section.select(points))


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
        self.assertIn("; 1 to 2 seeds.", text)
        one = body(MeanTable(title="t", rows=("width",), metrics=KNN), run(0.5, width=8, seed=0))
        self.assertIn("1 seed, so that no difference can be told from chance.", one)

    def test_numbers_are_sorted_and_texts_are_not(self):
        table = MeanTable(title="t", rows=("task", "share"), metrics=KNN)
        text = body(table, *(run(0.5, task=t, share=s) for t in "ba" for s in (1.0, 0.3, 0.03)))
        cells = [line.split(" | ")[:2] for line in text.splitlines()[2:8]]
        want = [[f"| {task}", share] for task in "ba" for share in ("0.03", "0.3", "1.0")]
        self.assertEqual(cells, want)

    def test_a_number_that_is_not_finite_is_no_score(self):
        """It is in no mean, fit, order or figure."""
        good = [run(value, width=w, seed=0) for w, value in ((1, 0.1), (2, 0.2), (4, 0.3))]
        broken = [run(math.nan, width=w, seed=1) for w in (1, 2, 4)]
        table = MeanTable(title="t", rows=("width", "seed"), metrics=KNN)
        self.assertIn("| 1 | 1 | no score |", body(table, *good, *broken))
        for section in (
            Fit(title="t", metrics=KNN, x="width"),
            Contrast(title="t", label="width", values=(1, 4), metrics=KNN),
            Best(title="t", metric="eval/knn_top1", x="width", rows=("seed",), by="seed"),
            Lines(title="t", metric="eval/knn_top1", name="kNN", x="width"),
        ):
            with self.subTest(type(section).__name__):
                self.assertEqual(body(section, *good, *broken), body(section, *good))
                self.assertEqual(findings(section, *good, *broken), findings(section, *good))
        self.assertIn("| no score |", body(Fit(title="t", metrics=KNN, x="width"), *broken))

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
        interval = f"{0.25 - half:+.3f} to {0.25 + half:+.3f}"
        self.assertIn(f"| width 8 | kNN | +0.250 | {interval} | no | 2 |", body(fit, *points))
        gain = "Gain per factor 10 of share, kNN: width 8"
        self.assertEqual(findings(fit, *points), [f"{gain} +0.250 ({interval}, which includes 0)."])
        self.assertIn("| +0.200 |  | unknown | 1 |", body(fit, *points[:3]))
        self.assertEqual(findings(fit, *points[:3]), [f"{gain} +0.200 (one value, no interval)."])
        clear = [
            run(0.5 + slope * math.log10(share), share=share, seed=seed, width=8)
            for seed, slope in ((0, 0.2), (1, 0.2001))
            for share in (0.1, 1.0)
        ]
        self.assertIn("| yes | 2 |", body(fit, *clear))
        self.assertIn("| width 8 | kNN | not run |", body(fit, run(share=0.1, width=8)))

    def test_a_seed_counts_once_all_its_sizes_are_measured(self):
        """Growth slows down, so a line through the first two sizes is steeper."""
        values = {0.1: 0.5, 1.0: 0.7, 10.0: 0.8}
        points = [run(y, share=x, seed=seed) for seed in (0, 1) for x, y in values.items()]
        fit = Fit(title="t", metrics=KNN, x="share")
        unfinished = [*points[:5], run(share=10.0, seed=1)]
        self.assertIn("| +0.150 |  | unknown | 1 |", body(fit, *unfinished))
        with self.assertRaisesRegex(UserError, "page: t: share: expected sizes above 0"):
            body(fit, run(0.5, share=0.0), run(0.5, share=1.0))

    def test_pairs_that_differ_in_one_label(self):
        """Differences 0.1, 0.2 and 0.3; the run without a partner is left out."""
        points = [run(0.5, width=8, seed=seed) for seed in range(3)]
        points += [run(0.6 + seed / 10, width=16, seed=seed) for seed in range(4)]
        half = 4.302653 * 0.1 / 3**0.5  # Student's t with two degrees of freedom
        interval = f"{0.2 - half:+.3f} to {0.2 + half:+.3f}"
        contrast = Contrast(title="t", label="width", values=(8, 16), metrics=KNN)
        self.assertIn(f"| kNN | +0.200 | {interval} | no | 3 of 3 |", body(contrast, *points))
        want = f"width 16 - width 8, kNN: +0.200 ({interval}, which includes 0)."
        self.assertEqual(findings(contrast, *points), [want])
        by_task = Contrast(title="t", label="width", values=(8, 16), metrics=KNN, each=("task",))
        tasks = [
            run(value, width=width, seed=seed, task=task)
            for task, gain in (("a", 0.1), ("b", -0.1))
            for seed in (0, 1)
            for width, value in ((8, 0.5 + seed / 10), (16, 0.5 + seed / 10 + gain))
        ]
        text = body(by_task, *tasks)
        self.assertRegex(text, r"\| a \| kNN \| \+0.100 \| .* \| yes \| 2 of 2 \|")
        self.assertRegex(text, r"\| b \| kNN \| -0.100 \| .* \| yes \| 0 of 2 \|")
        self.assertIn("| a | kNN | not run |", body(by_task, tasks[0]))

    def test_a_contrast_of_means_over_the_numbers_in_names(self):
        points = [
            Point({"network": name}, {"d_0": first, "d_1": 0.5, "d_0_1": 9.0})
            for name, first in (("a", 0.1), ("b", 0.5))
        ]
        contrast = Contrast(title="t", label="network", values=("a", "b"), metrics={"d": "d_{}"})
        self.assertEqual(
            findings(contrast, *points), ["b - a, d: +0.200 (one value, no interval)."]
        )

    def test_the_best_value_of_a_label(self):
        scores = {"resnet": {-2: (0.5, 0.7), -1: (0.9, 0.7)}, "vgg": {-2: (0.5,), -1: (0.4,)}}
        points = [
            run(value, network=network, stage=stage, seed=seed)
            for network, stages in scores.items()
            for stage, values in stages.items()
            for seed, value in enumerate(values)
        ]
        best = Best(title="t", metric="eval/knn_top1", x="stage", rows=("network",), by="network")
        text = body(best, *points)
        self.assertIn("| resnet | -1 | 0.800 ± 0.141 | -2 | 0.600 ± 0.141 |", text)
        self.assertIn("| vgg | -2 | 0.500 | -1 | 0.400 |", text)
        self.assertIn("1 to 2 seeds", text)
        want = ["Best stage, resnet: -1 in 1 of 1.", "Best stage, vgg: -2 in 1 of 1."]
        self.assertEqual(findings(best, *points), want)

    def test_rankings(self):
        scores = {"a": (0.1, 0.2, 0.3), "b": (0.5, 0.6, 0.9), "c": (0.9, 0.5, 0.1)}
        points = [
            run(value, task=task, width=width)
            for task, values in scores.items()
            for width, value in zip((4, 8, 16), values, strict=True)
        ]
        ranking = Ranking(title="t", metric="eval/knn_top1", items=("width",), by="task")
        text = body(ranking, *points)
        self.assertIn("| a | width 16 > width 8 > width 4 | 1 of 1 |", text)
        self.assertEqual(
            findings(ranking, *points),
            [
                "The best by task: width 16 (a, b); width 4 (c).",
                "Kendall's tau of two orders: +1.00 for 1, -1.00 for 2 of 3 pairs.",
            ],
        )
        self.assertIn("| a, b | +1.00 | 3 |", text)
        self.assertIn("| b, c | -1.00 | 3 |", text)

    def test_an_order_is_compared_with_those_of_the_seeds(self):
        points = [
            run(value, task="a", width=width, seed=seed)
            for seed, values in enumerate(((0.1, 0.4), (0.2, 0.3), (0.3, 0.2), (0.2, 0.2)))
            for width, value in zip((4, 8), values, strict=True)
        ]
        ranking = Ranking(title="t", metric="eval/knn_top1", items=("width",), by="task")
        self.assertIn("| a | width 8 > width 4 | 2 of 4 |", body(ranking, *points))
        self.assertIn("| a | width 4 = width 8 | 1 of 1 |", body(ranking, *points[-2:]))

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
        Scatter(title="t", x="a", y="b", x_name="a", y_name="b", within=()),
        Best(title="t", metric="eval/x", x="share", rows=("share",), by="share"),
    )
    def test_nothing_was_run(self, section):
        self.assertEqual(body(section, run(share=1.0)), "not run.")
        self.assertEmpty(findings(section, run(share=1.0)))

    @parameterized.parameters(
        Fit(title="t", metrics=KNN, x="share", curve=("width",)),
        Contrast(title="t", label="share", values=(1, 2), metrics=KNN, each=("width",)),
    )
    def test_no_run_is_selected(self, section):
        self.assertEqual(body(section), "not run.")
        with self.assertRaisesRegex(UserError, "page: no run has the label 'width'"):
            body(section, run(0.5, share=1.0))

    def test_the_correlation_of_two_metrics(self):
        points = [
            Point({"task": task}, {"a": a, "b": sign * a})
            for task, sign in (("one", 1), ("two", -1))
            for a in (0.1, 0.2, 0.3)
        ]
        scatter = Scatter(title="t", x="a", y="b", x_name="a", y_name="b", within=("task",))
        self.assertIn("| one | +1.00 | 3 |", body(scatter, *points))
        want = ["Kendall's tau of a and b: one +1.00, two -1.00."]
        self.assertEqual(findings(scatter, *points), want)

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

    def test_a_long_name_in_the_key_has_its_room(self):
        """DejaVu Sans, the widest common one, has .65 of the size per letter on average."""
        name = "width 16, permutations 24"
        for draw in (figures.lines, figures.scatter):
            root = ElementTree.fromstring(draw({name: [(1, 0.5)], "a": [(1, 0.2)]}, "x", "y"))
            (text,) = [node for node in root.iter() if node.text == name]
            end = float(text.get("x")) + 0.65 * float(root.get("font-size")) * len(name)
            self.assertLessEqual(end, float(root.get("width")) + 1)

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
                Contrast(title="Gain", label="size", values=(1, 2), metrics=KNN),
            ),
            limits=("Two points.",),
        )
        facts = StudyFacts(command="ssl-jax study", planned=3, finished=2, seconds=90.0, timed=2)
        write(path, page, [run(0.5, size=1), run(0.6, size=2), run(size=3)], facts)
        text = path.read_text()
        self.assertTrue((path.parent / "sizes-by-size.svg").read_text().startswith("<svg"))
        finding = "- size 2 - size 1, kNN: +0.100 (one value, no interval)."
        headings = [
            "# Sizes",
            "## Findings",
            finding,
            "## By size!",
            "![By size!](sizes-by-size.svg)",
            "## All",
        ]
        places = [text.index(part) for part in [*headings, "| 3 | not run |", "- Two points."]]
        self.assertEqual(places, sorted(places))
        self.assertIn("2 of 3 runs are finished", text)
        self.assertIn("2 of them took 1.5 CPU minutes", text)


if __name__ == "__main__":
    absltest.main()
