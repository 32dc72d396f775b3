"""The whole path on the demo cohort, run for real: results, reruns, new cohorts, broken slides."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml
from cohort import REPOSITORY, planned, snakemake, write_cohort

from pipeline.registration.transform_file import read_transform
from pipeline.store.patch_store import PatchStore
from pipeline.tools.demo.cohort import COHORT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

PAIRED = [plan.name for plan in COHORT if plan.dense]
ALL = [plan.name for plan in COHORT]
TRAINING = {"encoder": "test_resnet", "epochs": 1, "batch_size": 64, "projector": [128, 128]}
CONFIG: dict[str, object] = {
    "tile": {"size_px": 64, "mpp": 1.0},
    "split": {"test": ["p4"]},
    "runs": {
        "distilled": {"branches": ["sparse", "dense"], **TRAINING},
        "sparse-only": {"branches": ["sparse", "sparse"], **TRAINING},
    },
    "embed": {"encoder": "distilled"},
}


def _rows() -> list[dict[str, str]]:
    with (REPOSITORY / "config" / "slides.tsv").open() as stream:
        return list(csv.DictReader((line for line in stream if not line.startswith("#")), delimiter="\t"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the whole workflow has run once."""
    folder = tmp_path_factory.mktemp("demo cohort")
    write_cohort(folder, _rows(), CONFIG)
    done = snakemake(folder, "--cores", "all")
    assert done.returncode == 0, done.stdout[-6000:]
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of that folder, times and Snakemake's memory included, to change at will."""
    return Path(shutil.copytree(finished, tmp_path / "copy", symlinks=True))


def test_every_promised_result_is_there_and_opens(finished: Path) -> None:
    results = finished / "results"
    for slide in ALL:
        store = PatchStore.open(results / "tile" / f"{slide}.zarr")
        assert store.has_dense == (slide in PAIRED)
        with h5py.File(results / "embed" / "distilled" / f"{slide}.h5") as file:
            assert file["features"].shape[0] == len(store)
            assert file["features"].dtype == np.float32
            np.testing.assert_array_equal(file["coords"], store.table.position_px)
    for run in ("distilled", "sparse-only"):
        folder = results / "train" / run
        assert {"model.safetensors", "config.json", "card.md"} <= {item.name for item in (folder / "encoder").iterdir()}
        assert (folder / "metrics.jsonl").read_text().strip()
    assert set(pd.read_parquet(results / "embed" / "distilled" / "slides.parquet")["slide"]) == set(ALL)
    summary = pd.read_csv(results / "evaluate" / "summary.tsv", sep="\t")
    assert {"distilled", "sparse-only"} <= set(summary["run"])
    for slide in ALL:
        predicted = results / "predict" / "distilled" / slide
        assert {"markers.json", "patches.parquet"} <= {item.name for item in predicted.iterdir()}
    assert "demo-1" in (results / "report" / "index.html").read_text()


def test_registration_found_the_true_transform_of_every_pair(finished: Path) -> None:
    for slide in PAIRED:
        folder = finished / "results" / "register" / slide
        assert json.loads((folder / "qc.json").read_text())["verdict"] == "pass"
        truth = pd.read_csv(finished / "resources" / "demo" / slide / "truth" / "landmarks.csv")
        found = read_transform(folder / "transform.zarr").to_dense(truth[["sparse_x_um", "sparse_y_um"]].to_numpy())
        error_um = np.hypot(*(found - truth[["dense_x_um", "dense_y_um"]].to_numpy()).T)
        assert np.median(error_um) <= 2.0, slide
        assert np.percentile(error_um, 90) <= 4.0, slide


def test_held_out_patient_is_in_no_training_fold(finished: Path) -> None:
    table = pd.read_csv(finished / "results" / "split" / "patches.tsv", sep="\t")
    assert set(table.loc[table["fold"] == 0, "patient"]) == {"p4"}
    assert "p4" not in set(table.loc[table["fold"] != 0, "patient"])


def test_a_second_run_has_nothing_to_do(finished: Path) -> None:
    done = snakemake(finished, "--cores", "all")
    assert done.returncode == 0
    assert "Nothing to be done" in done.stdout


