"""The one train step of every method: a jitted shell around a pure kernel."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from ssl_jax.augment.recipes import augment
from ssl_jax.core import compiler, rng, sharding, tree
from ssl_jax.objectives.base import Objective, Turn
from ssl_jax.training.state import TrainState

Array = jax.Array
Metrics = dict[str, Array]
Step = Callable[[TrainState, Any], tuple[TrainState, Metrics]]


def make_kernel(
    objective: Objective,
    tx: optax.GradientTransformationExtraArgs,
    schedule: Callable[[Array], Array],
    skips: int = 0,
) -> Step:
    """(state, batch) -> (state, metrics); pure. The only gradient code of the project.

    Most methods have one turn; each turn is an update from what the one before left.

    An update with a non-finite loss or gradient is undone: parameters, optimizer state and what the
    method carries along keep their old values, and the state counts it. At more than `skips` of
    them in a row it remembers the step, for the loop to stop.
    """
    inputs, turns = objective.inputs(), objective.turns()

    def kernel(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        key = rng.step_key(state.seed, state.step)
        with jax.named_scope("augment"):
            batch = augment(inputs, batch, rng.named(key, "augment"))

        params, extra, opt_state = state.params, state.extra, state.opt_state
        signals: dict[str, Any] = {}
        logged: Metrics = {}
        losses, norms = [], []
        for turn in turns:
            names = params if turn.networks is None else turn.networks

            def loss_fn(trained: Any, turn: Turn = turn, fixed: Any = (params, extra)) -> Any:
                own = {**fixed[0], **trained}
                return turn.loss(own, fixed[1], batch, rng.named(key, "loss"), state.step)

            with jax.named_scope("loss"):
                gradient = jax.value_and_grad(loss_fn, has_aux=True)
                (loss, aux), grads = gradient({name: params[name] for name in names})
            before = params, extra, opt_state
            with jax.named_scope("optimizer"):
                updates, opt_state = tx.update(
                    grads, opt_state, params, step=state.step, groups=turn.groups
                )
                # A network that is not in this turn stays the same array, so that XLA sees that
                # its outputs are those of the other turn, and computes them once.
                params = {
                    name: optax.apply_updates(part, updates[name]) if name in names else part
                    for name, part in params.items()
                }
            extra = aux.extra
            if turn.every > 1:
                due = state.step % turn.every == 0
                params, extra, opt_state = _where(due, (params, extra, opt_state), before)
            signals, logged = {**signals, **aux.signals}, {**logged, **aux.metrics}
            losses.append(loss)
            norms.append(tree.global_norm(grads))
        with jax.named_scope("after_update"):
            params, extra = objective.after_update(params, extra, signals, state.step)

        loss = functools.reduce(jnp.add, losses)
        grad_norm = functools.reduce(jnp.hypot, norms)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        old = (state.params, state.extra, state.opt_state)
        params, extra, opt_state = _where(finite, (params, extra, opt_state), old)
        in_row = jnp.where(finite, 0, state.in_row + 1)
        fine = (in_row <= skips) | (state.bad_step >= 0)
        new_state = TrainState(
            step=state.step + 1,
            seed=state.seed,
            skipped=jnp.where(finite, state.skipped, state.skipped + 1),
            in_row=in_row,
            bad_step=jnp.where(fine, state.bad_step, state.step),
            params=params,
            extra=extra,
            opt_state=opt_state,
        )
        metrics = {"loss": loss, "lr": schedule(state.step), "grad_norm": grad_norm}
        metrics = {f"train/{k}": v for k, v in (metrics | logged).items()}
        metrics |= {"bad_step": new_state.bad_step, "skipped": new_state.skipped}
        return new_state, metrics

    return kernel


def _where(condition: Array, updated: Any, previous: Any) -> Any:
    return jax.tree.map(lambda new, old: jnp.where(condition, new, old), updated, previous)


def make_train_step(
    objective: Objective,
    tx: optax.GradientTransformationExtraArgs,
    schedule: Callable[[Array], Array],
    mesh: Mesh,
    placed: TrainState,
    skips: int = 0,
) -> Step:
    """The kernel under `jax.jit`: the state is donated and keeps its shardings, the batch lies by
    rows over the whole mesh.
    """
    return jax.jit(
        make_kernel(objective, tx, schedule, skips),
        donate_argnums=0,
        in_shardings=(placed, sharding.batch_sharding(mesh)),
        out_shardings=(placed, sharding.replicated(mesh)),
        compiler_options=compiler.options(mesh) or None,
    )


def compiled_ahead(step: Any, state: TrainState, batch: Any) -> Step:
    """Trace a jitted step and compile it in a thread, so that the caller can do something else; the
    first call waits for the result, and raises what the compiler raised.

    Args:
      state, batch: their shapes, dtypes and, of the batch, shardings.
    """
    lowered = step.lower(state, batch)
    thread = ThreadPoolExecutor(1, "compile")
    compiled = thread.submit(lowered.compile)
    thread.shutdown(wait=False)
    return lambda state, batch: compiled.result()(state, batch)
