"""The engine valis: prepared images, the check on its result, and, where .venv-valis is there, VALIS itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
from array_slide import ArraySlide
from cohort import REPOSITORY, snakemake, write_cohort
from synthetic_pair import SyntheticPair, synthetic_pair
from test_registration import NAMES, OUTPUTS, run_register, write_files

from pipeline.cli import main
from pipeline.registration import valis_engine
from pipeline.registration.coarse import Pose
from pipeline.registration.pair import Pair, overview, tissue_of
from pipeline.registration.transform import Transform
from pipeline.registration.transform_file import read_transform

PYTHON = REPOSITORY / ".venv-valis" / "bin" / "python"


@pytest.fixture(scope="session")
def valis_python() -> Path:
    """The interpreter of the environment of valis."""
    if not PYTHON.exists():
        pytest.skip("no .venv-valis here: `make valis` builds it")
    return PYTHON


@pytest.fixture(scope="module")
def drawn() -> SyntheticPair:
    return synthetic_pair(3, degrees=6, deformation_um=8, side_um=1024, shared=1.0)


def register_words(folder: Path, out: Path) -> list[str]:
    """The arguments by which `register` takes the record in `out` with the engine valis."""
    argv = ["register", "--record", str(out / "s1.json"), "--settings", '{"engine": "valis"}']
    for output, name in zip(OUTPUTS, NAMES, strict=True):
        argv += [f"--out-{output}", str(out / name)]
    return argv


@pytest.fixture(scope="module")
def written(drawn: SyntheticPair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pair as files, registered by blocks in `blocks`."""
    folder = tmp_path_factory.mktemp("valis")
    write_files(drawn, folder)
    assert run_register(folder, folder / "blocks") == 0
    return folder


def test_a_map_off_the_pose_of_the_search_is_doubted(drawn: SyntheticPair) -> None:
    pair = Pair.of(drawn.sparse, drawn.dense, drawn.mpp, None)
    tissue = tissue_of(overview(pair.sparse))
    base = drawn.truth(np.array([[0.0, 0], [1, 0], [0, 1]]))
    affine = np.column_stack([base[1] - base[0], base[2] - base[0], base[0]])
    shifted = Transform(affine + np.array([[0, 0, 90.0], [0, 0, 80.0]]))
    pose = Pose(affine=affine, ncc=0.9, mirrored=False, degrees=6.0)
    assert valis_engine._doubt(Transform(affine), tissue, pose, 0.2) is None
    assert "120 um" in str(valis_engine._doubt(shifted, tissue, pose, 0.2))
    assert "no decisive pose" in str(valis_engine._doubt(Transform(affine), tissue, pose, 0.01))
    assert "no decisive pose" in str(valis_engine._doubt(Transform(affine), tissue, replace(pose, ncc=0.1), 0.2))
    assert "no decisive pose" in str(valis_engine._doubt(Transform(affine), tissue, None, None))


class _Engine:
    """Takes the place of the package valis, which is not in this interpreter; finds nothing and says so."""

    class Valis:
        def __init__(self, *_: object, **__: object) -> None: ...

        def register(self, **_: object) -> tuple[None, None, None]:
            sys.stdout.write("nothing to go by\n")
            return None, None, None

    feature_detectors = SimpleNamespace(VggFD=object)
    feature_matcher = SimpleNamespace(DEFAULT_RANSAC_NAME="", Matcher=lambda **_: None)
    preprocessing = SimpleNamespace(ImageProcesser=object)


def test_the_dense_slide_is_read_only_under_the_sparse_one(tmp_path: Path) -> None:
    """A region of H&E on a whole dense slide, which at the region's resolution no memory holds."""
    values = np.random.default_rng(0).integers(0, 60_000, (2000, 3000, 1), np.uint16)
    sparse = ArraySlide(np.full((100, 120, 3), 200, np.uint8), mpp=0.5)
    dense = ArraySlide(values, mpp=0.5, channels=("DAPI",))
    pair = Pair.of(sparse, dense, (0.5, 0.5), None)
    start = np.array([[1.0, 0, 400.0], [0, 1, 300.0]])
    assert valis_engine._registered(_Engine, pair, Transform(start), tmp_path) == "nothing to go by"
    written = tifffile.imread(tmp_path / "2-dense.ome.tif").astype(float)
    wanted = np.sqrt(values[600:700, 800:920, 0].astype(float))
    assert np.corrcoef(written.ravel(), wanted.ravel())[0, 1] > 0.99
    assert all(width < 200 and height < 200 for _, (width, height) in dense.reads)
    beside = Transform(start + np.array([[0, 0, 9000.0], [0, 0, 0]]))
    assert "no part of the dense slide" in str(valis_engine._registered(_Engine, pair, beside, tmp_path))