def test_changing_a_key_of_training_reruns_nothing_before_training(copy: Path) -> None:
    config = json.loads(json.dumps(CONFIG))
    config["runs"]["distilled"]["epochs"] = 2
    (copy / "config" / "config.yaml").write_text(yaml.safe_dump(config))
    jobs = planned(snakemake(copy, "-n").stdout)
    assert jobs["train"] == 1
    assert jobs["embed"] == len(ALL)
    assert not {"demo", "inspect", "register", "tile", "split"} & set(jobs)


def test_changing_the_code_of_tile_reruns_tile_and_a_comment_does_not(copy: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for part in ("pipeline", "workflow", "config", "envs"):
        shutil.copytree(REPOSITORY / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "Snakefile", source)
    module = source / "pipeline" / "tiling" / "grid.py"
    text = module.read_text()
    module.write_text(text + "\n# Another thought.\n")
    assert "Nothing to be done" in snakemake(copy, "-n", source=source).stdout
    module.write_text(text + "\nANOTHER = 1\n")
    jobs = planned(snakemake(copy, "-n", source=source).stdout)
    assert jobs["tile"] == len(ALL)
    assert not {"demo", "inspect", "register"} & set(jobs)


def test_a_new_cohort_is_embedded_with_an_encoder_from_elsewhere(finished: Path, tmp_path: Path) -> None:
    rows = [
        {"slide": f"new-{slide}", "patient": "n1", "sparse": str(finished / "resources" / "demo" / slide / "he.tif")}
        for slide in ("demo-2", "demo-5")
    ]
    encoder = finished / "results" / "train" / "distilled" / "encoder"
    probe = finished / "results" / "evaluate" / "probes" / "distilled"
    config: dict[str, object] = {"tile": {"size_px": 64, "mpp": 1.0}, "embed": {"encoder": str(encoder)}}
    write_cohort(tmp_path, rows, config | {"predict": {"probe": str(probe), "min_score": -1}})
    done = snakemake(tmp_path, "--cores", "all", "embed_all", "predict_all")
    assert done.returncode == 0, done.stdout[-4000:]
    assert not {"train", "register"} & set(planned(done.stdout))
    (embedding,) = (tmp_path / "results" / "embed").iterdir()
    with (
        h5py.File(embedding / "new-demo-2.h5") as new,
        h5py.File(finished / "results" / "embed" / "distilled" / "demo-2.h5") as old,
    ):
        np.testing.assert_array_equal(new["coords"], old["coords"])
        np.testing.assert_allclose(new["features"], old["features"], rtol=1e-4, atol=1e-5)
    predicted = tmp_path / "results" / "predict" / embedding.name / "new-demo-2"
    names = {"markers.json", "markers.ome.tif", "markers.png", "patches.parquet", "tiles.geojson"}
    assert {item.name for item in predicted.iterdir()} >= names


def test_bad_slides_are_named_and_the_others_go_on(finished: Path, tmp_path: Path) -> None:
    good = finished / "resources" / "demo" / "demo-2" / "he.tif"
    (tmp_path / "truncated.tif").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    (tmp_path / "text.svs").write_text("this is no slide\n")
    bad = {"missing": "nowhere.svs", "truncated": "truncated.tif", "text": "text.svs"}
    rows = [{"slide": "good", "patient": "p", "sparse": str(good)}]
    rows += [{"slide": slide, "patient": "p", "sparse": path} for slide, path in bad.items()]
    write_cohort(tmp_path, rows, CONFIG)
    done = snakemake(tmp_path, "--cores", "all", "--keep-going", "tile_all")
    assert done.returncode == 1
    assert (tmp_path / "results" / "tile" / "good.zarr").is_dir()
    for slide in bad:
        lines = [line for line in done.stdout.splitlines() if line.startswith(f"error: slide {slide}")]
        assert len(lines) == 1, (slide, done.stdout[-4000:])
        assert "expected" in lines[0]
        assert "found" in lines[0]
        assert not (tmp_path / "results" / "inspect" / f"{slide}.json").exists()
    assert "Traceback" not in done.stdout
    for slide in bad:
        rows = [row | {"sparse": str(good)} if row["slide"] == slide else row for row in rows]
    write_cohort(tmp_path, rows, CONFIG)
    again = planned(snakemake(tmp_path, "-n", "tile_all").stdout)
    assert again["tile"] == len(bad)
