"""Functions that `import ssl_jax` offers: the subcommands, for scripts and notebooks.

Each takes the flags of its subcommand as keywords, makes the same checks and the same files, and
prints the same lines. Errors are raised as `UserError`. An interrupt (Ctrl-C, a notebook's stop
button) saves what the command would save and raises `KeyboardInterrupt`; the process goes on.
"""

import contextlib
import importlib
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from ssl_jax.core import config, hub, stop, trust
from ssl_jax.core.files import home
from ssl_jax.run import orbax_export
from ssl_jax.run.catalog import methods
from ssl_jax.run.load import load

__all__ = ["embed", "evaluate", "export", "load", "methods", "push", "train"]

PathLike = str | os.PathLike[str]
Settings = Mapping[str, Any]  # {"optim.lr": 0.3}: any keys of a config, with their values
Arrays = dict[str, np.ndarray]
Log = str | Callable[[int, Mapping[str, float]], Any]  # a logger's name, or (step, metrics)
F = TypeVar("F")


def train(
    config: str = "",
    *,
    workdir: PathLike,
    data: PathLike = "",
    eval_data: PathLike = "",
    settings: Settings | None = None,
    profile: str = "",
    log: Log | Sequence[Log] = ("tensorboard",),
    accept_changes: bool = False,
    trust_code: bool = False,
) -> dict[str, float]:
    """Train a method, or resume the run in `workdir`, to its end: `ssl-jax train`.

    Args:
      config: METHOD:RECIPE ("simclr:digits", see `methods`) or PATH.py:RECIPE; if empty, `data`
        and this machine decide.
      workdir: the run's folder: config, metrics, checkpoints. `load` reads its encoder.
      data: training images, "digits", "folder:DIR", ... (docs/data.md), or the path of a folder;
        by default the config's.
      eval_data: evaluation images, given like `data`.
      settings: values of keys of the config, {"optim.lr": 0.3, "train.steps": 1000}.
      profile: "FIRST:LAST", steps to trace for XProf.
      log: where metrics are shown, one or several: "tensorboard", "wandb", "mlflow", "aim", or
        functions (step, {name: value}); () for nowhere (docs/logging.md).
      accept_changes: resume a run although its config or data have changed.
      trust_code: also run method and config files that lie in the folder of a run.

    Returns:
      The last value of every metric: "train/loss", "eval/knn_top1", "untrained/eval/knn_top1", ...

    Raises:
      UserError: what is wrong, and what would be right.
      KeyboardInterrupt: interrupted, after saving; the same call resumes.
    """
    targets = [log] if isinstance(log, str) or callable(log) else list(log)
    with called(trust_code):
        command = importlib.import_module("ssl_jax.run.commands.train")
        flags = flags_of(
            command.Flags,
            settings,
            config=str(config),
            workdir=workdir,
            data=str(data),
            eval_data=str(eval_data),
            profile=profile,
            log=tuple(name for name in targets if isinstance(name, str)),
            accept_changes=accept_changes,
        )
        code, last = command.train(flags, [t for t in targets if not isinstance(t, str)])
        if code:
            raise KeyboardInterrupt
        return dict(last)


