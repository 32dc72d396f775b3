"""docs/tables.md names the columns of every table, all and no others, in the order in which they are written."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as parquet
import pytest
from cohort import REPOSITORY

from pipeline.cli import main
from pipeline.evaluation.probe_file import MarkerProbe
from pipeline.prediction.table import Predictions, write_table
from pipeline.store.patch_store import PatchStore


def documented(title: str) -> list[str]:
    """The first cells of the table below a title of the page."""
    page = (REPOSITORY / "docs" / "tables.md").read_text(encoding="utf-8")
    _, found, rest = page.partition(f"\n## {title}\n")
    assert found, title
    return re.findall(r"^\| `([^`]+)` \|", rest.partition("\n## ")[0], flags=re.MULTILINE)


@pytest.mark.parametrize("name", ["evaluate/summary.tsv", "split/patches.tsv"])
def test_tab_separated_tables_have_the_documented_columns(small_results: Path, name: str) -> None:
    assert list(pd.read_csv(small_results / "results" / name, sep="\t", nrows=0).columns) == documented(f"`{name}`")


def test_the_table_of_slides_has_the_documented_columns(small_results: Path, tmp_path: Path) -> None:
    results, out = small_results / "results", tmp_path / "slides.parquet"
    words = ["embed-slides", "--features", str(results / "embed/distilled"), "--slides", "a", "b", "--out", str(out)]
    assert main([*words, "--split", str(results / "split/patches.tsv")]) == 0
    assert parquet.read_schema(out).names == documented("`embed/{run}/slides.parquet`")


def test_the_table_of_predictions_has_the_documented_columns(small_results: Path, tmp_path: Path) -> None:
    probe = MarkerProbe("CD3", 0.5, 0.4, 0.6, 1.0, 10, 10, -1.0, 1.0)
    store = PatchStore.open(small_results / "results/tile/a.zarr")
    count = len(store.table.position_px)
    values = np.zeros((count, 1), np.float32)
    out = tmp_path / "patches.parquet"
    write_table(Predictions("a", (probe,), values, values[:, 0], "known"), store, out, {})
    names = documented("`predict/{run}/{slide}/patches.parquet`")
    assert parquet.read_schema(out).names == [name.replace("MARKER", "CD3") for name in names]


def test_features_as_csv_have_the_documented_columns(small_results: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    features = small_results / "results/embed/distilled/a.h5"
    assert main(["convert", "--features", str(features), "--to", "csv", "--out", str(out)]) == 0
    names = documented("What `convert --to csv` writes")
    found = list(pd.read_csv(out, nrows=0).columns)
    assert found[: len(names)] == names
    assert [name for name in found if not name.startswith("feature_")] == names[:-1]
