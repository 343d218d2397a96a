"""The two processes outside the namespaces that a cluster hangs on.

The guard starts the supervisor and waits for it; the supervisor starts the nodes' first processes. The kernel ends a
node when the supervisor ends, and everything in a node when its first process ends. Whichever of guard and supervisor
is left removes the cgroups and the files. When both are killed at once, the next `up`, `status` or `down` does it.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

from rung_devcluster.cluster.cgroups import CgroupError
from rung_devcluster.cluster.layout import Layout
from rung_devcluster.cluster.linux import ProcessIdentity, adopt_orphans, die_with_parent
from rung_devcluster.cluster.spec import ClusterSpec
from rung_devcluster.cluster.supervision import supervise
from rung_devcluster.cluster.sweep import SweepError, sweep


def main() -> None:
    """Be the guard, and start the supervisor."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--listener", type=int, required=True)
    arguments = parser.parse_args()
    layout = Layout(arguments.folder)
    spec = ClusterSpec.from_json(layout.spec.read_text())
    adopt_orphans()
    guard = ProcessIdentity.of(os.getpid())
    supervisor = os.fork()
    if supervisor == 0:
        die_with_parent(signal.SIGTERM)
        if os.getppid() != guard.pid:
            os._exit(1)
        listener = socket.socket(fileno=arguments.listener)
        supervise(spec, layout, guard, listener)
        _sweep(spec, layout)
        os._exit(0)
    _guard(supervisor, arguments.listener)
    _sweep(spec, layout)


def _guard(supervisor: int, listener: int) -> None:
    # Only the supervisor's ends of these count: when it is gone, the other sides must notice.
    os.close(listener)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1):
        os.dup2(nothing, standard)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def pass_on(number: int, _frame: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(supervisor, number)

    signal.signal(signal.SIGTERM, pass_on)
    # Nodes whose supervisor was killed become children of the guard: nothing is swept under a process that still runs.
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _sweep(spec: ClusterSpec, layout: Layout) -> None:
    try:
        sweep(spec.name, layout)
    except (SweepError, CgroupError) as error:
        sys.stderr.write(f"{error}\n")


if __name__ == "__main__":
    main()