def evaluate(
    run: PathLike,
    eval: Sequence[str] = (),
    *,
    data: PathLike = "",
    eval_data: PathLike = "",
    step: int | Literal["all"] | None = None,
    follow: bool = False,
    sweep: Mapping[str, Sequence[Any]] | None = None,
    results: PathLike | None = None,
    suite: str = "",
    baselines: bool = True,
    settings: Settings | None = None,
    trust_code: bool = False,
) -> list[dict[str, Any]]:
    """Measure a run, or a weights file, by protocols on frozen features: `ssl-jax evaluate`.

    Args:
      run: the run's folder ("runs/*" for several), or a file or folder of weights.
      eval: protocols, ("knn", "linear"); by default those of the run.
      data: labelled training images; by default the run's own.
      eval_data: evaluation images; by default the run's own, or what `data` holds out.
      step: step of the checkpoint, or "all"; by default the newest.
      follow: measure each new checkpoint of a run in progress, until its last.
      sweep: values of the protocols' settings, {"lr": (0.1, 0.3)}; every combination is measured.
      results: file of results; by default eval/results.jsonl in the run's folder.
      suite: a list of data sets in place of `data`: FILE.py:NAME or suites:NAME.
      baselines: whether to measure the untrained network and raw pixels too.
      settings: what a weights file does not specify, {"backbone.heads": 12}.
      trust_code: also run method and config files that lie in the folder of a run.

    Returns:
      One record per measurement, as in the file: "protocol", "settings", "results",
      "baselines", ... Measurements that the file already holds are returned from it.

    Raises:
      UserError: what is wrong, and what would be right.
      KeyboardInterrupt: interrupted; finished measurements are saved.
    """
    with called(trust_code):
        command = importlib.import_module("ssl_jax.run.commands.evaluate")
        flags = flags_of(
            command.Flags,
            settings,
            **source_of(run),
            eval=tuple(eval),
            data=str(data),
            eval_data=str(eval_data),
            step=step,
            follow=follow,
            results=results,
            suite=suite,
            no_baselines=not baselines,
        )
        values = itertools.product(*(sweep or {}).values())
        cells = [dict(zip(sweep or {}, cell, strict=True)) for cell in values]
        return list(command.evaluate(flags, cells)[0])


