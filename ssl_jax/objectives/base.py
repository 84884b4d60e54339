"""The contract of a self-supervised method: what the one train step needs of it, and nothing else.

A method is a frozen dataclass in its own file; its fields are its hyper-parameters. The file's
`make(backbone, spec, **hyper)` builds it. `params` is what the optimizer trains, `extra` all other
state of the method (batch statistics, teacher, queue, memory): both are plain nested dicts of
arrays. Every function sees the whole global batch as one array and names neither a device nor a
mesh axis. docs/contract.md walks through it with an example.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Self

import jax

from ssl_jax.augment.recipes import recipe
from ssl_jax.core import config, rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Inputs, View
from ssl_jax.core.ranges import Count, Whole
from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net, output_shapes
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.readouts import (
    Heads,
    ImageTokenizer,
    ImageTranslator,
    Policy,
    TextTower,
)

__all__ = [
    "BACKBONE",
    "FIXED",
    "TOKENIZER",
    "Aux",
    "DataPass",
    "Encoder",
    "Group",
    "Heads",
    "ImageTokenizer",
    "ImageTranslator",
    "Inputs",
    "Objective",
    "Picture",
    "Policy",
    "Probe",
    "Spec",
    "Stream",
    "TextTower",
    "Turn",
    "View",
]

Array = jax.Array
Tree = Any
FIXED = "fixed"  # of the entry in `extra`
BACKBONE, TOKENIZER = "backbone", "tokenizer"  # networks of a tokenizer, by name


@dataclass(frozen=True)
class Stream:
    """An additional set of images that a method learns from; see `Inputs.streams`."""

    name: str
    num_examples: Whole
    num_classes: Whole


MOST = 2**31 - 1  # largest number of steps and examples, which are int32 on the devices


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
    vocabulary: Count = 259  # token ids of a caption: its bytes, padding, start and end
    actions: Whole = 0  # numbers of an action, of an environment

    def __post_init__(self) -> None:
        for name in ("total_steps", "num_examples"):
            if getattr(self, name) > MOST:
                raise UserError(f"{name}: {getattr(self, name):,} is more than {MOST:,}")


@dataclass(frozen=True)
class Group:
    """Parameters with an optimizer state and count of their own.

    Attributes:
      pattern: regex on parameter paths.
      frozen_until: step before which there is no update, no decay, no moments and no count.
      constant_lr: use the peak learning rate throughout: no warmup, no decay.
      shared: its parameters may belong to other groups too; only turns that name it update it.
      b1: Adam's first decay rate, if it is not the config's.
    """

    pattern: str
    frozen_until: int = 0
    constant_lr: bool = False
    shared: bool = False
    b1: float | None = None


@dataclass(frozen=True)
class Probe:
    """Place where a method's representation is read, fixed per family before any measurement.

    Attributes:
      stage: index into the backbone's stages; -1 is the last, -2 the one before it.
      pool: "pooled" for the network's own output, which only the last stage has; "avg" over all
        positions of the stage's map, "grid" over a 2x2 grid (4 x channels features), "large_grid"
        over one of about 9,000 features, "cls" for the stage's class token, "cls_avg" for both, or
        "cls4" and "cls4_avg", see `Features.read`.
    """

    stage: int = -1
    pool: str = "avg"

    def at(self, stage: int | None = None, pool: str | None = None) -> "Probe":
        """Return the probe with another stage, another pooling or both.

        Only the last stage has "pooled": an earlier stage is averaged unless `pool` is set.
        """
        stage = self.stage if stage is None else stage
        inherited = "avg" if self.pool == "pooled" and stage != -1 else self.pool
        return Probe(stage, pool or inherited)

    def read(self, features: Features) -> Array:
        """Read the representation (B, D), float32 at least; see `Features.read` for errors."""
        return features.read(self.stage, self.pool)


class Aux(NamedTuple):
    """Auxiliary results of `loss`.

    Attributes:
      extra: the new extra, with updated batch statistics.
      signals: arrays for `after_update` (keys to enqueue, a batch centre).
      metrics: scalars to log.
    """

    extra: Tree
    signals: Tree = {}
    metrics: Mapping[str, Array] = {}


class Turn(NamedTuple):
    """One of the updates of a step; see `Objective.turns`.

    Attributes:
      loss: a function like `Objective.loss`.
      networks: the entries of `params` that it trains, whole parameter groups; None for all.
      groups: the parameter groups whose optimizers take its gradient, one after another; by
        default all that are not shared.
      every: steps between two such updates; at the other steps nothing of it is kept.
    """

    loss: Callable[..., tuple[Array, Aux]]
    networks: tuple[str, ...] | None = None
    groups: tuple[str, ...] | None = None
    every: int = 1


class DataPass(NamedTuple):
    """Records of a method for the whole data set, `core.sharding.padded_rows` rows split over all
    devices.

    Attributes:
      values: (R, ...), row i from example i; zeros if there is none.
      present: (R,) bool, False for the padding and for corrupt images.
    """

    values: Array
    present: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Picture:
    """Images in rows and columns that show what a method does. A pytree; rendered elsewhere.

    Attributes:
      images: (rows, columns, H, W, C), normalised like the network's inputs.
      caption: description of the images and how they were made, for readers new to the method.
      columns: a heading per column, or none.
      prediction: (rows, columns) int32, the answer of the method there, -1 where there is none.
      truth: (rows, columns) int32, the right answer, likewise.
      answers: names of the answers; without them only right or wrong is shown.
    """

    images: Array
    caption: str = field(metadata={"static": True})
    columns: tuple[str, ...] = field(default=(), metadata={"static": True})
    prediction: Array | None = None
    truth: Array | None = None
    answers: tuple[str, ...] = field(default=(), metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Encoder:
    """A frozen backbone. It is a pytree: pass it INTO `jax.jit`; a closure would bake the weights
    into the program.

    Attributes:
      online: the classifier of the features at the method's probe, if one was trained alongside.
    """

    params: Tree
    stats: Tree
    net: Net = field(metadata={"static": True})
    text: TextTower | None = None
    clusters: Heads | None = None
    classifier: Heads | None = None
    online: Heads | None = None
    tokenizer: ImageTokenizer | None = None
    translator: ImageTranslator | None = None
    policy: Policy | None = None

    def codes(self, images: Array) -> Array:
        """Compute the codes (B, h, w) int32 of normalised images (B, H, W, C).

        Raises:
          UserError: the method is no tokenizer.
        """
        if self.tokenizer is None:
            raise UserError("codes: this encoder has no tokenizer")
        return self.tokenizer.codes(self.net.apply(self.params, self.stats, images, train=False)[0])

    def translate(self, images: Array) -> Array:
        """Translate normalised images (B, H, W, C) to the other domain, likewise normalised.

        Raises:
          UserError: the method translates no images.
        """
        if self.translator is None:
            raise UserError("translate: this encoder translates no images; use a run of cut")
        return self.translator.images(self.features(images))

    def features(self, images: Array) -> Features:
        """Compute all outputs and stages of the backbone for normalised images (B, H, W, C)."""
        return self.net.apply(self.params, self.stats, images, train=False, stages=True)[0]


@dataclass(frozen=True)
class Objective:
    """Base class of methods: what a method must define, with defaults for the rest.

    Attributes:
      backbone: the network that the method trains for use after the run.
      spec: the run.
      microbatches: number of chunks in which the backbone runs; see
        `parts.networks.Networks`.
      family, needs: for `ssl-jax methods`.
      probe: where the representation is read: by default the backbone's own output, which most
        methods train.
      refresh_groups: parameter groups whose optimizer state restarts with each `refresh`.
      least_batch: smallest useful batch: 2 if the images of a batch are each other's negatives, or
        if their variance is part of the loss or of a head.
      decays: regex of vectors that decay by default nevertheless, as in the method's release.
    """

    backbone: Net
    spec: Spec
    microbatches: Count = field(default=1, kw_only=True)

    family: ClassVar[str] = (
        ""  # pretext, contrastive, siamese, clustering, masked, multi-modal, translation, baseline
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
        """Build the method.

        Raises:
          UserError: an unknown hyper-parameter, with the nearest known ones.
        """
        return config.build(cls, hyper, "objective", backbone=backbone, spec=spec)

    def with_backbone(self, backbone: Net) -> Self:
        """Return the same method with another backbone."""
        return replace(self, backbone=backbone)

    def inputs(self) -> Inputs:
        """Describe a batch: by default images of the method's field `views` or `view`, with masks
        if their chains replace backgrounds.

        Raises:
          UserError: the method has neither.
        """
        fields = vars(self)
        if "views" not in fields and "view" not in fields:
            raise UserError(
                f"{type(self).__name__}: no field `view` or `views`; define one, or inputs()"
            )
        views = fields["views"] if "views" in fields else (fields["view"],)
        masks = any(recipe(view.recipe).background for view in views)
        return Inputs(views=views, masks=masks)

    @property
    def networks(self) -> Networks:
        """Trained networks: by default the backbone alone."""
        return self.backbone_and()

    @property
    def fixed_networks(self) -> Networks | None:
        """Networks that are never trained, such as a distillation's teacher; by default none.

        Their weights are `extra["fixed"]`, with the entries "params" and "stats". They come from
        the run or file that `train.teacher_from` names: its encoder as "backbone", and, if needed,
        its classifier as "classifier" or the head that makes its codes as "tokenizer" (see
        `parts.tokenizer`). A checkpoint holds them, so a run resumes without that file.
        """
        return None

    def backbone_and(self, **others: Net) -> Networks:
        """Return the backbone together with `others`: heads, a decoder."""
        return Networks({"backbone": self.backbone, **others}, self.microbatches)

    def init(self, key: Array) -> tuple[Tree, Tree]:
        """Create fresh (params, extra): by default those of `networks` and `fixed_networks`."""
        params, stats = self.networks.init(key)
        fixed = self.fixed_networks
        if fixed is None:
            return params, {"stats": stats}
        weights, running = fixed.init(rng.named(key, FIXED))
        return params, {"stats": stats, FIXED: {"params": weights, "stats": running}}

    @cached_property
    def shapes(self) -> Features:
        """Shapes of the backbone's outputs for an image of the first view; see `output_shapes`."""
        return self._shapes()

    def _shapes(self, **options: Any) -> Features:
        sides = self.inputs().views[0].sides
        return output_shapes(self.backbone, (*sides, self.spec.channels), **options)

    @property
    def probe_every_stage(self) -> bool:
        """Tell whether a linear probe without a stage setting tries every stage: features for a
        pretext task or a reconstruction are not those for classes, and the best stage is not known
        before.
        """
        return self.family in ("pretext", "masked")

    @cached_property
    def stage_shapes(self) -> Features:
        """Like `shapes`, including every stage."""
        return self._shapes(stages=True)

    @property
    def feature_dim(self) -> int:
        """Width of the backbone's "pooled" features."""
        return self.shapes.pooled.shape[0]

    @property
    def patch_map(self) -> tuple[int, int, int]:
        """Rows and columns of the patches of the first view, and their width.

        Raises:
          UserError: the backbone has no patches.
        """
        if self.shapes.tokens is None or self.shapes.map is None:
            raise UserError(
                f"objective: this backbone has no patches, but the method needs {self.needs}; set "
                "backbone.name='vit'"
            )
        rows, columns, width = self.shapes.map.shape
        return rows, columns, width

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Number of patches along a side of the first view, and their width.

        Raises:
          UserError: the backbone has no patches, or the view is not square.
        """
        rows, _, width = self.patch_map
        self.inputs().views[0].check_square()
        return rows, width

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        """Compute the scalar to minimise over the global batch, and its `Aux`. Pure."""
        raise NotImplementedError

    def turns(self) -> Sequence[Turn]:
        """Return the updates of a step in order, each from the parameters and `extra` that the one
        before left: by default one of all parameters by `loss`. An adversary has its own turn.

        All get the same batch, key and step, so that they draw the same.
        """
        return (Turn(self.loss),)

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        """Return (params, extra) after the optimizer's update: teacher average, queue push,
        prototype norm.
        """
        return params, extra

    def encoder(self, params: Tree, extra: Tree) -> Encoder:
        """Return the network to use after training: by default the trained backbone."""
        return Encoder(params["backbone"], extra["stats"]["backbone"], self.backbone)

    def teacher(self, params: Tree, extra: Tree) -> tuple[Tree, Tree] | None:
        """Return (params, stats) of the slow average of the trained networks, with their names:
        teacher, target, key encoder; by default None. It only selects from its arguments.
        """
        return None

    def pictures(
        self, params: Tree, extra: Tree, images: Array, key: Array
    ) -> Mapping[str, Picture]:
        """Return method-specific pictures by title, for `ssl-jax report`: by default none.

        Pure; jitted. `images` (B, H, W, C) are whole evaluation images, centrally cropped to the
        first view and normalised; show a few, or choose among all of them.
        """
        return {}

    def stream_pictures(
        self, params: Tree, extra: Tree, streams: Mapping[str, Array], key: Array
    ) -> Mapping[str, Picture]:
        """Return further pictures, of images of the further data sets by name; like `pictures`."""
        return {}

    def groups(self) -> dict[str, Group]:
        """Name the parameter groups besides "rest"."""
        return {}

    def refresh_steps(self) -> Collection[int]:
        """Return the steps before which `refresh` is called; `range` has a fast `in`."""
        return ()

    def pass_steps(self) -> Collection[int]:
        """Return those of `refresh_steps` that first run the network over the whole data set."""
        return self.refresh_steps()

    def record(self, params: Tree, extra: Tree, images: Array) -> Array:
        """Compute the records (B, ...) of a pass from clean, normalised images (B, H, W, C): by
        default the encoder's "pooled" features.
        """
        return self.encoder(params, extra).features(images).pooled

    def refresh(
        self, params: Tree, extra: Tree, features: DataPass | None, key: Array, step: Array
    ) -> tuple[Tree, Tree]:
        """Update (params, extra) from the whole data set. Pure; runs on the devices, jitted.

        The optimizer states of `refresh_groups` restart. `features` is None at steps outside
        `pass_steps`.
        """
        return params, extra
