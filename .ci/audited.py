"""Tells pip-audit's report, and what it did not look at. `audited.py REPORT ERRORS`.

Exit status: 0: all was looked at and no vulnerability is known; 1: some are; 2: not all could be looked at.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(report: Path, errors: Path) -> int:
    try:
        found = json.loads(report.read_text(encoding="utf-8"))["dependencies"]
    except (OSError, ValueError):
        said = errors.read_text(encoding="utf-8").strip().splitlines() if errors.exists() else []
        print(
            f"NOTHING WAS AUDITED: the database of vulnerabilities cannot be asked ({said[-1] if said else 'no word'})"
        )
        return 2
    # The tool itself says "no known vulnerabilities" of a package that the database does not have.
    unknown = [p for p in found if "skip_reason" in p]
    known = [(p, v) for p in found for v in p.get("vulns", ())]
    for package, vulnerability in known:
        names = " ".join([vulnerability["id"], *vulnerability["aliases"]])
        fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {names}; fixed in {fixed}")
    print(f"{len(found) - len(unknown)} of {len(found)} packages audited, {len(known)} vulnerabilities known")
    if unknown:
        print(f"NOT AUDITED: {len(unknown)}, the first: {unknown[0]['name']} ({unknown[0]['skip_reason']})")
    return 1 if known else 2 if unknown or not found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
