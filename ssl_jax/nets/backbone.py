"""The contract of a backbone: a frozen config whose fields are its options, and which builds the
network.

A backbone is a file `nets/backbones/NAME.py` that defines `Config`, a subclass of `Backbone`; see
docs/backbones.md.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Self

from flax import nnx

from ssl_jax.core import config
from ssl_jax.core.errors import UserError
from ssl_jax.nets.functional import Net, functional, preceded
from ssl_jax.nets.layers import DType, compute_dtype
from ssl_jax.nets.sobel import CHANNELS, sobel

OWN_MODULE = "ssl_jax_backbone_"  # start of the name of the module in a file of the user's own


@dataclass(frozen=True)
class Backbone:
    """Base class of the configs of backbones: what a backbone must define, with defaults for the
    rest. Its fields are the keys of the section `backbone` of a config besides `name`.

    Attributes:
      dtype: dtype of the computation; None follows the parameters, which are float32.
      sobel: whether the network sees the Sobel gradients of the grey image in place of its channels
        (DeepCluster); see `nets.sobel`.
      narrow: options of so small a network that a test trains it in a second, on images of 32 or
        fewer pixels.
      layout: the module of `weights` that knows the names of its variables in PyTorch libraries;
        "" if they have no such network.
      attention: whether `apply(..., attention=True)` returns what every token attends to.
    """

    narrow: ClassVar[Mapping[str, Any]] = {}
    layout: ClassVar[str] = ""
    attention: ClassVar[bool] = False

    dtype: DType = field(default=None, kw_only=True)
    sobel: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        """Check the range of every option; a backbone that overrides this calls it first.

        Raises:
          UserError: a number out of its range, or an unsupported dtype.
        """
        config.check(self, "backbone")
        compute_dtype(self.dtype)

    def module(self, channels: int, rngs: nnx.Rngs) -> nnx.Module:
        """Build the module for images of `channels`; its `__call__` takes images (B, H, W, C),
        `train` and `stages`, and returns `features.Features`.
        """
        raise NotImplementedError

    @property
    def title(self) -> str:
        """Short name for messages and logs: by default that of the file."""
        return type(self).__module__.rpartition(".")[2].removeprefix(OWN_MODULE)

    @property
    def draws(self) -> bool:
        """True if the network needs `keys` (B,) in training: by default for `drop_path`."""
        return bool(getattr(self, "drop_path", 0.0))

    @property
    def remat_policy(self) -> Callable[..., Any] | None:
        """Policy (`jax.checkpoint_policies`) of what the backward pass keeps of the whole network;
        None if the network decides for its parts, or keeps all.
        """
        return None

    @property
    def num_layers(self) -> int:
        """Number of layers for layer-wise learning rates; 0 if the backbone declares none."""
        return 0

    def layer_ids(self, path: str) -> int | Sequence[int]:
        """Return the layer of the parameter `path` ("blocks/attn/qkv/kernel"): 0 for what reads the
        image, 1 to `num_layers` for the layers, `num_layers + 1` for what follows them. For a
        parameter that is stacked over layers, return the layer of each row.
        """
        raise NotImplementedError

    def side(self, near: int) -> int:
        """Return the side of images nearest to `near` that the network accepts: by default any."""
        return near

    def decoder(self, vocabulary: int, code_dim: int, out: int) -> Net:
        """Build the network that turns codes in the places of the map back into an image: weights
        (B, h, w, vocabulary), which sum to 1, to (B, H, W, out) float32. Every code has a vector of
        `code_dim` numbers.

        Raises:
          UserError: the backbone has none.
        """
        raise UserError(
            f"backbone: {self.title} has no decoder of codes; set backbone.name='discrete_vae'"
        )

    def image_decoder(self, out: int) -> Net:
        """Build the network that turns the map into an image, (B, h, w, D) to (B, H, W, out) in
        [-1, 1].

        Raises:
          UserError: the backbone has none.
        """
        raise UserError(
            f"backbone: {self.title} has no decoder of images; set backbone.name='resnet_generator'"
        )

    def explicit(self) -> "Backbone":
        """Return the config of the same network with every size spelled out."""
        return self

    def scaled(self, factor: float) -> Self:
        """Return the config of a network whose widths are `factor` times as large.

        Raises:
          UserError: the backbone has no such widths.
        """
        if factor == 1:
            return self
        raise UserError(f"backbone: {self.title} has no widths to scale; set its options instead")

    def changes(self) -> dict[str, Any]:
        """Return the options that differ from their defaults."""
        usual = config.defaults(type(self))
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: value for name, value in own.items() if value != usual.get(name)}

    def changed(self, **options: Any) -> Self:
        """Return the config with some options changed.

        Raises:
          UserError: an unknown option, with the nearest known ones, or a value of the wrong type
            or out of its range.
        """
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return config.build(type(self), own | options, "backbone")

    def net(self, channels: int = 3) -> Net:
        """Build the network for images of `channels`.

        Raises:
          UserError: no channels.
        """
        if channels < 1:
            raise UserError(f"channels={channels}: expected a positive number")
        make = partial(self.module, CHANNELS if self.sobel else channels)
        made = functional(
            make, self.title, attention=self.attention, draws=self.draws, remat=self.remat_policy
        )
        if self.sobel:
            made = preceded(made, sobel)
        return dataclasses.replace(made, config=self, channels=channels)

    @classmethod
    def make(cls, *sizes: Any, channels: int = 3, **options: Any) -> Net:
        """Build the network of these options, for use from Python."""
        return cls(*sizes, **options).net(channels)


def scaled_width(width: int, factor: float) -> int:
    """Return a width times a factor.

    Raises:
      UserError: that is no whole number.
    """
    result = width * factor
    if result != round(result) or result < 1:
        raise UserError(f"backbone: a width of {width} times {factor} is no positive whole number")
    return round(result)
