"""`ssl-jax evaluate`: measure checkpoints of runs with named protocols, and sweep their settings.

ssl-jax evaluate --workdir=W --eval=knn,fewshot,clustering
ssl-jax evaluate --workdir=W --step=1000 --eval=knn --data=folder:/train --eval_data=folder:/test
ssl-jax evaluate --workdir='runs/*' --step=all --eval=knn --sweep=k=10,20 --sweep=stage=-1,-2
ssl-jax evaluate --workdir=W --eval=logistic,knn --suite=suites:kornblith
ssl-jax evaluate --workdir=W --follow
ssl-jax evaluate --weights=dino.pth --data=folder:/train --eval=knn

Each number is shown beside those of the untrained network and of raw pixels, which are measured
once per data set and settings.

Results are written to eval/results.jsonl in the run's folder, or to --results, one line per result
with all its settings; measurements already in the file are skipped. `ssl-jax results` shows them.
Results of a weights file are written to FILE.results.jsonl, or to --results, with the file's
digest.
"""

from ssl_jax.run import flags as command_line
from ssl_jax.run.commands.evaluate import Flags, evaluate


def main(argv: list[str]) -> int:
    _, unmeasured = evaluate(command_line.parse(argv, __doc__, Flags))
    return 2 if unmeasured else 0
