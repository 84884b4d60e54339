"""The linear probe: a linear classifier on frozen features, trained as each paper trains it.

Many learning rates and weight decays are trained at once, on the same batches: all of their logits
are one matrix product. The published recipes augment the images in each epoch; here the features
are those of clean central crops, read once.
"""

import dataclasses
import functools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.placement import place
from ssl_jax.core.ranges import BelowOne, Count, NonNegative, Positive, Seed
from ssl_jax.data.copies import apart
from ssl_jax.evals.base import AtLayer, Subject, group_by
from ssl_jax.evals.checks import NotMeasurable
from ssl_jax.evals.images import Labelled
from ssl_jax.evals.scores import accuracies

Array = jax.Array
CHUNK_BYTES = 2**26  # of features placed on the devices at once
LOGITS = 2**28  # in memory at once
EPS = 1e-6  # of MAE's batch norm
SMALL = 2**24  # numbers in the features below which one thread is faster


@dataclass(frozen=True)
class Recipe:
    """A paper's training of its linear probe.

    Attributes:
      lr: learning rate, per batch or, with `per_256`, per 256 examples.
      milestones: epochs after each of which the rate falls to a tenth; without any it falls along
        half a cosine to 0.
      init: standard deviation of the initial weights.
      lars: scale updates to the weights' norm, trust 0.001.
      batch_norm: normalise features by the batch, without scale and offset.
    """

    lr: float
    batch_size: int
    epochs: int
    per_256: bool = True
    weight_decay: float = 0.0
    milestones: tuple[int, ...] = ()
    warmup_epochs: int = 0
    momentum: float = 0.9
    nesterov: bool = False
    init: float = 0.01
    lars: bool = False
    batch_norm: bool = False


PRESETS = {
    # 1911.05722, section 4.1, and the released main_lincls.py
    "moco": Recipe(30.0, 256, 100, per_256=False, milestones=(60, 80)),
    # 2002.05709, appendix B.6
    "simclr": Recipe(0.1, 4096, 90, weight_decay=1e-6, nesterov=True, init=0.0),
    # 2104.14294, the released eval_linear.py
    "dino": Recipe(0.001, 1024, 100),
    # 2111.06377, table 10, and the released main_linprobe.py
    "mae": Recipe(0.1, 16384, 90, warmup_epochs=10, lars=True, batch_norm=True),
}


@dataclass(frozen=True, kw_only=True)
class Linear(AtLayer):
    """Accuracy of a linear classifier trained on all labels.

    Attributes:
      preset: one of `PRESETS`, or "lbfgs": logistic regression to its optimum. By default "lbfgs",
        or "simclr" if lr, epochs or batch_size is set, which do not apply to "lbfgs".
      lr, weight_decay, epochs, batch_size: override the preset's, whose batch is at most the
        training set. For "lbfgs", `weight_decay` is the penalty lambda of `mean cross-entropy +
        lambda / 2 |W|^2`, by default 1e-4.
      holdout: share of the training examples that the classifier is not trained on; choose settings
        by its accuracy on them, `linear_holdout_top1`.
      seed: seed of the order of the examples and of the initial weights.
    """

    titles: ClassVar[Mapping[str, str]] = {
        "linear_top1": "linear classifier, all labels",
    }
    scores: ClassVar[tuple[str, ...]] = ("linear",)
    decides: ClassVar[tuple[str, ...]] = ("linear_top1",)
    every_stage: ClassVar[bool] = True

    preset: Literal["moco", "simclr", "dino", "mae", "lbfgs"] | None = None
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
        return dataclasses.replace(self, preset=preset)

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
    def recipe(self) -> Recipe:
        """The preset, overridden by the settings."""
        own = {name: getattr(self, name) for name in ("lr", "weight_decay", "epochs", "batch_size")}
        overrides = {name: value for name, value in own.items() if value is not None}
        return dataclasses.replace(PRESETS[str(self.settled().preset)], **overrides)

    @classmethod
    def measure_all(
        cls, settings: Sequence[Self], subject: Subject
    ) -> Iterator[tuple[Self, dict[str, float]]]:
        """Train settings that differ in rate and decay only together."""
        for setting in settings:
            setting.check(subject)
        subject.read(settings)
        for group in group_by(
            settings, lambda s: dataclasses.replace(s.settled(), lr=None, weight_decay=None)
        ):
            whole = subject.train(group[0])
            train, held_out = split(whole, group[0].holdout, group[0].seed)
            if group[0].holdout and not len(held_out.labels):
                raise UserError(
                    f"linear: holdout = {group[0].holdout} of {len(whole.labels)} examples holds "
                    "out none; raise it"
                )
            heads = fit(train, group, subject.classes, subject.images.mesh)
            for setting, head in zip(group, heads, strict=True):
                test = subject.test(setting)
                numbers = accuracies(head.classes(test.features), test.labels, "linear")
                if len(held_out.labels):
                    numbers["linear_holdout_top1"] = head.accuracy(held_out)
                if not head.finite:  # the training diverged
                    numbers = dict.fromkeys(numbers, float("nan"))
                yield setting, numbers


