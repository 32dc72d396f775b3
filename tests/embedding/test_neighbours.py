"""Slides embedded by the job of another one: the same bytes, and whatever is not the same is made anew."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cohort import REPOSITORY
from drawn_store import write_store
from drawn_training import train_tiny

from pipeline.cli import main
from pipeline.embedding.ahead import ahead_of
from pipeline.embedding.encoder import Encoder
from pipeline.embedding.neighbours import Neighbour, embed_neighbours
from pipeline.settings import EmbedSettings

_WITHOUT_TORCH = """
import sys
for name in ("torch", "timm"):
    sys.modules[name] = None
from pipeline.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("neighbours")
    train_tiny(folder)
    return folder


def _words(trained: Path, slide: str, out: Path, *more: str, **settings: object) -> list[str]:
    words = ["embed", "--store", str(trained / "tile" / f"{slide}.zarr"), "--encoder", str(trained / "run" / "encoder")]
    return [*words, "--out", str(out), *more, "--settings", json.dumps({"batch_size": 7, **settings})]


def _embedded(trained: Path, folder: Path, slide: str, **settings: object) -> bytes:
    """The features as a job without neighbours makes them, in `folder`, which they name."""
    out = folder / f"{slide}.h5"
    assert main(_words(trained, slide, out, **settings)) == 0
    found = out.read_bytes()
    out.unlink()
    return found


def test_a_job_takes_over_what_another_one_made_without_torch_and_with_the_same_bytes(
    trained: Path, tmp_path: Path
) -> None:
    expected = _embedded(trained, tmp_path, "s1")
    assert main(_words(trained, "s0", tmp_path / "s0.h5", "--neighbours", "s1")) == 0
    assert sorted(item.name for item in tmp_path.iterdir()) == [".s1.h5.ahead", "s0.h5"]
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TORCH, *_words(trained, "s1", tmp_path / "s1.h5", "--neighbours")],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "s1.h5").read_bytes() == expected
    assert "embed s1: " in done.stderr
    assert sorted(item.name for item in tmp_path.iterdir()) == ["s0.h5", "s1.h5"]


def test_features_of_other_settings_are_not_taken_over(trained: Path, tmp_path: Path) -> None:
    expected = _embedded(trained, tmp_path, "s1", batch_size=5)
    assert main(_words(trained, "s0", tmp_path / "s0.h5", "--neighbours", "s1")) == 0
    assert main(_words(trained, "s1", tmp_path / "s1.h5", "--neighbours", batch_size=5)) == 0
    assert (tmp_path / "s1.h5").read_bytes() == expected
    assert not ahead_of(tmp_path / "s1.h5").exists()


def test_features_of_a_store_that_changed_are_not_taken_over(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "tile" / "s1.zarr", trained / "tile" / "changing.zarr")
    assert main(_words(trained, "s0", tmp_path / "s0.h5", "--neighbours", "changing")) == 0
    shutil.rmtree(trained / "tile" / "changing.zarr")
    sparse = np.full((5, 32, 32, 3), 90, dtype=np.uint8)
    write_store(trained / "tile" / "changing.zarr", sparse=sparse, slide="changing", mpp=1.01)
    out = tmp_path / "changing.h5"
    expected = _embedded(trained, tmp_path, "changing")
    assert main(_words(trained, "changing", out, "--neighbours")) == 0
    assert out.read_bytes() == expected


def test_by_hand_nothing_is_taken_over_and_no_other_slide_embedded(trained: Path, tmp_path: Path) -> None:
    assert main(_words(trained, "s0", tmp_path / "s0.h5")) == 0
    assert [item.name for item in tmp_path.iterdir()] == ["s0.h5"]


def test_a_broken_neighbour_fails_its_own_job_only(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_store(trained / "tile" / "odd.zarr", sparse=np.zeros((4, 48, 48, 3), dtype=np.uint8), slide="odd")
    assert main(_words(trained, "s0", tmp_path / "s0.h5", "--neighbours", "odd", "s1", "missing")) == 0
    assert ahead_of(tmp_path / "s1.h5").exists()
    assert not ahead_of(tmp_path / "odd.h5").exists()
    assert "error:" not in capfd.readouterr().err
    assert main(_words(trained, "odd", tmp_path / "odd.h5", "--neighbours", "s1")) == 1
    assert "error: slide odd" in capfd.readouterr().err


def test_slides_with_features_large_ones_and_those_at_work_are_left_to_their_own_jobs(
    trained: Path, tmp_path: Path
) -> None:
    encoder = Encoder.load(trained / "run" / "encoder")
    neighbour = Neighbour(trained / "tile" / "s1.zarr", tmp_path / "s1.h5")

    def embedded(patches_per_second: float, seconds: float = 30.0) -> int:
        return embed_neighbours([neighbour], encoder, EmbedSettings(), lambda _: {}, patches_per_second, seconds)

    assert embedded(1e6, seconds=0.0) == 0
    # 20 patches take 40 s at this rate.
    assert embedded(0.5) == 0
    partial = tmp_path / ".s1.h5.new.elsewhere.1.partial"
    partial.touch()
    assert embedded(1e6) == 0
    partial.unlink()
    assert embedded(1e6) == 1
    assert embedded(1e6) == 0
    ahead_of(neighbour.out).rename(neighbour.out)
    assert embedded(1e6) == 0
