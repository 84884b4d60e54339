"""Results of every small recipe on three seeds, compared with its untrained network.

    python benchmarks/learning.py [--methods=simclr,byol] [--seeds=0,1,2] [--jobs=2] [--page]

Runs `ssl-jax train --config=METHOD:digits --config.train.seed=SEED` (or another recipe: METHOD may
be METHOD:RECIPE; `FURTHER` are in the default list) in fresh folders and stores the measurements in
docs/results.json. Runs of an unchanged recipe that are in the file are skipped, so an interrupted
command resumes where it stopped. Then writes docs/results.md (--page: only that).
The layer is the one that the method names (`Probe`), fixed before any measurement. The untrained
network, with batch-norm statistics of the data, is read at the same layer and at its best layer.
Differences are paired by seed, with their standard error over the seeds. A method that learns from
a trained network gets one of the same seed (`TEACHERS`), whose time is not counted.
"""

import argparse
import concurrent.futures
import dataclasses
import fcntl
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "docs" / "results.json", ROOT / "docs" / "results.md"
MEASURES = ("fewshot5_top1", "kmeans_acc", "kmeans_nmi", "knn_top1")
FURTHER = (  # with a ViT; and where the task needs an object before a background
    "dino:digits_vit",
    "moco_v3:digits_vit",
    "context_prediction:moving_digits",
    "counting:moving_digits",
    "jigsaw:moving_digits",
)
LOCK = Path(tempfile.gettempdir()) / "ssl_jax_learning.lock"
TEACHERS = {  # which method trains the network that a method learns from, with the same seed
    "beit": "dvae",
    "beit_v2": "vqkd",
    "feature_distillation": "dino:digits_vit",
    "vqkd": "dino:digits_vit",
}


def main() -> None:
    from ssl_jax.run.configs import load_method, methods

    # A baseline's encoder was trained on all labels, so few-label accuracy says nothing about it.
    # What a method of control learns is measured by its returns (docs/control.md).
    kinds = {m: load_method(m).make.__self__ for m in methods()}
    unsupervised = [
        name
        for name, kind in kinds.items()
        if kind.family != "baseline" and kind.needs != "an environment"
    ]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", default=",".join((*unsupervised, *FURTHER)))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one core each")
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--child", nargs=2, metavar=("METHOD", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(one_run(args.child[0], int(args.child[1]))))
        return
    if not args.page:
        # Seed by seed, so that an interruption leaves every method with the same number of seeds.
        seeds = [int(seed) for seed in args.seeds.split(",")]
        missing = [(m, s) for s in seeds for m in args.methods.split(",") if not is_stored(m, s)]
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            for line in pool.map(lambda pair: child(*pair), missing):
                print(line, flush=True)
    PAGE.write_text(page(read()))


def read() -> dict[str, Any]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def recipe(method: str) -> str:
    """Complete METHOD to METHOD:RECIPE with its small recipe, the value of --config."""
    from ssl_jax.run.configs import recipes

    return method if ":" in method else f"{method}:{recipes(method)[0]}"


