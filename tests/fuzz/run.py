"""Fuzzes one door: `PYTHONPATH=.:tests python tests/fuzz/run.py DOOR FOLDER [libFuzzer options]`.

FOLDER keeps what was found. Needs the extra `fuzz` (atheris). Ends with 0 if nothing but results and stated errors came
out in the time given (`-max_total_time=SECONDS`), within 2 GB of memory.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import atheris
import doors


def leave_the_parents_peak_behind() -> None:
    """Goes on in a forked child: its limit of memory is held against its own peak only.

    Linux hands the peak of whoever starts a program down to it, and libFuzzer reads that peak; a test process that had
    once held 2 GB made every door look too large.
    """
    child = os.fork()
    if child:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def main() -> None:
    name, folder, *options = sys.argv[1:]
    leave_the_parents_peak_behind()
    with atheris.instrument_imports(include=["pipeline"]):
        door = doors.DOORS[name]()
    corpus, work = Path(folder) / "corpus", Path(folder) / "work"
    for path in (corpus, work):
        path.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(door.seeds(work)):
        (corpus / f"seed{number}").write_bytes(seed)
    bounds = ["-max_len=16384", "-rss_limit_mb=2048", "-timeout=20", f"-artifact_prefix={folder}/"]
    atheris.Setup([sys.argv[0], *bounds, *options, str(corpus)], lambda data: door.accept(work, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
