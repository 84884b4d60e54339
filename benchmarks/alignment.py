"""Does the sound of a clip match its frames better than the sound of other clips of its source?

python benchmarks/alignment.py --archive=av_clips.tar --steps=300 objective.misaligned=clip

Trains `evolving_losses:av_clips` on the training clips of av_clips, then scores all pairs of frames
and sounds of clips of one source by the head of alignment. The printed share is that of the other
clips of its source whose sound has a smaller score than a clip's own, a mean over the clips; chance
is 0.5. Pairs from different sources would be easy: the room's tone tells them apart.
"""

import argparse
import csv
import json
import tarfile
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core import rng
from ssl_jax.core.plain import Text
from ssl_jax.data.assemble import Pool
from ssl_jax.data.clips import Clips
from ssl_jax.data.sources import held_out, open_source
from ssl_jax.run.configs import configured
from ssl_jax.run.experiment import Experiment
from ssl_jax.training.state import create
from ssl_jax.training.step import make_train_step

DRAWS = 4  # positions in each clip


def unpack(archive: Path, folder: Path) -> str:
    """Write the clips as frames/SPLIT/SOURCE/CLIP and audio/SPLIT/SOURCE/CLIP.wav."""
    with tarfile.open(archive) as tar:
        for member in tar:
            path = (folder / "raw" / member.name).resolve()
            if member.isfile() and path.is_relative_to(folder.resolve()):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(tar.extractfile(member).read())  # type: ignore[union-attr]
    with (folder / "raw" / "clips.csv").open() as file:
        for row in csv.DictReader(file):
            place = Path(row["split"], row["source"])
            for kind, name in (("frames", row["clip"]), ("audio", f"{row['clip']}.wav")):
                (folder / kind / place).mkdir(parents=True, exist_ok=True)
                (folder / "raw" / kind / name).rename(folder / kind / place / name)
    return f"frames:{folder / 'frames'}"


def scores(objective, state, source, draw):
    """Score all frames (rows) with all sounds (columns) of a source's clips, (N, N)."""
    inputs, parts = objective.inputs(), objective.tasks.modalities
    clips = Clips(source, inputs, 3, seed=0)
    batch = clips.batch(np.arange(len(source)), draw, Pool(1).run)
    batch["sound"] = batch["sound"].astype(np.float32) / 2**15
    batch["index"] = np.arange(len(source), dtype=np.int32)

    @jax.jit
    def every_pair(params, stats, batch):
        nets = objective.networks.bind(params, stats, train=False)
        count = inputs.frames // 2
        made = parts.clips(batch, rng.named(jax.random.key(0), "scores"))
        frames = nets.backbone(made["rgb"][:, :count]).pooled
        sounds = nets.sound(parts.shown("sound", made["sound"][:, :count])).pooled
        n = len(frames)
        pairs = jnp.concatenate([jnp.repeat(frames, n, 0), jnp.tile(sounds, (n, 1))], axis=-1)
        others = objective.tasks.kinds["alignment"]
        logits = nets.alignment(jnp.repeat(pairs[:, None], len(others), axis=1))
        return logits[:, others.index("sound"), 0].reshape(n, n)

    return np.asarray(every_pair(state.params, state.extra["stats"], batch))


def within(pairs, sources):
    """Return the share of right comparisons of each clip with the others of its source."""
    same = (sources[:, None] == sources) & ~np.eye(len(sources), dtype=bool)
    own = np.diag(pairs)[:, None]
    right = (own > pairs) + 0.5 * (own == pairs)
    return np.array([right[i, same[i]].mean() for i in range(len(sources)) if same[i].any()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archive", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("changes", nargs="*", help="keys of the config, backbone.dim=32")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = unpack(flags.archive, Path(folder))
        changes = [c.partition("=") for c in flags.changes]
        overrides = [("train.steps", flags.steps), ("data.train", data)]
        overrides += [(key, Text(text)) for key, _, text in changes]
        run = Experiment.from_config(configured("evolving_losses:av_clips", overrides))
        objective = run.objective
        step = make_train_step(objective, run.tx, run.schedule, run.mesh, run.placed)
        state = create(objective, run.tx, flags.seed, run.placed, None)
        sets = {
            "train": open_source(data, "train"),
            "held out": held_out(data),
        }
        report(objective, state, sets, 0)
        start, metrics = time.process_time(), {}
        with jax.set_mesh(run.mesh):
            for batch in run.training_batches(0, flags.steps)[1]:
                state, metrics = step(state, batch)
        numbers = {k: float(v) for k, v in metrics.items() if "alignment" in k}
        print(json.dumps(numbers | {"cpu_s": time.process_time() - start}), flush=True)
        report(objective, state, sets, flags.steps)


def report(objective, state, sets, step):
    for name, source in sets.items():
        each = np.mean(
            [within(scores(objective, state, source, d), source.labels) for d in range(DRAWS)],
            axis=0,
        )
        error = each.std(ddof=1) / len(each) ** 0.5
        row = {"step": step, "clips": name, "count": len(each)}
        row |= {"right": round(float(each.mean()), 3), "standard_error": round(float(error), 3)}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
