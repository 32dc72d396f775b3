"""What the workflow plans to do, without doing it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import zarr
from cohort import REPOSITORY, planned, snakemake, write_cohort
from slide_files import channels_image, smooth_rgb, write_dicom, write_ome_set, write_rgb
from zarr_files import change, write_zarr

from pipeline.sheet import read_sheet

RUNS = {"distilled": {"branches": ["sparse", "dense"]}, "sparse-only": {"branches": ["sparse", "sparse"]}}


def _slides(folder: Path) -> list[dict[str, str]]:
    """Three slides, two of them pairs; planning needs the files to exist, not to be slides."""
    for name in ("a.tif", "a.ome.tif", "b.tif", "b.ome.tif", "c.tif"):
        (folder / name).touch()
    return [
        {"slide": "a", "patient": "p1", "sparse": "a.tif", "dense": "a.ome.tif"},
        {"slide": "b", "patient": "p2", "sparse": "b.tif", "dense": "b.ome.tif"},
        {"slide": "c", "patient": "p3", "sparse": "c.tif"},
    ]


def test_a_cohort_is_planned_from_raw_slides_to_report(tmp_path: Path) -> None:
    write_cohort(tmp_path, _slides(tmp_path), {"runs": RUNS})
    done = snakemake(tmp_path, "-n")
    assert done.returncode == 0, done.stdout
    jobs = planned(done.stdout)
    expected = {"inspect": 3, "register": 2, "tile": 3, "split": 1, "train": 2, "embed": 5, "embed_slides": 1}
    expected |= {"evaluate": 1, "evaluate_probe": 1, "predict": 3, "report": 1, "panel": 2}
    assert jobs == expected | {"default": 1, "total": 26}


def test_only_dense_sides_that_may_be_fluorescence_are_checked_and_nothing_waits_for_it_unless_asked(
    tmp_path: Path,
) -> None:
    rows = _slides(tmp_path)
    rows[1]["dense_kind"] = "mask"
    write_cohort(tmp_path, rows, {"runs": RUNS})
    assert planned(snakemake(tmp_path, "-n", "panel_all").stdout)["panel"] == 1
    assert "panel" not in planned(snakemake(tmp_path, "-n", "train_all").stdout)


@pytest.mark.parametrize(
    ("panel", "target", "waits"),
    [
        ({"background": "subtract"}, "tile_all", "--background results/panel/a.json"),
        ({"drop": "auto"}, "train_all", "--checks results/panel"),
    ],
)
def test_tile_and_train_wait_for_the_check_of_the_panel_where_its_section_says_so(
    tmp_path: Path, panel: dict[str, str], target: str, waits: str
) -> None:
    write_cohort(tmp_path, _slides(tmp_path), {"runs": RUNS, "panel": panel})
    done = snakemake(tmp_path, "-n", "-p", target)
    assert done.returncode == 0, done.stdout
    assert planned(done.stdout)["panel"] == 2
    # A run that looks at no dense side leaves nothing out of it.
    assert done.stdout.count(waits) == 1


def test_the_smallest_cohort_takes_every_rule(tmp_path: Path) -> None:
    (tmp_path / "config").symlink_to(REPOSITORY / ".test" / "config")
    rules = {path.stem for path in (REPOSITORY / "workflow" / "rules").glob("*.smk")}
    jobs = planned(snakemake(tmp_path, "-n").stdout)
    # Nothing of it lies elsewhere.
    assert rules - {"common", "internals", "artefacts", "sheet", "stage"} <= jobs.keys()


def test_an_encoder_from_elsewhere_needs_no_training_and_no_dense_slide(tmp_path: Path) -> None:
    rows = _slides(tmp_path)
    (tmp_path / "a.ome.tif").unlink()
    (tmp_path / "b.ome.tif").unlink()
    (tmp_path / "encoder").mkdir()
    write_cohort(tmp_path, rows, {"runs": RUNS, "embed": {"encoder": "encoder"}})
    done = snakemake(tmp_path, "-n")
    assert done.returncode == 0, done.stdout
    jobs = planned(done.stdout)
    assert jobs == {"inspect": 3, "tile": 3, "embed": 3, "embed_slides": 1, "report": 1, "default": 1, "total": 12}


def test_an_encoder_from_elsewhere_asks_for_nothing_that_the_sheet_says_of_the_dense_side(tmp_path: Path) -> None:
    """Not even where it is there: a changed list of markers is no reason to inspect an H&E slide again."""
    spoken = {"transform": "map.csv", "dense_mpp": "0.65", "markers": "panel.csv", "dense_kind": "fluorescence"}
    spoken["dense_image"] = "ROI-2"
    rows = _slides(tmp_path)[:1]
    for name in ("map.csv", "panel.csv"):
        (tmp_path / name).touch()
    (tmp_path / "encoder").mkdir()
    write_cohort(tmp_path, [rows[0] | spoken], {"embed": {"encoder": "encoder"}})
    done = snakemake(tmp_path, "-n", "-p", "inspect_all")
    assert done.returncode == 0, done.stdout
    assert "--dense= --transform= --sparse-mpp= --dense-mpp= --markers= --dense-kind=" in done.stdout
    assert "--sparse-image= --dense-image= --settings" in done.stdout
    assert not {word for word in (*spoken.values(), "a.ome.tif") if word in done.stdout}


def test_what_belongs_to_a_slide_is_an_input_of_inspect(tmp_path: Path) -> None:
    """The folder of an MRXS slide, the other files of a DICOM series and of an OME-TIFF set."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "Data0000.dat").touch()
    (tmp_path / "a.mrxs").touch()
    write_ome_set(tmp_path / "set", channels_image(2, 64, 64), ["DAPI", "CD3"])
    (tmp_path / "dicom").mkdir()
    for name, series in (("1.dcm", "1.2"), ("second", "1.2"), ("other.dcm", "1.3")):
        write_dicom(tmp_path / "dicom" / name, series)
    rows = [
        {"slide": "a", "patient": "p1", "sparse": "a.mrxs", "dense": "set/focus_1.ome.tif"},
        {"slide": "b", "patient": "p2", "sparse": "dicom/1.dcm"},
    ]
    write_cohort(tmp_path, rows, {"runs": RUNS})
    done = snakemake(tmp_path, "-n", "inspect_all")
    assert done.returncode == 0, done.stdout
    inputs = re.findall(r"^ +input: (.+)$", done.stdout, flags=re.MULTILINE)
    assert "a.mrxs, set/focus_1.ome.tif, a/Data0000.dat, set/focus_0.ome.tif" in inputs
    assert "dicom/1.dcm, dicom/second" in inputs


