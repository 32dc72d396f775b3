"""The command line: help for every verb, one line for a stated error, exit codes that mean something."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import VERBS, main


def _run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-P", "-m", "pipeline", *argv], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_without_heavy_imports(verb: str) -> None:
    code = (
        "import sys, pipeline.cli\n"
        f"try: pipeline.cli.main([{verb!r}, '--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'zarr', 'cv2', 'SimpleITK', 'pandas', 'openslide'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_wrong_usage_is_2_and_a_stated_error_is_1() -> None:
    assert _run("no-such-verb").returncode == 2
    assert _run().returncode == 2
    done = _run("tile", "--record", "absent.json", "--out", "x.zarr")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "absent.json" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("settings", ['{"size_px": ', '{"a": ' * 5_000])
def test_broken_settings_are_a_stated_error(settings: str) -> None:
    done = _run("tile", "--record", "absent.json", "--out", "x.zarr", "--settings", settings)
    assert "Traceback" not in done.stderr
    assert done.returncode == 1
    assert "--settings" in done.stderr


@pytest.mark.parametrize(
    "argv",
    [
        ("settings", "--pages", "absent"),
        ("report", "--results", "absent", "--sheet", "slides.tsv", "--embedding", "distilled", "--out", "page.html"),
    ],
)
def test_a_mistyped_folder_is_told_and_not_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slides.tsv").write_text("slide\tpatient\tsparse\na\tp\ta.tif\n")
    assert main(argv) == 1
    assert "file absent: expected a folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["slides.tsv"]


_FILES = {
    "embed": ("--store", "a.zarr", "--encoder", "e", "--out", "a.h5"),
    "embed-at": ("--slide", "a.svs", "--coords", "a.h5", "--encoder", "e", "--out", "b.h5"),
    "embed-slides": ("--features", "f", "--slides", "a", "--out", "s.parquet"),
    "report": ("--results", "results", "--sheet", "slides.tsv", "--embedding", "distilled", "--out", "page.html"),
    "tile": ("--record", "a.json", "--out", "a.zarr"),
    "train": (
        *("--run", "r", "--stores", "s", "--split", "p.tsv"),
        *("--out-encoder", "e", "--out-metrics", "m.jsonl", "--out-curve", "c.png"),
    ),
}


@pytest.mark.parametrize(
    ("verb", "option", "value"),
    [
        *((verb, "--threads", value) for verb in _FILES if verb != "embed-slides" for value in ("0", "-1")),
        *(("train", "--processes", value) for value in ("0", "-1")),
        ("embed-slides", "--prototypes", "-1"),
    ],
)
def test_a_count_too_small_to_mean_anything_is_wrong_usage(
    capsys: pytest.CaptureFixture[str], verb: str, option: str, value: str
) -> None:
    with pytest.raises(SystemExit) as end:
        main((verb, *_FILES[verb], option, value))
    assert end.value.code == 2
    least = 0 if option == "--prototypes" else 1
    assert f"argument {option}: expected a whole number from {least}, found '{value}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ("inspect", "--slide", "a", "--patient", "p", "--sparse", "a.tif", "--out", "a.json", "--sparse-mpp", "half"),
        ("dataset", "--name", "bci", "--source", "bci", "--out", "cohort", "--mpp", "half"),
    ],
)
def test_a_number_that_is_none_is_told_in_words_of_the_user(
    capsys: pytest.CaptureFixture[str], argv: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 2
    assert capsys.readouterr().err.rstrip().endswith("not 'half'")
