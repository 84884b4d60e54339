"""Logistic regression, its penalty chosen on a part of the training set, then fitted to all of it:
the linear protocol of the transfer suites.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ssl_jax.core.ranges import Count, Part, Seed
from ssl_jax.evals.average_precision import precision_titles
from ssl_jax.evals.base import AtLayer, Subject
from ssl_jax.evals.checks import NotMeasurable, check_several
from ssl_jax.evals.images import Labelled
from ssl_jax.evals.linear_head import chosen_titles, regularisation_path
from ssl_jax.evals.protocols.linear import split
from ssl_jax.evals.scores import accuracy_titles

LOW, HIGH = -6, 5  # of the grid, powers of ten


@dataclass(frozen=True, kw_only=True)
class Logistic(AtLayer):
    """Accuracy, or with several labels per image mean average precision, of logistic regression
    with the best of `count` penalties from 1e-6 to 1e5, spaced evenly in their logarithm; at most
    1000 steps of L-BFGS each, from the previous solution.

    Attributes:
      preset: parameter of the grid: "kornblith" (1805.08974, and SimCLR and BYOL after it) lambda
        of `mean cross-entropy + lambda / 2 |W|^2`; "dinov2" (2304.07193, the release) C of
        `C * summed cross-entropy + 1/2 |W|^2`.
      count: number of penalties.
      holdout: share of the training examples that the penalty is chosen on.
      seed: seed of the choice of those examples.
    """

    titles: ClassVar[Mapping[str, str]] = {
        **accuracy_titles("logistic", "logistic regression, chosen penalty"),
        **precision_titles("logistic", "logistic regression, chosen penalty"),
        **chosen_titles("logistic_holdout", "logistic regression, held-out training images"),
        "logistic_log10_penalty": "logistic regression, log10 of the chosen penalty",
    }
    scores: ClassVar[tuple[str, ...]] = ("logistic_top", "logistic_map", "logistic_11point")
    decides: ClassVar[tuple[str, ...]] = ("logistic_top1", "logistic_map")
    multi: ClassVar[bool] = True

    preset: Literal["kornblith", "dinov2"] = "kornblith"
    count: Count = 45
    holdout: Part = 0.1
    seed: Seed = 0

    def measure(self, subject: Subject) -> dict[str, float]:
        train, test = subject.train(self), subject.test(self)
        check_several(train.labels, "logistic")
        rest, held_out = split(train, self.holdout, self.seed)
        if not _learnable(rest, held_out):
            raise NotMeasurable(
                f"logistic: {len(train.labels)} training examples are too few to choose the "
                "penalty on a part of them"
            )
        # From the strongest to the weakest, so that each starts near its solution.
        penalties = np.logspace(HIGH, LOW, self.count)
        if self.preset == "dinov2":
            penalties = penalties[::-1]
        heads = regularisation_path(rest, self._inverse(penalties, rest), subject.classes)
        results = [head.chosen_by(held_out, "logistic_holdout") for head in heads]
        ((measure, _),) = results[0].items()
        scores = [result[measure] for result in results]
        best = int(np.argmax(np.nan_to_num(scores, nan=-1.0)))
        best_inverse = self._inverse(penalties[best : best + 1], train)
        (head,) = regularisation_path(train, best_inverse, subject.classes)
        return head.scores(test, "logistic") | {
            measure: scores[best],
            "logistic_log10_penalty": float(np.log10(penalties[best])),
        }

    def _inverse(self, penalties: np.ndarray, train: Labelled) -> list[float]:
        """Convert the penalties to scikit-learn's C."""
        scale = penalties if self.preset == "dinov2" else 1 / (penalties * len(train.labels))
        return scale.tolist()  # type: ignore[no-any-return]


def _learnable(rest: Labelled, held_out: Labelled) -> bool:
    """Return whether a penalty can be chosen by these examples."""
    if rest.labels.ndim == 2:
        return bool((held_out.labels == 1).any())
    return len(held_out.labels) > 0 and len(np.unique(rest.labels)) > 1