def test_a_file_that_belongs_to_a_slide_and_changes_reruns_its_inspection(tmp_path: Path) -> None:
    write_rgb(tmp_path / "he.tif", [smooth_rgb(128, 96)])
    files = write_ome_set(tmp_path / "set", channels_image(2, 128, 96), ["DAPI", "CD3"])
    rows = [{"slide": "a", "patient": "p1", "sparse": "he.tif", "dense": "set/focus_0.ome.tif"}]
    write_cohort(tmp_path, rows, {"runs": RUNS})
    done = snakemake(tmp_path, "--cores", "1", "inspect_all")
    assert done.returncode == 0, done.stdout
    assert "inspect" not in planned(snakemake(tmp_path, "-n", "inspect_all").stdout)
    write_ome_set(tmp_path / "again", channels_image(2, 128, 96)[::-1], ["DAPI", "CD3"])[1].replace(files[1])
    assert planned(snakemake(tmp_path, "-n", "inspect_all").stdout)["inspect"] == 1


def test_of_ome_zarr_the_workflow_looks_at_the_metadata_and_a_change_there_reruns_the_inspection(
    tmp_path: Path,
) -> None:
    write_zarr(tmp_path / "he.zarr", [channels_image(3, 128, 96, "uint8")], mpp=0.5)
    write_zarr(tmp_path / "raw" / "0", [channels_image(2, 128, 96)], ["DAPI", "CD3"], version="0.4")
    zarr.open_group(tmp_path / "raw", zarr_format=2).attrs["bioformats2raw.layout"] = 3
    rows = [{"slide": "a", "patient": "p1", "sparse": "he.zarr", "dense": "raw"}]
    write_cohort(tmp_path, rows, {"runs": RUNS})
    (inputs,) = re.findall(r"^ +input: (.+)$", snakemake(tmp_path, "-n", "inspect_all").stdout, flags=re.MULTILINE)[:1]
    metadata = ["raw/.zattrs", "raw/.zgroup", "raw/0/.zattrs", "raw/0/.zgroup", "raw/0/0/.zarray"]
    assert set(inputs.split(", ")) >= {"he.zarr/zarr.json", "he.zarr/0/zarr.json", *metadata}
    assert not {"he.zarr", "raw"} & set(inputs.split(", "))
    done = snakemake(tmp_path, "--cores", "1", "inspect_all")
    assert done.returncode == 0, done.stdout
    assert "inspect" not in planned(snakemake(tmp_path, "-n", "inspect_all").stdout)
    change(tmp_path / "raw" / "0", lambda own: own.update(omero={"channels": [{"label": "DNA"}, {"label": "CD8"}]}))
    assert planned(snakemake(tmp_path, "-n", "inspect_all").stdout)["inspect"] == 1


