"""The page as a file: well-formed, self-contained, without overflow on phones and desktops."""

import dataclasses
import html
import itertools
import json
import re
import shutil
import subprocess
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.evals import protocols
from ssl_jax.report import look
from ssl_jax.report.look import Cluster, Examples, Look, Neighbours
from ssl_jax.report.markup import VOID
from ssl_jax.report.page import render
from ssl_jax.report.patches import Grid
from ssl_jax.report.run import Run

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def view(side: int = 16, channels: int = 1, labelled: bool = True) -> Look:
    """A look at noise."""
    draw = np.random.default_rng(0)

    def examples(count: int, size: int = side) -> Examples:
        pixels = draw.integers(0, 256, (count, size, size, channels)).astype(np.uint8)
        labels = np.arange(count) % 5 if labelled else np.full(count, -1)
        return Examples(pixels, pixels.reshape(count, -1), pixels.reshape(count, -1), labels)

    train, test = examples(40), examples(20)
    near = Neighbours(np.arange(5), draw.integers(0, 40, (5, 8)), 0.5 if labelled else None)
    predicted = np.array([[0, 1], [-1, 0]], np.int32)
    pictures = [list(row) for row in examples(4).images.reshape(2, 2, side, side, channels)]
    grid = Grid(
        "What is seen.", ("first", "second"), pictures, predicted, predicted * 0, ("0°", "90°")
    )
    return Look(
        10,
        tuple(f"a rather long name of class {i}" for i in range(5)) if labelled else (),
        train,
        test,
        {look.FEATURES: near, look.RAW: near},
        {look.FEATURES: draw.random((20, 2)), look.RAW: draw.random((20, 2))},
        [Cluster(40, np.arange(24), 1 if labelled else -1, 0.5)],
        {"Predicted <things>": grid, "Reconstructions": grid._replace(predicted=None, truth=None)},
    )


def run(name: str, seed: int = 0, looked: Look | None = None) -> Run:
    """A run with settings and metrics."""
    draw = np.random.default_rng(seed)
    metrics = [{"step": 0, "untrained/eval/knn_top1": 0.3, "pixels/eval/knn_top1": 0.6}]
    for step in range(10, 110, 10):
        metrics.append({"step": step, "train/loss": float(draw.random()), "train/lr": 0.1})
        metrics.append({"step": step, "eval/knn_top1": 0.5, "diag/rankme": 30.0 + step})
    config = {
        "objective": {"name": "mean & <lean>", "view": {"size": 16}},
        "data": {"train": "digits"},
        "spec": {"total_steps": 100},
        "train": {"seed": seed},
    }
    result = {
        "settings": {"k": 20, "temperature": 0.07},
        "protocol": "knn",
        "step": 100,
        "results": {"eval/knn_top1": 0.5},
        "data": "digits",
        "eval_data": "x" * 90,
    }
    facts = {"folder": "/a/" + "very_long_name_" * 20, "seed": str(seed)}
    return Run(name, config, metrics, [result], facts, ["nothing <b>"], looked)


def page(*runs: Run) -> str:
    titles = protocols.titles(name.rpartition("/")[2] for run in runs for name in run.last)
    return render(runs, titles, protocols.scores(), "made by a test")


