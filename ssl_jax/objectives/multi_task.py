"""Multi-task self-supervised visual learning (Doersch and Zisserman 2017, 1708.07860)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.augment import recipes
from ssl_jax.core import config, rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import NonNegative
from ssl_jax.nets.functional import Net, preceded
from ssl_jax.nets.lasso import lasso, shrink
from ssl_jax.objectives.base import Aux, Encoder, Inputs, Objective, Picture, View
from ssl_jax.objectives.colorization import Colorization
from ssl_jax.objectives.context_prediction import ContextPrediction
from ssl_jax.objectives.exemplar_cnn import ExemplarCNN
from ssl_jax.objectives.motion_segmentation import MotionSegmentation
from ssl_jax.objectives.parts import trunk_copies
from ssl_jax.objectives.parts.color_space import threefold_lightness

Array = jax.Array
Tree = Any
Options = Mapping[str, Any] | None

TASKS: Mapping[str, type[Objective]] = {
    "relative_position": ContextPrediction,
    "colorization": Colorization,
    "exemplar": ExemplarCNN,
    "motion": MotionSegmentation,
}
MOTION = "motion"  # also the name of its data set


def paper(**options: Any) -> Any:
    """Declare the options of a task in the paper as a field's default."""
    return field(default_factory=lambda: options)


