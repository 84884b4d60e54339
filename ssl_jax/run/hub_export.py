"""A folder in the layout of the Hugging Face hub: weights, settings, preprocessing, model card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ssl_jax.augment.recipes import recipe
from ssl_jax.core.errors import UserError, reason
from ssl_jax.core.files import replacing, write_json, write_text
from ssl_jax.run.datasets import range_of
from ssl_jax.run.model_card import model_card
from ssl_jax.run.restored import RestoredRun
from ssl_jax.weights import files, transformers
from ssl_jax.weights.places import under

WEIGHTS, CARD = "model.safetensors", "README.md"
Kind = Literal["hf", "safetensors"]
IMAGES = "encoder([image])  # paths or uint8 arrays (H, W, C)"


def write(
    run: RestoredRun,
    folder: Path,
    kind: Kind = "hf",
    encoder: str | None = None,
    dtype: np.dtype | None = None,
    license: str = "",
    repo: str = "",
) -> str:
    """Write the folder; return the Python lines that load it.

    Args:
      kind: "hf" for names and settings of transformers; "safetensors" for ours.
      encoder: "student" or "teacher"; by default the method's choice.
      dtype: type of the numbers; by default float32.
      license: identifier of the hub, for the model card.
      repo: USER/NAME to load it from, in the model card; by default the folder.

    Raises:
      UserError: the folder exists or cannot be written, or transformers has no such network.
    """
    if folder.exists():
        raise UserError(f"--output={folder} exists; name a new folder")
    tensors, card = run.tensors("backbone", encoder)
    metadata = published(card)
    extra: dict[str, dict[str, Any]] = {}
    ours = f'encoder = ssl_jax.load("{{}}")\nfeatures = {IMAGES}'
    place = f"hf://{repo}" if repo else "."
    loading = "import ssl_jax\n\n" + ours.format(place)
    if kind == "hf":
        _check_space(run)
        model = transformers.export(under(tensors, "backbone/"), run.backbone, run.channels)
        tensors, metadata = model.tensors, metadata | {"format": "pt"}  # as transformers requires
        feed = transformers.preprocessor(json.loads(card["preprocessing"]), run.channels)
        extra = {"config.json": model.config, "preprocessor_config.json": feed}
        pool = run.experiment.objective.probe.pool
        loading = f"{_lines(model, repo or '.', pool)}\n\n# or, with ssl_jax\n{loading}"
    if dtype is not None:
        tensors = {k: x.astype(dtype) if x.dtype.kind == "f" else x for k, x in tensors.items()}
        for settings in extra.values():
            settings |= {"dtype": str(dtype)} if "dtype" in settings else {}
    library = "transformers" if kind == "hf" else "ssl_jax"
    readme = model_card(run, card, loading, library, license=license)
    try:
        with replacing(folder) as temporary:
            temporary.mkdir()
            files.write(temporary / WEIGHTS, tensors, metadata)
            write_text(temporary / CARD, readme)
            for name, settings in extra.items():
                write_json(temporary / name, settings)
    except (OSError, UserError) as e:
        raise UserError(f"cannot write --output={folder}: {reason(e)}") from None
    return loading


def published(card: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata of a file that is published: without the run's config, which names files
    and folders of this machine, except for the keys that reading images needs.
    """
    config = json.loads(card["config"])
    backbone = json.loads(card["backbone"])
    public = {"backbone": backbone, "data": {"range": list(range_of(config))}}
    return dict(card) | {
        "method": Path(card["method"]).stem,
        "config": json.dumps(public, sort_keys=True),
    }


def _check_space(run: RestoredRun) -> None:
    """Check that preprocessors of transformers can make the network's input.

    Raises:
      UserError: its views are in another colour space.
    """
    view = run.experiment.objective.inputs().views[0]
    if (space := recipe(view.recipe).space) != "rgb":
        raise UserError(
            f"--format=hf: the network takes images in {space}, which no preprocessor of "
            "transformers makes; use --format=safetensors"
        )


def _lines(model: transformers.Model, place: str, pool: str) -> str:
    """Return Python lines that compute features with transformers."""
    return "\n".join(
        [
            "import torch",
            f"from transformers import AutoImageProcessor, {model.name}",
            "",
            f'processor = AutoImageProcessor.from_pretrained("{place}")',
            f'model = {model.name}.from_pretrained("{place}").eval()',
            'inputs = processor(images=[image], return_tensors="pt")  # PIL images or arrays',
            "with torch.no_grad():",
            "    out = model(**inputs)",
            f"features = {model.features.get(pool, model.features['pooled'])}",
        ]
    )
