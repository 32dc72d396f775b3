"""No room for a result: every writer of embed, convert, export, evaluate-probe and predict says so in one line.

A limit on the size of files stands for a full disk: the system's call fails alike, in the middle of a file, and nobody
has to be root. Each verb runs in a process that ends as a process does, because HDF5 once crashed at that end.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from drawn_results import draw_features, draw_stores
from drawn_training import train_tiny

from pipeline.cli import main

# Forks once all is imported, for imports take far longer than the verbs.
_RUNNER = """
import json, os, resource, sys
import timm, torch, h5py, matplotlib, tifffile, zarr, pipeline.embedding.converting, pipeline.embedding.exporting
import pipeline.prediction.stage, pipeline.evaluation.probe_fitting, pipeline.embedding.stage
from pipeline.cli import main
for line in sys.stdin:
    words, limit, log = json.loads(line)
    child = os.fork()
    if not child:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        sys.exit(main(words))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Words of each verb, less `--out`, on a drawn cohort."""
    trained = train_tiny(tmp_path_factory.mktemp("trained"))
    store = trained.parents[1] / "tile" / "s0.zarr"
    drawn = draw_stores(tmp_path_factory.mktemp("results"))
    draw_features(drawn, "distilled", 0.3, width=512)
    features, probe = drawn.results / "embed/distilled", drawn.results / "probe"
    argv = drawn.arguments("distilled")
    fit = ["evaluate-probe", *argv[: argv.index("--runs")], "--run", "distilled", "--settings", '{"bootstrap": 20}']
    assert main([*fit, "--out", str(probe)]) == 0
    d1 = features / "d1.h5"
    given = {"embed": ["embed", "--store", str(store), "--encoder", str(trained)], "evaluate-probe": fit}
    given["predict"] = ["predict", "--features", str(d1), "--store", str(drawn.results / "tile/d1.zarr")]
    given["predict"] += ["--probe", str(probe), "--settings", '{"min_score": -1, "max_outside": 1}']
    for form in ("torchscript", "timm"):
        given[f"export {form}"] = ["export", "--encoder", str(trained), "--to", form]
    for form in ("anndata", "clam", "geojson", "parquet", "spatialdata", "stamp"):
        given[f"convert {form}"] = ["convert", "--features", str(d1), "--to", form, "--mpp-level0", "0.5"]
    return given


def _files(path: Path) -> list[Path]:
    return [item for item in path.rglob("*") if item.is_file()] if path.is_dir() else [path]


@pytest.mark.parametrize(
    ("verbs", "shares"),
    [
        pytest.param(("embed", "convert clam"), (0.5,), id="hdf5"),
        pytest.param((), (0.05, 0.7), marks=pytest.mark.slow, id="all"),
    ],
)
def test_no_room_is_told_in_one_line_and_nothing_stays_under_any_name(
    commands: dict[str, list[str]], tmp_path: Path, verbs: tuple[str, ...], shares: tuple[float, ...]
) -> None:
    jobs = []
    for name in verbs or commands:
        argv, whole = commands[name], tmp_path / "whole" / name.replace(" ", "-")
        assert main([*argv, "--out", str(whole)]) == 0
        largest = max(item.stat().st_size for item in _files(whole))
        for share in shares:
            out = tmp_path / "cut" / f"{whole.name}-{share}"
            jobs.append((f"{name} {share}", out, [*argv, "--out", str(out)], max(512, int(share * largest))))
    logs = [tmp_path / f"{number}.log" for number in range(len(jobs))]
    lines = [json.dumps([argv, limit, str(log)]) for (*_, argv, limit), log in zip(jobs, logs, strict=True)]
    done = subprocess.run(
        [sys.executable, "-c", _RUNNER], input="\n".join(lines), capture_output=True, text=True, check=True
    )
    codes = [int(code) for code in done.stdout.split()]
    for (name, out, _, _), log, code in zip(jobs, logs, codes, strict=True):
        said = log.read_text()
        assert code == 1, (name, code, said)
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, (name, said)
        assert "File too large" in errors[0], name
        assert str(out) in errors[0], name
        assert "Traceback" not in said, name
        left = [item for item in (tmp_path / "cut").rglob("*") if item.is_file()]
        assert not left, (name, left)
