"""Transformer blocks (Vaswani et al. 2017, arXiv:1706.03762), stacked and scanned, shared by ViT,
Swin, decoder and text tower.
"""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from ssl_jax.core.errors import UserError, suggest
from ssl_jax.core.sharding import gather_weights
from ssl_jax.core.tree import Array
from ssl_jax.nets.attention import AttentionForm, attend, split_heads, weights
from ssl_jax.nets.drop_path import residual
from ssl_jax.nets.layers import DType, Init, LayerNorm, normal, torch_default, xavier_uniform
from ssl_jax.nets.positions import Grid

Remat = Literal["none", "full", "dots", "wide"]
Scheme = Literal["normal", "xavier", "mocov3", "torch"]
Perceptron = Literal["gelu", "quick_gelu", "swiglu"]

HIDDEN = -1e30  # logit of what must not be attended to: its weight is exactly 0
REMAT_POLICIES = {
    "full": None,  # keeps nothing but each block's input
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # and linear layers' outputs
    # and all that is not recomputed from it elementwise
    "wide": jax.checkpoint_policies.save_only_these_names("qkv", "attended", "middle", "hidden"),
}


def linear(
    features_in: int,
    features: int,
    *,
    scheme: Scheme,
    dtype: DType,
    rngs: nnx.Rngs,
    use_bias: bool = True,
    parts: int = 1,
) -> nnx.Linear:
    """Create a linear layer with a transformer's initialisation, bias 0 unless "torch".

    "normal": N(0, 0.02), to which DINO's truncation at 100 standard deviations amounts. "xavier":
    Glorot's uniform. "mocov3": the same, with a fused layer's `parts` (query, key, value) treated
    as separate layers. "torch": PyTorch's default, also of the bias.
    """
    fan_out = features // parts if scheme == "mocov3" else features
    init: Init = normal(0.02)
    bias_init: Init = nnx.initializers.zeros
    if scheme == "torch":
        init = bias_init = torch_default(features_in)
    elif scheme != "normal":
        init = xavier_uniform(features_in, fan_out)
    return nnx.Linear(
        features_in,
        features,
        use_bias=use_bias,
        kernel_init=init,
        bias_init=bias_init,
        dtype=dtype,
        rngs=rngs,
    )


def token(std: float, count: int, dim: int, *, rngs: nnx.Rngs) -> nnx.Param:
    """Create trained tokens or positions (1, count, dim), N(0, std)."""
    return nnx.Param(normal(std)(rngs.params(), (1, count, dim)))


class Attention(nnx.Module):
    """Multi-head self-attention with a fused query-key-value layer."""

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        qkv_bias: bool,
        form: AttentionForm = "auto",
        scheme: Scheme,
        dtype: DType,
        rngs: nnx.Rngs,
    ):
        self.heads, self.form = heads, form
        self.qkv = linear(
            dim, 3 * dim, use_bias=qkv_bias, parts=3, scheme=scheme, dtype=dtype, rngs=rngs
        )
        self.proj = linear(dim, dim, scheme=scheme, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array, bias: Array | None = None) -> Array:
        """(B, T, D) -> (B, T, D); `bias`, to add to the logits: see `attention.attend`."""
        qkv = checkpoint_name(self.qkv(x), "qkv")
        return self.proj(checkpoint_name(attend(qkv, self.heads, bias, self.form), "attended"))

    def maps(self, x: Array, bias: Array | None = None) -> Array:
        """Return the attention weights (B, heads, T, T): row i is what token i attends to."""
        q, k, _ = split_heads(self.qkv(x), self.heads)
        return weights(q, k, bias)


