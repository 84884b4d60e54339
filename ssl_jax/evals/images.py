"""Images of an evaluation: the training and the test set, and their labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import numpy as np

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Inputs, Size, View
from ssl_jax.data.assemble import Pool
from ssl_jax.data.clips import Clips
from ssl_jax.data.copies import held_out, identities, sample
from ssl_jax.data.pipeline import eval_arrays, local_part
from ssl_jax.data.sources import Source
from ssl_jax.evals import features
from ssl_jax.evals.checks import NotMeasurable, check_classes, check_targets
from ssl_jax.objectives.base import Encoder

STATISTICS = 1024  # images used for the batch statistics of an untrained network


class Part(NamedTuple):
    """Some rows of a data set."""

    source: Source
    rows: np.ndarray

    def some(self, count: int) -> "Part":
        """Return at most `count` of them, drawn evenly over the labels."""
        labels = self.source.labels
        strata = np.zeros(len(self.rows)) if labels is None else labels[self.rows]
        return Part(self.source, self.rows[sample(strata, count)])


class Labelled(NamedTuple):
    """Features (N, D) float32 and labels (N,) of the examples that have a label; of data with
    several labels per image, the table (N, C) int8 of `Images.targets`.
    """

    features: np.ndarray
    labels: np.ndarray

    def rows(self, rows: np.ndarray) -> "Labelled":
        """Return some of the examples, by number or by a mask."""
        return Labelled(self.features[rows], self.labels[rows])


@dataclass(frozen=True)
class Images:
    """The training and the test set as the encoder sees them: centrally cropped to its view.

    Without a test set, a fifth of the training examples is held out of everything that learns from
    labels (the encoder saw its pixels): a random fifth, even over the labels, with all copies of an
    example on the same side.
    """

    view: View
    channels: int
    batch_size: int
    mesh: jax.sharding.Mesh
    train: Part
    test: Part
    streams: Mapping[str, Source] = field(default_factory=dict)  # the method's further sets

    @classmethod
    def of(
        cls, train: Source, test: Source | None, max_train: int, max_eval: int, **settings: object
    ) -> "Images":
        """Create it with at most so many examples of each set, drawn evenly over its labels."""
        if test is None:
            is_held_out = held_out(train)
            parts = (
                Part(train, np.flatnonzero(~is_held_out)),
                Part(train, np.flatnonzero(is_held_out)),
            )
        else:
            parts = Part(train, np.arange(len(train))), Part(test, np.arange(len(test)))
        train_part, test_part = (
            p.some(n) for p, n in zip(parts, (max_train, max_eval), strict=True)
        )
        return cls(train=train_part, test=test_part, **settings)  # type: ignore[arg-type]

    @property
    def labelled(self) -> bool:
        """True if both sets have at least one labelled example.

        Raises:
          UserError: one of them is empty.
        """
        parts = self.train, self.test
        if self.multi:
            return all(np.any(self.targets(part, some_rows(part)) == 1) for part in parts)
        return all(np.any(self.labels(part, some_rows(part)) >= 0) for part in parts)

    @property
    def multi(self) -> bool:
        """True if the images of both sets have several labels each, and none has a single one."""
        return all(_multi(part.source) for part in (self.train, self.test))

    def check_classes(self) -> None:
        """Check that the labels allow a score.

        Raises:
          NotMeasurable: no two classes to learn from, or none of them in the test set.
        """
        if self.multi:
            check_targets(*(self.targets(p, some_rows(p)) for p in (self.train, self.test)))
            return
        train, test = (self.labels(p, some_rows(p)) for p in (self.train, self.test))
        check_classes(train, test)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, indexed by the numbers that `labels` returns."""
        train_names, test_names = self.train.source.class_names, self.test.source.class_names
        if set(test_names) & set(train_names):
            return tuple(dict.fromkeys((*train_names, *test_names)))
        return (*train_names, *test_names[len(train_names) :])

    def notes(self) -> list[str]:
        """Return caveats about the two sets for readers of the numbers, one line each."""
        return [*self._class_notes(), *self._copy_notes()]

    def _class_notes(self) -> list[str]:
        train, test = (self.labels(part, part.rows) for part in (self.train, self.test))
        train_classes, test_classes = np.unique(train[train >= 0]), np.unique(test[test >= 0])
        if not len(train_classes) or not len(test_classes):
            return []
        train_names, test_names = self.train.source.class_names, self.test.source.class_names
        notes = []
        if test_names != train_names and not set(test_names) & set(train_names):
            notes.append(
                f"{self.train.source.name} and {self.test.source.name} share no class name: "
                "classes are matched by their numbers"
            )
        missing = test_classes[~np.isin(test_classes, train_classes)]
        if len(missing):
            count, names = int(np.isin(test, missing).sum()), self.class_names
            examples = ", ".join(names[c] if c < len(names) else str(c) for c in missing[:5])
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            notes.append(
                f"{count} of {np.sum(test >= 0)} evaluation examples are of classes that the "
                f"training part lacks ({examples}{more}): every prediction for them counts as wrong"
            )
        return notes

    def _copy_notes(self) -> list[str]:
        # If both are one set, its held-out part has no copies in the other part. Episodes differ.
        same = self.train.source is self.test.source
        if same or not len(self.test.rows) or self.train.source.actions:
            return []
        train, test = (identities(p.source, p.rows) for p in (self.train, self.test))
        copies = int(np.isin(test, train).sum())
        if not copies:
            return []
        return [
            f"{copies} of {len(test)} evaluation images are training images too: numbers on them "
            "measure memorization, not generalization"
        ]

    def labels(self, part: Part, index: np.ndarray) -> np.ndarray:
        """Return the labels (N,) of the examples `index` of a part, numbered as the training set's
        classes, -1 for no label.

        Each of two folders has its own numbering of classes. So classes are matched by name if the
        two sets share any; classes that the training set lacks are numbered after its own.
        """
        source = part.source
        if source.labels is None:
            return np.full(len(index), -1, np.int32)
        labels, numbers = source.labels[index], self._numbers(source)
        return labels if numbers is None else np.append(numbers, np.int32(-1))[labels]

    def targets(self, part: Part, index: np.ndarray) -> np.ndarray:
        """Return, for the examples `index` of a part with several labels per image, 1 for each
        class that they show, 0 for the others, -1 where that is not known: (N, C) int8. The C
        classes are those of `class_names`.
        """
        source, names = part.source, self.class_names
        assert source.label_sets is not None
        count = len(source.class_names)
        own = source.label_sets.indicators(index, count)
        if source.unsure is not None:
            own[source.unsure.indicators(index, count) > 0] = -1
        numbers = self._numbers(source)
        out = np.full((len(index), len(names)), -1, np.int8)
        out[:, np.arange(count) if numbers is None else numbers] = own
        return out

    def _numbers(self, source: Source) -> np.ndarray | None:
        """Return the number of each of its classes among `class_names`; None if they are equal."""
        names, train_names = source.class_names, self.train.source.class_names
        if names == train_names or not set(names) & set(train_names):
            return None
        number = {name: i for i, name in enumerate(dict.fromkeys((*train_names, *names)))}
        return np.array([number[name] for name in names], np.int32)

    def texts(self, part: Part, index: np.ndarray) -> list[str]:
        """Return the names of the labels of each example, "" without, for people to read."""
        names = self.class_names
        if _multi(part.source):
            rows = self.targets(part, index) == 1
            return [", ".join(names[c] for c in np.flatnonzero(row)) for row in rows]
        return [names[c] if 0 <= c < len(names) else "" for c in self.labels(part, index)]

    def labelled_rows(
        self, part: Part, arrays: Sequence[np.ndarray], index: np.ndarray
    ) -> list[Labelled]:
        """Drop the rows whose example has no label.

        Args:
          arrays: (N, ...) each, one row per example.
          index: (N,), the examples of the rows.

        Raises:
          NotMeasurable: no example has a label.
        """
        labels = self.targets(part, index) if self.multi else self.labels(part, index)
        labelled = labels >= 0
        has_label = np.asarray(labelled.any(axis=1) if self.multi else labelled)
        if not has_label.any():
            raise NotMeasurable(f"{part.source.name}: none of {len(index)} examples has a label")
        if has_label.all():  # without a copy
            return [Labelled(rows, labels) for rows in arrays]
        return [Labelled(features.select(rows, has_label), labels[has_label]) for rows in arrays]

    def batches(self, part: Part, size: Size | None = None) -> features.Batches:
        """Return batches (images, index) of this process's rows of a part, resized to `size`, by
        default the view's.

        Raises:
          NotMeasurable: the part is empty.
        """
        batch, rows = self.batch_size + -self.batch_size % self.mesh.size, some_rows(part)
        batch = min(batch, max(len(rows) // self.mesh.size * self.mesh.size, self.mesh.size))
        mine = sharding.local_rows(self.mesh, batch)
        return eval_arrays(
            part.source,
            size or self.view.size,
            rows=local_part(rows, batch, mine),
            channels=self.channels,
            batch=len(mine),
        )

    def clips(self, part: Part, frames: int) -> features.Batches:
        """Return batches (clips (B, frames, H, W, C), index) of this process's rows of a part. The
        start of each clip is drawn from its number; whole frames are resized to the view's size.

        Raises:
          NotMeasurable: the part is empty.
          UserError: all clips are shorter.
        """
        batch, rows = self.batch_size + -self.batch_size % self.mesh.size, some_rows(part)
        batch = min(batch, max(len(rows) // self.mesh.size * self.mesh.size, self.mesh.size))
        mine = sharding.local_rows(self.mesh, batch)
        local = local_part(rows, batch, mine)
        inputs = Inputs((replace(self.view, area=(1.0, 1.0)),), frames=frames)
        clips, pool = Clips(part.source, inputs, self.channels, seed=0), Pool(0)
        for first in range(0, len(local), len(mine)):
            index = local[first : first + len(mine)]
            yield clips.batch(np.maximum(index, 0), 0, pool.run)["frames"], index.astype(np.int32)

    def some(self, count: int) -> Part:
        """Return at most `count` test examples, drawn evenly over their labels.

        Raises:
          UserError: `count` is below one.
        """
        if count < 1:
            raise UserError(f"examples = {count} must be positive")
        return self.test.some(count)

    def whole(self, part: Part, size: Size | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Read all images (N, H, W, C) uint8 of a part and their index, in every process."""
        return features.collect(lambda images, _: images, self.batches(part, size), self.mesh)

    def with_statistics(self, encoder: Encoder) -> Encoder:
        """Return the encoder with batch-norm statistics of at most `STATISTICS` training images, by
        `features.recompute_statistics`.

        Raises:
          NotMeasurable: none of them can be read.
        """
        if not jax.tree.leaves(encoder.stats):
            return encoder
        part = self.train.some(STATISTICS)
        batches = eval_arrays(
            part.source, self.view.size, rows=some_rows(part), channels=self.channels
        )
        images = np.concatenate([images[index >= 0] for images, index in batches])
        if not len(images):
            raise NotMeasurable(f"{part.source.name}: none of {len(part.rows)} images can be read")
        return features.recompute_statistics(encoder, self.view, images, self.mesh)


def _multi(source: Source) -> bool:
    return source.labels is None and source.label_sets is not None


def some_rows(part: Part) -> np.ndarray:
    """Return the rows of a part.

    Raises:
      NotMeasurable: there are none.
    """
    if not len(part.rows):
        raise NotMeasurable(
            f"{part.source.name}: no example to evaluate on; give evaluation data, or at least two "
            "different training examples, a fifth of which are held out"
        )
    return part.rows