def test_a_probe_from_elsewhere_predicts_without_training_or_dense_slides(tmp_path: Path) -> None:
    rows = [row | {"dense": ""} for row in _slides(tmp_path)]
    for folder in ("encoder", "a probe"):
        (tmp_path / folder).mkdir()
    config = {"embed": {"encoder": "encoder"}, "predict": {"probe": "a probe"}}
    write_cohort(tmp_path, rows, config)
    done = snakemake(tmp_path, "-n", "-p", "predict_all")
    assert done.returncode == 0, done.stdout
    assert planned(done.stdout) == {"inspect": 3, "tile": 3, "embed": 3, "predict": 3, "predict_all": 1, "total": 13}
    assert "--probe='a probe' --out results/predict/encoder/a" in done.stdout


@pytest.mark.parametrize(
    ("target", "last"),
    [
        ("inspect_all", "inspect"),
        ("panel_all", "panel"),
        ("register_all", "register"),
        ("tile_all", "tile"),
        ("train_all", "train"),
    ],
)
def test_each_stage_has_a_target_that_plans_nothing_beyond_it(tmp_path: Path, target: str, last: str) -> None:
    write_cohort(tmp_path, _slides(tmp_path), {"runs": RUNS})
    done = snakemake(tmp_path, "-n", target)
    assert done.returncode == 0, done.stdout
    stages = ["inspect", "panel", "register", "tile", "split", "train", "embed", "evaluate", "predict", "report"]
    jobs = planned(done.stdout)
    assert last in jobs
    assert not set(stages[stages.index(last) + 1 :]) & set(jobs)


def test_a_missing_slide_is_left_to_inspect_so_that_the_others_go_on(tmp_path: Path) -> None:
    rows = _slides(tmp_path)
    (tmp_path / "b.tif").unlink()
    write_cohort(tmp_path, rows, {"runs": RUNS})
    done = snakemake(tmp_path, "-n", "tile_all")
    assert done.returncode == 0, done.stdout
    assert planned(done.stdout)["inspect"] == 3


