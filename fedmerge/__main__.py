"""``python -m fedmerge``: the same as the command ``fedmerge``."""

from fedmerge.cli import main

main()
