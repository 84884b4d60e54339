"""The replay: what was done in an environment, in memory and in files, and batches drawn from it.

Each episode is a file of the folder, `episode_000012.npz`, which grows by being replaced whole.
A longer version of an episode holds every shorter one, so that a run which goes back to an older
checkpoint takes from it what there was at that time.
"""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.control.environment import ControlConfig
from ssl_jax.core import files
from ssl_jax.core.errors import UserError

SHORTEST = 16  # agent steps of an episode; of shorter ones fewer than `capacity` are held


def random_corners(draws: np.ndarray, side: int, size: int) -> np.ndarray:
    """Return the corners of random crops, int64, from `draws` in [0, 1).

    As released (MishaLaskin/curl, utils.py), the last of the side - size + 1 places is never
    taken.
    """
    return (draws * max(side - size, 1)).astype(np.int64)


def crop(images: np.ndarray, corners: np.ndarray, size: int) -> np.ndarray:
    """Cut (B, size, size, C) out of images (B, H, W, C); corners (B, 2) are the top and left
    pixels. All channels, and so all frames of a stack, have the same crop.
    """
    out = np.empty((len(images), size, size, images.shape[-1]), images.dtype)
    for i, (top, left) in enumerate(corners.tolist()):
        out[i] = images[i, top : top + size, left : left + size]
    return out


