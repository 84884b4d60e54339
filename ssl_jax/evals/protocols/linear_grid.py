"""The linear probes of DINO, DINOv2 and BEiT: a grid of layers and learning rates, trained on
features that are read in one pass; held-out training examples choose among them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import jax
import numpy as np

from ssl_jax.core.ranges import Count, Part, Positive, Seed
from ssl_jax.evals.average_precision import precision_titles
from ssl_jax.evals.base import Protocol, Subject, group_by
from ssl_jax.evals.checks import NotMeasurable, check_targets
from ssl_jax.evals.images import Labelled
from ssl_jax.evals.linear_head import chosen_titles
from ssl_jax.evals.protocols.linear import Linear, fit, split
from ssl_jax.evals.scores import accuracy_titles
from ssl_jax.objectives.base import Encoder, Probe

DINOV2_RATES = (
    *(1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3),
    *(2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1),
)
RATES = {"dino": (1e-3,), "dinov2": DINOV2_RATES, "beit": (1e-3,)}
# DINO takes four class tokens of its ViT-S, and of its ViT-B one, with the mean of the patches.
POOLS = {"dino": ("cls4", "cls1_avg"), "dinov2": ("cls1", "cls1_avg", "cls4", "cls4_avg")}


@dataclass(frozen=True, kw_only=True)
class LinearGrid(Protocol):
    """Accuracy (or mean average precision) of the linear classifier that the held-out examples
    prefer among those of all layers and rates of a paper.

    `linear_grid_top1` is that of the chosen one on the test images, `linear_grid_holdout_top1` on
    the held-out examples, `linear_grid_best_top1` the largest on the test images, which the papers
    print; `linear_grid_layer` and `linear_grid_log10_lr` tell which one was chosen: the place of
    its layer, from 0, and its rate per 256 examples.

    Attributes:
      paper: "dino" (2104.14294): the class tokens of the last 4 blocks, each after the final norm,
        and the last one with the mean of the patches. "dinov2" (2304.07193): those of the last 1
        and 4, each without and with the mean, times 13 rates. "beit" (2106.08254): the class token
        with the mean of the patches of every block; the last is normed, the others are not.
      rates: learning rates per 256 examples; by default the paper's.
      epochs, batch_size: override the paper's, whose batch is at most the training set.
      holdout: share of the training examples that choose, and that no classifier learns from.
      seed: seed of that choice, of the order of the examples and of the initial weights.
    """

    titles: ClassVar[Mapping[str, str]] = {
        **accuracy_titles("linear_grid", "linear classifier, chosen from a grid"),
        **precision_titles("linear_grid", "linear classifier, chosen from a grid"),
        **chosen_titles("linear_grid_holdout", "linear classifier of a grid, held-out images"),
        **chosen_titles("linear_grid_best", "linear classifier of a grid, best on the test images"),
        "linear_grid_layer": "linear classifier of a grid, number of the chosen layer",
        "linear_grid_log10_lr": "linear classifier of a grid, log10 of the chosen rate",
    }
    scores: ClassVar[tuple[str, ...]] = (
        *("linear_grid_top", "linear_grid_mean", "linear_grid_map", "linear_grid_11point"),
        *("linear_grid_holdout", "linear_grid_best"),
    )
    decides: ClassVar[tuple[str, ...]] = ("linear_grid_top1", "linear_grid_map")
    multi: ClassVar[bool] = True
    needs: ClassVar[str] = "labels, and a vision transformer with a class token"

    paper: Literal["dino", "dinov2", "beit"] = "dinov2"
    rates: tuple[Positive, ...] = ()
    epochs: Count | None = None
    batch_size: Count | None = None
    holdout: Part = 0.1
    seed: Seed = 0

    def applies(self, subject: Subject) -> bool:
        if subject.encoder is not None and not _class_tokens(subject):
            return False
        return super().applies(subject)

    @classmethod
    def measure_all(
        cls, settings: Sequence[Self], subject: Subject
    ) -> Iterator[tuple[Self, dict[str, float]]]:
        for group in group_by(settings, lambda setting: setting.paper):
            probes = _probes(group[0].paper, subject)
            train, test = (
                subject.labelled_features(part, probes)
                for part in (subject.images.train, subject.images.test)
            )
            if subject.multi:
                check_targets(train[0].labels, test[0].labels)
            for setting in group:
                yield setting, setting._of(train, test, subject)

    def _of(
        self, train: Sequence[Labelled], test: Sequence[Labelled], subject: Subject
    ) -> dict[str, float]:
        """Measure on features read at each layer."""
        rates = self.rates or RATES[self.paper]
        common = Linear(
            preset=self.paper, epochs=self.epochs, batch_size=self.batch_size, seed=self.seed
        )
        chosen, on_test = [], []
        for layer, (whole, test_rows) in enumerate(zip(train, test, strict=True)):
            rest, held_out = split(whole, self.holdout, self.seed)
            if not len(held_out.labels):
                raise NotMeasurable(
                    f"linear_grid: holdout = {self.holdout} of {len(whole.labels)} examples holds "
                    "out none; raise it"
                )
            heads = fit(
                rest,
                [replace(common, lr=rate) for rate in rates],
                subject.classes,
                subject.images.mesh,
            )
            for rate, head in zip(rates, heads, strict=True):
                ((measure, value),) = head.chosen_by(held_out, "linear_grid_holdout").items()
                chosen.append((value if head.finite else np.nan, layer, rate))
                on_test.append(head.scores(test_rows, "linear_grid"))
        values = np.nan_to_num([value for value, _, _ in chosen], nan=-1.0)
        place = int(values.argmax())
        value, layer, rate = chosen[place]
        kind = measure.removeprefix("linear_grid_holdout_")
        numbers = on_test[place] | {
            measure: value,
            f"linear_grid_best_{kind}": float(
                np.fmax.reduce([n[f"linear_grid_{kind}"] for n in on_test])
            ),
        }
        if not np.isfinite(value):  # all diverged
            numbers = dict.fromkeys(numbers, float("nan"))
        return numbers | {
            "linear_grid_layer": float(layer),
            "linear_grid_log10_lr": float(np.log10(rate)),
        }


def _probes(paper: str, subject: Subject) -> list[Probe]:
    """Return the layers of a paper that the network has; raw pixels are one layer."""
    if subject.encoder is None:
        return [Probe()]
    blocks = _class_tokens(subject)
    if paper == "beit":
        return [Probe(stage, "cls_avg") for stage in range(blocks)]
    pools = [pool for pool in POOLS[paper] if blocks >= 4 or not pool.startswith("cls4")]
    return [Probe(-1, pool) for pool in pools]


def _class_tokens(subject: Subject) -> int:
    """Return the number of blocks with a class token and its norm; 0 if one of them has none."""
    encoder, images = subject.encoder, subject.images
    assert encoder is not None
    shape = (images.mesh.size, *images.view.sides, images.channels)
    pictures = jax.ShapeDtypeStruct(shape, np.float32)
    stages = jax.eval_shape(Encoder.features, encoder, pictures).stages
    has_token = all(stage.normed_cls is not None and stage.map is not None for stage in stages)
    return len(stages) if has_token else 0
