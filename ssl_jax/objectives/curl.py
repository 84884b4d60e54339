"""CURL: contrastive unsupervised representations for reinforcement learning (2004.04136)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.core import rng, tree
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, Positive, Probability, Share
from ssl_jax.losses.infonce import infonce
from ssl_jax.losses.large_batch.similarity import Similarity
from ssl_jax.nets.heads import mlp_head
from ssl_jax.nets.map_head import map_head
from ssl_jax.objectives.base import Aux, Encoder, Group, Inputs, Objective, Policy, Turn, View
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.squashed_gaussian import choose, sample

Array = jax.Array
Tree = Any
Losses = tuple[Array, Aux]

ENCODER = ("backbone", "projector")
CRITIC = (*ENCODER, "critic1", "critic2")
ACTOR = ("actor_projector", "actor")


@dataclass(frozen=True)
class CURL(Objective):
    """Soft actor-critic from pixels whose encoder also tells crops of one observation from others.

    An update has three turns, in the order of the release (MishaLaskin/curl, curl_sac.py): the
    critics with the encoder; every second step the actor with the temperature, and the targets'
    averages; the contrastive loss, whose gradient two optimizers apply to the encoder one after
    the other, one of them with the bilinear matrix. The actor shares the convolutions of the
    encoder without training them. The anchor is the crop that the critics saw.

    Attributes:
      size: side in pixels of the crop of each stack of frames.
      dim: width of the embedding.
      hidden: width of the two hidden layers of actor and critics.
      contrast: whether there is the third turn; without it this is SAC from pixels.
      discount: of the reward of a later agent step.
      alpha: initial temperature of the entropy.
      delay: steps between two updates of actor and targets.
      critic_rate, encoder_rate: share of the new weights in the targets' averages.
      similarity: whether the loss holds the similarities of all pairs; see
        `losses.large_batch.similarity`.

    Raises:
      UserError: the data are no environment.
    """

    family: ClassVar[str] = "contrastive"
    needs: ClassVar[str] = "an environment"
    least_batch: ClassVar[int] = 2

    size: Count = 84
    dim: Count = 50
    hidden: Count = 1024
    contrast: bool = True
    discount: Probability = 0.99
    alpha: Positive = 0.1
    delay: Count = 2
    critic_rate: Share = 0.01
    encoder_rate: Share = 0.05
    similarity: Similarity = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.spec.actions:
            raise UserError(
                "data.train: this method acts in an environment; set --data=control:pendulum, or "
                "another one of docs/control.md"
            )

    def inputs(self) -> Inputs:
        whole = View(self.size, area=(1.0, 1.0), recipe="none")
        pair = View(self.size, count=2, area=(1.0, 1.0), recipe="none")
        return Inputs(views=(pair, whole), actions=self.spec.actions)

    @cached_property
    def networks(self) -> Networks:
        shape, actions = self.shapes.map.shape, self.spec.actions  # type: ignore[union-attr]

        def perceptron(inputs: int, out: int) -> Any:
            return mlp_head(inputs, (self.hidden, self.hidden, out), norm=None, init="orthogonal")

        return self.backbone_and(
            projector=map_head(shape, self.dim),
            critic1=perceptron(self.dim + actions, 1),
            critic2=perceptron(self.dim + actions, 1),
            actor_projector=map_head(shape, self.dim),
            actor=perceptron(self.dim, 2 * actions),
        )

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = self.networks.init(key)
        target = jax.tree.map(jnp.copy, {name: params[name] for name in CRITIC})
        params["temperature"] = {"log": jnp.full((), math.log(self.alpha), jnp.float32)}
        if self.contrast:
            shape = (self.dim, self.dim)
            params["bilinear"] = {"kernel": jax.random.uniform(rng.named(key, "bilinear"), shape)}
        return params, {"stats": stats, "target": target}

    def turns(self) -> tuple[Turn, ...]:
        critic = Turn(self.critic_loss, CRITIC, ("critic",))
        actor = Turn(
            self.actor_loss, (*ACTOR, "temperature"), ("actor", "temperature"), every=self.delay
        )
        contrast = Turn(self.contrastive_loss, (*ENCODER, "bilinear"), ("encoder", "contrast"))
        return (critic, actor, contrast) if self.contrast else (critic, actor)

    def groups(self) -> dict[str, Group]:
        groups = {
            "critic": Group(_any_of(CRITIC)),
            "actor": Group(_any_of(ACTOR)),
            "temperature": Group("^temperature/", b1=0.5),
        }
        if self.contrast:
            groups["encoder"] = Group(_any_of(ENCODER), shared=True)
            groups["contrast"] = Group(_any_of((*ENCODER, "bilinear")), shared=True)
        return groups

    def critic_loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> Losses:
        """Squared errors of both critics from r + gamma (min Q'(s', a') - alpha log pi(a'|s'))."""
        anchor, following = batch["views"][0][:, 0], batch["views"][1][:, 0]
        action, log_density = sample(self._act(params, following), self.noise(batch, key, "next"))
        value = jnp.minimum(*self._critics(extra["target"], following, action))
        value -= jnp.exp(params["temperature"]["log"]) * log_density
        goal = batch["reward"] + batch["continues"] * self.discount * value
        goal = jax.lax.stop_gradient(goal)
        first, second = self._critics(params, anchor, batch["action"])
        loss = jnp.mean((first - goal) ** 2) + jnp.mean((second - goal) ** 2)
        metrics = {"critic_loss": loss, "reward": jnp.mean(batch["reward"])}
        return loss, Aux(extra, metrics=metrics | {"value": jnp.mean(goal)})

    def actor_loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> Losses:
        """alpha log pi(a|s) - min Q(s, a), and the loss of alpha, whose goal is an entropy of minus
        the number of actions; with it the targets' averages of the critics, which it leaves alone.
        """
        anchor = batch["views"][0][:, 0]
        action, log_density = sample(self._act(params, anchor), self.noise(batch, key, "own"))
        value = jnp.minimum(*self._critics(params, anchor, action))
        alpha = jnp.exp(params["temperature"]["log"])
        loss = jnp.mean(jax.lax.stop_gradient(alpha) * log_density - value)
        excess = jax.lax.stop_gradient(-log_density) + self.spec.actions
        rates = dict.fromkeys(CRITIC, self.critic_rate) | dict.fromkeys(ENCODER, self.encoder_rate)
        target = {
            name: tree.ema(extra["target"][name], params[name], 1 - rate)
            for name, rate in rates.items()
        }
        metrics = {"actor_loss": loss, "entropy": -jnp.mean(log_density), "alpha": alpha}
        return loss + jnp.mean(alpha * excess), Aux({**extra, "target": target}, metrics=metrics)

    def contrastive_loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> Losses:
        """InfoNCE with the bilinear similarity q W k' of two crops (equation 4, algorithm 1)."""
        anchor, positive = batch["views"][0][:, 0], batch["views"][0][:, 1]
        queries = self._embed(params, anchor)
        keys = jax.lax.stop_gradient(self._embed(extra["target"], positive))
        queries = queries @ params["bilinear"]["kernel"]
        loss = jnp.mean(infonce(queries, keys, 1.0, normalize=False, similarity=self.similarity))
        return loss, Aux(extra, metrics={"contrastive_loss": loss})

    def noise(self, batch: Mapping[str, Any], key: Array, name: str) -> Array:
        """Draw standard normal noise (B, A), by the row: a step may be in a batch twice."""
        shape, dtype = (self.spec.actions,), batch["action"].dtype
        keys = rng.per_example(rng.named(key, name), jnp.arange(len(batch["action"])))
        return jax.vmap(lambda k: jax.random.normal(k, shape))(keys).astype(dtype)

    def _embed(self, params: Tree, images: Array) -> Array:
        nets = self.networks.bind(params, {})
        return nets.projector(nets.backbone(images).map)

    def _critics(self, params: Tree, images: Array, action: Array) -> tuple[Array, Array]:
        """Return both estimates (B,) of the discounted sum of rewards after an action (B, A)."""
        nets = self.networks.bind(params, {})
        x = jnp.concatenate([self._embed(params, images), action], axis=-1)
        return nets.critic1(x)[:, 0], nets.critic2(x)[:, 0]

    def _act(self, params: Tree, images: Array) -> Array:
        """Return the output (B, 2 A) of the actor; see `squashed_gaussian.split`."""
        nets = self.networks.bind(params, {})
        return nets.actor(nets.actor_projector(jax.lax.stop_gradient(nets.backbone(images).map)))

    def _choose(self, params: Tree, images: Array, key: Array | None) -> Array:
        return choose(self._act(params, images), key)

    def encoder(self, params: Tree, extra: Tree) -> Encoder:
        own = {name: params[name] for name in ("backbone", *ACTOR)}
        stats = extra["stats"]["backbone"]
        policy = Policy(own, self._choose)
        return Encoder(params["backbone"], stats, self.backbone, policy=policy)

    def teacher(self, params: Tree, extra: Tree) -> tuple[Tree, Tree] | None:
        return extra["target"], {name: extra["stats"][name] for name in CRITIC}


def _any_of(networks: tuple[str, ...]) -> str:
    return f"^({'|'.join(networks)})/"


make = CURL.make