def test_annotations_named_in_the_sheet_are_read_by_tile_and_absent_ones_left_to_it(tmp_path: Path) -> None:
    rows = [row | {"tissue": f"{row['slide']} tissue.geojson"} for row in _slides(tmp_path)]
    (tmp_path / "a tissue.geojson").touch()
    write_cohort(tmp_path, rows, {"runs": RUNS})
    done = snakemake(tmp_path, "-n", "-p", "tile_all")
    assert done.returncode == 0, done.stdout
    inputs = [line for line in done.stdout.splitlines() if line.strip().startswith("input:")]
    assert [line for line in inputs if "a tissue.geojson" in line]
    assert not [line for line in inputs if "b tissue.geojson" in line]
    for slide in "abc":
        assert f"--tissue='{slide} tissue.geojson'" in done.stdout
    assert "--outlines results/tile/c.geojson" in done.stdout


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tyle": {"size_px": 64}}, "tyle"),
        ({"tile": {"size": 64}}, "tile.size"),
        ({"runs": {"distilled": {"objective": "magic"}}}, "runs.distilled.objective"),
        ({"embed": {"encoder": "nowhere"}}, "nowhere"),
        ({"predict": {"probe": "no-probe"}}, "no-probe"),
        ({"slides": "config/absent.tsv"}, "config/absent.tsv"),
    ],
)
def test_a_mistake_in_the_configuration_stops_before_any_job(
    tmp_path: Path, change: dict[str, object], named: str
) -> None:
    write_cohort(tmp_path, _slides(tmp_path), {"runs": RUNS} | change)
    done = snakemake(tmp_path, "-n")
    assert done.returncode == 1
    assert named in done.stdout
    assert "Traceback" not in done.stdout


def _with_patients(folder: Path, rows: str, **outcomes: object) -> None:
    write_cohort(folder, _slides(folder), {"runs": RUNS, "outcomes": {"table": "patients.csv"} | outcomes})
    (folder / "patients.csv").write_text(f"patient,label\n{rows}")


def test_a_table_of_patients_adds_what_asks_for_it_and_the_slides_that_it_asks_of(tmp_path: Path) -> None:
    _with_patients(tmp_path, "p1,x\np2,x\np3,y\n")
    assert "two or more patients of each class" in snakemake(tmp_path, "-n").stdout
    _with_patients(tmp_path, "p1,1\np2,2\np3,\n", classes=[], numbers=["label"])
    done = snakemake(tmp_path, "-n", "-p")
    jobs = planned(done.stdout)
    # Each run embeds the slide without a dense partner too, and has its own table of slide vectors.
    assert (jobs["outcomes"], jobs["embed"], jobs["embed_slides"]) == (1, 6, 2)
    assert "--baseline=sparse-only --table=patients.csv" in done.stdout
    assert "outcomes" not in planned(snakemake(tmp_path, "-n", "evaluate_all").stdout)


@pytest.mark.parametrize("rows", ["p1,1\np1,2\np2,3\np3,4\n", "p1,1\np2,2\np3,3\np4,4\n", "p1,1\np2,2\np3,NaN\n"])
def test_a_mistake_in_the_table_of_patients_stops_before_any_job(tmp_path: Path, rows: str) -> None:
    _with_patients(tmp_path, rows, classes=[], numbers=["label"])
    done = snakemake(tmp_path, "-n", "train_all")
    assert done.returncode == 1
    assert "patients.csv: expected" in done.stdout
    assert "Traceback" not in done.stdout


def test_outcomes_without_a_table_are_told_in_one_line(tmp_path: Path) -> None:
    write_cohort(tmp_path, _slides(tmp_path), {"runs": RUNS})
    done = snakemake(tmp_path, "-n", "outcomes_all")
    assert done.returncode == 1
    assert "outcomes.table: expected" in done.stdout


def test_a_slide_named_twice_stops_before_any_job(tmp_path: Path) -> None:
    rows = _slides(tmp_path)
    write_cohort(tmp_path, [*rows, rows[0]], {"runs": RUNS})
    done = snakemake(tmp_path, "-n")
    assert done.returncode == 1
    assert "config/slides.tsv" in done.stdout


