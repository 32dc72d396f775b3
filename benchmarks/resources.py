"""What the jobs of a finished cohort took against what their rules ask a cluster for.

Usage: python benchmarks/resources.py [COHORT …] [--check]. COHORT is a folder that the workflow has run in (default:
this one, after `make demo`). It reads what Snakemake measured, logs/**/*.benchmark.tsv, and the resources in
workflow/rules; the last line is JSON. With --check the exit code is 1 where a job took more memory than its rule asks
for at its first attempt.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Request:
    """What a rule asks for at its first attempt, and where Snakemake measures its jobs."""

    mem_mb: int
    runtime_min: int
    measured: str


@dataclass
class Taken:
    """The most that any job of a rule took."""

    jobs: int = 0
    mem_mb: float = 0.0
    runtime_min: float = 0.0


def main() -> int:
    """Print a line per rule; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cohorts", nargs="*", type=Path, default=[REPOSITORY], metavar="COHORT")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a job took more than was asked for")
    parsed = parser.parse_args()
    asked = requests(REPOSITORY / "workflow" / "rules")
    found = {rule: taken(request, parsed.cohorts) for rule, request in asked.items()}
    print(f"{'rule':<20}{'jobs':>6}{'peak MB':>10}{'asked MB':>10}{'longest min':>13}{'asked min':>11}")
    for rule, most in found.items():
        line = f"{most.mem_mb:>10,.0f}{asked[rule].mem_mb:>10,}{most.runtime_min:>13.1f}{asked[rule].runtime_min:>11,}"
        print(f"{rule:<20}{most.jobs:>6}{line}")
    over = [rule for rule, most in found.items() if most.mem_mb > asked[rule].mem_mb]
    rows = {rule: {**asdict(most), "asked": asdict(asked[rule])} for rule, most in found.items()}
    print(json.dumps({"benchmark": "resources", "rules": rows, "over": over, "met": not over}))
    return 1 if parsed.check and over else 0


def requests(folder: Path) -> dict[str, Request]:
    """Return memory, time and measurements of every rule that runs a job, in the order of the files."""
    found = {}
    for path in sorted(folder.glob("*.smk")):
        for name, body in re.findall(r"^rule (\w+):\n((?:[ ].*\n|\n)+)", path.read_text(), flags=re.MULTILINE):
            memory, runtime, measured = (
                re.search(pattern, body)
                for pattern in (r"mem_mb=per_attempt\((\d+)", r"runtime=(\d+)", r'benchmark:\s+"<logs>/(.*)"')
            )
            if memory and runtime and measured:
                pattern = "logs/" + re.sub(r"\{\w+\}", "*", measured[1])
                found[name] = Request(int(memory[1]), int(runtime[1]), pattern)
    return found


def taken(request: Request, cohorts: list[Path]) -> Taken:
    """Return the most that the rule's jobs took; one of a second or less was never looked at and has no peak."""
    most = Taken()
    for path in (path for cohort in cohorts for path in cohort.glob(request.measured)):
        with path.open(newline="") as stream:
            for line in csv.DictReader(stream, delimiter="\t"):
                most.jobs += 1
                most.mem_mb = max(most.mem_mb, number(line["max_rss"]))
                most.runtime_min = max(most.runtime_min, number(line["s"]) / 60)
    return most


def number(text: str) -> float:
    """Return 0 where Snakemake could not measure."""
    return 0.0 if text in ("", "-", "NA") else float(text)


if __name__ == "__main__":
    raise SystemExit(main())
