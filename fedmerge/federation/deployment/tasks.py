"""Start a process for each message of a SuperNode (``clientapp``), in place of Flower's programs.

A SuperNode with ``--isolation process`` starts nothing itself. One process waits for the next message, and
another replaces it after its reply: no message sees state of an earlier one in memory.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from flwr.supercore.app_utils import start_parent_process_monitor

PAUSE = 1.0  # seconds before another try after a process failed
ANSWER = "fedmerge.federation.deployment.clientapp"


def main(folder: str, address: str, parent: int) -> None:
    """Answer the messages of the SuperNode at ``address`` until process ``parent`` ends."""
    start_parent_process_monitor(parent)
    while True:
        command = [sys.executable, "-P", "-m", ANSWER, folder, address, str(os.getpid())]
        if subprocess.run(command, stdin=subprocess.DEVNULL).returncode:
            time.sleep(PAUSE)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
