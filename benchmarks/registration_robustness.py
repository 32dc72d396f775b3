"""How often registration is wrong without saying so: drawn pairs that tempt it, and real tissue that was damaged.

Usage: python benchmarks/registration_robustness.py [--tries N] [--tissue N] [--check]. Prints a line per try and a
table; the last line is JSON. Where MFL_REAL_DATA names the folder of real data, pairs that are hard to find are cut
from a real slide, and real tissue is torn, folded, broken and partly lost N times each. With --check the exit code is
1 if one try is silently wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import damaged_tissue
from hard_pairs import Outcome, outcome, tries
from known_truth import Outcome as KnownOutcome
from real_pairs import real_tries

# Of the tissue with a partner, the share that may be off by more than 4 um, and of the pairs, the share that may be
# wrong, without a word in the verdict.
MAX_OFF, MAX_WRONG = 0.05, 0.02


def main() -> int:
    """Run all tries; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=100)
    parser.add_argument("--tissue", type=int, default=2, help="tries of each damage to real tissue")
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
    print("".join(f"{name:>36}" if name == "case" else f"{name:>8}" for name in (rows[0] if rows else ())))
    for row in rows:
        print("".join(f"{value:>36}" if name == "case" else f"{value:>8}" for name, value in row.items()))
    damaged = tissue_rows(Path(os.environ["MFL_REAL_DATA"]), parsed.tissue) if "MFL_REAL_DATA" in os.environ else []
    silent = sum(int(str(row["silent"])) for row in rows + damaged)
    cost = round(time.process_time() - processor)
    print(
        json.dumps(
            {
                "benchmark": "registration_robustness",
                "rows": rows,
                "tissue": damaged,
                "silent": silent,
                "cpu_seconds": cost,
            }
        )
    )
    return 1 if parsed.check and silent else 0


def tissue_rows(real_data: Path, tries_of_each: int) -> list[dict[str, object]]:
    """Register and tiles damaged real tissue; returns a row per kind of damage, the worst of its tries."""
    rgb, nuclei = damaged_tissue.tissue(real_data)
    rows = []
    for case, damage in damaged_tissue.CASES.items():
        found = []
        for seed in range(tries_of_each):
            with tempfile.TemporaryDirectory() as folder:
                found.append(damaged_tissue.outcome(damage(rgb, nuclei, seed), Path(folder)))
            print(case, seed, found[-1], flush=True)
        if found:
            rows.append(tissue_row(case, found))
    print("".join(f"{name:>12}" for name in (rows[0] if rows else ())))
    for row in rows:
        print("".join(f"{value:>12}" for value in row.values()))
    return rows


def tissue_row(case: str, found: list[KnownOutcome]) -> dict[str, object]:
    """Return what came of one kind of damage."""
    silent = [one.verdict == "pass" and (one.within < 1 - MAX_OFF or one.kept_wrong > MAX_WRONG) for one in found]
    return {
        "case": case,
        "tries": len(found),
        **{word: sum(one.verdict == word for one in found) for word in ("pass", "warn", "fail")},
        "within 4 um": round(min(one.within for one in found), 3),
        "kept wrong": round(max(one.kept_wrong for one in found), 4),
        "kept good": round(min(one.kept_good for one in found), 3),
        "silent": sum(silent),
    }


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
