"""Upload the encoder of a run, with a model card, to the Hugging Face hub."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ssl_jax.core import hub
from ssl_jax.core.config import flag
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Whole
from ssl_jax.run import flags as command_line
from ssl_jax.run import hub_export
from ssl_jax.run.commands.export import DTYPES
from ssl_jax.run.console import terminal
from ssl_jax.run.restored import RestoredRun


@dataclass(frozen=True, kw_only=True)
class Flags(command_line.CommonFlags):
    workdir: Path = flag("folder of the run")
    repo: str = flag("USER/NAME on the hub; created if it does not exist")
    format: Literal["hf", "safetensors"] = flag(
        "names of the weights: those of transformers, or ours, which every network has", "hf"
    )
    step: Whole | None = flag("step of the checkpoint; by default the newest", None)
    encoder: Literal["student", "teacher"] | None = flag(
        "which of the networks; by default the method's choice", None
    )
    dtype: Literal["float32", "bfloat16"] | None = flag(
        "type of the numbers; by default float32", None
    )
    license: str = flag("for the model card: an identifier of the hub, apache-2.0", "")
    public: bool = flag("make a new repository public", False)


def push(flags: Flags) -> str:
    """Upload the folder and print where it is; return the URL of its page.

    Raises:
      UserError: an error that the user must fix.
    """
    place = hub.parse(f"{hub.SCHEME}{flags.repo.removeprefix(hub.SCHEME)}")
    if "/" not in place.repo or place.file or place.revision:
        raise UserError(f"--repo={flags.repo}: expected USER/NAME")
    hub.check_login()
    run = RestoredRun.restored(flags.workdir, flags.step)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        dtype = DTYPES.get(flags.dtype or "")
        hub_export.write(run, folder, flags.format, flags.encoder, dtype, flags.license, place.repo)
        method = Path(str(run.experiment.raw["objective"]["name"])).stem
        message = f"{method}, step {run.step}, by ssl-jax push"
        url = hub.upload(place.repo, folder, message, public=flags.public)
    terminal().print(f"{url}: read it with --weights={hub.SCHEME}{place.repo}")
    return url
