"""The contract of a self-supervised method: what the one train step asks of it, and nothing else.

A method is a frozen dataclass in its own file; its fields are its hyper-parameters. The file's
`make(backbone, spec, **hyper)` builds it. `params` is what the optimizer trains, `extra` everything
else that the method carries along (batch statistics, teacher, queue, memory): both are plain nested
dicts of arrays. Every function sees the whole global batch as one array and names neither a device
nor a mesh axis. docs/contract.md walks through it with an example.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import jax

from ssl_jax.core import config
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Inputs, View
from ssl_jax.core.ranges import Count, Whole
from ssl_jax.nets.functional import Net, output_shapes
from ssl_jax.objectives.parts.branch import Branch

__all__ = [
    "Aux",
    "DataPass",
    "Encoder",
    "Group",
    "Heads",
    "Inputs",
    "Objective",
    "Picture",
    "Probe",
    "Spec",
    "Stream",
    "TextTower",
    "View",
]

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class Stream:
    """A further set of images that a method learns from; see `Inputs.streams`."""

    name: str
    num_examples: Whole
    num_classes: Whole


MOST = 2**31 - 1  # of steps and examples, whose numbers are int32 on the devices


@dataclass(frozen=True)
class Spec:
    """The run that an objective is built for; what its schedules and its state's shapes need."""

    global_batch: Count
    num_examples: Whole
    num_classes: Whole
    steps_per_epoch: Count
    total_steps: Count
    channels: Count = 3
    streams: tuple[Stream, ...] = ()
    vocabulary: Count = 259  # token numbers of a caption: its bytes, padding, start and end

    def __post_init__(self) -> None:
        for name in ("total_steps", "num_examples"):
            if getattr(self, name) > MOST:
                raise UserError(f"{name}: {getattr(self, name):,} is more than {MOST:,}")


@dataclass(frozen=True)
class Group:
    """Parameters with an optimizer state and count of their own.

    Attributes:
      pattern: regex on parameter paths.
      frozen_until: before this step no update, no decay, no moments and no count.
      constant_lr: the learning rate is the peak's all the time: no warmup, no decay.
    """

    pattern: str
    frozen_until: int = 0
    constant_lr: bool = False


@dataclass(frozen=True)
class Probe:
    """Where a method's representation is read, named per family before anything is measured.

    Attributes:
      stage: index into the backbone's stages; -1 is the last, -2 the one before it.
      pool: "pooled" for the network's own output, which only the last stage has; "avg" over all
        positions of the stage's map, "grid" over a 2x2 grid (4 x channels features), or "cls" for
        the stage's class token.
    """

    stage: int = -1
    pool: str = "avg"

    def at(self, stage: int | None = None, pool: str | None = None) -> "Probe":
        """The same with another stage, another pooling or both.

        An earlier stage has no output of the network's own: without a `pool` of its own it is
        averaged.
        """
        stage = self.stage if stage is None else stage
        inherited = "avg" if self.pool == "pooled" and stage != -1 else self.pool
        return Probe(stage, pool or inherited)


class Aux(NamedTuple):
    """What `loss` returns beside its value.

    Attributes:
      extra: the new extra, batch statistics updated.
      signals: arrays for `after_update` (keys to enqueue, a batch centre).
      metrics: scalars to log.
    """

    extra: Tree
    signals: Tree = {}
    metrics: Mapping[str, Array] = {}


