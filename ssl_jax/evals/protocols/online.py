"""Accuracy of the classifier that was trained alongside the method."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.evals.base import AtLayer, Protocol, Subject
from ssl_jax.evals.checks import check_finite


@dataclass(frozen=True, kw_only=True)
class Online(Protocol):
    """Accuracy on the test images of the online probe, if one was trained along."""

    needs: ClassVar[str] = "a probe trained along (train.online_probe), and labels"

    def applies(self, subject: Subject) -> bool:
        encoder = subject.encoder
        return subject.labelled and encoder is not None and encoder.online is not None

    def measure(self, subject: Subject) -> dict[str, float]:
        assert subject.encoder is not None and subject.encoder.online is not None
        probe, test = jax.device_get(subject.encoder.online), subject.test(AtLayer())
        (scores,) = (np.asarray(x) for x in probe.logits(jnp.asarray(test.features)))
        if (classes := scores.shape[1]) != subject.classes:
            raise UserError(
                f"online: the probe was trained on {classes} classes, these data have "
                f"{subject.classes}; leave online out of --eval"
            )
        check_finite(scores, "logits")
        return {"online_top1": float(np.mean(scores.argmax(-1) == test.labels))}
