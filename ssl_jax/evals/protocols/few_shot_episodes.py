"""Few-shot classification in episodes: some classes of the test set, a few labels of each (the
protocol of mini-ImageNet: Vinyals et al., 1606.04080; Snell et al., 1703.05175).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, Seed
from ssl_jax.evals.base import AtLayer, Subject
from ssl_jax.evals.checks import NotMeasurable
from ssl_jax.evals.images import Labelled


@dataclass(frozen=True, kw_only=True)
class FewShotEpisodes(AtLayer):
    """Mean accuracy over random episodes, each with some classes of the test set.

    An episode draws `ways` classes, and of each `shots` labelled images and up to `queries` others
    that are classified. `few_shot_episodes_5way_1shot` is the mean of the accuracies,
    `few_shot_interval_5way_1shot` the half width of its 95 % interval, 1.96 standard errors.

    Attributes:
      ways: classes per episode.
      shots: labelled images per class, measured one after another.
      queries: classified images per class; a class with fewer images gives those that it has.
      episodes: number of episodes.
      classifier: "centroid": the class whose mean of unit features has the largest cosine;
        "logistic": logistic regression on unit features, C = 1.
      seed: seed of the episodes, which are the same for all networks.
    """

    titles: ClassVar[Mapping[str, str]] = {
        "few_shot_episodes_{ways}way_1shot": "{ways} classes, 1 label each",
        "few_shot_episodes_{ways}way_{shots}shot": "{ways} classes, {shots} labels each",
        "few_shot_interval_{ways}way_1shot": "half interval (95 %), {ways} classes, 1 label each",
        "few_shot_interval_{ways}way_{shots}shot": "half interval, {ways} classes, {shots} labels",
    }
    scores: ClassVar[tuple[str, ...]] = ("few_shot_episodes",)
    decides: ClassVar[tuple[str, ...]] = ("few_shot_episodes",)

    ways: Count = 5
    shots: tuple[Count, ...] = (1, 5)
    queries: Count = 15
    episodes: Count = 600
    classifier: Literal["centroid", "logistic"] = "centroid"
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.shots:
            raise UserError("few_shot_episodes: give shots")

    def measure(self, subject: Subject) -> dict[str, float]:
        test = subject.test(self)
        test = Labelled(normalize(test.features), test.labels)
        numbers = {}
        for shots in self.shots:
            ways, episodes = self._episodes(test.labels, shots)
            with threadpool_limits(1):  # threads cost more than they save on problems this small
                values = [self._accuracy(test, *rows) for rows in episodes]
            name = f"{ways}way_{shots}shot"
            numbers[f"few_shot_episodes_{name}"] = float(np.mean(values))
            spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
            numbers[f"few_shot_interval_{name}"] = float(1.96 * spread / np.sqrt(len(values)))
        return numbers

    def _episodes(
        self, labels: np.ndarray, shots: int
    ) -> tuple[int, Iterator[tuple[np.ndarray, np.ndarray]]]:
        """Return the classes per episode, and the labelled and the classified rows of each.

        Raises:
          NotMeasurable: fewer than two classes have more than `shots` images.
          UserError: fewer have than `ways`, which is not the default.
        """
        rows = [np.flatnonzero(labels == c) for c in np.unique(labels)]
        usable = [r for r in rows if len(r) > shots]
        if len(usable) < 2:
            raise NotMeasurable(
                f"few_shot_episodes: {len(usable)} of {len(rows)} test classes have more than "
                f"{shots} images; at least two are needed"
            )
        ways = self.at_most("ways", len(usable), f"test classes with more than {shots} images")

        def episodes() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for number in range(self.episodes):
                rng = np.random.default_rng([self.seed, shots, number])
                chosen = rng.permutation(len(usable))[:ways]
                orders = [rng.permutation(usable[c]) for c in chosen]
                support = np.concatenate([order[:shots] for order in orders])
                yield (
                    support,
                    np.concatenate([order[shots : shots + self.queries] for order in orders]),
                )

        return ways, episodes()

    def _accuracy(self, test: Labelled, support: np.ndarray, queries: np.ndarray) -> float:
        x, labels = test.features[support], test.labels[support]
        if self.classifier == "logistic":
            model = LogisticRegression(C=1.0, max_iter=1000).fit(x, labels)
            return float(np.mean(model.predict(test.features[queries]) == test.labels[queries]))
        classes = np.unique(labels)
        centroids = normalize(np.stack([x[labels == c].mean(0) for c in classes]))
        answers = classes[(test.features[queries] @ centroids.T).argmax(1)]
        return float(np.mean(answers == test.labels[queries]))
