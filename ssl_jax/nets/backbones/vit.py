"""Vision transformers (Dosovitskiy et al. 2020, arXiv:2010.11929) with scanned blocks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar, Literal, Self

import jax.numpy as jnp
from flax import nnx

from ssl_jax.core.errors import UserError, suggest
from ssl_jax.core.inputs import Size, sides
from ssl_jax.core.ranges import BelowOne, Count, NonNegative, Positive, Whole
from ssl_jax.core.tree import Array
from ssl_jax.nets.attention import AttentionForm, check_form
from ssl_jax.nets.backbone import Backbone, scaled_width
from ssl_jax.nets.blocks import (
    HIDDEN,
    Perceptron,
    Remat,
    Scheme,
    check_options,
    hide,
    run_stack,
    stack,
    token,
)
from ssl_jax.nets.drop_path import check_rate, factors
from ssl_jax.nets.features import Features, Stage
from ssl_jax.nets.layers import (
    Init,
    LayerNorm,
    at_least_float32,
    compute_dtype,
    torch_default,
    xavier_uniform,
)
from ssl_jax.nets.positions import Grid, Order, RelativePositions, resize_grid, sincos

Position = Literal["learned", "sincos", "sincos_mocov3", "relative", "relative_per_block", "none"]
RELATIVE = ("relative", "relative_per_block")

SIZES = {  # dim, depth, heads, MLP ratio
    "tiny": (192, 12, 3, 4.0),
    "small": (384, 12, 6, 4.0),
    "base": (768, 12, 12, 4.0),
    "large": (1024, 24, 16, 4.0),
    "huge": (1280, 32, 16, 4.0),
    "giant": (1408, 40, 16, 48 / 11),
    "giant2": (1536, 40, 24, 4.0),
}
INIT_OF_POSITION: dict[str, Scheme] = {
    **dict.fromkeys(("learned", *RELATIVE, "none"), "normal"),
    "sincos": "xavier",
    "sincos_mocov3": "mocov3",
}
FIXED_ORDERS: dict[str, Order] = {"sincos": "mae", "sincos_mocov3": "mocov3"}
EMBEDDINGS = (  # what a ViT does before its first block
    "patch_embed",
    "pos_embed",
    "cls_token",
    "mask_token",
    "registers",
    "norm_pre",
)


@dataclass(frozen=True)
class Config(Backbone):
    """A vision transformer. Outputs: `ViT.__call__`; inputs besides the images: `keep`, `mask`,
    `visible`, `stages`, `attention`.

    Attributes:
      size: "tiny", "small", "base", "large", "huge", "giant" (I-JEPA's g), "giant2" (DINOv2's g),
        or None, which requires dim, depth and heads.
      patch: side of a patch in pixels.
      image_size: side of the images that the position table is made for, or (height, width).
      dim, depth, heads, mlp_ratio: override those of the size (MoCo v3's small has 12 heads).
      position: "learned", or a fixed table (not a parameter): "sincos" in MAE's order,
        "sincos_mocov3" in MoCo v3's; or "relative", a trained bias of the attention that all
        blocks share (SimMIM, BEiT); or "relative_per_block", one per block (BEiT fine-tuned); or
        "none", with which the patches are a set (MP3).
      cls_token: whether there is a class token; fixed positions add 0 to it.
      mask_token: whether there is a token that replaces hidden patches.
      pool: whether "pooled" is the class token or the mean of the patch tokens.
      norm_after_pool: apply the final norm to "pooled" and not to the tokens (timm's `fc_norm`).
      interpolate_offset: see `positions.resize_grid`; 0.1 is DINO's.
      interpolate_antialias: likewise; True is that of DINOv2's weights with registers.
      drop_path: rate of stochastic depth, at which each branch of the last block is dropped for a
        training example; it falls to 0 in the first block. The method must draw it.
      drop_path_uniform: whether all blocks have that rate (DINOv2).
      drop_path_groups: number of groups of consecutive crops; in training, each branch computes
        only a share 1 - `drop_path` of the rows of each group, which saves the work of the others
        (DINOv2). A multiple of the number of devices keeps the rows where they are. 0 computes all
        rows and drops crop by crop.
      layer_scale: initial value of the blocks' LayerScale, None for none.
      qkv_bias: whether query, key and value have biases.
      mlp: nonlinearity of the perceptrons; see `blocks.Mlp`.
      registers: number of trained tokens without a place in the image (arXiv:2309.16588); no output
        contains them.
      pre_norm: whether there is a norm before the blocks, and no bias in the patch embedding
        (CLIP).
      norm_eps: epsilon of all norms; CLIP's is 1e-5.
      init: "normal" (DINO, DeiT), "xavier" (MAE), "mocov3"; None chooses by `position`.
      remat: what the backward pass recomputes: "none", "full" (all of a block), "dots" (all but
        its linear layers) or "wide" (what follows elementwise from the kept); see docs/configs.md.
      attention_form: how attention is computed: "kernel" (TPU), "cudnn" (GPU), "xla", or "auto",
        the best for the device and the shapes; see `nets.attention`.

    Raises:
      UserError: an unknown size or option, heads that do not divide the width, a patch that does
        not divide the image.
    """

    narrow: ClassVar[Mapping[str, Any]] = {"dim": 16, "depth": 2, "heads": 2}
    layout: ClassVar[str] = "vit"
    attention: ClassVar[bool] = True

    size: str | None = "small"
    patch: Count = 16
    image_size: Size = 224
    _: KW_ONLY
    dim: Count | None = None
    depth: Count | None = None
    heads: Count | None = None
    mlp_ratio: Positive | None = None
    position: Position = "learned"
    cls_token: bool = True
    mask_token: bool = False
    pool: Literal["cls", "avg"] = "cls"
    norm_after_pool: bool = False
    interpolate_offset: NonNegative = 0.0
    interpolate_antialias: bool = False
    drop_path: BelowOne = 0.0
    drop_path_uniform: bool = False
    drop_path_groups: Whole = 0
    layer_scale: Positive | None = None
    qkv_bias: bool = True
    mlp: Perceptron = "gelu"
    registers: Whole = 0
    pre_norm: bool = False
    norm_eps: Positive = 1e-6
    init: Scheme | None = None
    remat: Remat = "none"
    attention_form: AttentionForm = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None and self.size not in SIZES:
            raise UserError(f"no ViT of size {self.size!r}; {suggest(self.size, SIZES)}")
        dim, depth, heads, _ = self.sizes
        if dim is None or depth is None or heads is None:
            raise UserError("a ViT with size=None needs dim, depth and heads")
        check_options(dim, heads, self.remat, self.mlp)
        check_form(self.attention_form)
        position, scheme = self.position, self.scheme
        if position not in INIT_OF_POSITION:
            raise UserError(f"unknown position {position!r}; {suggest(position, INIT_OF_POSITION)}")
        if scheme not in INIT_OF_POSITION.values():
            known = INIT_OF_POSITION.values()
            raise UserError(f"unknown init {scheme!r}; {suggest(scheme, known)}")
        if self.registers and position in RELATIVE:
            raise UserError(f"registers={self.registers}: expected 0 with relative positions")
        for option in ("interpolate_offset", "interpolate_antialias"):
            if getattr(self, option) and position in RELATIVE:
                raise UserError(
                    f"{option} is for position tables, which relative positions lack; set it to 0"
                )
        if self.interpolate_offset and self.interpolate_antialias:
            raise UserError(
                f"interpolate_offset={self.interpolate_offset} with interpolate_antialias; set one "
                "of them"
            )
        if self.pool not in ("cls", "avg") or (self.pool == "cls" and not self.cls_token):
            raise UserError(
                f"pool={self.pool!r} with cls_token={self.cls_token}; use 'avg', or 'cls' with a "
                "class token"
            )
        check_rate(self.drop_path, depth, self.drop_path_uniform)
        if self.drop_path_groups and not self.drop_path_uniform:
            raise UserError(
                f"drop_path_groups={self.drop_path_groups}: expected drop_path_uniform=True, so "
                "that all blocks compute as many rows"
            )
        grid = self.grid  # raises unless the patch divides the image
        if position in FIXED_ORDERS:
            sincos(dim, grid)  # raises for an invalid width

    @property
    def sizes(self) -> tuple[Any, Any, Any, float]:
        """Width, depth, heads and MLP ratio: the own ones, else those of the published size."""
        published = (None, None, None, 4.0) if self.size is None else SIZES[self.size]
        own = (self.dim, self.depth, self.heads, self.mlp_ratio)
        dim, depth, heads, ratio = (
            p if o is None else o for o, p in zip(own, published, strict=True)
        )
        return dim, depth, heads, ratio  # type: ignore[return-value]

    @property
    def grid(self) -> Grid:
        """Rows and columns of patches of the position table."""
        return patch_grid(sides(self.image_size), self.patch)

    @property
    def window(self) -> tuple[int, ...]:
        """Sides of a patch."""
        return (self.patch, self.patch)

    @property
    def positions(self) -> int:
        """Number of positions of patches in the table."""
        return math.prod(self.grid)

    @property
    def scheme(self) -> Scheme:
        """Initialisation of the linear layers."""
        return INIT_OF_POSITION.get(self.position, "normal") if self.init is None else self.init

    @property
    def title(self) -> str:
        return f"vit_{self.size or self.dim}_{self.patch}"

    @property
    def num_layers(self) -> int:
        return int(self.sizes[1])

    def layer_ids(self, path: str) -> int | Sequence[int]:
        module = path.split("/")[0]
        per_block = module == "relative" and self.position == "relative_per_block"
        if module == "blocks" or per_block:
            return range(1, self.num_layers + 1)
        return 0 if module in EMBEDDINGS else self.num_layers + 1

    def side(self, near: int) -> int:
        return max(round(near / self.patch), 1) * self.patch

    def explicit(self) -> Self:
        dim, depth, heads, ratio = self.sizes
        return replace(self, dim=dim, depth=depth, heads=heads, mlp_ratio=ratio)

    def scaled(self, factor: float) -> Self:
        dim, _, heads, _ = self.sizes
        if factor == 1:
            return self
        width, count = scaled_width(dim, factor), scaled_width(heads, factor)
        return replace(self, dim=width, heads=count)

    def module(self, channels: int, rngs: nnx.Rngs) -> "ViT":
        return ViT(self, channels, rngs)


class ViT(nnx.Module):
    """See `Config` for the options and `__call__` for the outputs."""

    def __init__(self, config: Config, channels: int, rngs: nnx.Rngs):
        dim, depth, heads, mlp_ratio = config.sizes
        patch, grid, scheme = config.patch, config.grid, config.scheme
        dtype, position = compute_dtype(config.dtype), config.position
        self.patch, self.grid, self.position = patch, grid, position
        self.pool, self.norm_after_pool = config.pool, config.norm_after_pool
        self.interpolate = (config.interpolate_offset, config.interpolate_antialias)
        self.depth, self.remat = depth, config.remat
        self.drop_path, self.drop_path_uniform = config.drop_path, config.drop_path_uniform
        self.drop_path_groups = config.drop_path_groups
        fan_in = math.prod(config.window) * channels
        kernel = torch_default(fan_in) if scheme == "normal" else xavier_uniform(fan_in, dim)
        bias: Init = nnx.initializers.zeros if scheme == "mocov3" else torch_default(fan_in)
        self.patch_embed = nnx.Conv(
            channels,
            dim,
            config.window,
            strides=config.window,
            padding="VALID",
            kernel_init=kernel,
            bias_init=bias,
            use_bias=not config.pre_norm,
            dtype=dtype,
            rngs=rngs,
        )
        std = 1e-6 if scheme == "mocov3" else 0.02
        self.cls_token = token(std, 1, dim, rngs=rngs) if config.cls_token else None
        self.mask_token = token(0.02, 1, dim, rngs=rngs) if config.mask_token else None
        tokens = config.positions + config.cls_token
        learned = position == "learned"
        self.pos_embed = token(0.02, tokens, dim, rngs=rngs) if learned else None
        tables = depth if position == "relative_per_block" else None
        self.relative = (
            RelativePositions(grid, heads, config.cls_token, tables)
            if position in RELATIVE
            else None
        )
        count = config.registers
        self.registers = token(1e-6, count, dim, rngs=rngs) if count else None
        self.norm_pre = LayerNorm(dim, eps=config.norm_eps) if config.pre_norm else None
        self.blocks = stack(
            depth,
            dim,
            heads,
            mlp_ratio=mlp_ratio,
            layer_scale=config.layer_scale,
            qkv_bias=config.qkv_bias,
            mlp=config.mlp,
            norm_eps=config.norm_eps,
            attention_form=config.attention_form,
            scheme=scheme,
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = LayerNorm(dim, eps=config.norm_eps)

    def __call__(
        self,
        images: Array,
        keep: Array | None = None,
        mask: Array | None = None,
        keys: Array | None = None,
        visible: Array | None = None,
        *,
        train: bool,
        stages: bool = False,
        attention: bool = False,
    ) -> Features:
        """Map images (B, H, W, C) to features of N patches, or of those in `keep`; T counts all
        tokens except the registers.

        Args:
          images: the patch size must divide their sides; for sides other than the network's,
            positions are resized.
          keep: (B, K) int, the patches to keep, row-major. Positions are added before the others
            are dropped (MAE).
          mask: (B, r, c), 1 or True where the mask token replaces the patches; the grid of patches
            is a multiple of r x c.
          keys: (B,) random keys, for `drop_path` in training.
          visible: (B, T) bool, the class token first if there is one; the others are not attended
            to by any token in any block.
          train: whether branches are dropped.
          stages: also return what every block returns, with its own class token.
          attention: also return what every token attends to.

        Returns:
          `pooled` is according to the option `pool`. The stages are "block1", ..; the last one is
          normed like the tokens. The rows of `attention`, float32, sum to 1, or to less by the
          weight of the registers.

        Raises:
          UserError: a side that the patch size does not divide, `keep` with relative positions, a
            mask without a mask token or of another grid, `visible` with registers.
        """
        rate = self.drop_path if train else 0.0
        uniform, groups = self.drop_path_uniform, self.drop_path_groups
        branch_factors = factors(keys, rate, self.depth, 2, uniform, groups)
        if keep is not None and self.relative is not None:
            raise UserError("relative positions need all patches; leave keep out")
        x, grid = self._embed(images)
        if mask is not None:
            x = hide(x, mask, grid, self.mask_token)
        cls_position, positions = self._positions(grid)
        x = x + jnp.asarray(positions, x.dtype)
        if keep is not None:
            x = jnp.take_along_axis(x, keep[:, :, None], axis=1)
        first = 0
        if self.cls_token is not None:
            cls = jnp.asarray(self.cls_token[...] + cls_position, x.dtype)
            x = jnp.concatenate([jnp.broadcast_to(cls, (x.shape[0], 1, x.shape[-1])), x], axis=1)
            first = 1
        count = x.shape[1]
        if self.registers is not None:  # last: the order has no effect, and T stays as it is
            registers = jnp.asarray(self.registers[...], x.dtype)
            shape = (x.shape[0], *registers.shape[1:])
            x = jnp.concatenate([x, jnp.broadcast_to(registers, shape)], axis=1)
        if self.norm_pre is not None:
            x = self.norm_pre(x)
        bias = block_bias = None
        if self.relative is not None:
            relative = self.relative(grid)
            shared = self.position == "relative"
            bias, block_bias = (relative, None) if shared else (None, relative)
        if visible is not None:
            if self.registers is not None:
                raise UserError("visible: expected a backbone without registers; set registers=0")
            if rate and groups:
                raise UserError("visible: expected drop_path_groups=0, as its rows are those of x")
            hidden = jnp.where(visible, 0.0, HIDDEN)[:, None, None]
            bias = hidden if bias is None else bias + hidden
        x, (block_outputs, maps) = run_stack(
            self.blocks, x, self.remat, stages, bias, attention, branch_factors, block_bias
        )
        x = x[:, :count]
        tokens = x if self.norm_after_pool else self.norm(x)

        def outputs(tokens: Array) -> dict[str, Array | None]:
            """Name the (B, T, D) tokens of a block, and their class token and map."""
            return {
                "tokens": tokens,
                "cls": tokens[:, 0] if first else None,
                "map": None if keep is not None else self._map(tokens[:, first:], grid),
            }

        def normed_cls(tokens: Array, block: int) -> Array | None:
            """Return the class token after a block and the final norm, which the last has had."""
            if not first:
                return None
            is_normed = block == len(each) - 1 and not self.norm_after_pool
            return tokens[:, 0] if is_normed else self.norm(tokens[:, 0])

        if self.pool == "cls":
            pooled = tokens[:, 0]
        else:
            pooled = jnp.mean(at_least_float32(tokens[:, first:]), 1)
        each = [] if block_outputs is None else [*block_outputs[:-1, :, :count], tokens]
        return Features(
            pooled=at_least_float32(self.norm(pooled) if self.norm_after_pool else pooled),
            stages=tuple(
                Stage(name=f"block{i + 1}", normed_cls=normed_cls(x, i), **outputs(x))
                for i, x in enumerate(each)
            ),
            attention=None if maps is None else jnp.swapaxes(maps[..., :count, :count], 0, 1),
            **outputs(tokens),
        )

    def _embed(self, images: Array) -> tuple[Array, Grid]:
        """Return the patches (B, N, D) of the images and their grid."""
        grid = patch_grid((images.shape[1], images.shape[2]), self.patch)
        x = self.patch_embed(images)
        return jnp.reshape(x, (x.shape[0], -1, x.shape[-1])), grid

    def _map(self, patches: Array, grid: Grid) -> Array:
        """Lay out the patches (B, N, D) as a map (B, h, w, D)."""
        return jnp.reshape(patches, (patches.shape[0], *grid, patches.shape[-1]))

    def _positions(self, grid: Grid) -> tuple[Array, Array]:
        """Return the positions of the class token (1, 0 or 1, D) and of the patches (1, N, D)."""
        first = int(self.cls_token is not None)
        if self.relative is not None or self.position == "none":
            nothing = jnp.zeros((1, 1, 1), jnp.float32)
            return nothing, nothing
        if self.pos_embed is not None:
            table = self.pos_embed[...]
        else:
            dim, order = self.patch_embed.out_features, FIXED_ORDERS[self.position]
            table = jnp.asarray(sincos(dim, self.grid, order, cls_token=bool(first))[None])
        patches = resize_grid(table[:, first:], self.grid, grid, *self.interpolate)
        return table[:, :first], patches


def patch_grid(image: tuple[int, int], patch: int) -> Grid:
    """Return the rows and columns of patches of an image (H, W).

    Raises:
      UserError: the patch size does not divide both sides.
    """
    height, width = image
    if patch < 1 or height % patch or width % patch:
        raise UserError(
            f"a patch of {patch} pixels does not divide an image of {height} x {width}; change one"
        )
    return height // patch, width // patch


make = Config.make
