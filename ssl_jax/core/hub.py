"""Files of the Hugging Face hub, `hf://USER/NAME`, in the cache of the package huggingface_hub.

`hf://USER/NAME@REVISION` is a branch, a tag or a commit. The package finds a token by itself, in
the environment (HF_TOKEN) or where `hf auth login` stored it; it is neither printed nor written
here. With HF_HUB_OFFLINE=1 only the cache is used.
"""

import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ssl_jax.core import credentials
from ssl_jax.core.errors import UserError

SCHEME = "hf://"
_WORD = r"[A-Za-z0-9][\w.-]*"
_FORM = re.compile(rf"hf:/{{1,2}}({_WORD}(?:/{_WORD})?)(?:@([^@/\s]+))?((?:/[^/@]+)*)")
SETTINGS = ("config.json", "preprocessor_config.json", "open_clip_config.json")
SAFETENSORS = (
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
)
TOKEN = "set HF_TOKEN, or run `hf auth login`"
PICKLES = ("pytorch_model*.bin", "pytorch_model.bin.index.json", "open_clip_pytorch_model.bin")


class Repository(NamedTuple):
    """The parts of a name `hf://USER/NAME@REVISION/FILE`; `revision` and `file` may be ""."""

    repo: str
    revision: str
    file: str


def is_on_hub(name: str | Path) -> bool:
    """Tell whether a name is of the hub; a `Path` has lost one of its slashes."""
    return str(name).startswith("hf:/")


def parse(name: str | Path) -> Repository:
    """Parse a name of the hub.

    Raises:
      UserError: another form, or a password in it.
    """
    credentials.refuse(str(name), "the name on the hub")
    match = _FORM.fullmatch(str(name))
    if match is None or ".." in match[3].split("/"):
        text = re.sub("^hf:/+", SCHEME, str(name))
        raise UserError(f"{text}: expected {SCHEME}USER/NAME or {SCHEME}USER/NAME@REVISION")
    return Repository(match[1], match[2] or "", match[3].strip("/"))


def model(name: str | Path) -> Path:
    """Download the weights of a model, unless the cache has them, and the settings beside them:
    safetensors, or PyTorch's files if there are no others. Return their folder, or the file if the
    name has one. A path that is not on the hub is returned as it is.

    Raises:
      UserError: no such model, or the hub cannot be reached.
    """
    if not is_on_hub(name):
        return Path(name)
    place = parse(name)
    if place.file:
        beside = [f"{Path(place.file).parent.as_posix()}/{s}".removeprefix("./") for s in SETTINGS]
        folder = snapshot(place, "model", (place.file, *beside))
        if not (folder / place.file).is_file():
            raise UserError(f"{SCHEME}{place.repo}: it has no file {place.file}")
        return folder / place.file
    folder = snapshot(place, "model", (*SETTINGS, *SAFETENSORS))
    if not any(next(folder.glob(pattern), None) for pattern in SAFETENSORS):
        folder = snapshot(place, "model", (*SETTINGS, *PICKLES))
    return folder


def beside(name: str | Path) -> Path:
    """Return the path beside which files about a model are written: its own, or that of a file NAME
    in the current folder for one on the hub.
    """
    return Path(parse(name).repo.rpartition("/")[2]) if is_on_hub(name) else Path(name)


def snapshot(place: Repository, kind: Literal["model", "dataset"], patterns: Sequence[str]) -> Path:
    """Download the files of a repository that match `patterns`; return their folder in the cache.

    Raises:
      UserError: huggingface_hub is not installed, no such repository, or no access to it.
    """
    hub = package()
    if not sys.stderr.isatty():
        importlib.import_module("huggingface_hub.utils").disable_progress_bars()
    try:
        folder = hub.snapshot_download(
            place.repo,
            repo_type=kind,
            revision=place.revision or None,
            allow_patterns=list(patterns),
        )
    except Exception as e:  # the package, its HTTP client and the disk raise many types
        raise UserError(f"{SCHEME}{place.repo}: {reason(e, kind)}") from None
    return Path(folder)


def check_login() -> None:
    """Check that there is a token, which an upload needs.

    Raises:
      UserError: there is none.
    """
    if not package().get_token():
        raise UserError(f"an upload to the Hugging Face hub needs a token: {TOKEN}")


def upload(repo: str, folder: Path, message: str, *, public: bool) -> str:
    """Upload the files of a folder to a model's repository, as one commit, and return the URL of
    its page. A repository that does not exist is created.

    Raises:
      UserError: the hub cannot be reached, or refuses.
    """
    api = package().HfApi()
    try:
        url = api.create_repo(repo, private=not public, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
    except Exception as e:
        raise UserError(f"{SCHEME}{repo}: nothing was uploaded: {reason(e, 'model')}") from None
    return str(url)


def package() -> Any:
    """Import huggingface_hub.

    Raises:
      UserError: it is not installed.
    """
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError:
        raise UserError(
            "the Hugging Face hub needs huggingface_hub; run pip install -e '.[hub]' in your "
            "clone of ssl_jax"
        ) from None


def reason(error: Exception, kind: str) -> str:
    """Return one line on why a request to the hub failed; it never holds a token."""
    errors = importlib.import_module("huggingface_hub.errors")
    known = (
        (errors.GatedRepoError, f"access to it must be granted on its page; then {TOKEN}"),
        (errors.RepositoryNotFoundError, f"no such {kind} on the hub; if it is private, {TOKEN}"),
        (errors.RevisionNotFoundError, "it has no such revision"),
        (errors.OfflineModeIsEnabled, "it is not in the cache, and HF_HUB_OFFLINE is set"),
        (
            (errors.LocalEntryNotFoundError, ConnectionError),
            "it is not in the cache, and the hub cannot be reached",
        ),
    )
    for types, text in known:
        if isinstance(error, types):
            return text
    line = (str(error).strip().splitlines() or [""])[0][:200]
    text = f"{type(error).__name__}: {line}" if line else type(error).__name__
    return "it cannot be read" if credentials.has_credentials(text) else text