class DataPass(NamedTuple):
    """What a method recorded of the whole data set, as long as `core.sharding.padded_rows` says and
    split by rows over all devices.

    Attributes:
      values: (R, ...), row i from example i; zeros where there is none.
      present: (R,) bool, False for the padding and for broken images.
    """

    values: Array
    present: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Picture:
    """Images in rows and columns that show what a method does. A pytree; drawn elsewhere.

    Attributes:
      images: (rows, columns, H, W, C), valued as the images that the network is shown.
      caption: what is seen and how it was made, for one who does not know the method.
      columns: a heading for each column, or none.
      said: (rows, columns) int32, what the method answered there, -1 where it was not asked.
      truth: likewise, what is right.
      answers: their names; without any only right and wrong are told.
    """

    images: Array
    caption: str = field(metadata={"static": True})
    columns: tuple[str, ...] = field(default=(), metadata={"static": True})
    said: Array | None = None
    truth: Array | None = None
    answers: tuple[str, ...] = field(default=(), metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TextTower:
    """What image-text methods keep beside the backbone: the ways into the joint space. A pytree.

    Attributes:
      params: of both ways.
      context: tokens of a caption.
      embed_image: (params, the backbone's "pooled" features (B, D)) -> (B, d).
      embed_text: (params, tokens (B, context) int32) -> (B, d).
    """

    params: Tree
    context: int = field(metadata={"static": True})
    embed_image: Callable[[Tree, Array], Array] = field(metadata={"static": True})
    embed_text: Callable[[Tree, Array], Array] = field(metadata={"static": True})

    def image(self, pooled: Array) -> Array:
        return self.embed_image(self.params, pooled)

    def text(self, tokens: Array) -> Array:
        return self.embed_text(self.params, tokens)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Heads:
    """What a method keeps beside the backbone that tells images apart by itself: the way to its
    clusters, or to the classes whose labels it learned. A pytree.

    Attributes:
      params: of all that follows the backbone.
      score: (params, the backbone's "pooled" features (B, D)) -> logits (B, K) of each head.
    """

    params: Tree
    score: Callable[[Tree, Array], Sequence[Array]] = field(metadata={"static": True})

    def logits(self, pooled: Array) -> Sequence[Array]:
        return self.score(self.params, pooled)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Encoder:
    """A frozen backbone. It is a pytree: pass it INTO `jax.jit`; a closure would bake the weights
    into the program.

    Attributes:
      online: weights of the classifier that was trained along, if one was; see `evals.online`.
    """

    params: Tree
    stats: Tree
    net: Net = field(metadata={"static": True})
    text: TextTower | None = None
    clusters: Heads | None = None
    classifier: Heads | None = None
    online: Tree = None

    def features(self, images: Array) -> dict[str, Array]:
        """Every stage of the backbone, by name, for normalised float images (B, H, W, C)."""
        return self.net.apply(self.params, self.stats, images, train=False, stages=True)[0]


class Networks(Protocol):
    """Networks that belong together, such as `parts.branch.Branch`."""

    def init(self, key: Array) -> tuple[Tree, Tree]:
        """Fresh (params, stats), an entry a network."""
        ...


@dataclass(frozen=True)
class Objective:
    """What a method must define, and the defaults of what it may leave out.

    Attributes:
      backbone: the network that is kept.
      spec: the run.
      microbatches: the backbone runs in so many chunks; see `parts.branch.Branch`.
      family, needs: for `ssl-jax methods`.
      probe: where the representation is read: by default the backbone's own output, which is what
        most methods train.
      refresh_groups: parameter groups whose optimizer state restarts with each `refresh`.
      least_batch: images of the smallest batch that teaches something: 2 where the images of a
        batch are each other's negatives, or where their variance is part of the loss or of a head.
      decays: regex of vectors that decay by default all the same, as the method was released.
    """

    backbone: Net
    spec: Spec
    microbatches: Count = field(default=1, kw_only=True)

    family: ClassVar[str] = (
        ""  # pretext, contrastive, siamese, clustering, masked, multi-modal, baseline
    )
    needs: ClassVar[str] = "any backbone"
    probe: ClassVar[Probe] = Probe(pool="pooled")
    refresh_groups: ClassVar[tuple[str, ...]] = ()
    least_batch: ClassVar[int] = 1
    decays: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Check the range of every hyper-parameter; a method that overrides this calls it first.

        Raises:
          UserError: a number out of its range.
        """
        config.check(self, "objective")

    @classmethod
    def make(cls, backbone: Net, spec: Spec, **hyper: Any) -> Self:
        """Build the method. Raises `UserError` for an unknown hyper-parameter, with the nearest
        known ones.
        """
        return config.build(cls, hyper, "objective", backbone=backbone, spec=spec)

    def with_backbone(self, backbone: Net) -> Self:
        """The same method for another backbone."""
        return replace(self, backbone=backbone)

    def inputs(self) -> Inputs:
        """What a batch holds: by default images as the method's field `views`, or `view`, says.

        Raises:
          UserError: it has neither.
        """
        said = vars(self)
        if "views" not in said and "view" not in said:
            raise UserError(
                f"{type(self).__name__}: give the method a field `view` or `views`, or an inputs()"
            )
        return Inputs(views=said["views"] if "views" in said else (said["view"],))

    @property
    def branch(self) -> Networks:
        """The networks that are trained, for the methods whose `init` is the default one."""
        raise NotImplementedError

    def init(self, key: Array) -> tuple[Tree, Tree]:
        """Fresh (params, extra): by default those of `branch`."""
        params, stats = self.branch.init(key)
        return params, {"stats": stats}

    def chain(self, **heads: Net) -> Branch:
        """The backbone and, one after the other, `heads`."""
        return Branch((("backbone", self.backbone),), self.microbatches).then(**heads)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The backbone's outputs for an image of the first view, without the batch axis."""
        return self._shapes()

    def _shapes(self, **options: Any) -> dict[str, tuple[int, ...]]:
        size = self.inputs().views[0].size
        return output_shapes(self.backbone, (size, size, self.spec.channels), **options)

    @property
    def probe_every_stage(self) -> bool:
        """Whether a linear probe that names no stage looks at each: what solves a pretext task or
        paints what is hidden is not what tells classes apart, and where that is best is not known
        before.
        """
        return self.family in ("pretext", "masked")

    @cached_property
    def stage_shapes(self) -> dict[str, tuple[int, ...]]:
        """`shapes`, with those of every stage."""
        return self._shapes(stages=True)

    @property
    def feature_dim(self) -> int:
        """Width of the backbone's "pooled" features."""
        return self.shapes["pooled"][0]

    @property
    def patch_grid(self) -> tuple[int, int]:
        """(patches along a side of the first view, their width).

        Raises:
          UserError: the backbone has no patches.
        """
        if "patches" not in self.shapes:
            raise UserError(
                f"objective: this backbone has no patches, and the method needs {self.needs}; set "
                "backbone.name='vit'"
            )
        patches, width = self.shapes["patches"]
        return round(patches**0.5), width

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        """The scalar to minimise over the global batch, and what goes with it. Pure."""
        raise NotImplementedError

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        """(params, extra) after the optimizer's update: teacher average, queue push, prototype
        norm.
        """
        return params, extra

    def encoder(self, params: Tree, extra: Tree) -> Encoder:
        """The network that is kept: by default the trained backbone."""
        return Encoder(params["backbone"], extra["stats"]["backbone"], self.backbone)

    def teacher(self, params: Tree, extra: Tree) -> tuple[Tree, Tree] | None:
        """(params, stats) of the slow average of the trained networks, named as those are:
        teacher, target, key encoder; by default there is none. It only selects from its arguments.
        """
        return None

    def pictures(
        self, params: Tree, extra: Tree, images: Array, key: Array
    ) -> Mapping[str, Picture]:
        """Title -> what is particular to the method, for `ssl-jax report`: by default nothing.

        Pure; jitted. `images` (B, H, W, C) are whole evaluation images, centrally cropped to the
        first view and normalised; show a few, or choose among all of them.
        """
        return {}

    def groups(self) -> dict[str, Group]:
        """Named parameter groups beside "rest"."""
        return {}

    def refresh_steps(self) -> Collection[int]:
        """Steps before which `refresh` is called; `range` has a fast `in`."""
        return ()

    def pass_steps(self) -> Collection[int]:
        """Those of them for which the network first runs over the whole data set."""
        return self.refresh_steps()

    def record(self, params: Tree, extra: Tree, images: Array) -> Array:
        """What such a pass keeps of clean, normalised images (B, H, W, C), (B, ...): by default the
        encoder's "pooled" features.
        """
        return self.encoder(params, extra).features(images)["pooled"]

    def refresh(
        self, params: Tree, extra: Tree, features: DataPass | None, key: Array, step: Array
    ) -> tuple[Tree, Tree]:
        """(params, extra) after a look at the whole data set. Pure; runs on the devices, jitted.

        The optimizer states of `refresh_groups` restart. `features` is None at a step that is not
        in `pass_steps`.
        """
        return params, extra
