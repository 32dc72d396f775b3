"""Pairs of slides whose truth is known, registered and tiled as a user would: what is off, what is kept, what is said.

Usage: python benchmarks/registration_truth.py FOLDER [FOLDER ...] [--work FOLDER] [--check]. Each FOLDER holds he.tif,
one dense*.tif and truth.csv (sparse_x_um, sparse_y_um, dense_x_um, dense_y_um of points on tissue; the last two empty
where a point has no partner), or a make.py that writes these into the folder it is given. Prints a line per pair, the
last line is JSON. With --check the exit code is 1 where over 5 % of the tissue is over 10 um off or over 2 % of the
pairs are, and the verdict says nothing.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from known_truth import Outcome, outcome

_SLIDES = "he.tif"
_TRUTH = "truth.csv"


def main() -> int:
    """Run what was asked for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--work", type=Path, help="folder that keeps what make.py and the stages write")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a pair is wrong without a word")
    parsed = parser.parse_args()
    rows = []
    print(head())
    with tempfile.TemporaryDirectory() as temporary:
        for folder in parsed.folders:
            work = (parsed.work or Path(temporary)) / folder.name
            work.mkdir(parents=True, exist_ok=True)
            before = processor_seconds()
            found = registered(made(folder, work), work)
            seconds = processor_seconds() - before
            print(line(folder.name, found, seconds), flush=True)
            rows.append({"pair": folder.name, "processor_seconds": round(seconds, 1), **asdict(found)})
            rows[-1]["silent"] = found.silent
    silent = sum(bool(row["silent"]) for row in rows)
    print(json.dumps({"benchmark": "registration_truth", "rows": rows, "silent": silent}))
    return 1 if parsed.check and silent else 0


def made(folder: Path, work: Path) -> Path:
    """Return the folder that holds a pair, after its make.py has run where it holds none itself."""
    if (folder / _TRUTH).exists():
        return folder
    if not (work / _TRUTH).exists():
        subprocess.run([sys.executable, str(folder / "make.py"), str(work)], check=True)
    return work


def registered(pair: Path, work: Path) -> Outcome:
    """Return what comes of the pair in a folder."""
    (dense,) = pair.glob("dense*.tif")
    truth = np.atleast_2d(np.genfromtxt(pair / _TRUTH, delimiter=",", skip_header=1))
    return outcome(pair / _SLIDES, dense, truth[:, :2], truth[:, 2:], work)


def processor_seconds() -> float:
    """Return the processor time of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def head() -> str:
    """Return the head of the table."""
    return (
        f"{'pair':24}{'verdict':>8}{'median':>9}{'p90':>9}{'within 4':>9}{'off 10':>8}{'no partner':>11}"
        f"{'kept wrong':>11}{'kept good':>10}{'cpu s':>7}"
    )


def line(name: str, found: Outcome, seconds: float) -> str:
    """Return what came of one pair: its figures, and its reasons below."""
    figures = (
        f"{name:24}{found.verdict:>8}{found.median_um:9.2f}{found.p90_um:9.2f}{found.within:9.3f}{found.off:8.3f}"
        f"{found.partnerless:11.3f}{found.kept_wrong:11.4f}{found.kept_good:10.3f}{seconds:7.1f}"
        f"{'  SILENT' if found.silent else ''}"
    )
    return "\n".join([figures, *(f"    {reason}" for reason in found.reasons)])


if __name__ == "__main__":
    sys.exit(main())
