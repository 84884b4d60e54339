"""The examples of each step: arithmetic on the step number, without iterator state."""

from dataclasses import dataclass

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.draws import fold, permute


@dataclass(frozen=True)
class Order:
    """The shuffled index stream.

    An epoch is `num_examples // global_batch` batches of a new permutation; the remainder is
    dropped, so no batch holds an index twice, and an epoch holds each index at most once.

    Raises:
      UserError: a batch that is not positive or larger than the data set.
    """

    num_examples: int
    global_batch: int
    seed: int

    def __post_init__(self) -> None:
        if self.global_batch < 1:
            raise UserError(f"batch size {self.global_batch}: expected at least 1")
        if self.num_examples < self.global_batch:
            raise UserError(
                f"a batch of {self.global_batch} is larger than the data set of "
                f"{self.num_examples} examples; use a batch of at most {self.num_examples}"
            )

    @property
    def steps_per_epoch(self) -> int:
        return self.num_examples // self.global_batch

    def epoch(self, step: int) -> int:
        return step // self.steps_per_epoch

    def indices(self, step: int, rows: np.ndarray | None = None) -> np.ndarray:
        """Return the int32 indices of the batch of `step`, by default of all its rows."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        rows = np.arange(self.global_batch) if rows is None else rows
        position = step_in_epoch * self.global_batch + rows
        return permute(position, self.num_examples, fold(self.seed, epoch)).astype(np.int32)
