"""Tasks of DeepMind's control suite (2006.12983), which the extra `rl` installs."""

import os
from importlib.metadata import version
from typing import Any

import numpy as np

from ssl_jax.core.errors import UserError, suggest

PACKAGES = ("dm_control", "mujoco")
INSTALL = "run pip install -e '.[rl]' in your clone of ssl_jax"


class Suite:
    """A task of the suite, such as cartpole_swingup, seen by its camera 0.

    Rendered without shadows, reflections and antialiasing, which take most of the time of a
    software renderer.
    """

    channels = 3

    def __init__(self, name: str, domain: str, task: str, side: int, versions: str) -> None:
        from dm_control import suite

        self.name, self.version, self._side = name, versions, side
        self._environment: Any = suite.load(domain, task)
        specification = self._environment.action_spec()
        self.actions = int(np.prod(specification.shape))
        self._low, self._high = specification.minimum, specification.maximum
        self.length = int(self._environment._step_limit)
        model = self._environment.physics.model
        model.vis.quality.offsamples = model.vis.quality.shadowsize = 0
        model.mat_reflectance[:] = 0

    def reset(self, seed: int) -> None:
        # The task draws its start from this generator; a new task would compile its model again.
        self._environment.task._random = np.random.RandomState(seed)
        self._environment.reset()

    def advance(self, action: np.ndarray) -> tuple[float, bool]:
        share = (np.clip(action.astype(np.float64), -1, 1) + 1) / 2
        step = self._environment.step(self._low + share * (self._high - self._low))
        # The suite's own end is the time limit, with discount 1.
        return float(step.reward or 0.0), bool(step.last() and step.discount == 0)

    def render(self) -> np.ndarray:
        frame = self._environment.physics.render(self._side, self._side, camera_id=0)
        return np.ascontiguousarray(frame)


def load(name: str, side: int) -> Suite:
    """Load a task DOMAIN_TASK; frames are `side` pixels wide.

    Raises:
      UserError: the packages are missing, there is no such task, or it cannot be rendered.
    """
    os.environ.setdefault("MUJOCO_GL", "egl")  # read when the package is imported
    try:
        from dm_control import suite
    except ImportError as e:
        if getattr(e, "name", None) in PACKAGES:
            raise UserError(
                f"control:{name}: needs dm_control, which is not installed; {INSTALL}"
            ) from None
        raise _cannot_render(name, e) from None
    except (AttributeError, RuntimeError) as e:  # of a graphics library that is not there
        raise _cannot_render(name, e) from None
    tasks = {f"{domain}_{task}": (domain, task) for domain, task in suite.ALL_TASKS}
    if name not in tasks:
        raise UserError(f"control: no environment {name!r}; {suggest(name, ['pendulum', *tasks])}")
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    environment = Suite(name, *tasks[name], side, versions)
    try:
        environment.reset(0)
        environment.render()
    except Exception as e:  # each graphics library raises errors of its own
        raise _cannot_render(name, e) from None
    return environment


def _cannot_render(name: str, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(
        f"control:{name}: cannot render with MUJOCO_GL={os.environ['MUJOCO_GL']} ({reason}); set "
        "MUJOCO_GL to egl, osmesa or glfw, whichever this machine has"
    )
