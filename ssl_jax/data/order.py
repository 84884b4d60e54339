"""The examples of each step: arithmetic on the step number, without iterator state."""

from dataclasses import dataclass
from functools import cached_property
from math import gcd

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Window
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


@dataclass(frozen=True)
class WindowOrder(Order):
    """The index stream of a sliding window over the shuffled data set; an epoch is a pass over it.

    PIC (2006.14618) as the paper describes it: the window wraps at the end of the data set. Its
    released sampler (bl0/PIC, data/sampler.py) wraps at the end of the window instead, and so shows
    only the first `window.size` images between two shuffles.

    Raises:
      UserError: a window smaller than a batch or larger than the data set.
    """

    window: Window

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.global_batch <= self.window.size <= self.num_examples:
            raise UserError(
                f"objective.window: expected {self.global_batch} (a batch) to {self.num_examples} "
                f"(the data set), got {self.window.size}"
            )

    @property
    def steps_per_epoch(self) -> int:
        return self.window.size // self.global_batch

    def start(self, epoch: int) -> int:
        """Return the window's first position in the shuffled data set."""
        return epoch * self.window.stride % self.num_examples

    def shuffles(self, epoch: int) -> int:
        """Return how often the data set was shuffled anew up to this pass."""
        cycles, rest = divmod(epoch + 1, len(self._passing))
        return int(cycles * self._passing.sum() + self._passing[:rest].sum())

    @cached_property
    def _passing(self) -> np.ndarray:
        """True for each pass, until the starts repeat, that goes beyond the end and shuffles."""
        count = self.num_examples // gcd(self.num_examples, self.window.stride)
        starts = np.arange(count, dtype=np.int64) * self.window.stride % self.num_examples
        return (starts + self.window.size > self.num_examples) & self.window.reshuffle

    def indices(self, step: int, rows: np.ndarray | None = None) -> np.ndarray:
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        rows = np.arange(self.global_batch) if rows is None else rows
        place = step_in_epoch * self.global_batch + rows
        place = permute(place, self.window.size, fold(self.seed, epoch, 0))
        position = (self.start(epoch) + place) % self.num_examples
        order = fold(self.seed, self.shuffles(epoch), 1)
        return permute(position, self.num_examples, order).astype(np.int32)


def make_order(num_examples: int, global_batch: int, seed: int, window: Window | None) -> Order:
    """Return the order of the examples: all of them each epoch, or those of a sliding window."""
    if window is None:
        return Order(num_examples, global_batch, seed)
    return WindowOrder(num_examples, global_batch, seed, window)
