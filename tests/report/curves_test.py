"""Curves are drawn where the metrics say."""

import math
import re
from xml.etree import ElementTree

import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.report import curves


def elements(svg: str, name: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter(name))


class CurvesTest(parameterized.TestCase):
    def test_points_are_the_metrics(self):
        points = [(10, 4.0), (20, 3.0), (50, 1.0), (100, 0.5)]
        chart = curves.chart("loss", {0: points}, {})
        (line,) = elements(chart, "polyline")
        places = np.array([p.split(",") for p in line.get("points").split()], float)
        steps, values = np.array(points).T
        room = 0.06 * (4.0 - 0.5)
        width, height = curves.WIDTH - curves.RIGHT - curves.LEFT, curves.HEIGHT - curves.BOTTOM
        down = (values - (0.5 - room)) / (4.0 - 0.5 + 2 * room)
        np.testing.assert_allclose(places[:, 0], curves.LEFT + width * steps / 100, atol=0.051)
        expected = height - down * (height - curves.TOP)
        np.testing.assert_allclose(places[:, 1], expected, atol=0.051)
        self.assertEqual(line.get("data-steps"), "10 20 50 100")
        self.assertEqual(line.get("data-values"), "4 3 1 0.5")

    def test_a_baseline_is_level_and_of_its_run(self):
        chart = curves.chart("kNN", {1: [(0, 0.2), (10, 0.8)]}, {(1, "untrained"): 0.5})
        (line,) = [x for x in elements(chart, "line") if "untrained" in x.get("class")]
        self.assertEqual(line.get("y1"), line.get("y2"))
        self.assertIn("c1", line.get("class").split())
        middle = (curves.HEIGHT - curves.BOTTOM + curves.TOP) / 2
        self.assertAlmostEqual(float(line.get("y1")), middle, delta=0.06)

    def test_every_nth_point_of_many_and_the_last(self):
        points = [(i, float(i)) for i in range(3001)]
        selected = curves.thinned(points)
        self.assertLessEqual(len(selected), curves.MOST + 1)
        self.assertLessEqual(set(selected), set(points))
        self.assertEqual((selected[0], selected[-1]), (points[0], points[-1]))

    def test_one_point_and_equal_values(self):
        for points in ([(0, 0.0)], [(5, 2.0), (6, 2.0)]):
            chart = curves.chart("x", {0: points}, {})
            self.assertNotRegex(chart, "nan|inf")

    def test_a_spike_makes_the_axis_logarithmic(self):
        values = [1.0] * 20 + [1e4]
        axis = curves.y_axis(values)
        self.assertTrue(axis.log)
        self.assertFalse(curves.y_axis([*values, -1.0]).log)
        ends, middle = axis.place(1.0) + axis.place(1e4), axis.place(100.0)
        self.assertAlmostEqual(middle, ends / 2)

    @parameterized.parameters((0, 1), (0.003, 0.0041), (-3, 12), (0, 500), (1e5, 9e5))
    def test_ticks_are_round_and_inside(self, low, high):
        ticks = curves.Axis(low, high, 0, 100).ticks()
        self.assertBetween(len(ticks), 3, 8)
        for tick in ticks:
            self.assertBetween(tick, low - 1e-9, high + 1e-9)
        step = ticks[1] - ticks[0]
        mantissa = step / 10 ** math.floor(math.log10(step) + 1e-9)
        self.assertTrue(any(abs(mantissa - n) < 1e-6 for n in (1, 2, 5)), mantissa)

    @parameterized.parameters(
        (0, "0"), (0.25, "0.25"), (1500, "1,500"), (20000, "20k"), (0.00025, "2.5e-4")
    )
    def test_numbers_are_short(self, value, text):
        self.assertEqual(curves.number(value), text)

    def test_titles_are_escaped(self):
        chart = curves.chart('a<b> & "c"', {0: [(0, 1.0), (1, 2.0)]}, {})
        self.assertFalse(re.search(r"<b>", chart))
        ElementTree.fromstring(chart)


if __name__ == "__main__":
    absltest.main()
