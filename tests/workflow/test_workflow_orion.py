"""The whole path on real colorectal tissue: two regions of one slide, one registered by its makers, one by us."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from cohort import snakemake, write_cohort

from pipeline.registration.transform_file import read_transform
from pipeline.store.patch_store import PatchStore

pytestmark = [pytest.mark.slow, pytest.mark.realdata, pytest.mark.timeout(3000)]

TRAINING = {"encoder": "test_resnet", "epochs": 1, "batch_size": 128, "projector": [512, 512]}
CONFIG: dict[str, object] = {
    "tile": {"size_px": 64},
    "split": {"by": "slide", "test": ["centre"]},
    "runs": {
        "distilled": {"branches": ["sparse", "dense"], **TRAINING},
        "sparse-only": {"branches": ["sparse", "sparse"], **TRAINING},
    },
    "embed": {"encoder": "distilled"},
}


@pytest.fixture(scope="module")
def finished(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("orion")
    source = real_data / "orion_crc01"
    rows = [
        {
            "slide": "west",
            "patient": "crc01",
            "sparse": str(source / "west_he.tif"),
            "dense": str(source / "west_mif.ome.tif"),
            "transform": "identity",
        },
        {
            "slide": "centre",
            "patient": "crc01",
            "sparse": str(source / "centre_he.tif"),
            "dense": str(source / "centre_mif_moved.ome.tif"),
        },
    ]
    write_cohort(folder, rows, CONFIG)
    done = snakemake(folder, "--cores", "all", timeout_s=2400)
    assert done.returncode == 0, done.stdout[-6000:]
    return folder


def test_centre_is_registered_to_a_few_um(finished: Path, real_data: Path) -> None:
    truth = pd.read_csv(real_data / "orion_crc01" / "centre_truth.csv")
    transform = read_transform(finished / "results" / "register" / "centre" / "transform.zarr")
    found = transform.to_dense(truth[["he_x_um", "he_y_um"]].to_numpy())
    error_um = np.hypot(*(found - truth[["mif_x_um", "mif_y_um"]].to_numpy()).T)
    assert np.median(error_um) <= 2.0
    assert json.loads((finished / "results" / "register" / "centre" / "qc.json").read_text())["verdict"] == "pass"


def test_both_regions_give_pairs_and_embeddings(finished: Path) -> None:
    for slide, least in (("west", 4000), ("centre", 2500)):
        store = PatchStore.open(finished / "results" / "tile" / f"{slide}.zarr")
        assert len(store.attributes.markers) == 18
        assert (store.table.pair_quality > 0).sum() > least
        with h5py.File(finished / "results" / "embed" / "distilled" / f"{slide}.h5") as file:
            assert file["features"].shape[0] == len(store)
            assert np.isfinite(file["features"][...]).all()


def test_the_split_admits_that_there_is_one_patient(finished: Path) -> None:
    note = json.loads((finished / "results" / "split" / "split.json").read_text())["note"]
    assert "one patient may appear in several folds" in note
    assert "one patient may appear in several folds" in (finished / "results" / "report" / "index.html").read_text()


def test_every_marker_is_probed_on_the_held_out_region_only(finished: Path) -> None:
    summary = pd.read_csv(finished / "results" / "evaluate" / "summary.tsv", sep="\t")
    assert {"Hoechst", "Pan-CK", "CD3e"} <= set(summary["target"])
    assert set(summary["run"]) == {"distilled", "sparse-only"}
    assert (summary["low"] <= summary["score"]).all()
    assert (summary["score"] <= summary["high"]).all()


def test_no_job_took_more_than_6_gb(finished: Path) -> None:
    peaks = {}
    for table in (finished / "logs").rglob("*.benchmark.tsv"):
        peak = pd.read_csv(table, sep="\t", na_values="-")["max_rss"].max()
        peaks[table.name] = peak
    assert peaks
    assert max(peak for peak in peaks.values() if peak == peak) <= 6000, peaks