class Mlp(nnx.Module):
    """Linear, nonlinearity, linear.

    `kind` is the exact GELU; "quick_gelu", x sigmoid(1.702 x) (OpenAI's CLIP); or "swiglu"
    (arXiv:2002.05202), whose first layer computes the gate, then the gated values, each of width
    2/3 `hidden` rounded up to a multiple of 8 (DINOv2).
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        *,
        kind: Perceptron = "gelu",
        scheme: Scheme,
        dtype: DType,
        rngs: nnx.Rngs,
    ):
        self.kind = kind
        wide = hidden
        if kind == "swiglu":
            hidden = swiglu_width(hidden)
            wide = 2 * hidden
        self.fc1 = linear(dim, wide, scheme=scheme, dtype=dtype, rngs=rngs)
        self.fc2 = linear(hidden, dim, scheme=scheme, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = checkpoint_name(self.fc1(x), "hidden")
        if self.kind == "swiglu":
            gate, x = jnp.split(x, 2, axis=-1)
            return self.fc2(jax.nn.silu(gate) * x)
        if self.kind == "quick_gelu":
            return self.fc2(x * jax.nn.sigmoid(1.702 * x))
        return self.fc2(jax.nn.gelu(x, approximate=False))


def swiglu_width(hidden: int) -> int:
    """Return the width of a gated perceptron with as many weights as a plain one of `hidden`."""
    return -(-int(hidden * 2 / 3) // 8) * 8


class Block(nnx.Module):
    """A pre-norm block on tokens (B, T, D), with or without LayerScale (arXiv:2103.17239)."""

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        layer_scale: float | None = None,
        mlp: Perceptron = "gelu",
        norm_eps: float = 1e-6,
        attention_form: AttentionForm = "auto",
        scheme: Scheme,
        dtype: DType,
        rngs: nnx.Rngs,
    ):
        options: dict[str, Any] = dict(scheme=scheme, dtype=dtype, rngs=rngs)
        self.norm1 = LayerNorm(dim, eps=norm_eps)
        self.attn = Attention(dim, heads, qkv_bias=qkv_bias, form=attention_form, **options)
        self.norm2 = LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, round(dim * mlp_ratio), kind=mlp, **options)
        self.gamma1, self.gamma2 = (
            None if layer_scale is None else nnx.Param(jnp.full((dim,), layer_scale, jnp.float32))
            for _ in range(2)
        )

    def __call__(
        self, x: Array, bias: Array | None = None, branch_factors: Array | None = None
    ) -> Array:
        """`branch_factors` (2, ...): what `drop_path.factors` drew for the attention branch and for
        the perceptron branch.
        """
        attention, perceptron = (None, None) if branch_factors is None else branch_factors

        def attend(x: Array) -> Array:
            return _scaled(self.attn(self.norm1(x), bias), self.gamma1)

        def transform(x: Array) -> Array:
            return _scaled(self.mlp(self.norm2(x)), self.gamma2)

        x = checkpoint_name(residual(x, attend, attention), "middle")
        return residual(x, transform, perceptron)


def hide(x: Array, mask: Array, grid: Grid, mask_token: nnx.Param | None) -> Array:
    """Replace those of the patches (B, N, D) that `mask` (B, r, c) hides by the mask token; in a
    clip, those of every frame.

    Raises:
      UserError: no mask token, or a grid of patches that is not a multiple of the mask's.
    """
    if mask_token is None:
        raise UserError("hiding patches needs a mask token; set backbone.mask_token=True")
    rows, columns = mask.shape[1:]
    if grid[0] % rows or grid[1] % columns:
        raise UserError(
            f"a mask of {rows} x {columns} cells does not fit {grid[0]} x {grid[1]} patches; make "
            "the side of a cell a multiple of the patch size"
        )
    mask = mask.repeat(grid[0] // rows, axis=1).repeat(grid[1] // columns, axis=2)
    hidden = mask.reshape(len(mask), -1).astype(bool)
    hidden = jnp.tile(hidden, (1, x.shape[1] // hidden.shape[1]))[..., None]
    return jnp.where(hidden, jnp.asarray(mask_token[...], x.dtype), x)


def stack(depth: int, dim: int, heads: int, *, rngs: nnx.Rngs, **block) -> Block:
    """Build `depth` blocks as one module whose parameters have a leading axis of that size."""
    return nnx.vmap(lambda keys: Block(dim, heads, rngs=keys, **block))(rngs.split(depth))


def run_stack(
    blocks: Block,
    x: Array,
    remat: Remat,
    all_outputs: bool = False,
    bias: Array | None = None,
    attention: bool = False,
    branch_factors: Array | None = None,
    block_bias: Array | None = None,
) -> tuple[Array, tuple[Array | None, Array | None]]:
    """Run tokens (B, T, D) through a stack of blocks. Also return, with `all_outputs`, the tokens
    after each block (depth, B, T, D) and, with `attention`, its weights (depth, B, heads, T, T).

    `bias` is added to the attention's logits in every block, `block_bias` (depth, ...) is each
    block's own; `branch_factors` (depth, 2, ...) are the draws of stochastic depth. A scan, so that
    the compile time does not grow with the depth.
    """
    graphdef, state = nnx.split(blocks)

    def body(
        x: Array, layer: tuple[nnx.State, Array | None, Array | None]
    ) -> tuple[Array, tuple[Array | None, Array | None]]:
        block, branch_factors, own = nnx.merge(graphdef, gather_weights(layer[0])), *layer[1:]
        total = bias if own is None else own if bias is None else bias + own
        maps = block.attn.maps(block.norm1(x), total) if attention else None
        x = (
            block(x, total) if branch_factors is None else block(x, total, branch_factors)
        )  # not every stack can drop
        return x, (x if all_outputs else None, maps)

    if remat != "none":
        body = jax.checkpoint(body, policy=REMAT_POLICIES[remat], prevent_cse=False)
    return jax.lax.scan(body, x, (state, branch_factors, block_bias))


def check_options(dim: int, heads: int, remat: str, mlp: str = "gelu") -> None:
    """Check the options of a block.

    Raises:
      UserError: heads that do not divide the width, an unknown remat policy or perceptron.
    """
    if heads < 1 or dim % heads:
        raise UserError(f"{heads} heads do not divide a width of {dim}; use a divisor of it")
    if mlp not in get_args(Perceptron):
        raise UserError(f"unknown mlp {mlp!r}; {suggest(mlp, get_args(Perceptron))}")
    if remat not in ("none", *REMAT_POLICIES):
        raise UserError(f"unknown remat {remat!r}; {suggest(remat, ('none', *REMAT_POLICIES))}")


def _scaled(x: Array, gamma: nnx.Param | None) -> Array:
    return x if gamma is None else x * jnp.asarray(gamma[...], x.dtype)