def center_crop(images: np.ndarray, size: int) -> np.ndarray:
    """Cut the middle (B, size, size, C) out of images (B, H, W, C)."""
    top, left = ((side - size) // 2 for side in images.shape[1:3])
    return images[:, top : top + size, left : left + size]


class Replay:
    """Agent steps of the run in order, of which the newest `capacity` are in memory.

    A frame is stored once, though it is in several stacks: an episode of T steps has T + 1 frames.

    Attributes:
      count: agent steps so far.
      episode: number of the current episode, -1 before the first.
    """

    def __init__(self, folder: Path, settings: ControlConfig, frame: tuple[int, ...], actions: int):
        self.count, self.episode = 0, -1
        self._folder, self._stack = folder, settings.stack
        self._capacity = settings.capacity
        room = settings.capacity + settings.capacity // SHORTEST + settings.stack + 1
        self._frames = np.empty((room, *frame), np.uint8)  # rings, with numbers modulo their size
        self._num_frames = 0
        self._steps = {
            "actions": np.empty((settings.capacity, actions), np.float32),
            "rewards": np.empty(settings.capacity, np.float32),
            "ended": np.empty(settings.capacity, bool),
            "frame": np.empty(settings.capacity, np.int64),  # number of the step's first frame
            "first": np.empty(settings.capacity, np.int64),  # and of its episode's
        }
        self._first = self._start = 0  # frame and step that the current episode begins with
        self._episode_steps = 0

    def begin(self, frame: np.ndarray) -> None:
        """Begin an episode with its first frame (side, side, C)."""
        self._episode_steps = 0
        self._first, self._start = self._num_frames, self.count
        self._add_frame(frame)
        self.episode += 1

    def add(self, action: np.ndarray, reward: float, ended: bool, frame: np.ndarray) -> None:
        """Add an agent step of the current episode, and the frame after it."""
        row = self.count % self._capacity
        values = (action, reward, ended, self._num_frames - 1, self._first)
        for ring, value in zip(self._steps.values(), values, strict=True):
            ring[row] = value
        self._add_frame(frame)
        self.count += 1
        self._episode_steps += 1  # the last, so that `save` may interrupt this at any place

    def _add_frame(self, frame: np.ndarray) -> None:
        self._frames[self._num_frames % len(self._frames)] = frame
        self._num_frames += 1

    @property
    def oldest(self) -> int:
        """Number of the oldest step that is whole in memory."""
        oldest = max(self.count - self._capacity, 0)
        lost = self._num_frames - len(self._frames)  # frames before this one are overwritten
        while oldest < self.count:
            row = oldest % self._capacity
            needed = max(self._steps["frame"][row] - self._stack + 1, self._steps["first"][row])
            if needed >= lost:
                break
            oldest += 1
        return oldest

    def batch(self, draws: np.ndarray, size: int) -> dict[str, np.ndarray]:
        """Draw B steps, uniformly and with replacement, with crops of `size` pixels.

        Args:
          draws: (B, 7) uniform in [0, 1): the step, and the corners of its three crops.

        Returns:
          `anchor` and `positive`, two crops of the observation, and `following`, one of the next
          observation, (B, size, size, stack C) uint8; `action` (B, A), `reward` (B,), `continues`
          (B,) float32, 0 where the episode ended for good; `index` (B,) int32, the steps' numbers
          modulo the capacity.
        """
        oldest = self.oldest
        steps = oldest + (draws[:, 0] * (self.count - oldest)).astype(np.int64)
        rows = steps % self._capacity
        last, first = self._steps["frame"][rows], self._steps["first"][rows]
        corners = random_corners(draws[:, 1:].reshape(-1, 3, 2), self._frames.shape[1], size)
        observations = self._stacks(last, first)
        return {
            "anchor": crop(observations, corners[:, 0], size),
            "positive": crop(observations, corners[:, 1], size),
            "following": crop(self._stacks(last + 1, first), corners[:, 2], size),
            "action": self._steps["actions"][rows],
            "reward": self._steps["rewards"][rows],
            "continues": 1 - self._steps["ended"][rows].astype(np.float32),
            "index": rows.astype(np.int32),
        }

    def _stacks(self, last: np.ndarray, first: np.ndarray) -> np.ndarray:
        """Return the observations (B, side, side, stack C) whose newest frames are `last` (B,), in
        episodes that begin with the frames `first` (B,).
        """
        numbers = last[:, None] + np.arange(1 - self._stack, 1)
        numbers = np.maximum(numbers, first[:, None]) % len(self._frames)
        stacks = np.moveaxis(self._frames[numbers], 1, 3)  # (B, side, side, stack, C)
        return stacks.reshape(*stacks.shape[:3], -1)

    def save(self) -> None:
        """Write the current episode; those before are written."""
        steps = self._episode_steps
        if not steps:
            return
        frames = np.arange(self._first, self._first + steps + 1) % len(self._frames)
        rows = np.arange(self._start, self._start + steps) % self._capacity
        arrays: Any = {name: self._steps[name][rows] for name in ("actions", "rewards", "ended")}
        self._folder.mkdir(parents=True, exist_ok=True)
        with files.replacing(self._path(self.episode)) as path, path.open("wb") as file:
            np.savez_compressed(file, frames=self._frames[frames], **arrays)

    def restore(self, count: int) -> np.ndarray:
        """Read the first `count` steps of the run and remove files of later ones; return the
        actions (T, A) of the episode that the last of them is in.

        Raises:
          UserError: the folder lacks some of them.
        """
        actions = np.empty((0, self._steps["actions"].shape[1]), np.float32)
        while self.count < count:
            path = self._path(self.episode + 1)
            episode = self._read(path, count)
            taken = min(count - self.count, len(episode["actions"]))
            actions = episode["actions"][:taken]
            self.begin(episode["frames"][0])
            for i in range(taken):
                reward, ended = float(episode["rewards"][i]), bool(episode["ended"][i])
                self.add(actions[i], reward, ended, episode["frames"][i + 1])
        for path in self._folder.glob("episode_*.npz"):
            number = re.fullmatch(r"episode_(\d+)\.npz", path.name)
            if number and int(number[1]) > self.episode:
                path.unlink()
        return actions

    def _read(self, path: Path, count: int) -> Mapping[str, np.ndarray]:
        try:
            with np.load(path, allow_pickle=False) as arrays:
                episode = {name: arrays[name] for name in ("frames", "actions", "rewards", "ended")}
        except FileNotFoundError:
            raise UserError(
                f"{path} is missing: the run has made {count:,} agent steps and {self._folder} "
                f"holds {self.count:,} of them; restore the folder, or use another --workdir"
            ) from None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as e:
            raise UserError(f"{path} is damaged ({e}); restore it, or use another --workdir") from e
        if not 0 < len(episode["actions"]) == len(episode["frames"]) - 1:
            raise UserError(f"{path} is no episode; restore it, or use another --workdir")
        return episode

    def _path(self, episode: int) -> Path:
        return self._folder / f"episode_{episode:06d}.npz"