@dataclass(frozen=True)
class MultiTask(Objective):
    """Up to four pretext tasks with one trunk; the loss is the sum of theirs.

    The optimizer keeps one state of the trunk per task, so that the scale of a task's loss does not
    decide how much it counts: each task trains a copy of the trunk, and after every step the sum of
    the copies' updates becomes the update of all. (The paper's workers send the gradient of one
    task each, with one RMSProp state per task.) Weight decay applies once per task.

    Each task is the method of its own file. Its options here are those of that method; None leaves
    it out. Motion reads its own data set, `data.streams.motion`, which has masks. The bins of
    colorization have equal weights, so no pass over the data set is needed.

    Attributes:
      relative_position, colorization, exemplar, motion: options of the tasks. At least one of the
        first three has to remain.
      harmonize: all tasks see the lightness alone, three times, as colorization always does
        ("/H" in the paper).
      lasso: each task reads its own weighted sum of the units of the trunk's last stage, and every
        step moves the weights towards 0 by this (the proximal step of an L1 penalty of this over
        the learning rate); None reads the last map.

    Raises:
      UserError: no task; patches that are standardised or that lose colours, with `harmonize`; a
        normalisation of the first task's images that is not the reader's.
    """

    family: ClassVar[str] = "pretext"
    needs: ClassVar[str] = "colour images; a second set of images with masks of what moves"
    least_batch: ClassVar[int] = 2

    relative_position: Options = paper(patch=96, gap=48, jitter=7, rows=2, pairs="all")
    colorization: Options = paper()
    exemplar: Options = paper(
        form="cosine",
        copies=2,
        patch=128,
        view={"size": 256, "area": (1.0, 1.0), "recipe": "normalize"},
    )
    motion: Options = paper()
    harmonize: bool = False
    lasso: NonNegative | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not [name for name in self.tasks if name != MOTION]:
            raise UserError(
                "objective: no task on the training images; set relative_position, colorization or "
                "exemplar to a mapping of options"
            )
        patches = self.tasks.get("relative_position")
        if (
            self.harmonize
            and isinstance(patches, ContextPrediction)
            and (patches.standardize or patches.colors != "keep")
        ):
            raise UserError(
                "objective.harmonize: the lightness of standardised patches is not defined; set "
                "relative_position.standardize=False and relative_position.colors='keep'"
            )
        first, read = (recipes.recipe(v.recipe) for v in (self.first, self.view_of(self.reader)))
        if (first.mean, first.std, first.space) != (read.mean, read.std, read.space):
            raise UserError(
                f"objective.{self.reader}.view: expected the normalisation of the first task's "
                "view, as evaluations read images so; use recipes of one mean, std and space"
            )

    @cached_property
    def tasks(self) -> Mapping[str, Objective]:
        """The tasks by name, each with a backbone that shows its inputs to the trunk."""
        made: dict[str, Objective] = {}
        for name, method in TASKS.items():
            options = getattr(self, name)
            if options is not None:
                equal = {"uniform": 1.0} if name == "colorization" else {}
                where = f"objective.{name}"
                fixed = {"backbone": self.backbone, "spec": self.spec}
                task = config.build(method, equal | dict(options), where, **fixed)
                trunk = self.backbone if self.lasso is None else lasso(self.backbone)
                made[name] = task.with_backbone(self.shown(trunk, task.inputs().views[0]))
        return made

    def shown(self, trunk: Net, view: View) -> Net:
        """Return the trunk for images normalised as in `view`."""
        if self.harmonize or recipes.recipe(view.recipe).space == "lab":
            return preceded(trunk, partial(threefold_lightness, view))
        return trunk

    @property
    def reader(self) -> str:
        """The task whose copy of the trunk is used after training: the last that sees colours."""
        coloured = [name for name in self.tasks if name != "colorization"]
        return (coloured or list(self.tasks))[-1]

    def view_of(self, name: str) -> View:
        """Return the view of a task."""
        return self.tasks[name].inputs().views[0]

    @property
    def first(self) -> View:
        """The view whose normalisation evaluations use."""
        return self.view_of(next(iter(self.tasks)))

    @cached_property
    def reading(self) -> Net:
        """The trunk for images normalised as in the first view."""
        return self.shown(self.backbone, self.first)

    def inputs(self) -> Inputs:
        own = {name: task.inputs() for name, task in self.tasks.items()}
        views = tuple(part.views[0] for name, part in own.items() if name != MOTION)
        return Inputs(views, streams=((MOTION, own[MOTION]),) if MOTION in own else ())

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params: dict[str, Tree] = {"copies": {}}
        extra: dict[str, Tree] = {}
        trunk, stats = self.backbone.init(rng.named(key, "backbone"))
        for name, task in self.tasks.items():
            own, more = task.init(rng.named(key, name))
            own["backbone"] = trunk if self.lasso is None else dict(own["backbone"], trunk=trunk)
            more["stats"]["backbone"] = stats
            trunk_copies.store(params, extra, name, self.reader, own, more)
        return params, extra

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        views = iter(batch["views"])
        losses: dict[str, Array] = {}
        metrics: dict[str, Array] = {}
        new_extra = dict(extra)
        for name, task in self.tasks.items():
            part = batch[MOTION] if name == MOTION else dict(batch, views=(next(views),))
            own, more = trunk_copies.select(params, extra, name, self.reader)
            losses[name], aux = task.loss(own, more, part, rng.named(key, name), step)
            trunk_copies.store({"copies": {}}, new_extra, name, self.reader, own, aux.extra)
            metrics |= {f"{name}/{k}": v for k, v in aux.metrics.items()}
        signals = {"trunk": jax.lax.stop_gradient(params["backbone"])}
        metrics |= {f"{name}/loss": loss for name, loss in losses.items()}
        return jnp.sum(jnp.stack(list(losses.values()))), Aux(new_extra, signals, metrics)

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        """Add the updates of all copies of the trunk, and shrink the weights of its units."""
        params = trunk_copies.join(params, before=signals["trunk"])
        if self.lasso is not None:
            for name in self.tasks:
                alpha = shrink(params[name]["alpha"], self.lasso)
                params[name] = dict(params[name], alpha=alpha)
        return params, extra

    def encoder(self, params: Tree, extra: Tree) -> Encoder:
        return Encoder(params["backbone"], extra["stats"]["backbone"], self.reading)

    def pictures(
        self, params: Tree, extra: Tree, images: Array, key: Array
    ) -> Mapping[str, Picture]:
        shown: dict[str, Picture] = {}
        for name, task in self.tasks.items():
            view = self.view_of(name)
            if recipes.recipe(view.recipe).space == recipes.recipe(self.first.recipe).space:
                rgb = recipes.unit(self.first, images)
                sized = jax.image.resize(rgb, (len(rgb), *view.sides, rgb.shape[-1]), "linear")
                own, more = trunk_copies.select(params, extra, name, self.reader)
                shown |= task.pictures(own, more, recipes.normalize(view, sized), key)
        return shown


make = MultiTask.make
