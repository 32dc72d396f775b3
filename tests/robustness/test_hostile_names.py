"""Names and paths that a shell, Snakemake or a browser could take for something else, in a workflow run for real."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cohort import planned, snakemake, write_cohort
from drawn_training import train_tiny
from small_pair import draw_pair

from pipeline.cli import main

ODD = 'it\'s a "slide" $(touch pwned) `touch pwned` ; touch pwned & %s * é -x'


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_workflow_runs_with_paths_that_no_shell_must_look_into(tmp_path: Path) -> None:
    folder = tmp_path / "a cohort; touch 'pwned'"
    folder.mkdir()
    drawn = draw_pair(folder, "drawn", 0)
    encoder = train_tiny(tmp_path / "elsewhere").rename(folder / "-en'co der $(touch pwned)")
    (folder / ODD).mkdir()
    paths = {"a": f"{ODD}/{ODD}.tif", "_b": "-dashed.tif"}
    for path in paths.values():
        (folder / path).hardlink_to(folder / drawn["sparse"])
    rows = [
        {"slide": slide, "patient": f"{ODD} {slide}", "sparse": path, "sparse_mpp": "0.5"}
        for slide, path in paths.items()
    ]
    annotation = {"objectType": "annotation", "classification": {"name": "Tissue"}}
    geometry = {"type": "Polygon", "coordinates": [[[0, 0], [700, 0], [700, 700], [0, 700], [0, 0]]]}
    tissue = {"type": "Feature", "geometry": geometry, "properties": annotation}
    (folder / "-tissue.geojson").write_text(json.dumps(tissue))
    rows[0]["tissue"] = "-tissue.geojson"
    config = {"tile": {"size_px": 32, "mpp": 1.0}, "embed": {"encoder": str(encoder)}}
    write_cohort(folder, rows, config)
    done = snakemake(folder, "--cores", "2", "report_all")
    assert done.returncode == 0, done.stdout[-4000:]
    assert planned(done.stdout)["embed"] == 2
    assert not list(tmp_path.rglob("pwned"))
    page = (folder / "results" / "report" / "index.html").read_text()
    assert "it&#39;s a &#34;slide&#34;" in page
    assert "Nothing to be done" in snakemake(folder, "--cores", "2", "report_all").stdout


@pytest.mark.parametrize("slide", ["../x", "a/b", "a b", "-a", ".", "a\u2028b", "a{b}", "a;b", "é"])
def test_a_slide_name_that_could_lead_elsewhere_is_refused_by_the_sheet(tmp_path: Path, slide: str) -> None:
    (tmp_path / "a.tif").touch()
    write_cohort(tmp_path, [{"slide": slide, "patient": "p", "sparse": "a.tif"}], {})
    from pipeline.errors import StatedError
    from pipeline.sheet import read_sheet

    with pytest.raises(StatedError):
        read_sheet(tmp_path / "config" / "slides.tsv")


def test_a_path_that_snakemake_would_rewrite_is_refused(tmp_path: Path) -> None:
    (tmp_path / "{slide}.tif").touch()
    write_cohort(tmp_path, [{"slide": "a", "patient": "p", "sparse": "{slide}.tif"}], {"runs": {"distilled": {}}})
    done = snakemake(tmp_path, "-n", "tile_all")
    assert done.returncode == 1
    assert "slide a: expected a path without braces" in done.stdout


@pytest.mark.parametrize("encoder", ["..", ".", "enc{x}", "../.."])
def test_results_of_an_encoder_stay_in_the_results_folder(tmp_path: Path, encoder: str) -> None:
    """The folder's own name is that of its results: never one that leads out of them."""
    folder = tmp_path / "cohort" / "deep"
    (folder / "enc{x}").mkdir(parents=True)
    (folder / "a.tif").touch()
    write_cohort(folder, [{"slide": "a", "patient": "p", "sparse": "a.tif"}], {"embed": {"encoder": encoder}})
    done = snakemake(folder, "-n", "embed_all")
    assert "Traceback" not in done.stdout
    if encoder == "enc{x}":
        assert done.returncode == 1
        assert "embed.encoder" in done.stdout
    else:
        name = (folder / encoder).resolve().name
        assert done.returncode == 0, done.stdout
        assert f"results/embed/{name}/slides.parquet" in done.stdout


def test_inspect_takes_a_path_that_begins_with_a_dash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    drawn = draw_pair(tmp_path, "drawn", 0)
    Path("-x.tif").hardlink_to(drawn["sparse"])
    assert main(["inspect", "--slide=a", "--patient=-p", "--sparse=-x.tif", "--out", "a.json"]) == 0
