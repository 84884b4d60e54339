"""Functions that `import ssl_jax` offers for labels and for looking through images: `finetune`,
`predict`, `duplicates`, `outliers`. They behave as those of `ssl_jax.api`.
"""

import contextlib
import importlib
import os
import tempfile
from pathlib import Path
from typing import Any, Literal

from ssl_jax.api import PathLike, Settings, called, flags_of, source_of
from ssl_jax.core.files import home

__all__ = ["duplicates", "finetune", "outliers", "predict"]

Columns = dict[str, list[Any]]  # of a table, by name


def finetune(
    run: PathLike,
    data: PathLike,
    output: PathLike,
    *,
    eval_data: PathLike = "",
    holdout: float = 0.2,
    settings: Settings | None = None,
    trust_code: bool = False,
) -> dict[str, Any]:
    """Make a classifier from a run and some labelled images: `ssl-jax finetune`.

    Args:
      run: the run's folder, or a file or folder of weights.
      data: labelled images, "folder:DIR" with a folder per class, ... (docs/data.md), or the path
        of a folder.
      output: folder of the classifier and its report; an interrupted call resumes.
      eval_data: labelled images to test on; by default what `data` defines, else a fifth of it.
      holdout: share of the training images that choose and calibrate the classifier.
      settings: values of keys of the config, {"optim.lr": 1e-3, "train.steps": 500}.
      trust_code: also run method, network and config files that lie in the folder of a run.

    Returns:
      The content of classifier.json: "scores" of the classifier and of its baselines, "classes",
      "candidates", "temperature", "calibration_error", ...

    Raises:
      UserError: what is wrong, and what would be right.
      KeyboardInterrupt: interrupted, after saving; the same call resumes.
    """
    with called(trust_code):
        command = importlib.import_module("ssl_jax.run.commands.finetune")
        flags = flags_of(
            command.Flags,
            settings,
            **source_of(run),
            data=str(data),
            output=output,
            eval_data=str(eval_data),
            holdout=holdout,
        )
        code, numbers = command.finetune(flags)
        if code:
            raise KeyboardInterrupt
        return dict(numbers)


def predict(
    classifier: PathLike,
    data: PathLike,
    output: PathLike | None = None,
    *,
    split: Literal["train", "eval"] = "train",
    top: int | None = None,
    threshold: float | None = None,
    page: bool = True,
    any_size: bool = False,
    batch_size: int = 256,
    threads: int = 0,
    max_bad_fraction: float | None = None,
    trust_code: bool = False,
) -> Columns:
    """Classify images by a classifier that `finetune` made: `ssl-jax predict`.

    Args:
      classifier: the folder that `finetune` has written, or the classifier's file.
      data: images ("folder:DIR", docs/data.md), or the path of a folder.
      output: table to write, .csv, .json or .parquet; by default none is written.
      split: part of data that define both.
      top: number of classes per image; by default 3.
      threshold: least confidence of a label, of a classifier of several labels per image; by
        default 0.5.
      page: whether to write a contact sheet beside the table.
      any_size: whether to accept images that are much smaller than those learned from.
      batch_size: images per batch, over all devices.
      threads: threads that decode images; 0 is one per core.
      max_bad_fraction: share of corrupt images above which the call fails; by default 0.01.
      trust_code: also run method, network and config files that lie in the folder of a run.

    Returns:
      The columns of the table: "name", "index", "label", "confidence", "label_2", ...; with
      several labels per image "labels" and "confidences", a list per image each.

    Raises:
      UserError: what is wrong, and what would be right.
      KeyboardInterrupt: interrupted.
    """
    where = "workdir" if Path(home(os.fspath(classifier))).is_dir() else "weights"
    return _table(
        "predict",
        output,
        trust_code,
        None,
        **{where: classifier},
        data=str(data),
        split=split,
        top=top,
        threshold=threshold,
        page=page,
        any_size=any_size,
        batch_size=batch_size,
        threads=threads,
        max_bad_fraction=max_bad_fraction,
    )


