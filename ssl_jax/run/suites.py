"""Data sets that `ssl-jax evaluate` measures on: the run's own, those of the command line, or those
of a suite.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ssl_jax.core import config as checked
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Whole
from ssl_jax.data.sources import Source, held_out
from ssl_jax.data.survey import read_alike
from ssl_jax.evals.base import Protocol, Subject
from ssl_jax.evals.evaluator import Evaluator
from ssl_jax.evals.images import Images
from ssl_jax.evals.protocols import known
from ssl_jax.objectives.base import Encoder
from ssl_jax.run.configs import load_config
from ssl_jax.run.console import terminal
from ssl_jax.run.experiment import Experiment
from ssl_jax.run.other_run import network

Cell = dict[str, Any]  # settings of a protocol that differ from the run's


@dataclass(frozen=True)
class DataSet:
    """One data set of a suite.

    Attributes:
      data: labelled training images, as --data takes them; "" for the run's own.
      eval_data: evaluation images; "" for what `data` itself holds out, else a fifth of it.
      metric: the standard metric of the data set: "top1", "mean_per_class", the mean over the
        classes, or with several labels per image "map" or "11point" (VOC 2007). The number
        `PROTOCOL_METRIC` is also written as `score`.
      max_train, max_eval: maximum number of examples of each set; 0 for the run's `evals.max_train`
        and `evals.max_eval`.
      settings: settings of protocols, {"logistic": {"holdout": 0.2}}, in place of the run's.
    """

    data: str = ""
    eval_data: str = ""
    metric: Literal["top1", "mean_per_class", "map", "11point"] = "top1"
    max_train: Whole = 0
    max_eval: Whole = 0
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def suite(spec: str) -> dict[str, DataSet]:
    """Read the data sets that a file names: its `get_config` returns {name: {"data": ..., ...}}.

    Args:
      spec: "FILE.py:NAME", or the name of a shipped file, "suites:kornblith".

    Raises:
      UserError: no such file or suite, or an invalid data set.
    """
    entries = load_config(spec)
    if not entries:
        raise UserError(f"--suite={spec}: it holds no data set")
    for name, values in entries.items():
        if not isinstance(values, Mapping):
            raise UserError(
                f"--suite={spec}: {name}: expected a dict of data, eval_data, ..., got {values!r}"
            )
        for protocol in values.get("settings", {}):
            if protocol not in known():
                raise UserError(f"--suite={spec}: {name}: unknown protocol {protocol!r}")
    return {name: checked.build(DataSet, values, name) for name, values in entries.items()}


def settings(protocol: Protocol, name: str, cells: Sequence[Cell]) -> list[Protocol]:
    """Return the protocol with the settings of each cell, without duplicates.

    Raises:
      UserError: an unknown setting, a setting that changes nothing, or an invalid value.
    """
    for setting in type(protocol).of_pixels:
        if any(setting in cell for cell in cells):
            raise UserError(
                f"{name}.{setting} would change nothing: it is for raw pixels, which training "
                "measures as a baseline"
            )
    current = {f.name: getattr(protocol, f.name) for f in dataclasses.fields(protocol)}
    variants = [checked.build(type(protocol), current | cell, name) for cell in cells]
    for variant, cell in zip(variants, cells, strict=True):
        checked.check_used(variant, name, cell)
    return list(dict.fromkeys(variants))


def evaluation_set(
    experiment: Experiment, source: Source, data: str, eval_data: str
) -> Source | None:
    """Return the images to measure on, None for a fifth of the training images.

    They are those of `eval_data`, by default the run's own. Other training images bring the part
    that their data set holds out, as in training.

    Args:
      source: the training images, opened.
      data: their name; "" for the run's own.
    """
    if eval_data:
        return experiment.opened(eval_data, "eval")
    if not data:
        return experiment.eval_source
    test = held_out(data)
    return test and read_alike(test, source.value_range)


def measured_on(images: Images) -> str:
    """Describe the evaluation images in a few words."""
    train, test, count = images.train.source, images.test.source, len(images.test.rows)
    if test is train:
        return f"{count:,} images, a fifth of {train.name}; --eval_data names others"
    return f"{count:,} images of {test.name}"


@dataclass(frozen=True)
class Task:
    """Measurements to make on one pair of data sets.

    Attributes:
      name: the data set's name in a suite; "" for the run's own or those of the command line.
      evaluator: evaluator on the two sets.
      settings: name of a protocol -> its settings to measure.
      identity: fields of a record that identify the data sets.
    """

    name: str
    evaluator: Evaluator
    settings: Mapping[str, Sequence[Protocol]]
    identity: dict[str, Any]

    @classmethod
    def of(
        cls,
        experiment: Experiment,
        name: str,
        data: DataSet,
        protocols: Sequence[str],
        cells: Sequence[Cell],
    ) -> "Task":
        """Combine the run's settings with those of the data set and of each cell, in this order.

        Raises:
          UserError: data that cannot be opened, or a named data set without the labels that a
            protocol needs.
        """
        evals = experiment.evals
        most = {k: getattr(data, k) or getattr(evals, k) for k in ("max_train", "max_eval")}
        requested = {}
        for protocol in protocols or evals.protocols:
            (base,) = settings(
                evals.protocol(protocol), protocol, [dict(data.settings.get(protocol, {}))]
            )
            requested[protocol] = settings(base, protocol, cells)
        source = experiment.opened(data.data, "train") if data.data else experiment.evals_source
        test = evaluation_set(experiment, source, data.data, data.eval_data)
        evaluator = Evaluator(
            experiment.objective,
            dataclasses.replace(evals, **most),
            source,
            test,
            experiment.mesh,
            tokenizer=experiment.tokenizer,
            streams=experiment.available_streams,
            network=functools.partial(network, experiment.mesh),
        )
        requested = {p: evaluator.spread_over_stages(group) for p, group in requested.items()}
        if not evaluator.images.labelled:
            if name and any(protocol.labels for group in requested.values() for protocol in group):
                raise UserError(f"{source.name} or its evaluation set has no labels")
            terminal().print("no labels: only the label-free numbers can be measured")
        identity = most | {
            "data": source.name,
            "data_fingerprint": source.fingerprint(),
            "eval_data": test.name if test else "a fifth of data, even over the labels",
            "eval_fingerprint": test.fingerprint() if test else None,
        }
        if len(source) > most["max_train"] or len(test or ()) > most["max_eval"]:
            identity["sample"] = "even over the labels"  # earlier versions sampled differently
        identity |= {"set": name, "metric": data.metric} if name else {}
        return cls(name, evaluator, requested, identity)

    def subject(self, encoder: Callable[[], Encoder]) -> Subject:
        """Return what protocols measure; `encoder` returns that of a checkpoint."""
        return self.evaluator.subject(encoder())
