"""Known weaknesses of the packages installed here, by pip-audit; `make audit`.

It needs the advisories of pypi.org, which the index of a closed network may not have: then it finds nothing,
and this says that nothing was looked at, and fails.
"""

from __future__ import annotations

import json
import subprocess
import sys


def verdict(report: str) -> tuple[int, str]:
    """Exit status and sentence for pip-audit's JSON: 0 nothing found, 1 something, 2 not looked."""
    packages = json.loads(report)["dependencies"]
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    looked = [package for package in packages if "skip_reason" not in package]
    weak = [
        f"{package['name']} {package['version']}: {', '.join(v['id'] for v in package['vulns'])} (mended in "
        f"{', '.join(version for v in package['vulns'] for version in v['fix_versions']) or 'no version'})"
        for package in looked
        if package["vulns"]
    ]
    told = f"{len(looked)} packages were looked at, {len(skipped)} were not."
    if weak:
        return 1, "\n".join([*weak, told])
    if len(looked) < len(skipped):
        return 2, f"{told} The index in use has no advisories for those: ask one that has."
    return 0, f"{told} No weakness is known."


def main() -> int:
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", "--local", "--progress-spinner", "off", "--format", "json"],
        capture_output=True,
        text=True,
    )
    try:
        status, sentence = verdict(done.stdout)
    except (ValueError, KeyError):
        status, sentence = 2, f"pip-audit could not look: {done.stderr.strip()[-2000:]}"
    print(sentence)
    return status


if __name__ == "__main__":
    sys.exit(main())