def embed(
    run: PathLike,
    data: PathLike = "",
    output: PathLike | None = None,
    *,
    split: Literal["train", "eval"] = "train",
    step: int | None = None,
    stage: int | str | None = None,
    pool: Literal["pooled", "avg", "grid", "cls", "none"] | None = None,
    batch_size: int = 256,
    threads: int = 0,
    max_bad_fraction: float | None = None,
    neighbors: int | None = None,
    settings: Settings | None = None,
    trust_code: bool = False,
) -> Arrays | Path:
    """Compute the features of a data set: `ssl-jax embed`.

    Args:
      run: the run's folder, or a file or folder of weights.
      data: images, labelled or not ("folder:DIR", docs/data.md), or the path of a folder; by
        default the run's own.
      output: file to write, .npz, .parquet or .array_record; an interrupted call resumes. By
        default the arrays are returned.
      split: part of data that define both.
      step: step of the checkpoint; by default the newest.
      stage: layer, a number (-1 is the last) or a name; by default the method's.
      pool: "none" for a vector per position; by default the method's.
      batch_size: images per batch, over all devices.
      threads: threads that decode images; 0 is one per core.
      max_bad_fraction: share of corrupt images above which the call fails; by default 0.01.
      neighbors: also find this number of nearest other images of each.
      settings: what a weights file does not specify, {"backbone.heads": 12}.
      trust_code: also run method and config files that lie in the folder of a run.

    Returns:
      The path of the file; without `output` the arrays that it would hold, in memory: "features"
      (N, D) or (N, h, w, D) float32, "index" (N,), "name" (N,), "label" (N,) if there are labels
      and, with `neighbors`, "row" and "cosine" (N, neighbors). Corrupt images have no row.

    Raises:
      UserError: what is wrong, and what would be right.
      KeyboardInterrupt: interrupted; finished parts of a file are kept.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(called(trust_code))
        command = importlib.import_module("ssl_jax.run.commands.embed")
        folder = None if output else stack.enter_context(tempfile.TemporaryDirectory())
        flags = flags_of(
            command.Flags,
            settings,
            **source_of(run),
            data=str(data),
            output=output or f"{folder}/features.npz",
            split=split,
            step=step,
            stage=stage,
            pool=pool,
            batch_size=batch_size,
            threads=threads,
            max_bad_fraction=max_bad_fraction,
            neighbors=neighbors,
        )
        command.embed(flags, temporary=not output)
        if output:
            return Path(flags.output)
        arrays: Arrays = {}
        for path in sorted(Path(str(folder)).glob("*.npz")):
            with np.load(path, allow_pickle=False) as file:
                arrays |= {name: file[name] for name in file.files if name != "about"}
        return arrays


def export(
    run: PathLike,
    output: PathLike,
    *,
    format: Literal[
        "safetensors", "npz", "orbax", "timm", "torchvision", "hf", "stablehlo", "onnx"
    ],
    step: int | None = None,
    part: Literal["backbone", "all"] | None = None,
    encoder: Literal["student", "teacher"] | None = None,
    dtype: Literal["float32", "bfloat16"] | None = None,
    license: str = "",
    trust_code: bool = False,
) -> Path:
    """Write the weights of a run for use elsewhere: `ssl-jax export`.

    Args:
      run: the run's folder.
      output: file to write; for "orbax" and "hf" a new folder.
      format: names of the weights: ours in the first three, the library's in "timm",
        "torchvision" and "hf" (transformers); "stablehlo" and "onnx" are programs with the weights
        inside.
      step: step of the checkpoint; by default the newest.
      part: "all": also its heads and, without `encoder`, the rest of the run's state; by default
        "backbone".
      encoder: which of the networks; by default the method's choice.
      dtype: type of the numbers; by default "float32".
      license: for the model card of "hf": an identifier of the hub, "apache-2.0".
      trust_code: also run method and config files that lie in the folder of a run.

    Returns:
      The path written.

    Raises:
      UserError: what is wrong, and what would be right.
    """
    with called(trust_code):
        command = importlib.import_module("ssl_jax.run.commands.export")
        flags = flags_of(
            command.Flags,
            workdir=run,
            output=output,
            format=format,
            step=step,
            part=part,
            encoder=encoder,
            dtype=dtype,
            license=license,
        )
        command.export(flags)
        return Path(flags.output)


def push(
    run: PathLike,
    repo: str,
    *,
    format: Literal["hf", "safetensors"] = "hf",
    step: int | None = None,
    encoder: Literal["student", "teacher"] | None = None,
    dtype: Literal["float32", "bfloat16"] | None = None,
    license: str = "",
    public: bool = False,
    trust_code: bool = False,
) -> str:
    """Upload the encoder of a run, with a model card, to the Hugging Face hub: `ssl-jax push`.

    Args:
      run: the run's folder.
      repo: "USER/NAME" on the hub; created if it does not exist.
      format: names of the weights: those of transformers, or ours, which every network has.
      step: step of the checkpoint; by default the newest.
      encoder: which of the networks; by default the method's choice.
      dtype: type of the numbers; by default "float32".
      license: for the model card: an identifier of the hub, "apache-2.0".
      public: whether a new repository is public.
      trust_code: also run method and config files that lie in the folder of a run.

    Returns:
      The URL of the model's page.

    Raises:
      UserError: what is wrong, and what would be right.
    """
    with called(trust_code):
        command = importlib.import_module("ssl_jax.run.commands.push")
        flags = flags_of(
            command.Flags,
            workdir=run,
            repo=repo,
            format=format,
            step=step,
            encoder=encoder,
            dtype=dtype,
            license=license,
            public=public,
        )
        return str(command.push(flags))


@contextlib.contextmanager
def called(trust_code: bool) -> Iterator[None]:
    """Context of one call: the process is the caller's, and trust in code ends with it."""
    try:
        with stop.guest(), trust.scope(trust_code):
            yield
    except SystemExit as e:  # of `core.stop.interruptible`
        raise KeyboardInterrupt from e


def flags_of(cls: type[F], settings: Settings | None = None, **values: Any) -> F:
    """Return the flags of a subcommand. None leaves one at its default; a ~ is the user's home."""
    values = {name: value for name, value in values.items() if value is not None}
    for name, value in values.items():
        if isinstance(value, (str, os.PathLike)):
            values[name] = home(os.fspath(value))
    fixed = {"overrides": tuple((settings or {}).items())} if settings else {}
    return config.build(cls, values, config.ARGUMENTS, **fixed)


def source_of(run: PathLike) -> dict[str, str]:
    """Return the flag that names a run or, in its place, a weights file."""
    path = Path(home(os.fspath(run)))
    of_file = hub.is_on_hub(path) or orbax_export.is_weights(path)
    return {"weights" if of_file else "workdir": str(path)}
