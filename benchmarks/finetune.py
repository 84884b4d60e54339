"""Labels on digits: a supervised network on five folds, and fine-tuning against the linear probe.

    python benchmarks/finetune.py --folds=5 [--config.KEY=VALUE ...]
    python benchmarks/finetune.py --init_from=W --draws=0:10 [--shots=5] [--scratch]

The first command trains `supervised:digits` once per fold of all 1797 images and prints the
accuracy of its classifier on the held-out fold. The second fine-tunes the encoder of the run W by
`supervised:digits_few` with a few labels per class, once per draw of labels, and prints the
accuracy next to that of the linear classifier on W's frozen features (`evals.protocols.fewshot`)
from the same labels, and the mean of the differences with its standard error over the draws. With
--scratch the same recipe also starts from untrained weights.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

ROOT = Path(__file__).parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folds", type=int, default=0)
    parser.add_argument("--init_from", default="", help="folder of a pretrained run")
    parser.add_argument("--draws", default="0:10", help="FIRST:LAST, excluding LAST")
    parser.add_argument("--shots", type=int, default=5, help="labels per class")
    parser.add_argument("--scratch", action="store_true", help="train from scratch too")
    args, further = parser.parse_known_args()
    if args.folds:
        each = [f"{i}/{args.folds}" for i in range(1, args.folds + 1)]
        scores = [accuracy("supervised:digits", f"--config.data.fold={f}", *further) for f in each]
        for fold, score in zip(each, scores, strict=True):
            print(f"fold {fold}: {score:.4f}")
        print(f"mean {statistics.mean(scores):.4f}")
    if args.init_from:
        first, last = map(int, args.draws.split(":"))
        probes = linear(Path(args.init_from), args.shots, last)
        gains = []
        for draw in range(first, last):
            few = (f"--config.data.labelled='{args.shots}'", f"--config.data.draw={draw}")
            start = f"--config.train.init_from={args.init_from}"
            tuned = accuracy("supervised:digits_few", start, *few, *further)
            gains.append(tuned - probes[draw])
            line = f"draw {draw}: fine-tuned {tuned:.4f}, linear {probes[draw]:.4f}"
            if args.scratch:
                line += f", from scratch {accuracy('supervised:digits_few', *few, *further):.4f}"
            print(line, flush=True)
        error = statistics.stdev(gains) / len(gains) ** 0.5
        mean = statistics.mean(probes[first:last])
        gain = statistics.mean(gains)
        print(f"linear {mean:.4f}, fine-tuned {mean + gain:.4f}: {gain:+.4f} +- {error:.4f}")


def accuracy(recipe: str, *flags: str) -> float:
    """Train in a fresh process and folder; return the classifier's accuracy at the end."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ssl_jax", "train", f"--config={recipe}", *flags]
        command += [f"--workdir={folder}/w", "--config.evals.protocols=('classifier',)"]
        env = os.environ | {"JAX_PLATFORMS": "cpu"}
        subprocess.run(command, cwd=ROOT, env=env, check=True, stdout=subprocess.DEVNULL)
        return json.loads((Path(folder) / "w" / "summary.json").read_text())["eval/classifier_top1"]


def linear(folder: Path, shots: int, draws: int) -> np.ndarray:
    """Measure the linear probe of a run's encoder: accuracies, (draws,)."""
    from ssl_jax.evals.evaluator import Evaluator
    from ssl_jax.evals.protocols.fewshot import FewShot, fewshot_linear
    from ssl_jax.run.experiment import Experiment
    from ssl_jax.training import workdir
    from ssl_jax.training.checkpoint import Checkpoints

    run = Experiment.from_config(workdir.read_config(folder), folder)
    with Checkpoints(folder / "checkpoints", reader=True) as checkpoints, jax.set_mesh(run.mesh):
        assert checkpoints.latest is not None
        state = checkpoints.restore(checkpoints.latest, run.abstract_state, run.placed)
        evaluator = Evaluator(run.objective, run.evals, run.source, run.eval_source, run.mesh)
        subject = evaluator.subject(run.objective.encoder(state.params, state.extra))
        protocol = FewShot()
        train, test = subject.train(protocol), subject.test(protocol)
    return fewshot_linear(*train, *test, (shots,), draws)[shots].accuracies


if __name__ == "__main__":
    main()