def test_training_without_any_dense_slide_stops_before_any_job(tmp_path: Path) -> None:
    rows = [row | {"dense": ""} for row in _slides(tmp_path)]
    write_cohort(tmp_path, rows, {"runs": RUNS})
    done = snakemake(tmp_path, "-n")
    assert done.returncode == 1
    assert "expected a slide with a dense partner to train on" in done.stdout
    assert planned(snakemake(tmp_path, "-n", "tile_all").stdout)["tile"] == 3


def test_a_configuration_named_on_the_command_line_replaces_the_demos(tmp_path: Path) -> None:
    write_cohort(tmp_path, _slides(tmp_path), {"runs": {"other": {}}})
    (tmp_path / "own.yaml").write_text("runs: {mine: {}}\nembed: {encoder: mine}\n")
    done = snakemake(tmp_path, "-n", "train_all", "--configfile", str(tmp_path / "own.yaml"))
    assert planned(done.stdout)["train"] == 1
    assert "results/train/mine" in done.stdout
    assert "results/train/other" not in done.stdout


def test_a_folder_without_configuration_is_told_in_one_line(tmp_path: Path) -> None:
    done = snakemake(tmp_path / "nowhere", "-n")
    assert done.returncode == 1
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("error: "))
    assert f"{tmp_path}/nowhere/config/config.yaml: expected the configuration, found none" in line
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize("named", [True, False])
def test_a_key_given_twice_in_a_file_that_snakemake_reads_stops_before_any_job(tmp_path: Path, named: bool) -> None:
    write_cohort(tmp_path, _slides(tmp_path), {"runs": RUNS})
    path = tmp_path / ("own.yaml" if named else "config/config.yaml")
    path.write_text("tile: {size_px: 128}\nruns: {mine: {}}\nembed: {encoder: mine}\ntile: {mpp: 0.5}\n")
    done = snakemake(tmp_path, "-n", *(("--configfile", str(path)) if named else ()))
    assert done.returncode == 1
    assert f"{path.name}: expected valid YAML, found in line 4, column 1: twice the key tile" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize(("gpus", "processes"), [(0, "1"), (1, "1"), (3, "3")])
def test_a_training_has_a_process_per_gpu_and_one_without_any(tmp_path: Path, gpus: int, processes: str) -> None:
    write_cohort(tmp_path, _slides(tmp_path), {"runs": RUNS})
    done = snakemake(tmp_path, "-n", "-p", "train_all", "--set-resources", f"train:gpu={gpus}")
    argv = re.findall(r"--processes (.+?) --classes", done.stdout)
    assert argv, done.stdout
    for word in argv:
        assert subprocess.check_output(["bash", "-c", f"echo {word}"], text=True).strip() == processes


def test_the_demo_sheet_is_the_cohort_that_the_demo_draws() -> None:
    from pipeline.tools.demo.cohort import COHORT

    rows = {row.slide: row for row in read_sheet(REPOSITORY / "config" / "slides.tsv")}
    assert list(rows) == [plan.name for plan in COHORT]
    for plan in COHORT:
        assert rows[plan.name].patient == plan.patient
        assert bool(rows[plan.name].dense) == (plan.dense is not None)


def test_only_slides_elsewhere_are_fetched_and_only_for_the_stages_that_read_all_their_tissue(tmp_path: Path) -> None:
    rows = _slides(tmp_path)
    rows[0] |= {"sparse": "https://host/a.svs", "dense": "s3://bucket/a.ome.tif"}
    # OME-Zarr is read where it lies.
    rows[1]["dense"] = "https://host/b.ome.zarr"
    write_cohort(tmp_path, rows, {"runs": RUNS})
    done = snakemake(tmp_path, "-n", "-p")
    assert done.returncode == 0, done.stdout
    assert planned(done.stdout)["stage"] == 1
    assert done.stdout.count("--record resources/staged/a/record.json") == 3
    assert "--record results/inspect/b.json" in done.stdout
    assert "Would remove temporary output resources/staged/a" in done.stdout
    assert "stage" not in planned(snakemake(tmp_path, "-n", "inspect_all").stdout)