class Reader(HTMLParser):
    """Parser that raises if a tag is not closed, and collects all tags and the text."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags = [], []
        self.text = ""
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID and tag != "link":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        self.text += data


class PageTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("one", [run("a", 0, view())]),
        ("two", [run("a", 0, view()), run("b", 1, view())]),
        ("no_checkpoint", [run("a")]),
        ("no_labels", [run("a", 0, view(labelled=False))]),
        ("photographs", [run("a", 0, view(96, 3))]),
    )
    def test_well_formed_and_self_contained(self, runs):
        text = page(*runs)
        reader = Reader(text)
        self.assertNotRegex(text, r"https?://")
        for tag, attrs in reader.tags:
            for name in ("src", "href", "data", "action", "poster", "srcset"):
                value = attrs.get(name)
                if value is not None:
                    self.assertRegex(value, r"^(data:|#)", tag)
            if tag == "img":
                self.assertRegex(attrs["src"], r"^data:image/(png|webp);base64,\w")
                self.assertTrue(attrs["alt"])
        self.assertNotRegex(text, r"url\(|@import")
        self.assertNotIn("<b>", text.replace("<b>knn</b>", ""))
        self.assertLess(len(text), 3e6)
        headings = [int(tag[1]) for tag, _ in reader.tags if re.fullmatch(r"h\d", tag)]
        self.assertEqual(headings.count(1), 1)
        self.assertTrue(all(b - a <= 1 for a, b in itertools.pairwise(headings)))
        anchors = {attrs.get("id") for _, attrs in reader.tags}
        links = {a["href"][1:] for t, a in reader.tags if t == "a"}
        self.assertLessEqual(links, anchors)

    def test_no_text_becomes_markup(self):
        """Names come from folders, captions and configs of other people."""
        evil = "<x-evil a='\">&"
        hostile = run(evil, 0, view())
        hostile.facts[evil] = evil
        hostile.notes.append(evil)
        hostile.config[evil] = {evil: evil}
        hostile.config["data"] = {"train": evil}
        for key in ("protocol", "data", "step"):
            hostile.results[0][key] = evil
        hostile.results[0]["settings"] = {evil: evil}
        hostile.results[0]["results"] = {evil: 0.5}
        for line in hostile.metrics:
            line[f"eval/{evil}"] = line["step"] / 1000
        grid = Grid(
            evil, (evil, evil), *hostile.look.grids["Predicted <things>"][2:5], (evil, evil)
        )
        hostile.look = dataclasses.replace(hostile.look, classes=(evil,) * 5, grids={evil: grid})
        for runs in ([hostile], [hostile, run("b", 1, view())]):
            text = page(*runs)
            reader = Reader(text)
            self.assertNotIn("x-evil", {tag for tag, _ in reader.tags})
            self.assertNotIn("<x-evil", text)
            self.assertGreater(reader.text.count(evil), 20)

    def test_numbers_stand_beside_their_baselines(self):
        text = Reader(page(run("a"))).text
        self.assertRegex(text, r"nearest neighbours \(kNN\)0\.5000\.3000\.600")

    def test_curves_of_several_runs_and_their_baselines(self):
        text = page(run("a"), run("b", 1))
        (chart,) = re.findall(
            r'<figure class="chart"><figcaption><strong>nearest.*?</figure>', text
        )
        self.assertEqual(chart.count("<polyline"), 2)
        self.assertEqual(chart.count('class="base untrained'), 2)
        self.assertEqual(chart.count('class="base pixels'), 2)

    def test_right_and_wrong_are_marked_by_more_than_colour(self):
        text = page(run("a", 0, view()))
        self.assertIn("✓ 0°", text)
        self.assertIn("✗ 90°", text)
        self.assertIn("another class", text)

    def test_without_a_checkpoint_only_what_was_logged(self):
        text = page(run("a"))
        self.assertNotIn("<img", text)
        self.assertIn("<polyline", text)


@absltest.skipUnless(CHROMIUM, "no Chromium on this machine")
class BrowserTest(parameterized.TestCase):
    @parameterized.product(width=(390, 1400), runs=(1, 2))
    def test_no_overflow_no_error_no_request(self, width, runs):
        text = page(*(run(f"run{i}", i, view(96, 3)) for i in range(runs)))
        # In a frame, as a headless window has a minimum width; measured after it has been drawn.
        frame = f"""<body style="margin:0"><iframe style="border:0;width:{width}px;height:900px"
            srcdoc="{html.escape(text)}"></iframe><pre id="found"></pre><script>
            const frame = document.querySelector("iframe"), errors = [];
            frame.contentWindow.addEventListener("error", e => errors.push(e.message));
            addEventListener("load", () => {{
              const inner = frame.contentDocument, root = inner.documentElement;
              const wide = [...inner.querySelectorAll("body *")].filter(e => !e.closest(".scroll")
                && e.getBoundingClientRect().right > root.clientWidth + 1).map(e => e.outerHTML);
              const requests = frame.contentWindow.performance.getEntriesByType("resource")
                .map(e => e.name).filter(name => !name.startsWith("data:"));
              const broken = [...inner.images].filter(i => !i.naturalWidth).length;
              const svg = inner.querySelector(".chart svg"), box = svg.getBoundingClientRect();
              svg.dispatchEvent(new PointerEvent("pointermove", {{clientX: box.right - 12}}));
              document.querySelector("#found").textContent = JSON.stringify({{
                width: root.clientWidth, scroll: root.scrollWidth, errors, requests, broken,
                wide: wide.slice(0, 3).map(x => x.slice(0, 200)),
                images: inner.images.length, hover: inner.querySelector("output").textContent}});
            }});</script>"""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "frame.html"
            file.write_text(frame)
            done = subprocess.run(
                [
                    CHROMIUM,
                    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
                    *("--no-first-run", "--disable-background-networking", "--disable-sync"),
                    *("--disable-component-update", "--enable-logging=stderr"),
                    f"--user-data-dir={folder}/profile",
                    *("--window-size=1500,1000", "--hide-scrollbars", "--dump-dom"),
                    f"file://{file}",
                ],
                capture_output=True,
                text=True,
                timeout=180,
            )
        match = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
        self.assertIsNotNone(match, done.stderr[-2000:])
        measured = json.loads(html.unescape(match.group(1)))
        self.assertEqual(measured["width"], width)
        self.assertLessEqual(measured["scroll"], width, measured["wide"])
        self.assertEqual(
            (measured["errors"], measured["requests"], measured["broken"]), ([], [], 0)
        )
        self.assertEqual(measured["wide"], [])
        self.assertGreater(measured["images"], 50)
        self.assertRegex(measured["hover"], r"^step \d+: [\d.]+")
        self.assertNotIn("CONSOLE", done.stderr)


if __name__ == "__main__":
    absltest.main()