class Head(NamedTuple):
    """logits = (x - mean) / deviation @ weight + bias, of features (N, D)."""

    weight: np.ndarray  # (D, C)
    bias: np.ndarray  # (C,)
    mean: np.ndarray | float = 0.0
    deviation: np.ndarray | float = 1.0

    def classes(self, features: np.ndarray) -> np.ndarray:
        """Return the most probable class (N,) of each row."""
        logits = (features - self.mean) / self.deviation @ self.weight + self.bias
        return logits.argmax(1)

    @property
    def finite(self) -> bool:
        """True if the head is usable; the bias of a class without examples is -inf."""
        return bool(np.isfinite(self.weight).all() and not np.isnan(self.bias).any())

    def accuracy(self, data: Labelled) -> float:
        return float(np.mean(self.classes(data.features) == data.labels))


def split(data: Labelled, share: float, seed: int) -> tuple[Labelled, Labelled]:
    """Split off a random share of the examples, even over the classes, copies together; return
    (rest, share).
    """
    if not share:
        return data, Labelled(data.features[:0], data.labels[:0])  # without a copy
    is_held_out = apart(*data, share, seed)
    return Labelled(*(x[~is_held_out] for x in data)), Labelled(*(x[is_held_out] for x in data))


def fit(
    train: Labelled, settings: Sequence[Linear], classes: int, mesh: Mesh | None = None
) -> list[Head]:
    """Train the head of each of `settings`, which differ in lr and weight_decay only.

    Raises:
      UserError: a single class.
    """
    if len(np.unique(train.labels)) < 2:
        raise NotMeasurable("linear probe: the training data have labels of one class only")
    if settings[0].settled().preset == "lbfgs":
        return [_logistic(train, setting.weight_decay, classes) for setting in settings]
    if settings[0].batch_size is not None:
        settings[0].at_most("batch_size", len(train.labels), "training examples")
    recipes = [setting.recipe for setting in settings]
    rates = np.array([r.lr for r in recipes], np.float32)
    decays = np.array([r.weight_decay for r in recipes], np.float32)
    batch = min(recipes[0].batch_size, len(train.labels))
    size = max(1, LOGITS // (batch * classes))  # heads whose logits are held at once
    return [
        head
        for i in range(0, len(rates), size)
        for head in train_heads(
            train,
            classes,
            recipes[0],
            rates[i : i + size],
            decays[i : i + size],
            settings[0].seed,
            mesh,
        )
    ]


def _logistic(train: Labelled, decay: float | None, classes: int) -> Head:
    decay = 1e-4 if decay is None else decay
    inverse = 1 / (decay * len(train.labels)) if decay else np.inf
    return regularisation_path(train, [inverse], classes)[0]


def regularisation_path(train: Labelled, inverse: Sequence[float], classes: int) -> list[Head]:
    """Fit logistic regression with each of the inverse penalties C, in this order, each starting
    from the previous solution; at most 1000 steps of L-BFGS.
    """
    model = LogisticRegression(max_iter=1000, warm_start=True)
    # On small problems the threads of BLAS wait for each other longer than they work.
    threads = threadpool_limits(1 if train.features.size < SMALL else None)
    with threads, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 1000 are enough, or the protocol's
        return [head_of(model.set_params(C=float(c)).fit(*train), classes) for c in inverse]


def head_of(model: LogisticRegression, classes: int) -> Head:
    """Convert scikit-learn's model, which knows the classes with examples, to `classes` classes."""
    weight = np.zeros((model.coef_.shape[1], classes), np.float32)
    bias = np.full(classes, -np.inf, np.float32)  # a class without examples is never predicted
    if len(model.classes_) == 2:  # scikit-learn keeps the second class's logit alone
        weight[:, model.classes_[1]], bias[model.classes_] = model.coef_[0], (0, *model.intercept_)
    else:
        weight[:, model.classes_], bias[model.classes_] = model.coef_.T, model.intercept_
    return Head(weight, bias)


class Run(NamedTuple):
    """The state of training S heads at once: parameters, their momentum, batch-norm statistics."""

    weight: Any  # (D, S, C)
    bias: Any  # (S, C)
    weight_speed: Any
    bias_speed: Any
    mean: Any  # (D,)
    variance: Any


def train_heads(
    train: Labelled,
    classes: int,
    recipe: Recipe,
    rates: np.ndarray,
    decays: np.ndarray,
    seed: Seed = 0,
    mesh: Mesh | None = None,
) -> list[Head]:
    """Train a head per pair of learning rate and weight decay, (S,) and (S,), on the same batches.

    An epoch is as many whole batches as there are; each head is the same as if trained alone. On a
    mesh whose devices divide the batch each sees its rows of it, else all of it.
    """
    count, width = train.features.shape
    batch = min(recipe.batch_size, count)
    epoch = count // batch
    if recipe.per_256:
        rates = rates * batch / 256
    recipe = dataclasses.replace(recipe, lr=1.0, weight_decay=0.0)  # those are in the arrays
    weight = recipe.init * np.random.default_rng(seed).normal(size=(width, 1, classes))
    weight = np.broadcast_to(weight, (width, len(rates), classes)).astype(np.float32)
    bias = np.zeros((len(rates), classes), np.float32)
    flat = np.zeros(width, np.float32)
    run = Run(weight, bias, 0 * weight, 0 * bias, flat, flat + 1)
    device = SingleDeviceSharding(jax.local_devices()[0])
    run = place(run, sharding.replicated(mesh) if mesh else device)
    apart = sharding.batches_of(mesh, batch) if mesh else device
    chunk = max(1, CHUNK_BYTES // (4 * batch * width))
    for number in range(recipe.epochs):
        order = np.random.default_rng([seed, number]).permutation(count)[: epoch * batch]
        order = order.reshape(epoch, batch)
        for start in range(0, epoch, chunk):
            rows = order[start : start + chunk]
            steps = np.arange(number * epoch + start, number * epoch + start + len(rows))
            batches = place((train.features[rows], train.labels[rows]), apart)
            run = _train(run, *batches, steps, rates, decays, recipe, epoch)
    final = jax.device_get(run)
    scale = (final.mean, np.sqrt(final.variance + EPS)) if recipe.batch_norm else (0.0, 1.0)
    return [Head(final.weight[:, s], final.bias[s], *scale) for s in range(len(rates))]


@functools.partial(jax.jit, static_argnames=("recipe", "epoch"), donate_argnames="run")
def _train(
    run: Run,
    features: Array,
    labels: Array,
    steps: Array,
    rates: Array,
    decays: Array,
    recipe: Recipe,
    epoch: int,
) -> Run:
    """Take T steps: batches (T, B, D) and (T, B), step numbers (T,)."""

    def step(run: Run, inputs: tuple[Array, Array, Array]) -> tuple[Run, None]:
        x, y, number = inputs
        if recipe.batch_norm:
            mean, variance = x.mean(0), x.var(0)
            x = (x - mean) * jax.lax.rsqrt(variance + EPS)
            unbiased = variance * len(y) / max(len(y) - 1, 1)
            run = run._replace(
                mean=0.9 * run.mean + 0.1 * mean, variance=0.9 * run.variance + 0.1 * unbiased
            )
        logits = jnp.tensordot(x, run.weight, 1) + run.bias  # (B, S, C)
        # The gradient of the mean cross-entropy of each head.
        error = jax.nn.softmax(logits) - jax.nn.one_hot(y, logits.shape[-1])[:, None]
        error = error / len(y)
        decayed = jnp.tensordot(x.T, error, 1) + decays[:, None] * run.weight
        if recipe.lars:
            decayed = _trusted(decayed, run.weight)
        rate = (rates * _schedule(number, epoch, recipe))[:, None]
        weight, weight_speed = _descend(run.weight, decayed, run.weight_speed, rate, recipe)
        bias, bias_speed = _descend(run.bias, error.sum(0), run.bias_speed, rate, recipe)
        return Run(weight, bias, weight_speed, bias_speed, run.mean, run.variance), None

    return jax.lax.scan(step, run, (features, labels, steps))[0]


def _descend(
    at: Array, gradient: Array, speed: Array, rate: Array, recipe: Recipe
) -> tuple[Array, Array]:
    speed = recipe.momentum * speed + gradient
    ahead = gradient + recipe.momentum * speed if recipe.nesterov else speed
    return at - rate * ahead, speed


def _trusted(update: Array, weight: Array) -> Array:
    """Scale each head's update (D, S, C) to 0.001 of its weights' norm, as MAE's LARS."""
    norm = lambda x: jnp.sqrt(jnp.sum(jnp.square(x), (0, 2), keepdims=True))  # noqa: E731
    sizes = norm(weight), norm(update)
    nonzero = (sizes[0] > 0) & (sizes[1] > 0)
    return update * jnp.where(nonzero, 0.001 * sizes[0] / jnp.where(nonzero, sizes[1], 1), 1)


def _schedule(step: Array, epoch: int, recipe: Recipe) -> Array:
    """Return the learning rate at `step`, as a share of its peak."""
    if recipe.milestones:
        passed = step // epoch >= jnp.asarray(recipe.milestones)
        return 0.1 ** jnp.sum(passed).astype(jnp.float32)
    epochs = step / epoch
    line = epochs / max(recipe.warmup_epochs, 1)
    rest = (epochs - recipe.warmup_epochs) / (recipe.epochs - recipe.warmup_epochs)
    return jnp.where(epochs < recipe.warmup_epochs, line, 0.5 * (1 + jnp.cos(jnp.pi * rest)))
