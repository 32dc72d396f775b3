"""What a plan costs: looks at the disk, which a network makes slow, and code that is read; both can be counted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from cohort import REPOSITORY, write_cohort

# Snakemake as its command starts it, with every look at the disk counted by what is looked at.
_COUNTED = """
import atexit, builtins, io, json, os, sys
counts = {"looks": 0, "reads": {}}

def counted(look):
    def counting(path, *args, **options):
        counts["looks"] += 1
        return look(path, *args, **options)
    return counting

def opened(path, *args, _open=io.open, **options):
    counts["looks"] += 1
    name = str(path)
    counts["reads"][name] = counts["reads"].get(name, 0) + 1
    return _open(path, *args, **options)

for name in ("stat", "lstat", "listdir", "scandir"):
    setattr(os, name, counted(getattr(os, name)))
builtins.open = io.open = opened
# A hook of the interpreter's end runs after Snakemake has ended it.
atexit.register(lambda: print("COUNTS" + json.dumps(counts), file=sys.stderr))
from snakemake.cli import main
main(sys.argv[1:])
"""


def _plan(folder: Path, pairs: int) -> tuple[int, dict[str, int]]:
    """Looks at the disk of a whole plan, and how often each file was read."""
    (folder / "slides").mkdir(parents=True)
    rows = []
    for number in range(pairs):
        names = [f"slides/{number}.tif", f"slides/{number}.ome.tif"]
        for name in names:
            (folder / name).touch()
        rows.append({"slide": f"s{number}", "patient": f"p{number}", "sparse": names[0], "dense": names[1]})
    write_cohort(folder, rows, {"runs": {"distilled": {"branches": ["sparse", "dense"]}}})
    words = ["-s", str(REPOSITORY / "Snakefile"), "--directory", str(folder), "-n", "-q"]
    done = subprocess.run([sys.executable, "-c", _COUNTED, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stderr.partition("COUNTS")[2].splitlines()[0])
    return counts["looks"], counts["reads"]


def test_a_plan_looks_at_the_disk_as_often_for_each_further_pair(tmp_path: Path) -> None:
    few, _ = _plan(tmp_path / "few", 4)
    more, _ = _plan(tmp_path / "more", 12)
    many, _ = _plan(tmp_path / "many", 28)
    assert (many - more) / 16 <= 1.1 * (more - few) / 8
    # 14 results of a pair, each of which Snakemake looks at a few times, and two files.
    assert (many - more) / 16 <= 120


def test_a_plan_reads_each_module_once_however_many_stages_use_it(tmp_path: Path) -> None:
    _, reads = _plan(tmp_path, 2)
    modules = {name: count for name, count in reads.items() if name.startswith(str(REPOSITORY / "pipeline"))}
    assert len(modules) > 50
    assert max(modules.values()) == 1