def fingerprint(method: str) -> str:
    """Digest of the recipe's config; a changed recipe is measured again."""
    from ssl_jax.run.configs import load_config

    text = json.dumps(load_config(recipe(method)), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def is_stored(method: str, seed: int) -> bool:
    """Tell whether the file has all measures of this seed, of the recipe as it is."""
    result = read().get(method, {})
    numbers = result.get("seeds", {}).get(str(seed), {})
    return result.get("recipe") == fingerprint(method) and numbers.keys() >= set(MEASURES)


def child(method: str, seed: int) -> str:
    """Run one seed in its own process and store its numbers; return a line for the log."""
    command = [sys.executable, __file__, "--child", method, str(seed)]
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    digest = fingerprint(method)  # before the run, as the recipe may be edited meanwhile
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if run.returncode:
        return f"{method} seed {seed} failed:\n{run.stderr[-2000:]}"
    out = json.loads(run.stdout.splitlines()[-1])
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other threads and other commands write here too
        results = read()
        if results.get(method, {}).get("recipe") != digest:
            results[method] = {"recipe": digest, "probe": out["probe"], "seeds": {}}
        results[method]["seeds"][str(seed)] = out["numbers"]
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        PAGE.write_text(page(results))
    return f"{method} seed {seed}: {json.dumps(out['numbers'])}"


def one_run(method: str, seed: int) -> dict[str, Any]:
    from ssl_jax.run.experiment import Experiment
    from ssl_jax.training import workdir

    with tempfile.TemporaryDirectory() as folder:
        start = teacher(method, seed)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        train(method, seed, f"{folder}/w", start)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        summary = json.loads((Path(folder) / "w" / "summary.json").read_text())
        experiment = Experiment.from_config(workdir.read_config(Path(folder) / "w"))
        best = best_untrained(experiment)
    numbers = {m: round(summary[f"eval/{m}"], 4) for m in MEASURES}
    numbers |= {f"untrained_{m}": round(summary[f"untrained/eval/{m}"], 4) for m in MEASURES}
    numbers |= best
    numbers |= {f"pixels_{m}": round(summary[f"pixels/eval/{m}"], 4) for m in MEASURES} | {
        "cpu_s": round(used.ru_utime - before.ru_utime + used.ru_stime - before.ru_stime)
    }
    return {"probe": dataclasses.asdict(experiment.objective.probe), "numbers": numbers}


def train(method: str, seed: int, workdir: str, start: list[str]) -> None:
    flags = [f"--config={recipe(method)}", f"--config.train.seed={seed}", f"--workdir={workdir}"]
    command = [sys.executable, "-m", "ssl_jax", "train", *flags, *start]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def teacher(method: str, seed: int) -> list[str]:
    """Train the network that a method learns from, unless an earlier run has; return the flag that
    names it, if there is one. It stays in the temporary folder, as several methods learn from it.
    """
    if method not in TEACHERS:
        return []
    name = TEACHERS[method]
    start = teacher(name, seed)
    folder = f"{tempfile.gettempdir()}/ssl_jax_learning-{fingerprint(name)}-{seed}"
    with Path(f"{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        train(name, seed, folder, start)
    return [f"--config.train.teacher_from={folder}"]


def best_untrained(experiment: Any) -> dict[str, Any]:
    """Best layer of the untrained network by accuracy with 5 labels per class, with its name, and
    by its neighbours.
    """
    import jax

    from ssl_jax.evals.evaluator import Evaluator
    from ssl_jax.evals.protocols.fewshot import FewShot
    from ssl_jax.training import state

    objective = experiment.objective
    with jax.set_mesh(experiment.mesh):
        start = state.create(objective, experiment.tx, experiment.train.seed, experiment.placed)
        data = (experiment.source, experiment.eval_source, experiment.mesh)
        evaluator = Evaluator(objective, experiment.evals, *data)
        encoder = objective.encoder(start.params, start.extra)
        encoder = evaluator.images.with_statistics(encoder)
        size = objective.inputs().views[0].size
        image = jax.ShapeDtypeStruct((1, size, size, experiment.spec.channels), "float32")
        depth = len(jax.eval_shape(encoder.features, image).stages)
        pools = sorted({"avg", objective.probe.pool} - {"cls", "pooled"})
        layers = [{"stage": stage, "pool": pool} for stage in range(depth) for pool in pools]
        subject = evaluator.subject(encoder)

        def best(protocol: Any, measure: str) -> tuple[float, str]:
            settings = [dataclasses.replace(protocol, **layer) for layer in layers]
            measured = protocol.measure_all(settings, subject)
            return max((round(n[measure], 4), f"{at.stage} {at.pool}") for at, n in measured)

        few, layer = best(FewShot(shots=(5,)), "fewshot5_top1")
        neighbours, _ = best(experiment.evals.protocol("knn"), "knn_top1")
    return {
        "best_untrained_fewshot5_top1": few,
        "best_untrained_layer": layer,
        "best_untrained_knn_top1": neighbours,
    }


def page(results: dict[str, Any]) -> str:
    """Render docs/results.md."""
    rows = []
    for method, result in sorted(results.items()):
        seeds = list(result["seeds"].values())
        probe = result["probe"]

        def mean(key: str, seeds: list = seeds) -> str:
            return f"{statistics.mean(s[key] for s in seeds):.3f}"

        def gain(over: str, seeds: list = seeds) -> str:
            return paired([s["fewshot5_top1"] - s[over] for s in seeds])

        mark = "" if result["recipe"] == fingerprint(method) else " \\*"
        rows.append(
            [
                method + mark,
                recipe(method).partition(":")[2],
                f"{probe['stage']} {probe['pool']}",
                mean("fewshot5_top1"),
                mean("pixels_fewshot5_top1"),
                mean("untrained_fewshot5_top1"),
                gain("untrained_fewshot5_top1"),
                gain("best_untrained_fewshot5_top1"),
                mean("kmeans_acc"),
                mean("untrained_kmeans_acc"),
                mean("knn_top1"),
                str(len(seeds)),
                f"{statistics.mean(s['cpu_s'] for s in seeds):.0f}",
            ]
        )
    titles = (
        "method | recipe | layer | 5 labels | raw pixels | untrained | gain ± s.e. | "
        "over the best untrained layer | k-means | untrained | kNN | seeds | CPU s"
    )
    table = [titles, "|".join(["---"] * len(titles.split("|"))), *(" | ".join(r) for r in rows)]
    return (
        "# What each method learns on the embedded data\n\n"
        "`python benchmarks/learning.py` writes this page from [results.json](results.json); its\n"
        "docstring describes the protocol. Accuracies are means over the seeds; `raw pixels` are\n"
        "read with 5 labels, too. CPU seconds are those of the whole run. `-1 avg` is the mean of\n"
        "the last map. In networks without a class token it is also their own output, `pooled`.\n"
        "\\* measured before the recipe's config last changed.\n\n"
        + "\n".join(f"| {line} |" for line in table)
        + "\n"
        + neighbours(results)
        + mutual_information(results)
    )


def neighbours(results: dict[str, Any]) -> str:
    """Render the section on neighbours, of the runs that measured them in the untrained layers."""
    rows = []
    for method, result in sorted(results.items()):
        seeds = [n for n in result["seeds"].values() if "best_untrained_knn_top1" in n]
        if not seeds:
            continue
        best = paired([s["knn_top1"] - s["best_untrained_knn_top1"] for s in seeds])
        names = ("knn_top1", "pixels_knn_top1", "untrained_knn_top1")
        means = " | ".join(f"{statistics.mean(s[name] for s in seeds):.3f}" for name in names)
        rows.append(f"| {method} | {means} | {best} | {len(seeds)} |")
    if not rows:
        return ""
    return (
        "\n## Neighbours\n\n"
        "Accuracy of the nearest neighbours among all training examples, at the same layers, and\n"
        "the gain over the untrained layer where they are best. Runs that did not store that\n"
        "layer are left out.\n\n"
        "| method | trained | raw pixels | untrained | over the best untrained layer | seeds |\n"
        "| --- | --- | --- | --- | --- | --- |\n" + "\n".join(rows) + "\n"
    )


def paired(gains: list[float]) -> str:
    """Render the mean of the gains of each seed, and its standard error."""
    error = f"{statistics.stdev(gains) / len(gains) ** 0.5:.3f}" if gains[1:] else "?"
    return f"{statistics.mean(gains):+.3f} ± {error}"


def mutual_information(results: dict[str, Any]) -> str:
    """Render the section on the clusters, of the runs that measured their mutual information."""
    rows = []
    for method, result in sorted(results.items()):
        seeds = [numbers for numbers in result["seeds"].values() if "kmeans_nmi" in numbers]
        if not seeds:
            continue
        values = [[s[f"{of}kmeans_nmi"] for s in seeds] for of in ("", "untrained_")]
        error = f" ± {statistics.stdev(values[0]) / len(seeds) ** 0.5:.3f}" if seeds[1:] else " ± ?"
        trained, untrained = (f"{statistics.mean(v):.3f}" for v in values)
        rows.append(f"| {method} | {trained}{error} | {untrained} | {len(seeds)} |")
    if not rows:
        return ""
    return (
        "\n## Mutual information of clusters and classes\n\n"
        "Normalised mutual information (arithmetic mean of the entropies) of k-means on the same\n"
        "features, with as many clusters as classes: mean over the seeds ± standard error. Runs\n"
        "that did not store it are left out.\n\n"
        "| method | trained | untrained | seeds |\n| --- | --- | --- | --- |\n"
        + "\n".join(rows)
        + "\n"
    )


if __name__ == "__main__":
    main()
