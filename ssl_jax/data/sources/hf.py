"""`hf://USER/NAME`: a data set of the Hugging Face hub, downloaded to the hub's cache.

`hf://USER/NAME@REVISION/CONFIG#split=NAME&image=COLUMN` names a revision, one of several
configurations, a split and columns; all are optional. The Parquet files of the repository are read,
as by `parquet:`, or those that the hub converts other repositories to. Code of a repository is
never run.
"""

import contextlib
from pathlib import Path

from ssl_jax.core import hub
from ssl_jax.core.errors import UserError
from ssl_jax.data import table_files
from ssl_jax.data.sources.parquet import ParquetTable
from ssl_jax.data.splits import part_of
from ssl_jax.data.tables import TableSource

CONVERTED = "refs/convert/parquet"  # the hub's branch of converted files
FILES = "*.parquet"
DEFAULT = "default"  # configuration


def load(path: str, split: str) -> TableSource:
    """Open a split of the data set: the one that `path` names, else the training split, or for
    evaluation the held-out one; see `parquet.load`.

    Raises:
      UserError: no such data set, or the hub cannot be reached; several configurations; one of the
        errors of `parquet.load`.
    """
    request = table_files.parse("hf", path)
    place = hub.parse(f"hf:{request.pattern}")
    folder = hub.snapshot(place, "dataset", (FILES,))
    paths = sorted(folder.rglob(FILES))
    if not paths and not place.revision:
        with contextlib.suppress(UserError):  # an old repository may lack the branch
            folder = hub.snapshot(place._replace(revision=CONVERTED), "dataset", (FILES,))
        paths = sorted(folder.rglob(FILES))
    if not paths:
        raise UserError(
            f"hf:{path}: no Parquet file in it; save it with datasets' save_to_disk and name the "
            "folder, arrow:FOLDER"
        )
    chosen = _of_config(f"hf:{path}", folder, paths, place.file)
    return table_files.load("hf", path, split, ParquetTable, chosen, request, True)


def held_out(path: str) -> TableSource | None:
    """Open the validation or test split beside the training split."""
    request = table_files.parse("hf", path)
    if request.whole or request.split:
        return None
    held = load(path, "eval")
    return held if held.name != f"hf:{path}" else None


def absolute(path: str) -> str:
    """Return the name as it is: it means the same in every folder."""
    return path


def _of_config(name: str, folder: Path, paths: list[Path], config: str) -> list[str]:
    """Select the files of a configuration, a folder of the repository: the one that is named, the
    only one, or "default".

    Raises:
      UserError: several, or none of that name.
    """
    relative = {path: path.relative_to(folder).parts for path in paths}
    tops = {parts[0] if len(parts) > 1 else "" for parts in relative.values()}
    configs = {top for top in tops if top and not part_of(top)}
    if config:
        wanted = tuple(config.split("/"))
        chosen = [path for path, parts in relative.items() if parts[: len(wanted)] == wanted]
    elif len(configs) > 1 and DEFAULT not in configs:
        raise UserError(
            f"{name}: several configurations; name one, for example "
            f"{name.partition('#')[0]}/{min(configs)} ({', '.join(sorted(configs))})"
        )
    else:
        several = len(configs) > 1
        chosen = [path for path, parts in relative.items() if not several or parts[0] == DEFAULT]
    if not chosen:
        raise UserError(f"{name}: no configuration {config}; it has {', '.join(sorted(configs))}")
    return list(map(str, chosen))
