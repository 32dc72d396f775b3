"""What runs again after a change: all that the change decides, and nothing else. Plans are real, stages are stubs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cohort import planned, snakemake, write_cohort
from stubbed import write_stubbed

pytestmark = pytest.mark.timeout(600)

CONFIG: dict[str, Any] = {
    "runs": {"distilled": {"branches": ["sparse", "dense"]}, "sparse-only": {"branches": ["sparse", "sparse"]}},
    "split": {"test": ["p2"]},
}
ROWS = [
    {"slide": "a", "patient": "p1", "sparse": "a.tif", "dense": "a.ome.tif"},
    {"slide": "b", "patient": "p2", "sparse": "b.tif", "dense": "b.ome.tif"},
    {"slide": "c", "patient": "p3", "sparse": "c.tif"},
]
# Long before anything that a test makes.
_LONG_AGO = 1_000_000_000


def _jobs(folder: Path, source: Path, *argv: str) -> dict[str, int]:
    done = snakemake(folder, "-n", *argv, source=source)
    assert done.returncode == 0, done.stdout[-3000:]
    jobs = planned(done.stdout)
    return {
        rule: count for rule, count in jobs.items() if rule not in ("total", "default") and not rule.endswith("all")
    }


def _write_encoder(folder: Path, weights: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    own = {"run": "distilled", "weights_sha256": hashlib.sha256(weights).hexdigest()}
    for name, content in (
        ("model.safetensors", weights),
        ("config.json", json.dumps({"more_from_less": own}).encode()),
    ):
        (folder / name).write_bytes(content)
        os.utime(folder / name, (_LONG_AGO, _LONG_AGO))
    os.utime(folder, (_LONG_AGO, _LONG_AGO))


def _run(folder: Path, source: Path, *argv: str) -> str:
    done = snakemake(folder, "--cores", "2", *argv, source=source)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stubbed(tmp_path_factory.mktemp("stubbed") / "checkout")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    for row in ROWS:
        for path in (row["sparse"], row.get("dense", "")):
            if path:
                (folder / path).touch()
    write_cohort(folder, ROWS, CONFIG)
    _run(folder, source)
    return folder


@pytest.fixture
def cohort(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "cohort", symlinks=True))


def _configured(folder: Path, change: Mapping[str, Any]) -> None:
    write_cohort(folder, ROWS, {**CONFIG, **change})


def test_nothing_runs_again_where_nothing_changed(cohort: Path, source: Path) -> None:
    assert _jobs(cohort, source) == {}


def test_a_slide_without_dense_partner_retrains_nothing(cohort: Path, source: Path) -> None:
    (cohort / "d.tif").touch()
    write_cohort(cohort, [*ROWS, {"slide": "d", "patient": "p1", "sparse": "d.tif"}], CONFIG)
    added = {"inspect": 1, "tile": 1, "embed": 1, "embed_slides": 1, "predict": 1, "report": 1}
    assert _jobs(cohort, source) == added
    write_cohort(cohort, ROWS, CONFIG)
    (cohort / "c.tif").write_text("touched")
    assert not {"split", "train", "evaluate", "evaluate_probe", "register"} & set(_jobs(cohort, source))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"embed": {"encoder": "sparse-only"}}, {"embed": 1, "embed_slides": 1, "evaluate_probe": 1, "predict": 3}),
        ({"evaluate": {"labels": [20]}}, {"evaluate": 1}),
        ({"evaluate": {"ridge": [2.0]}}, {"evaluate": 1, "evaluate_probe": 1, "predict": 3}),
        ({"split": {"test": ["p2", "p3"]}}, {}),
        ({"panel": {"aliases": {"CD3": ["CD3e"]}}}, None),
    ],
    ids=["encoder", "labels", "ridge", "held out without partner", "aliases"],
)
def test_a_key_reruns_what_it_decides(
    cohort: Path, source: Path, change: dict[str, Any], expected: dict[str, int] | None
) -> None:
    _configured(cohort, change)
    found = _jobs(cohort, source)
    found.pop("report", None)
    if expected is None:
        # The run that sees H&E alone is not trained again.
        assert found["train"] == 1
    else:
        assert found == expected


@pytest.mark.parametrize(
    ("lost", "target", "maker"),
    [
        ("embed/distilled/c.h5", "embed_all", "embed"),
        ("embed/sparse-only/a.h5", "evaluate_all", "embed"),
        ("evaluate/details.json", "evaluate_all", "evaluate"),
        ("tile/c.zarr", "tile_all", "tile"),
        ("tile/c.geojson", "all", "tile"),
        ("register/a/transform.zarr", "register_all", "register"),
        ("register/a/transform.h5", "all", "register"),
        ("train/distilled/curve.png", "train_all", "train"),
        ("split/split.json", "train_all", "split"),
        ("predict/distilled/c", "predict_all", "predict"),
        ("inspect/c.json", "inspect_all", "inspect"),
    ],
)
def test_a_deleted_file_is_made_again_by_its_target(
    cohort: Path, source: Path, lost: str, target: str, maker: str
) -> None:
    path = cohort / "results" / lost
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    assert _jobs(cohort, source, target)[maker] == 1


def test_a_checkout_that_moves_reruns_nothing(cohort: Path, tmp_path: Path) -> None:
    assert _jobs(cohort, write_stubbed(tmp_path / "moved")) == {}


@pytest.fixture
def new_cohort(tmp_path: Path, source: Path) -> Path:
    """A cohort that is embedded and predicted with an encoder and a probe from elsewhere."""
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "n.tif").touch()
    _write_encoder(folder / "given" / "encoder", b"one")
    (folder / "probe").mkdir()
    (folder / "probe" / "probe.json").write_text("one")
    config = {"embed": {"encoder": "given/encoder"}, "predict": {"probe": "probe"}}
    write_cohort(folder, [{"slide": "n", "patient": "p", "sparse": "n.tif"}], config)
    _run(folder, source, "embed_all", "predict_all")
    return folder


def test_an_encoder_or_probe_replaced_by_an_older_file_is_seen(new_cohort: Path, source: Path) -> None:
    targets = ("embed_all", "predict_all")
    assert _jobs(new_cohort, source, *targets) == {}
    # Weights alone: of the same size and time, under a description that speaks of the old ones.
    weights = new_cohort / "given" / "encoder" / "model.safetensors"
    weights.write_bytes(b"two")
    os.utime(weights, (_LONG_AGO, _LONG_AGO))
    assert _jobs(new_cohort, source, "embed_all")["embed"] == 1
    weights.write_bytes(b"one")
    os.utime(weights, (_LONG_AGO, _LONG_AGO))
    assert _jobs(new_cohort, source, *targets) == {}
    (new_cohort / "probe" / "probe.json").write_text("two")
    os.utime(new_cohort / "probe" / "probe.json", (_LONG_AGO, _LONG_AGO))
    assert _jobs(new_cohort, source, *targets) == {"predict": 1}


def test_encoders_whose_folders_have_one_name_never_share_a_place(new_cohort: Path, source: Path) -> None:
    first = [path.relative_to(new_cohort) for path in sorted((new_cohort / "results").rglob("n.h5"))]
    assert len(first) == 1
    before = (new_cohort / first[0]).stat().st_mtime_ns
    _write_encoder(new_cohort / "other" / "encoder", b"two")
    config = {"embed": {"encoder": "other/encoder"}, "predict": {"probe": "probe"}}
    write_cohort(new_cohort, [{"slide": "n", "patient": "p", "sparse": "n.tif"}], config)
    assert _jobs(new_cohort, source, "embed_all", "predict_all") == {"embed": 1, "embed_slides": 1, "predict": 1}
    _run(new_cohort, source, "embed_all", "predict_all")
    names = {path.parent.name for path in (new_cohort / "results" / "embed").rglob("n.h5")}
    assert names == {f"distilled-{hashlib.sha256(weights).hexdigest()[:8]}" for weights in (b"one", b"two")}
    assert (new_cohort / first[0]).stat().st_mtime_ns == before


@pytest.mark.parametrize("target", ["inspect_all", "register_all", "tile_all"])
def test_slides_alone_can_be_inspected_registered_and_tiled(cohort: Path, source: Path, target: str) -> None:
    shutil.rmtree(cohort / "results")
    (cohort / "config" / "config.yaml").write_text("slides: config/slides.tsv\n")
    jobs = _jobs(cohort, source, target)
    assert set(jobs) <= {"inspect", "register", "tile"}
    assert jobs.get("register", 2) == 2


@pytest.mark.parametrize(
    ("target", "missing"),
    [
        ("all", "embed.encoder: expected the name of a run (none is configured)"),
        ("train_all", "runs: expected a training, found none"),
        ("embed_all", "embed.encoder: expected"),
        ("predict_all", "embed.encoder: expected"),
    ],
)
def test_a_target_says_in_one_line_what_it_lacks(cohort: Path, source: Path, target: str, missing: str) -> None:
    (cohort / "config" / "config.yaml").write_text("slides: config/slides.tsv\n")
    done = snakemake(cohort, "-n", target, source=source)
    assert done.returncode == 1
    lines = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert missing in lines[0]
    assert "Traceback" not in done.stdout
