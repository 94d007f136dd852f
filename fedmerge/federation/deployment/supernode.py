"""Flower's SuperNode in a process that ends with it, with the arguments of ``flower-supernode``.

A call that it does not repeat, such as a TLS handshake that takes too long, makes the SuperNode of Flower
1.42 give its server up. It says goodbye and returns, but threads of its own keep the process, which looks
alive and answers nobody. Here the process ends, so that whoever keeps it up starts it again.
"""

from __future__ import annotations

import os
import sys

from flwr.supernode.cli import flower_supernode

GIVEN_UP = "ERROR : the SuperNode has given its server up: it must be started again"


def main() -> None:
    """Be a SuperNode; end the process if it returns, which it only does when it has given up."""
    flower_supernode()
    print(GIVEN_UP, file=sys.stderr, flush=True)
    os._exit(1)


if __name__ == "__main__":
    main()
