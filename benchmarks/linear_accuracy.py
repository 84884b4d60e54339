"""The linear probe's presets compared with scikit-learn's logistic regression at its optimum.

    python benchmarks/linear_accuracy.py --data=parquet:cifar10-train.parquet \\
        --eval_data=parquet:cifar10-test.parquet

The features are histograms of oriented gradients of 32 x 32 pixels (scikit-image; 324 numbers),
scaled to mean 0 and deviation 1. Each side chooses its learning rate or penalty by the accuracy on
the same tenth of the training examples, and is trained again on all of them. Prints one JSON line:
test accuracy, choice and CPU seconds of each.
"""

import argparse
import json
import time

import numpy as np
from skimage.feature import hog
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from ssl_jax.data.pipeline import eval_arrays
from ssl_jax.data.sources import open_source
from ssl_jax.data.sources.base import Source
from ssl_jax.evals.images import Labelled
from ssl_jax.evals.protocols.linear import Linear, fit, split

RATES = np.geomspace(1e-3, 30, 19)
PENALTIES = np.geomspace(1e-6, 1e-2, 9)  # lambda of mean cross-entropy + lambda / 2 |W|^2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--eval_data", required=True)
    parser.add_argument("--presets", default="simclr,moco,mae")
    args = parser.parse_args()
    train, test = (gradients(open_source(spec)) for spec in (args.data, args.eval_data))
    scaler = StandardScaler().fit(train.features)
    train, test = (Labelled(scaler.transform(d.features), d.labels) for d in (train, test))
    fitted, held_out = split(train, 0.1, seed=0)
    classes = int(train.labels.max()) + 1
    out: dict[str, object] = {"benchmark": "linear_accuracy", "examples": len(train.labels)}

    def logistic(data: Labelled, penalty: float) -> LogisticRegression:
        return LogisticRegression(C=1 / (penalty * len(data.labels)), max_iter=2000).fit(*data)

    began = time.process_time()
    penalty = max(PENALTIES, key=lambda value: logistic(fitted, value).score(*held_out))
    best = logistic(train, penalty).score(*test)
    seconds = round(time.process_time() - began, 1)
    out["scikit-learn"] = {"top1": best, "penalty": float(penalty), "cpu_s": seconds}
    for preset in args.presets.split(","):
        began = time.process_time()
        settings = [Linear(preset=preset, lr=float(rate)) for rate in RATES]
        scores = [head.accuracy(held_out) for head in fit(fitted, settings, classes)]
        chosen = settings[int(np.argmax(scores))]
        (head,) = fit(train, [chosen], classes)
        seconds = round(time.process_time() - began, 1)
        out[preset] = {"top1": head.accuracy(test), "lr": chosen.lr, "cpu_s": seconds}
    print(json.dumps(out))


def gradients(source: Source) -> Labelled:
    """Compute histograms of oriented gradients of all images, with their labels."""
    batches = eval_arrays(source, 32, rows=np.arange(len(source)), channels=3, batch=1000)
    rows, index = [], []
    for images, numbers in batches:
        rows += [hog(x, 9, (8, 8), (2, 2), channel_axis=-1) for x in images[numbers >= 0]]
        index.append(numbers[numbers >= 0])
    return Labelled(np.stack(rows).astype(np.float32), source.labels[np.concatenate(index)])


if __name__ == "__main__":
    main()
