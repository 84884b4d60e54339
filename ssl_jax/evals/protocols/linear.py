"""The linear probe: a linear classifier on frozen features, trained as each paper trains it.

Many learning rates and weight decays are trained at once, on the same batches: all of their logits
are one matrix product. The published recipes augment the images in each epoch; here the features
are those of clean central crops, read once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import BelowOne, Count, NonNegative, Positive, Seed
from ssl_jax.data.copies import apart
from ssl_jax.evals import heads
from ssl_jax.evals.average_precision import precision_titles
from ssl_jax.evals.base import AtLayer, Subject, group_by
from ssl_jax.evals.checks import check_several
from ssl_jax.evals.images import Labelled
from ssl_jax.evals.linear_head import LinearHead, chosen_titles, regularisation_path
from ssl_jax.evals.scores import accuracy_titles
from ssl_jax.optim.factory import OptimConfig

Array = jax.Array
Paper = Literal[
    "moco",
    "moco_v3",
    "simclr",
    "byol",
    "swav",
    "barlow_twins",
    "dino",
    "mae",
    "beit",
    "dinov2",
    "colorization",
    "rotnet",
]
LOGITS = 2**28  # in memory at once
EPS = 1e-6  # of MAE's batch norm


@dataclass(frozen=True)
class ProbeTraining:
    """A paper's training of its linear probe.

    Attributes:
      optim: optimizer and schedule.
      init: standard deviation of the initial weights.
      batch_norm: normalise features by the batch, without scale and offset.
    """

    optim: OptimConfig
    batch_size: int
    epochs: int
    init: float = 0.01
    batch_norm: bool = False


SGD = OptimConfig(name="sgd", momentum=0.9)
PRESETS = {
    # 1911.05722, section 4.1, and the released main_lincls.py
    "moco": ProbeTraining(
        replace(SGD, lr=30.0, lr_scaling="none", schedule="step", milestones=(60, 80)),
        batch_size=256,
        epochs=100,
    ),
    # 2104.02057, the released main_lincls.py for ResNet-50; its ViTs take a rate of 3
    "moco_v3": ProbeTraining(replace(SGD, lr=0.1), batch_size=1024, epochs=90),
    # 2002.05709, appendix B.6
    "simclr": ProbeTraining(
        replace(SGD, lr=0.1, weight_decay=1e-6, nesterov=True),
        batch_size=4096,
        epochs=90,
        init=0.0,
    ),
    # 2006.07733, the released eval_experiment.py; the paper takes the best of five rates
    "byol": ProbeTraining(replace(SGD, lr=0.2, nesterov=True), batch_size=1024, epochs=80),
    # 2006.09882, the released eval_linear.py
    "swav": ProbeTraining(
        replace(SGD, lr=0.3, lr_scaling="none", weight_decay=1e-6), batch_size=256, epochs=100
    ),
    # 2103.03230, the released evaluate.py
    "barlow_twins": ProbeTraining(
        replace(SGD, lr=0.3, lr_scaling="none", weight_decay=1e-6), batch_size=256, epochs=100
    ),
    # 2104.14294, the released eval_linear.py
    "dino": ProbeTraining(replace(SGD, lr=0.001), batch_size=1024, epochs=100),
    # 2111.06377, table 10, and the released main_linprobe.py
    "mae": ProbeTraining(
        OptimConfig(name="lars", lr=0.1, warmup_epochs=10, trust_coefficient=0.001, momentum=0.9),
        batch_size=16384,
        epochs=90,
        batch_norm=True,
    ),
    # 2106.08254, the released run_linear_eval.py
    "beit": ProbeTraining(
        OptimConfig(name="adamw", lr=0.001, b2=0.999, weight_decay=1e-4),
        batch_size=1024,
        epochs=100,
    ),
    # 2304.07193, the released eval/linear.py, at one of the rates of its grid
    "dinov2": ProbeTraining(replace(SGD, lr=0.005), batch_size=1024, epochs=10),
    # 1603.08511, the released feature_learning_tests/linear: 140,000 steps, the rate a tenth every
    # 40,000; for each of the layers, with pool="large_grid"
    "colorization": ProbeTraining(
        replace(
            SGD,
            lr=0.01,
            lr_scaling="none",
            weight_decay=5e-4,
            schedule="step",
            milestones=(8, 16, 24),
        ),
        batch_size=256,
        epochs=28,
        batch_norm=True,
    ),
    # 1803.07728, the released linear classifiers on ImageNet, which read maxima, not averages;
    # for each of the layers, with pool="large_grid"
    "rotnet": ProbeTraining(
        replace(
            SGD,
            lr=0.01,
            lr_scaling="none",
            nesterov=True,
            weight_decay=5e-4,
            schedule="step",
            milestones=(5, 15, 25),
            decay=0.2,
        ),
        batch_size=192,
        epochs=35,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Linear(AtLayer):
    """Accuracy of a linear classifier trained on all labels; with several labels per image, the
    mean average precision of one logistic classifier per class, as of VOC since 2010 (`linear_map`)
    and 2007 (`linear_11point`).

    Attributes:
      preset: one of `PRESETS`, or "lbfgs": logistic regression to its optimum. By default "lbfgs",
        or "simclr" if lr, epochs or batch_size is set, which do not apply to "lbfgs".
      lr, weight_decay, epochs, batch_size: override the preset's, whose batch is at most the
        training set. For "lbfgs", `weight_decay` is the penalty lambda of `mean cross-entropy +
        lambda / 2 |W|^2`, by default 1e-4.
      holdout: share of the training examples that the classifier is not trained on; choose settings
        by its accuracy on them, `linear_holdout_top1` or `linear_holdout_map`.
      seed: seed of the order of the examples and of the initial weights.
    """

    titles: ClassVar[Mapping[str, str]] = {
        **accuracy_titles("linear", "linear classifier, all labels"),
        **precision_titles("linear", "linear classifier, all labels"),
        **chosen_titles("linear_holdout", "linear classifier, held-out training images"),
    }
    scores: ClassVar[tuple[str, ...]] = ("linear",)
    decides: ClassVar[tuple[str, ...]] = ("linear_top1", "linear_map")
    multi: ClassVar[bool] = True
    every_stage: ClassVar[bool] = True

    preset: Literal[Paper, "lbfgs"] | None = None
    lr: Positive | None = None
    weight_decay: NonNegative | None = None
    epochs: Count | None = None
    batch_size: Count | None = None
    holdout: BelowOne = 0.0
    seed: Seed = 0

    def settled(self) -> Self:
        """Return the same protocol with the preset filled in."""
        takes_steps = any(n is not None for n in (self.lr, self.epochs, self.batch_size))
        preset = self.preset or ("simclr" if takes_steps else "lbfgs")
        return replace(self, preset=preset)

    def unused(self) -> Mapping[str, str]:
        if self.settled().preset != "lbfgs":
            return {}
        others = ", ".join(PRESETS)
        why = f"preset 'lbfgs' trains to the optimum; to set it, choose preset={others}"
        unused = dict.fromkeys(("lr", "epochs", "batch_size"), why)
        if not self.holdout:
            unused["seed"] = "preset 'lbfgs' draws nothing without a holdout"
        return unused

    @property
    def training(self) -> ProbeTraining:
        """The preset, overridden by the settings."""
        preset = PRESETS[str(self.settled().preset)]
        optim = replace(preset.optim, **self._overrides("lr", "weight_decay"))
        return replace(preset, optim=optim, **self._overrides("batch_size", "epochs"))

    def _overrides(self, *names: str) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @classmethod
    def measure_all(
        cls, settings: Sequence[Self], subject: Subject
    ) -> Iterator[tuple[Self, dict[str, float]]]:
        """Train settings that differ in rate and decay only together."""
        subject.read(settings)
        for group in group_by(settings, lambda s: replace(s.settled(), lr=None, weight_decay=None)):
            whole = subject.train(group[0])
            train, held_out = split(whole, group[0].holdout, group[0].seed)
            if group[0].holdout and not len(held_out.labels):
                raise UserError(
                    f"linear: holdout = {group[0].holdout} of {len(whole.labels)} examples holds "
                    "out none; raise it"
                )
            fitted = fit(train, group, subject.classes, subject.images.mesh)
            for setting, head in zip(group, fitted, strict=True):
                test = subject.test(setting)
                numbers = head.scores(test, "linear")
                if len(held_out.labels):
                    numbers |= head.chosen_by(held_out, "linear_holdout")
                if not head.finite:  # the training diverged
                    numbers = dict.fromkeys(numbers, float("nan"))
                yield setting, numbers


def split(data: Labelled, share: float, seed: int) -> tuple[Labelled, Labelled]:
    """Split off a random share of the examples, even over the classes, copies together; return
    (rest, share).
    """
    if not share:
        return data, data.rows(np.arange(0))  # without a copy
    strata = data.labels if data.labels.ndim == 1 else np.zeros(len(data.labels), np.int64)
    is_held_out = apart(data.features, strata, share, seed)
    return data.rows(~is_held_out), data.rows(is_held_out)


def fit(
    train: Labelled, settings: Sequence[Linear], classes: int, mesh: Mesh | None = None
) -> list[LinearHead]:
    """Train the head of each of `settings`, which differ in lr and weight_decay only.

    Raises:
      UserError: a single class.
    """
    check_several(train.labels, "linear probe")
    if train.labels.ndim == 2:
        classes = train.labels.shape[1]
    if settings[0].settled().preset == "lbfgs":
        return [_logistic(train, setting.weight_decay, classes) for setting in settings]
    if settings[0].batch_size is not None:
        settings[0].at_most("batch_size", len(train.labels), "training examples")
    trainings = [setting.training for setting in settings]
    rates = np.array([t.optim.lr for t in trainings], np.float32)
    decays = np.array([t.optim.weight_decay for t in trainings], np.float32)
    batch = min(trainings[0].batch_size, len(train.labels))
    size = max(1, LOGITS // (batch * classes))  # heads whose logits are held at once
    return [
        head
        for i in range(0, len(rates), size)
        for head in train_heads(
            train,
            classes,
            trainings[0],
            rates[i : i + size],
            decays[i : i + size],
            settings[0].seed,
            mesh,
        )
    ]


def _logistic(train: Labelled, decay: float | None, classes: int) -> LinearHead:
    decay = 1e-4 if decay is None else decay
    inverse = 1 / (decay * len(train.labels)) if decay else np.inf
    return regularisation_path(train, [inverse], classes)[0]


def train_heads(
    train: Labelled,
    classes: int,
    training: ProbeTraining,
    rates: np.ndarray,
    decays: np.ndarray,
    seed: Seed = 0,
    mesh: Mesh | None = None,
) -> list[LinearHead]:
    """Train a head per pair of learning rate and weight decay, (S,) and (S,), which replace those
    of `training`; see `heads.fit`.
    """
    count, width = train.features.shape
    weight = training.init * np.random.default_rng(seed).normal(size=(width, classes))
    params = {
        "weight": np.repeat(weight[None], len(rates), axis=0).astype(np.float32),
        "bias": np.zeros((len(rates), classes), np.float32),
    }
    flat = np.zeros(width, np.float32)
    params, running = heads.fit(
        _normalised_logits if training.batch_norm else _logits,
        params,
        {"mean": flat, "variance": flat + 1} if training.batch_norm else {},
        train,
        np.arange(count),
        training.optim,
        rates,
        decays,
        batch_size=min(training.batch_size, count),
        epochs=training.epochs,
        seed=seed,
        mesh=mesh,
    )
    scale = (running["mean"], np.sqrt(running["variance"] + EPS)) if running else (0.0, 1.0)
    return [LinearHead(w, b, *scale) for w, b in zip(params["weight"], params["bias"], strict=True)]


def _logits(params: dict[str, Array], extra: dict[str, Array], x: Array) -> tuple[Array, Any]:
    """Return logits (B, S, C) of features (B, D)."""
    return jnp.einsum("bd,sdc->bsc", x, params["weight"]) + params["bias"], extra


def _normalised_logits(
    params: dict[str, Array], running: dict[str, Array], x: Array
) -> tuple[Array, dict[str, Array]]:
    """Return the logits of features normalised by the batch, and the running statistics."""
    mean, variance = x.mean(0), x.var(0)
    logits, _ = _logits(params, {}, (x - mean) * jax.lax.rsqrt(variance + EPS))
    unbiased = variance * len(x) / max(len(x) - 1, 1)
    batch = {"mean": mean, "variance": unbiased}
    return logits, {name: 0.9 * running[name] + 0.1 * batch[name] for name in batch}
