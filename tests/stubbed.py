"""The workflow with a stub for its stages: jobs leave files at once, so that real plans can be asked after a change."""

from __future__ import annotations

import shutil
from pathlib import Path

from cohort import REPOSITORY

_STUB = """#!/usr/bin/env bash
# In place of a stage: leaves what the rule expects, and the words that the stage would have been started with.
set -euo pipefail
log=$2
shift 2
printf '%s\\n' "$*" | tee -- "$log"
while (($#)); do
    case $1 in
        --out | --out-* | --outlines)
            case $2 in
                *.zarr) mkdir -p "$2" ;;
                *.*) printf '%s\\n' "$1" > "$2" ;;
                *) mkdir -p "$2" ;;
            esac
            [[ $1 != --out-encoder ]] || : > "$(dirname "$2")/branches.safetensors"
            shift
            ;;
    esac
    shift
done
"""


def write_stubbed(folder: Path) -> Path:
    """Lays out a checkout in `folder` whose stages are stubs, and returns it."""
    folder.mkdir()
    for name in ("pipeline", "config", "envs"):
        (folder / name).symlink_to(REPOSITORY / name)
    shutil.copytree(REPOSITORY / "workflow", folder / "workflow")
    shutil.copy(REPOSITORY / "Snakefile", folder)
    (folder / "workflow" / "stage.sh").write_text(_STUB)
    return folder
