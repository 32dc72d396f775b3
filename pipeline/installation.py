"""Locate the workflow: beside the package in a checkout, in a separate folder of an installed wheel."""

from __future__ import annotations

from pathlib import Path

from pipeline.provenance import SOURCE_ROOT

# What setup.py calls the folder of workflow/ and envs/ in a wheel.
INSTALLED = "more_from_less"


def workflow_root(source: Path = SOURCE_ROOT) -> Path:
    """Return the folder that holds `workflow` and `envs`.

    Args:
        source: folder that holds the package.
    """
    return source if (source / "workflow" / "Snakefile").is_file() else source / INSTALLED


def snakefile(source: Path = SOURCE_ROOT) -> Path:
    """Return the path to give Snakemake's option `-s`."""
    return source / "Snakefile" if workflow_root(source) == source else workflow_root(source) / "workflow" / "Snakefile"
