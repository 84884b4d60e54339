"""LARS (1708.03888) as the released codes really compute it: six forms that give different numbers.

With gradient g, parameter p, weight decay wd, learning rate lr, trust coefficient eta, momentum m
and g' = g + wd p:

  simclr          v <- m v + lr t g';  p <- p - v           t = eta |p| / |g'|
  simclr_popular  v <- m v + g';       p <- p - lr t v      t = eta |p| / |v|
  byol            v <- m v + t g';     p <- p - lr v        t = eta |p| / |g'|
  pixpro          as byol                                   t = eta |p| / (|g'| + 1e-8)
  apex            as byol                                   t = eta |p| / (|g| + wd |p| + 1e-8)
  apex_clip       as byol                                   t = min(that / lr, 1)

t = 1 where one of its two norms is 0. `byol` is also what Barlow Twins, MoCo v3 and MAE's probes
run. simclr and byol agree only while lr is constant: simclr's buffer remembers the lr of each step.
apex (SwAV, SimSiam's probe) leaves a gradient alone, decay included, where |p| or |g| is 0.

Sources: google-research/simclr lars_optimizer.py; deepmind-research byol/utils/optimizers.py;
NVIDIA/apex apex/parallel/LARC.py; PixPro contrast/lars.py.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

Array = jax.Array
Tree = Any
Variant = Literal["simclr", "simclr_popular", "byol", "pixpro", "apex", "apex_clip"]


def norm(x: Array, stacked: bool = False) -> Array:
    """Euclidean norm in at least float32; of each x[i], to broadcast against x, if `stacked`."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if not stacked:
        return jnp.sqrt(jnp.sum(jnp.square(x)))
    return jnp.sqrt(jnp.sum(jnp.square(x), axis=tuple(range(1, x.ndim)), keepdims=True))


def trust_ratio(
    param: Array, update: Array, coefficient: float = 1.0, eps: float = 0.0, stacked: bool = False
) -> Array:
    """`coefficient |param| / (|update| + eps)`, or 1 where either norm is 0; float32."""
    p, u = norm(param, stacked), norm(update, stacked)
    usable = (p > 0) & (u > 0)
    return jnp.where(usable, coefficient * p / (jnp.where(usable, u, 1.0) + eps), 1.0)


def lars(
    adapt: Tree,
    variant: Variant = "byol",
    *,
    trust_coefficient: float = 0.001,
    momentum: float = 0.9,
    nesterov: bool = False,
    stacked: Tree | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Layer-wise adaptive SGD; see the head of this file for the forms.

    `update(grads, state, params, lr=, weight_decay=)` takes `lr` and `weight_decay` as trees of
    scalars like `params`, and returns what to add to the parameters. All of it is computed in at
    least float32.

    Args:
      adapt: tree like the parameters, True where t is computed, False where it is 1.
      variant: the form.
      trust_coefficient: eta.
      momentum: m.
      nesterov: step along m v + (what was added to v) in place of v.
      stacked: tree like the parameters, True where the first axis counts layers, each with a norm
        of its own; default nowhere.
    """
    if stacked is None:
        stacked = jax.tree.map(lambda _: False, adapt)

    def adapted(p: Array, g: Array, lr: Array, wd: Array, adapt: bool, stack: bool) -> Array:
        """t g', with the lr inside for simclr."""
        if variant in ("apex", "apex_clip"):
            p_norm, g_norm = norm(p, stack), norm(g, stack)
            t = trust_coefficient * p_norm / (g_norm + wd * p_norm + 1e-8)
            if variant == "apex_clip":
                t = jnp.minimum(t / lr, 1.0)
            decayed = (g + wd * p) * t if adapt else g + wd * p
            return jnp.where((p_norm > 0) & (g_norm > 0), decayed, g)
        g = g + wd * p
        if adapt and variant != "simclr_popular":
            eps = 1e-8 if variant == "pixpro" else 0.0
            g = g * trust_ratio(p, g, trust_coefficient, eps, stack)
        return lr * g if variant == "simclr" else g

    def init(params: Tree) -> optax.TraceState:
        return optax.TraceState(trace=jax.tree.map(jnp.zeros_like, params))

    def update(
        grads: Tree,
        state: optax.TraceState,
        params: Tree,
        *,
        lr: Tree,
        weight_decay: Tree,
        **_: Any,
    ) -> tuple[Tree, optax.TraceState]:
        def leaf(p, g, v, lr, wd, adapt, stack):  # type: ignore[no-untyped-def]
            buffer_dtype, wide = v.dtype, jnp.promote_types(p.dtype, jnp.float32)
            p, g, v, lr, wd = (jnp.asarray(x, wide) for x in (p, g, v, lr, wd))
            g = adapted(p, g, lr, wd, adapt, stack)
            v = momentum * v + g
            step = momentum * v + g if nesterov else v
            if variant == "simclr_popular" and adapt:
                step = step * trust_ratio(p, step, trust_coefficient, stacked=stack)
            return -step if variant == "simclr" else -lr * step, v.astype(buffer_dtype)

        trees = (grads, state.trace, lr, weight_decay, adapt, stacked)
        pairs = jax.tree.map(leaf, params, *trees)
        updates, trace = jax.tree.transpose(jax.tree.structure(params), None, pairs)
        updates = jax.tree.map(lambda u, p: u.astype(p.dtype), updates, params)
        return updates, optax.TraceState(trace=trace)

    return optax.GradientTransformationExtraArgs(init, update)