def duplicates(
    run: PathLike,
    data: PathLike = "",
    output: PathLike | None = None,
    *,
    threshold: float | None = None,
    neighbors: int = 10,
    split: Literal["train", "eval"] = "train",
    step: int | None = None,
    features: PathLike | None = None,
    page: bool = True,
    batch_size: int = 256,
    threads: int = 0,
    max_bad_fraction: float | None = None,
    settings: Settings | None = None,
    trust_code: bool = False,
) -> Columns:
    """List groups of images that are copies, exact or near: `ssl-jax duplicates`.

    Args:
      run: the run's folder, or a file or folder of weights.
      data: images ("folder:DIR", docs/data.md), or the path of a folder; by default the run's own.
      output: table to write, .csv, .json or .parquet; by default none is written.
      threshold: cosine from which two images are near copies; by default chosen for the encoder.
      neighbors: nearest images with which each image is compared.
      split: part of data that define both.
      step: step of the checkpoint; by default the newest.
      features: file of the features, .npz, used again if it is there; by default beside `output`.
      page: whether to write a contact sheet beside the table.
      batch_size: images per batch, over all devices.
      threads: threads that decode images; 0 is one per core.
      max_bad_fraction: share of corrupt images above which the call fails; by default 0.01.
      settings: what a weights file does not specify, {"backbone.heads": 12}.
      trust_code: also run method, network and config files that lie in the folder of a run.

    Returns:
      The columns of the table, one row per image of a group: "group", "name", "index", "keep",
      "kind", "nearest", "cosine" and, if there are labels, "label".

    Raises:
      UserError: what is wrong, and what would be right.
      KeyboardInterrupt: interrupted.
    """
    return _table(
        "duplicates",
        output,
        trust_code,
        settings,
        **source_of(run),
        data=str(data),
        threshold=threshold,
        neighbors=neighbors,
        split=split,
        step=step,
        features=features,
        page=page,
        batch_size=batch_size,
        threads=threads,
        max_bad_fraction=max_bad_fraction,
    )


def outliers(
    run: PathLike,
    data: PathLike = "",
    output: PathLike | None = None,
    *,
    count: int = 100,
    neighbors: int | None = None,
    split: Literal["train", "eval"] = "train",
    step: int | None = None,
    features: PathLike | None = None,
    page: bool = True,
    batch_size: int = 256,
    threads: int = 0,
    max_bad_fraction: float | None = None,
    settings: Settings | None = None,
    trust_code: bool = False,
) -> Columns:
    """List the images that are far from their nearest other images: `ssl-jax outliers`.

    Args:
      run: the run's folder, or a file or folder of weights.
      data: images ("folder:DIR", docs/data.md), or the path of a folder; by default the run's own.
      output: table to write, .csv, .json or .parquet; by default none is written.
      count: number of images to list, the oddest ones.
      neighbors: nearest images whose mean distance counts; by default 10.
      split: part of data that define both.
      step: step of the checkpoint; by default the newest.
      features: file of the features, .npz, used again if it is there; by default beside `output`.
      page: whether to write a contact sheet beside the table.
      batch_size: images per batch, over all devices.
      threads: threads that decode images; 0 is one per core.
      max_bad_fraction: share of corrupt images above which the call fails; by default 0.01.
      settings: what a weights file does not specify, {"backbone.heads": 12}.
      trust_code: also run method, network and config files that lie in the folder of a run.

    Returns:
      The columns of the table, the oddest image first: "name", "index", "distance", "deviations",
      "nearest" and, if there are labels, "label".

    Raises:
      UserError: what is wrong, and what would be right.
      KeyboardInterrupt: interrupted.
    """
    return _table(
        "outliers",
        output,
        trust_code,
        settings,
        **source_of(run),
        data=str(data),
        count=count,
        neighbors=neighbors,
        split=split,
        step=step,
        features=features,
        page=page,
        batch_size=batch_size,
        threads=threads,
        max_bad_fraction=max_bad_fraction,
    )


def _table(
    name: str,
    output: PathLike | None,
    trust_code: bool,
    settings: Settings | None,
    **values: Any,
) -> Columns:
    """Call a subcommand that writes a table, to a temporary folder without `output`; return its
    columns.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(called(trust_code))
        command = importlib.import_module(f"ssl_jax.run.commands.{name}")
        if output is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            output, values["page"] = f"{folder}/table.csv", False
        flags = flags_of(command.Flags, settings, output=output, **values)
        return getattr(command, name)(flags)  # type: ignore[no-any-return]
