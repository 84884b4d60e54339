"""The optimizer of the config section `optim`: schedules, rules on parameter paths, groups.

The result is an optax pair whose `update` takes the training step:
`updates, opt_state = tx.update(grads, opt_state, params, step=step)`. `grads` may lack whole
groups, which then do not change. Learning rate and weight decay are functions of that step. Counts
inside `opt_state` serve Adam's bias correction only, so a group whose state is frozen or restarted
still follows the run's schedules.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import optax

from ssl_jax.core import tree
from ssl_jax.core.config import check
from ssl_jax.core.errors import UserError, suggest
from ssl_jax.core.ranges import BelowOne, NonNegative, Positive, Probability, Share, Whole
from ssl_jax.optim import schedules
from ssl_jax.optim.lars import Variant, lars, norm, trust_ratio
from ssl_jax.optim.layers import Layered, multipliers

Array = jax.Array
Tree = Any
Rules = tuple[tuple[str, float], ...]
Schedule = Callable[[Any], Any]

REST = "rest"
EVERYTHING: Rules = ((".*", 1.0),)
NO_BIAS_NO_NORM: Rules = ((r"(^|/)(bias|scale)$", 0.0), *EVERYTHING)


class ParameterGroup(Protocol):
    """Parameters with an optimizer state of their own, such as `objectives.base.ParameterGroup`."""

    @property
    def pattern(self) -> str: ...
    @property
    def frozen_until(self) -> int: ...
    @property
    def constant_lr(self) -> bool: ...
    @property
    def shared(self) -> bool: ...
    @property
    def b1(self) -> float | None: ...


@dataclass(frozen=True)
class OptimConfig:
    """The section `optim` of a config.

    Attributes:
      name: adamw (decoupled decay, lr times wd), sgd (decay added to the gradient), lars, or lamb.
      lr: peak learning rate, before `lr_scaling`.
      lr_scaling: linear: lr B / 256 for a global batch B. sqrt: lr sqrt(B), SimCLR's 0.075 sqrt(B).
      schedule: schedule after the warmup: cosine to `lr_end`, constant, step (`milestones`), or
        linear: constant for `constant_epochs`, then falling towards 0 with each epoch.
      warmup_steps, warmup_epochs: length of the linear warmup; set one of them.
      warmup_inclusive: see `schedules.warmup_cosine`.
      lr_start: first rate of the warmup, as a fraction of the scaled peak.
      lr_end: last rate of the cosine, as a fraction of the scaled peak.
      milestones, decay: epochs at which the rate is multiplied, and by what, for schedule step.
      constant_epochs: epochs at the peak, for schedule linear.
      weight_decay: weight decay at the start.
      weight_decay_end: weight decay at the end of the run, reached on a cosine (DINO); None keeps
        it constant.
      momentum, nesterov: for sgd and lars.
      b1, b2, eps: decay rates of the two moments and the denominator's summand, of adamw and lamb.
      lars_variant: see `lars`; `byol` is also the form of Barlow Twins and MoCo v3.
      trust_coefficient: factor of the layer-wise learning rates of lars.
      clip_norm: largest norm of all gradients together, over all groups.
      clip_per_network: largest norm of the gradients of one network together: backbone, each head
        (DINOv2).
      clip_per_parameter: largest norm of the gradient of one parameter (DINO).
      decay_rules: (path regex, multiplier of the weight decay); the first match wins and every
        parameter must have one. None means 0 for biases, norm scales and any other single vector or
        number (LayerScale, a token, a temperature), and 1 for the rest, except for lars' apex
        forms, which exclude nothing. In lars and lamb, multiplier 0 also disables layer-wise
        adaptation (again not in the apex forms).
      lr_rules: (path regex, multiplier of the learning rate); the first match wins and every
        parameter must have one.
      layer_decay: ratio of the learning rates of a backbone layer and the next one, multiplied with
        `lr_rules`; 1 makes no difference (`optim.layers`).
      frozen: regexes of parameters that are never updated and have no optimizer state.
      stacked: regexes of parameters whose first axis counts layers (scanned blocks): each layer
        then has its own norm wherever a norm per parameter is taken.
    """

    name: Literal["adamw", "sgd", "lars", "lamb"] = "adamw"
    lr: NonNegative = 1e-3
    lr_scaling: Literal["linear", "sqrt", "none"] = "linear"
    schedule: Literal["cosine", "constant", "step", "linear"] = "cosine"
    warmup_steps: Whole = 0
    warmup_epochs: NonNegative = 0.0
    warmup_inclusive: bool = False
    lr_start: Probability = 0.0
    lr_end: Probability = 0.0
    milestones: tuple[NonNegative, ...] = ()
    decay: Share = 0.1
    constant_epochs: NonNegative = 0.0
    weight_decay: NonNegative = 0.0
    weight_decay_end: NonNegative | None = None
    momentum: BelowOne = 0.9
    nesterov: bool = False
    b1: BelowOne = 0.9
    b2: BelowOne = 0.999
    eps: Positive = 1e-8
    lars_variant: Variant = "byol"
    trust_coefficient: Positive = 0.001
    clip_norm: Positive | None = None
    clip_per_network: Positive | None = None
    clip_per_parameter: Positive | None = None
    decay_rules: tuple[tuple[str, NonNegative], ...] | None = None
    lr_rules: tuple[tuple[str, NonNegative], ...] = EVERYTHING
    layer_decay: Share = 1.0
    frozen: tuple[str, ...] = ()
    stacked: tuple[str, ...] = (r"(^|/)blocks/(?!\d)",)

    def __post_init__(self) -> None:
        check(self, "optim")
        if self.warmup_steps and self.warmup_epochs:
            raise UserError("optim: warmup_steps and warmup_epochs are both set; set one of them")
        if self.milestones and self.schedule != "step":
            raise UserError(
                f"optim.milestones: expected schedule='step', got {self.schedule!r}; set "
                "optim.schedule=step or remove the milestones"
            )
        if list(self.milestones) != sorted(self.milestones):
            raise UserError(f"optim.milestones: expected ascending epochs, got {self.milestones}")

    def unused(self) -> Mapping[str, str]:
        """See `core.config.check_used`."""
        warmup = self.warmup_steps or self.warmup_epochs
        conditions = [
            (("momentum", "nesterov"), ("sgd", "lars"), self.name, "name"),
            (("b1", "b2", "eps"), ("adamw", "lamb"), self.name, "name"),
            (("lars_variant", "trust_coefficient"), ("lars",), self.name, "name"),
            (("lr_end", "lr_start", "warmup_inclusive"), ("cosine",), self.schedule, "schedule"),
            (("decay",), ("step",), self.schedule, "schedule"),
            (("constant_epochs",), ("linear",), self.schedule, "schedule"),
        ]
        unused = {
            key: f"only {' and '.join(users)} reads it, and optim.{setting} is {value!r}"
            for keys, users, value, setting in conditions
            if value not in users
            for key in keys
        }
        if not warmup:
            why = "there is no warmup; set warmup_steps or warmup_epochs"
            unused |= dict.fromkeys(("lr_start", "warmup_inclusive"), why)
        return unused

    @property
    def excludes(self) -> bool:
        """Tell whether a decay multiplier of 0 also switches off layer-wise adaptation."""
        return not (self.name == "lars" and self.lars_variant.startswith("apex"))


def peak_lr(config: OptimConfig, batch_size: int) -> float:
    """Return the learning rate after the warmup, scaled by the global batch."""
    scale = {"linear": batch_size / 256, "sqrt": batch_size**0.5, "none": 1.0}[config.lr_scaling]
    return config.lr * scale


def make_schedule(
    config: OptimConfig, batch_size: int, total_steps: int, steps_per_epoch: int
) -> Schedule:
    """Return the learning rate as a function of the training step, for a global `batch_size`."""
    peak = peak_lr(config, batch_size)
    warmup = config.warmup_steps or round(config.warmup_epochs * steps_per_epoch)
    if config.schedule == "cosine":
        return lambda step: schedules.warmup_cosine(
            step,
            total_steps,
            peak,
            peak * config.lr_end,
            warmup=warmup,
            start=peak * config.lr_start,
            inclusive=config.warmup_inclusive,
        )
    if config.schedule == "linear":
        epochs = total_steps / steps_per_epoch
        return lambda step: schedules.linear_decay(
            step, steps_per_epoch, epochs, peak, config.constant_epochs, warmup=warmup
        )
    milestones = [round(epoch * steps_per_epoch) for epoch in config.milestones]
    return lambda step: schedules.step_decay(step, peak, milestones, config.decay, warmup=warmup)


def make_optimizer(
    config: OptimConfig,
    params_shapes: Tree,
    groups: Mapping[str, ParameterGroup],
    *,
    batch_size: int,
    total_steps: int,
    steps_per_epoch: int,
    decays: str = "",
    backbone: Layered | None = None,
) -> tuple[optax.GradientTransformationExtraArgs, Schedule]:
    """Build the optimizer of a run, and its learning rate as a function of the step.

    `opt_state` is a dict of one optimizer state per group, in the order of `groups` and then
    "rest", the parameters of no group. A parameter that matches two groups belongs to the first,
    and to every shared one. `update(..., groups=names)` updates these groups alone, by default all
    that are not shared; a parameter of several of them moves by the sum of their updates.

    Args:
      config: the section `optim`.
      params_shapes: the parameters (float32 or float64), a nested dict with string keys, or their
        shapes.
      groups: name -> group.
      batch_size: the global batch.
      total_steps: steps of the run.
      steps_per_epoch: for settings in epochs.
      decays: regex of vectors that decay if `decay_rules` is None; "" for none.
      backbone: its layers, for `layer_decay`.

    Raises:
      UserError: no rule covers a parameter, or a pattern matches none.
    """
    schedule = make_schedule(config, batch_size, total_steps, steps_per_epoch)
    stacked_rules = [*((pattern, True) for pattern in config.stacked), (".*", False)]
    stacked = tree.named_leaves(tree.match(stacked_rules, params_shapes, "optim.stacked"))
    if config.decay_rules is None:
        decay = {
            path: float(
                not (config.excludes and _is_vector(path, leaf.shape, stacked[path]))
                or bool(decays and re.search(decays, path))
            )
            for path, leaf in tree.named_leaves(params_shapes).items()
        }
    else:
        matched = tree.match(config.decay_rules, params_shapes, "optim.decay_rules")
        decay = tree.named_leaves(matched)
    lr_scale = tree.named_leaves(tree.match(config.lr_rules, params_shapes, "optim.lr_rules"))
    used = {
        "decay_rules": [pattern for pattern, _ in config.decay_rules or ()],
        "lr_rules": [pattern for pattern, _ in config.lr_rules],
        # The default is for blocks, which not every network has.
        "stacked": [p for p in config.stacked if p not in OptimConfig.stacked],
    }
    for key, patterns in used.items():
        tree.check_used(patterns, params_shapes, f"optim.{key}")
    if config.layer_decay != 1:
        layers = multipliers(params_shapes, config.layer_decay, backbone)
        lr_scale = {path: scale * layers[path] for path, scale in lr_scale.items()}
    members = _members(config.frozen, groups, params_shapes)
    trained = {path for paths in members.values() for path in paths}
    usual = {name for name in members if name not in groups or not groups[name].shared}
    frozen_until = {name: group.frozen_until for name, group in groups.items()}
    peak = peak_lr(config, batch_size)
    constant = {path for name, g in groups.items() if g.constant_lr for path in members[name]}

    def pick(values: Mapping[str, Any], group: str) -> Tree:
        return _nested({path: values[path] for path in members[group]})

    adapt = {path: value != 0 or not config.excludes for path, value in decay.items()}

    def rule_of(name: str) -> optax.GradientTransformationExtraArgs:
        b1 = groups[name].b1 if name in groups else None
        own = config if b1 is None else replace(config, b1=b1)
        return update_rule(own, pick(adapt, name), pick(stacked, name))

    rules = {name: rule_of(name) for name in members}

    def weight_decay(step: Array) -> Any:
        if config.weight_decay_end is None:
            return config.weight_decay
        return schedules.cosine(step, total_steps, config.weight_decay, config.weight_decay_end)

    def init(params: Tree) -> dict[str, Tree]:
        leaves = tree.named_leaves(params)
        return {name: rule.init(pick(leaves, name)) for name, rule in rules.items()}

    def update(
        grads: Tree,
        opt_state: Mapping[str, Tree],
        params: Tree,
        *,
        step: Array,
        groups: Collection[str] | None = None,
        **_: Any,
    ) -> tuple[Tree, dict[str, Tree]]:
        active = usual if groups is None else groups
        leaves = tree.named_leaves(params)
        flat = {path: g for path, g in tree.named_leaves(grads).items() if path in trained}
        flat = _clip(flat, config, stacked)
        lr, wd = schedule(step), weight_decay(step)
        lrs = {
            path: jnp.asarray((peak if path in constant else lr) * lr_scale[path], p.dtype)
            for path, p in leaves.items()
            if path in trained
        }
        wds = {path: jnp.asarray(wd * decay[path], leaves[path].dtype) for path in trained}
        updates = {path: jnp.zeros_like(p) for path, p in leaves.items()}
        changed: set[str] = set()
        new_state = {}
        for name, rule in rules.items():
            old = opt_state[name]
            absent = members[name] and not flat.keys() & set(members[name])
            if name not in active or absent:  # this turn of the step trains other groups
                new_state[name] = old
                continue
            change, group_state = rule.update(
                pick(flat, name),
                old,
                pick(leaves, name),
                lr=pick(lrs, name),
                weight_decay=pick(wds, name),
            )
            if frozen_until.get(name, 0) > 0:
                thawed = step >= frozen_until[name]
                change, group_state = (
                    _where(thawed, change, jax.tree.map(jnp.zeros_like, change)),
                    _where(thawed, group_state, old),
                )
            for path, moved in tree.named_leaves(change).items():
                updates[path] = updates[path] + moved if path in changed else moved
                changed.add(path)
            new_state[name] = group_state
        return jax.tree.unflatten(jax.tree.structure(params), list(updates.values())), new_state

    return optax.GradientTransformationExtraArgs(init, update), schedule


def reset(
    tx: optax.GradientTransformationExtraArgs,
    opt_state: Mapping[str, Tree],
    params: Tree,
    names: Collection[str],
) -> dict[str, Tree]:
    """Return `opt_state` with the groups `names` reset to the start of a run, counts included.

    Raises:
      UserError: a name that is not a group.
    """
    for name in names:
        if name not in opt_state:
            raise UserError(f"no parameter group {name!r} to reset; {suggest(name, opt_state)}")
    fresh = tx.init(params)
    return {name: fresh[name] if name in names else state for name, state in opt_state.items()}


def update_rule(
    config: OptimConfig, adapt: Tree, stacked: Tree
) -> optax.GradientTransformationExtraArgs:
    """Build the optimizer `config.name` with `update(grads, state, params, lr=, weight_decay=)`.

    `lr` and `weight_decay` are trees of scalars; a stacked leaf may have one of each per layer, to
    broadcast against it.

    Args:
      config: settings of the optimizer; its rates, schedule and rules on paths are not used.
      adapt, stacked: see `lars`; trees like the parameters.
    """
    if config.name == "lars":
        return lars(
            adapt,
            config.lars_variant,
            trust_coefficient=config.trust_coefficient,
            momentum=config.momentum,
            nesterov=config.nesterov,
            stacked=stacked,
        )
    if config.name == "sgd":
        inner = optax.trace(config.momentum, config.nesterov)
    else:
        inner = optax.scale_by_adam(config.b1, config.b2, config.eps)

    def add_decay(updates: Tree, params: Tree, weight_decay: Tree) -> Tree:
        return jax.tree.map(lambda u, p, wd: u + wd * p, updates, params, weight_decay)

    def update(
        grads: Tree, state: Tree, params: Tree, *, lr: Tree, weight_decay: Tree, **_: Any
    ) -> tuple[Tree, Tree]:
        if config.name == "sgd":
            grads = add_decay(grads, params, weight_decay)
        updates, new_state = inner.update(grads, state, params)
        if config.name != "sgd":
            updates = add_decay(updates, params, weight_decay)
        if config.name == "lamb":
            updates = jax.tree.map(
                lambda u, p, on, stack: u * trust_ratio(p, u, stacked=stack) if on else u,
                *(updates, params, adapt, stacked),
            )
        return jax.tree.map(lambda u, lr: -lr * u, updates, lr), new_state

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _clip(
    grads: dict[str, Array], config: OptimConfig, stacked: Mapping[str, bool]
) -> dict[str, Array]:
    """Clip as `torch.nn.utils.clip_grad_norm_` and as DINO's `clip_gradients` do."""

    def factor(limit: float, length: Array) -> Array:
        return jnp.minimum(limit / (length + 1e-6), 1.0)

    if config.clip_per_parameter is not None:
        limit = config.clip_per_parameter
        grads = {path: g * factor(limit, norm(g, stacked[path])) for path, g in grads.items()}
    if config.clip_per_network is not None:
        networks: dict[str, dict[str, Array]] = {}
        for path, g in grads.items():
            networks.setdefault(path.split("/")[0], {})[path] = g
        scales = {
            name: factor(config.clip_per_network, tree.global_norm(part))
            for name, part in networks.items()
        }
        grads = {path: g * scales[path.split("/")[0]] for path, g in grads.items()}
    if config.clip_norm is not None:
        scale = factor(config.clip_norm, tree.global_norm(grads))
        grads = {path: g * scale for path, g in grads.items()}
    return grads


