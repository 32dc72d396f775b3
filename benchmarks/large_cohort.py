"""`init` and `status` of a large cohort: seconds and memory.

Usage: python benchmarks/large_cohort.py [--slides N] [--check]. Draws a pair of small slides and links it N times under
separate names, so that both files of each slide are opened; lets init write the cohort, and for comparison only reads
the headers; then leaves the results, logs and benchmark files of a run that is half done, with failed slides, and asks
for its status. Each in a separate process. Prints a table; the last line is JSON. With --check the exit code is 1
where a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile

from pipeline.settings import load
from pipeline.sheet import read_sheet
from pipeline.tools.status.tasks import tasks_of

MPP, HE_PX, DENSE_PX = 0.5, (900, 1000), (2, 600, 700)
PINK = (222, 182, 208)
EVERY_FAILED = 50
GOALS = {"init_seconds_beyond_headers": 60, "init_peak_mb": 500, "status_seconds": 3}
RUN_MAIN = (
    "import resource, sys; from pipeline.cli import main; status = main(sys.argv[1:]);"
    "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr); sys.exit(status)"
)
READ_HEADERS = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pipeline.slides.opening import open_slide

def header(path):
    with open_slide(path) as slide:
        return slide.header

with ThreadPoolExecutor(8) as readers:
    list(readers.map(header, sorted(Path(sys.argv[1]).glob("*.tif"))))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr)
"""


def main() -> int:
    """Draw, measure, judge; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slides", type=int, default=1000, help="pairs of the cohort")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder / "slides", parsed.slides)
        headers = timed(READ_HEADERS, str(folder / "slides"))
        made = timed(RUN_MAIN, "init", str(folder / "cohort"), "--slides", str(folder / "slides"))
        leave_half_a_run(folder / "cohort")
        told = timed(RUN_MAIN, "status", str(folder / "cohort"))
    found = {
        "init_seconds_beyond_headers": round(made["seconds"] - headers["seconds"], 1),
        "init_peak_mb": made["peak_mb"],
        "status_seconds": round(told["seconds"], 1),
    }
    missed = [key for key, goal in GOALS.items() if found[key] > goal]
    print(f"{'':30}{'found':>10}{'goal':>10}")
    for key, goal in GOALS.items():
        print(f"{key:30}{found[key]:10.1f}{goal:10d}  {'MISSED' if key in missed else 'met'}")
    more = {
        "headers_cpu_seconds": headers["cpu_seconds"],
        "init_cpu_seconds": made["cpu_seconds"],
        "status_cpu_seconds": told["cpu_seconds"],
    }
    for key, value in more.items():
        print(f"{key:30}{value:10.1f}")
    print(json.dumps({"benchmark": "large_cohort", "slides": parsed.slides, **found, **more, "missed": missed}))
    return 1 if parsed.check and missed else 0


def timed(code: str, *words: str) -> dict[str, float]:
    """Return seconds, processor seconds and peak memory of a program; what it prints last on standard error is that."""
    start, before = time.perf_counter(), os.times()
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    seconds, after = time.perf_counter() - start, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": seconds, "cpu_seconds": round(cpu, 1), "peak_mb": int(done.stderr.split()[-1])}


def draw(folder: Path, count: int) -> None:
    """Write a pair and link it under as many names as asked for."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    # Pink all over, for channels that vary by themselves would look brown here and there, as immunohistochemistry does.
    he = np.array(PINK, np.uint8) - rng.integers(0, 40, (*HE_PX, 1), np.uint8)
    per_cm = 1e4 / MPP
    for index, path in enumerate((folder / "s0_he.tif", folder / "s0_mif.ome.tif")):
        if index == 0:
            with tifffile.TiffWriter(path) as writer:
                for step in (1, 2):
                    writer.write(
                        he[::step, ::step],
                        tile=(256, 256),
                        photometric="rgb",
                        compression="jpeg",
                        subfiletype=step - 1,
                        resolution=(per_cm / step, per_cm / step),
                        resolutionunit="CENTIMETER",
                        metadata=None,
                    )
        else:
            names = {"axes": "CYX", "Channel": {"Name": ["DAPI", "CD3"]}}
            names |= {"PhysicalSizeX": MPP, "PhysicalSizeY": MPP}
            dense = rng.integers(0, 9000, DENSE_PX, np.uint16)
            tifffile.imwrite(path, dense, tile=(256, 256), compression="zlib", metadata=names)
        for number in range(1, count):
            os.link(path, folder / path.name.replace("s0", f"s{number}"))


def leave_half_a_run(cohort: Path) -> None:
    """Leave what a run leaves that is half done: of every stage half of the results, some errors, benchmark files."""
    settings = load(cohort / "config" / "config.yaml")
    rows = read_sheet(cohort / "config" / "slides.tsv")
    seen: dict[str, int] = {}
    for task in tasks_of(rows, settings):
        number = seen[task.stage] = seen.get(task.stage, -1) + 1
        log = cohort / "logs" / task.log
        log.parent.mkdir(parents=True, exist_ok=True)
        if number % EVERY_FAILED == 0:
            log.write_text(f"at work\nerror: slide {task.subject}: expected a slide, found an empty file\n")
        elif number % 2:
            result = cohort / "results" / task.result
            result.parent.mkdir(parents=True, exist_ok=True)
            result.write_text('{"verdict": "pass", "reasons": []}')
            log.write_text("done\n")
            log.with_suffix(".benchmark.tsv").write_text("s\th:m:s\tmax_rss\n12.5\t0:00:12\t900.0\n")


if __name__ == "__main__":
    sys.exit(main())
