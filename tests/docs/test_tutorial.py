"""docs/tutorial.md, word for word: its files are written, its commands run in the order of the page, in one shell."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import pandas as pd
import pytest
from cohort import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

_FENCE = re.compile(r"(?:`([^`\n]+)`\n\n)?^```(\w+)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def _environment(folder: Path) -> dict[str, str]:
    """The tests' own interpreter by the name `python`, and this checkout's package."""
    binaries = folder / "bin"
    binaries.mkdir(exist_ok=True)
    (binaries / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" -P "$@"\n')
    (binaries / "snakemake").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m snakemake "$@"\n')
    for item in binaries.iterdir():
        item.chmod(0o755)
    return os.environ | {"PYTHONPATH": str(REPOSITORY), "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything on the page was done."""
    folder = tmp_path_factory.mktemp("tutorial")
    for name in ("Snakefile", "workflow", "config", "envs"):
        (folder / name).symlink_to(REPOSITORY / name)
    text = (REPOSITORY / "docs" / "tutorial.md").read_text(encoding="utf-8")
    done = {"file": 0, "sh": 0, "python": 0}
    # As a reader types it: one shell, which stays wherever a command has taken it.
    script = ["set -eu"]
    for path, language, content in _FENCE.findall(text):
        if language in ("tsv", "yaml"):
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content, encoding="utf-8")
            done["file"] += 1
        elif language == "sh":
            script.append(content)
            done["sh"] += 1
        elif language == "python":
            script.append(f"python - <<'END'\n{content}END")
            done["python"] += 1
    finished = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=folder,
        env=_environment(folder),
        capture_output=True,
        text=True,
        check=False,
        timeout=1700,
    )
    printed = finished.stdout + finished.stderr
    assert finished.returncode == 0, printed[-6000:]
    assert "Empty file path encountered" not in printed
    assert "register a1: pass" in printed
    assert re.search(r"^slide  verdict  first reason\na1 +pass", finished.stdout, flags=re.MULTILINE)
    assert done == {"file": 4, "sh": 6, "python": 2}
    return folder


def test_every_file_that_the_page_names_is_there(followed: Path) -> None:
    text = (REPOSITORY / "docs" / "tutorial.md").read_text(encoding="utf-8")
    table = text.partition("| in `cohort/results` | what |")[2].partition("\n\n")[0]
    named = {f"cohort/results/{path}" for path in re.findall(r"`([^`]+/[^`]+)`", table)}
    named |= set(re.findall(r"`((?:new)?cohort/results/[^`]+)`", text))
    assert len(named) >= 8
    assert [path for path in sorted(named) if not (followed / path).exists()] == []


def test_both_pairs_register(followed: Path) -> None:
    table = pd.read_csv(followed / "cohort/results/split/patches.tsv", sep="\t")
    pairs = table[table["pair_quality"] > 0]
    assert set(pairs["slide"]) == {"a1", "b1"}
    assert set(pairs.loc[pairs["fold"] == 0, "patient"]) == {"bert"}


def test_the_new_cohort_was_embedded_by_the_first_one_s_encoder(followed: Path) -> None:
    (path,) = (followed / "newcohort/results/embed").glob("*/n1.h5")
    with h5py.File(path) as file:
        new = file.attrs["encoder"]
    with h5py.File(followed / "cohort/results/embed/distilled/a1.h5") as file:
        assert file.attrs["encoder"] == new
    assert path.parent.name == f"distilled-{new[:8]}"
    assert not (followed / "newcohort/results/train").exists()


def test_snakemakes_own_report_holds_page_overlays_curves_and_scores(followed: Path, tmp_path: Path) -> None:
    command = ["snakemake", "-s", "Snakefile", "--directory", "cohort", "--report", str(tmp_path / "report.zip")]
    subprocess.run(command, cwd=followed, env=_environment(followed), check=True, capture_output=True, timeout=300)
    with zipfile.ZipFile(tmp_path / "report.zip") as packed:
        names = sorted(Path(name).name for name in packed.namelist() if "/data/" in name)
    assert names == ["curve.png"] * 3 + ["index.html"] + ["overlay.png"] * 2 + ["summary.tsv"]
