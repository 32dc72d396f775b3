"""Runs the workflow of this checkout in a separate folder."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
COLUMNS = (
    "slide",
    "patient",
    "sparse",
    "dense",
    "transform",
    "sparse_mpp",
    "dense_mpp",
    "markers",
    "tissue",
    "dense_kind",
    "sparse_image",
    "dense_image",
    "classes",
)


def write_cohort(folder: Path, rows: Sequence[dict[str, str]], config: dict[str, object]) -> None:
    """Writes config/slides.tsv and config/config.yaml below `folder`."""
    (folder / "config").mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(COLUMNS), *("\t".join(row.get(column, "") for column in COLUMNS) for row in rows)]
    (folder / "config" / "slides.tsv").write_text("\n".join(lines) + "\n")
    (folder / "config" / "config.yaml").write_text(yaml.safe_dump(config))


def snakemake(
    folder: Path, *argv: str, source: Path = REPOSITORY, timeout_s: float = 1800
) -> subprocess.CompletedProcess[str]:
    """Runs Snakemake in `folder` with the workflow of `source`; both streams come back as `stdout`."""
    command = [sys.executable, "-m", "snakemake", "-s", str(source / "Snakefile"), "--directory", str(folder), *argv]
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout_s, check=False
    )


def planned(output: str) -> dict[str, int]:
    """Rule names and counts from Snakemake's job table."""
    table = output.partition("Job stats:")[2]
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, flags=re.MULTILINE)}