@pytest.mark.skipif(find_spec("valis") is not None, reason="valis is installed in the interpreter of the tests")
def test_without_its_environment_one_line_says_what_to_do(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(register_words(written, written / "blocks")) == 1
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert "make valis" in told[0]


@pytest.mark.parametrize("engine_name", ["blocks", "sitk", "valis"])
def test_the_rule_runs_in_the_environment_of_its_engine(tmp_path: Path, engine_name: str) -> None:
    for name in ("a.tif", "a.ome.tif"):
        (tmp_path / name).touch()
    rows = [{"slide": "a", "patient": "p1", "sparse": "a.tif", "dense": "a.ome.tif"}]
    runs = {"distilled": {"branches": ["sparse", "dense"]}}
    write_cohort(tmp_path, rows, {"runs": runs, "register": {"engine": engine_name}})
    done = snakemake(tmp_path, "-n", "-p", "register_all")
    assert done.returncode == 0, done.stdout
    assert ("/.venv-valis/bin/python logs/register/a.log register" in done.stdout) == (
        engine_name == "valis" and PYTHON.exists()
    )


# Refuses every connection, and every file of weights.
OFFLINE = """
import socket, sys
def refused(*_, **__):
    raise AssertionError("reached for the network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refused
import torch
def loaded(*_, **__):
    raise AssertionError("loaded weights")
torch.load = torch.hub.load_state_dict_from_url = loaded
"""


def run_offline(python: Path, code: str, folder: Path, *argv: str) -> Any:
    """Runs code in the environment of valis with neither network nor weights, its home and temporary files aside."""
    (folder / "home").mkdir(exist_ok=True)
    (folder / "tmp").mkdir(exist_ok=True)
    places = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [str(python), "-P", "-c", OFFLINE + code, *argv],
        env=os.environ | places,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )


@pytest.mark.slow
def test_valis_registers_offline_within_half_a_um(valis_python: Path, drawn: SyntheticPair, written: Path) -> None:
    out = written / "valis"
    out.mkdir()
    (out / "s1.json").write_bytes((written / "blocks" / "s1.json").read_bytes())
    code = (
        "import kornia.feature\n"
        "before = kornia.feature.DISK, kornia.feature.LightGlueMatcher\n"
        "from pipeline.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "assert before == (kornia.feature.DISK, kornia.feature.LightGlueMatcher)\n"
        "sys.exit(code)\n"
    )
    done = run_offline(valis_python, code, written, *register_words(written, out))
    assert done.returncode == 0, done.stderr[-3000:]
    report, other = (json.loads((written / name / "qc.json").read_text()) for name in ("valis", "blocks"))
    assert report.keys() == other.keys()
    assert report["engine"] == "valis"
    assert report["provenance"]["versions"]["valis-wsi"] == "1.2.0"
    assert [step["name"] for step in report["steps"]] == ["initial", "coarse", "rigid", "non-rigid"]
    transform = read_transform(out / "transform.zarr")
    error = np.linalg.norm(transform.to_dense(drawn.nuclei_um) - drawn.truth(drawn.nuclei_um), axis=1)
    median, p90 = np.percentile(error, (50, 90))
    assert report["verdict"] in ("pass", "warn"), report["reasons"]
    # Reached: 0.09 and 0.22.
    assert median < 0.5
    assert p90 < 1.5
    assert report["held_out_residual_um"]["median"] == pytest.approx(median, rel=0.25, abs=0.3)
    # Neither its pickle nor anything else of its own is left.
    assert {path.name for path in out.iterdir()} == {*NAMES, "s1.json"}
    assert not list((written / "tmp").glob("valis-*"))
    assert not list(written.rglob("*.pickle"))
