"""A Ray cluster of two nodes on the loopback interface, as a program: for tests, which must survive it.

Prints its address; kills its second node at the line ``kill`` on stdin, says so, and ends with stdin. Each
node has one core, and the data root ``node<i>`` of the folder given as argument.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil
from ray.cluster_utils import Cluster

STORE = 80 * 2**20  # bytes of shared memory a node


def main(folder: Path) -> None:
    sockets = tempfile.mkdtemp(prefix="fdfa-ray-", dir="/tmp")  # whose names may not be long
    os.environ["RAY_TMPDIR"] = sockets  # for the cluster's address, too, which Ray else writes to /tmp/ray
    cluster = Cluster()
    try:
        nodes = [
            cluster.add_node(
                num_cpus=1,
                include_dashboard=False,
                object_store_memory=STORE,
                env_vars={"FDFA_DATA": str(folder / f"node{i}"), "TMPDIR": sockets},
            )
            for i in range(2)
        ]
        cluster.wait_for_nodes()
        print(cluster.address, flush=True)
        for line in sys.stdin:
            if line.strip() == "kill":
                cluster.remove_node(nodes[1], allow_graceful=False)
                kill_workers(folder / "node1")
                print("killed", flush=True)
    finally:
        cluster.shutdown()
        shutil.rmtree(sockets, ignore_errors=True)


def kill_workers(data: Path) -> None:
    """Kill the processes that have the data root `data`: a node's, which would live on for a moment."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # another user's, or one that has ended
            if process.environ().get("FDFA_DATA") == str(data):
                process.kill()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
