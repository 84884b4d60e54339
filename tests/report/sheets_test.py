"""Contact sheets: names are escaped, corrupt images are left out."""

import html.parser

import numpy as np
from absl.testing import absltest

from ssl_jax.data.sources import ArraySource
from ssl_jax.report import classifier, sheets
from ssl_jax.report.sheets import Panel, cell, thumbnails

EVIL = '<script>alert("x")</script>'


def tags(page):
    """List the tags of a page and the texts outside of styles and scripts."""
    every_tag, texts = [], []

    class Parser(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            every_tag.append((tag, dict(attributes)))

        def handle_data(self, data):
            texts.append(data)

    Parser().feed(page)
    return every_tag, "".join(texts)


class SheetsTest(absltest.TestCase):
    def test_names_are_escaped_everywhere(self):
        source = ArraySource("set", np.zeros((3, 8, 8, 1), np.uint8))
        pictures = thumbnails(source, [0, 2], 8, 1)
        self.assertEqual(sorted(pictures), [0, 2])
        cells = [*cell(pictures, 0, EVIL), *cell(pictures, 2, "plain", True)]
        self.assertEqual(cell(pictures, 1, "not read"), [])
        page = sheets.render(
            EVIL, EVIL, [EVIL], EVIL, [Panel(EVIL, EVIL, cells)], {EVIL: EVIL}, EVIL
        )
        every, text = tags(page)
        self.assertLen([tag for tag, _ in every if tag == "script"], 1)  # the page's own
        self.assertEqual(text.count(EVIL), 11)
        images = [attributes for tag, attributes in every if tag == "img"]
        self.assertEqual([image["alt"] for image in images], [EVIL, "plain"])
        self.assertTrue(images[0]["src"].startswith("data:image/png;base64,"))

    def test_the_page_of_a_classifier(self):
        names = [EVIL, "cat"]
        row = {"name": "x", "top1": 0.75, "low": 0.5, "high": 0.9, "per_class": 0.7}
        one = {"precision": None, "recall": 0.5, "f1": None, "test": 2, "train": 3}
        outcome = classifier.Outcome(
            scores=[row],
            candidates=[{"name": "linear probe", "top1": 0.5, "loss": 0.1, "chosen": True}],
            confusion=np.array([[1, 1], [0, 2]]),
            classes=[{"name": name, **one} for name in names],
            mistakes=[],
            facts={EVIL: EVIL},
            notes=[EVIL],
            calibration="calibrated",
            choice="chosen",
        )
        every, text = tags(classifier.render(outcome, EVIL, EVIL, EVIL))
        self.assertLen([tag for tag, _ in every if tag == "script"], 1)
        self.assertIn("Most frequent confusions", text)
        self.assertIn("There are no mistakes on the test images.", text)
        shares = [a["style"] for tag, a in every if tag == "td" and "style" in a]
        self.assertEqual(shares, [f"--share:{s}" for s in ("0.50", "0.50", "0.00", "1.00")])


if __name__ == "__main__":
    absltest.main()
