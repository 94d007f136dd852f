"""Images of a cohort decoded for the first time and opened again: seconds, and memory at the peak.

The cohort is read three times, each in a process of its own: into an empty cache, from that cache, and
without one. Memory is the process's resident set at the peak, with Python and PyTorch. Run
`python -m benchmarks.speed.decoding pacs96 --size 224 --out benchmarks/results/decoding.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.speed.processes import told
from fedmerge.data import build_cohort, read_cohort

WAYS = ("first", "again", "memory")


def side(name: str, size: int) -> dict[str, Any]:
    """Read a cohort's images at a size, with no limit on a site's; return seconds and MB at the peak."""
    spec = read_cohort(name)
    whole = tuple(site.model_copy(update={"limit": None}) for site in spec.sites)
    began = time.perf_counter()
    cohort = build_cohort(spec.model_copy(update={"size": size, "sites": whole}), 0)
    took = time.perf_counter() - began
    images = sum(len(site.everything) for site in cohort.sites)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"images": images, "seconds": round(took, 2), "mb": round(peak / 1e6)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cohort", help="its name or file, of folders or tables")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--side", action="store_true", help="read it once, as the benchmark does")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    if args.side:
        print(json.dumps(side(args.cohort, args.size)))
        return
    found: dict[str, Any] = {"cohort": args.cohort, "size": args.size}
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            os.environ["FEDMERGE_CACHE"] = "off" if way == "memory" else folder
            asked = (args.cohort, "--size", args.size, "--side")
            found[way] = told("benchmarks.speed.decoding", *asked)
    print(json.dumps(found, indent=1))
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
