"""`ssl-jax train`: train any method on any images; run the same command again to resume.

ssl-jax train --config=simclr:digits --workdir=W
ssl-jax train --config=simclr:imagenet --workdir=W --data=folder:/images --config.optim.lr=0.2
ssl-jax train --config=simclr:imagenet --workdir=W --data=folder:/images --dry_run
"""

import os

from ssl_jax.core import distributed
from ssl_jax.run import compiled, restart
from ssl_jax.run import flags as command_line
from ssl_jax.run.commands.train import Flags, train


def main(argv: list[str]) -> int:
    flags = command_line.parse(argv, __doc__, Flags)
    flags.refuse_both(("dry_run", "restarts"))
    if flags.restarts is not None and restart.CHILD not in os.environ:
        return restart.until_done(argv, flags.workdir, flags.restarts)
    with distributed.session(flags):
        compiled.keep()
        code, _ = train(flags)
    return code