def _is_vector(path: str, shape: tuple[int, ...], stacked: bool) -> bool:
    """Return whether a parameter, or its part in one layer of a stack, is a bias, a norm's scale,
    or a single number or vector: (), (D,), or the (1, 1, D) of a token, but not a kernel (1, D).
    """
    own = shape[1:] if stacked else shape
    if re.search(NO_BIAS_NO_NORM[0][0], path) or len(own) <= 1:
        return True
    return not path.endswith("kernel") and all(size == 1 for size in own[:-1])


def _members(
    frozen: Collection[str], groups: Mapping[str, ParameterGroup], shapes: Tree
) -> dict[str, list[str]]:
    """Map each group to the paths of its parameters, in order; frozen ones are in no group."""
    if REST in groups:
        raise UserError(f"parameter group {REST!r}: reserved for parameters of no group; rename it")
    own = {name: group for name, group in groups.items() if not group.shared}
    rules: list[tuple[str, str | None]] = [(pattern, None) for pattern in frozen]
    rules += [(group.pattern, name) for name, group in own.items()]
    owners = tree.named_leaves(
        tree.match([*rules, (".*", REST)], shapes, "optim.frozen and groups")
    )
    paths = list(tree.named_leaves(shapes))
    tree.check_used(frozen, shapes, "optim.frozen")
    tree.check_used([g.pattern for g in groups.values()], shapes, "parameter groups")
    trained = [path for path in paths if owners.get(path) is not None]
    shared = {
        name: [path for path in trained if re.search(group.pattern, path)]
        for name, group in groups.items()
        if group.shared
    }
    elsewhere = {path for members in shared.values() for path in members}
    members = {name: [p for p in trained if owners[p] == name] for name in (*own, REST)}
    members[REST] = [path for path in members[REST] if path not in elsewhere]
    return {name: (shared | members)[name] for name in (*groups, REST)}


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nest paths: {"a/b": x} -> {"a": {"b": x}}."""
    out: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = path.split("/")
        node = out
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = value
    return out


def _where(condition: Array, new: Tree, old: Tree) -> Tree:
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)
