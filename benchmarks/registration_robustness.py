"""How often registration is wrong without saying so: drawn pairs that tempt it, each with its truth.

Usage: python benchmarks/registration_robustness.py [--tries N] [--check]. Prints a line per try and a table; the last
line is JSON. Where MFL_REAL_DATA is set, pairs cut from a real slide follow. With --check the exit code is 1 if one try
is silently wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from hard_pairs import Outcome, outcome, tries
from real_pairs import real_tries


def main() -> int:
    """Run all tries; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=100)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a try is silently wrong")
    parsed = parser.parse_args()
    outcomes: dict[str, list[Outcome]] = defaultdict(list)
    processor = time.process_time()
    real = real_tries() if "MFL_REAL_DATA" in os.environ else iter(())
    for tried in chain(tries(parsed.tries), real):
        found = outcome(tried)
        outcomes[tried.case].append(found)
        print(line(found), flush=True)
    rows = [
        {
            "case": case,
            "tries": len(found),
            "pass": sum(one.quality.verdict == "pass" for one in found),
            "warn": sum(one.quality.verdict == "warn" for one in found),
            "fail": sum(one.quality.verdict == "fail" for one in found),
            "lost": sum(one.lost for one in found),
            "silent": sum(one.silent for one in found),
        }
        for case, found in outcomes.items()
    ]
    print("".join(f"{name:>36}" if name == "case" else f"{name:>8}" for name in rows[0]))
    for row in rows:
        print("".join(f"{value:>36}" if name == "case" else f"{value:>8}" for name, value in row.items()))
    silent = sum(int(str(row["silent"])) for row in rows)
    cost = round(time.process_time() - processor)
    print(json.dumps({"benchmark": "registration_robustness", "rows": rows, "silent": silent, "cpu_seconds": cost}))
    return 1 if parsed.check and silent else 0


def line(found: Outcome) -> str:
    """Return one try as a line."""
    word = "SILENT" if found.silent else "lost" if found.lost else ""
    quality = found.quality
    scale = "" if quality.scale is None else f"scale {quality.scale:.3f} of {found.tried.scale:g}"
    return (
        f"{found.tried.case:36}{found.tried.wanted:8}{quality.verdict:6}{found.median_um:9.2f}{found.p90_um:9.2f}"
        f"  support {quality.support:.2f} of {len(quality.block_um)}  {scale} {word}"
    )


if __name__ == "__main__":
    sys.exit(main())
