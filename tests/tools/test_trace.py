"""A result leads back to the slides it came from; what no longer matches is marked; a rerun gives the same bytes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from drawn_results import DrawnSlide, draw_stores
from small_pair import SETTINGS, commands, run_all

from pipeline.cli import main

# What holds a time, a speed or the memory that was used, and what names the hash of such a file.
TIMED = {"results/register/a/qc.json", "results/register/b/qc.json", "results/train/distilled/metrics.jsonl"}
TIMED |= {"results/report/index.html"}


@pytest.fixture
def copy(small_results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the results to change at will, which is the working directory."""
    folder = Path(shutil.copytree(small_results, tmp_path / "copy"))
    monkeypatch.chdir(folder)
    return folder


def _trace(capsys: pytest.CaptureFixture[str], result: str) -> tuple[int, list[str], str]:
    capsys.readouterr()
    code = main(["trace", result])
    said = capsys.readouterr()
    return code, said.out.splitlines(), said.err


def test_the_report_leads_back_through_every_stage_to_the_slides(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines, _ = _trace(capsys, "results/report/index.html")
    assert code == 0
    stages = {line.split()[1].rstrip(",") for line in lines if line.lstrip().startswith("stage ")}
    expected = {"inspect", "register", "tile", "split", "train", "embed", "embed_slides", "evaluate"}
    expected |= {"evaluate_probe", "predict", "report", "panel"}
    assert stages == expected
    for slide in ("a.tif", "a.ome.tif", "b.tif", "b.ome.tif"):
        assert any(line.endswith(f" {slide}: unchanged") for line in lines)
    assert not any("this checkout's" in line for line in lines)


@pytest.mark.parametrize(
    "result",
    [
        "results/inspect/a.json",
        "results/register/a/transform.zarr",
        "results/register/a/transform.h5",
        "results/register/a/overlay.png",
        "results/tile/a.zarr",
        "results/split/patches.tsv",
        "results/train/distilled/encoder",
        "results/train/distilled/encoder/model.safetensors",
        "results/train/distilled/curve.png",
        "results/embed/distilled/a.h5",
        "results/evaluate/probes/distilled",
        "results/evaluate/probes/distilled/probe.safetensors",
        "results/predict/distilled/a",
        "results/predict/distilled/a/markers.ome.tif",
        "results/predict/distilled/a/patches.parquet",
        "results/embed/distilled/slides.parquet",
        "results/evaluate/summary.tsv",
    ],
)
def test_every_result_has_an_ancestry_that_holds(copy: Path, capsys: pytest.CaptureFixture[str], result: str) -> None:
    code, lines, told = _trace(capsys, result)
    assert code == 0, told
    assert lines[0].startswith(result)
    assert any(": unchanged" in line for line in lines)
    assert not any("CHANGED" in line or "MISSING" in line for line in lines)


def _run(argv: list[str], options: dict[str, str]) -> None:
    """A verb with some options of its usual command changed or added."""
    changed = dict(zip(argv[1::2], argv[2::2], strict=True)) | options
    assert main([argv[0], *(word for pair in changed.items() for word in pair)]) == 0


def test_inputs_that_only_some_cohorts_have_are_looked_for_where_they_are(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(result: str, name: str) -> str:
        """What is said of one input of a result whose whole ancestry holds."""
        code, lines, error = _trace(capsys, result)
        assert code == 0, (error, lines)
        (line,) = {line.strip() for line in lines if line.strip().startswith(f"<- {name} ")}
        return line.split(" ", 3)[3]

    known = commands([{"slide": name, "sparse": f"{name}.tif", "dense": f"{name}.ome.tif"} for name in "ab"])
    table, vectors = "results/split/patches.tsv", "results/embed/distilled/slides.parquet"
    assert told(vectors, "split") == f"{table}: unchanged"

    encoder, folder = "results/train/distilled/encoder", "results/train/begun"
    settings = json.loads(SETTINGS["train"]) | {"weights": encoder, "epochs": 0}
    out = {"--out-encoder": f"{folder}/encoder", "--out-metrics": f"{folder}/m.jsonl", "--out-curve": f"{folder}/c.png"}
    _run(known["train"], out | {"--settings": json.dumps(settings)})
    assert told(f"{folder}/encoder", "weights") == f"{encoder}/model.safetensors: unchanged"

    Path("a.csv").write_text("row,class\n" + "".join(f"{row},{'AB'[row % 2]}\n" for row in range(60)))
    folder = "results/train/labels"
    settings = json.loads(SETTINGS["train"]) | {"branches": ["sparse", "target"], "target": "label", "epochs": 0}
    out = {"--out-encoder": f"{folder}/encoder", "--out-metrics": f"{folder}/m.jsonl", "--out-curve": f"{folder}/c.png"}
    _run(known["train"], out | {"--settings": json.dumps(settings), "--classes": "a=a.csv"})
    assert told(f"{folder}/encoder", "classes/a") == "not looked for"

    shutil.copytree(encoder, "given")
    features = "results/embed/given/a.h5"
    _run(known["embed a"], {"--encoder": "given", "--settings": '{"encoder": "given"}', "--out": features})
    assert told(features, "encoder") == "given: unchanged"

    ring = [[0, 0], [700, 0], [700, 700], [0, 700], [0, 0]]
    properties = {"objectType": "annotation", "classification": {"name": "Tissue"}}
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}
    Path("tissue.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    _run(known["tile a"], {"--tissue": "tissue.geojson", "--outlines": "results/tile/a.geojson"})
    assert told("results/tile/a.geojson", "tissue") == "not looked for"


@pytest.mark.parametrize(
    ("changed", "marked"),
    [
        ("a.tif", "a.tif: CHANGED"),
        ("results/split/patches.tsv", "patches.tsv: CHANGED"),
        ("results/tile/a.zarr/zarr.json", "a.zarr: CHANGED"),
        ("results/train/distilled/encoder/model.safetensors", "encoder: CHANGED"),
        ("results/register/a/transform.zarr/zarr.json", "transform.zarr: CHANGED"),
    ],
)
def test_a_changed_ancestor_is_marked_and_told(
    copy: Path, capsys: pytest.CaptureFixture[str], changed: str, marked: str
) -> None:
    path = copy / changed
    path.write_bytes(path.read_bytes() + b"\n")
    code, lines, told = _trace(capsys, "results/embed/distilled/a.h5")
    assert code == 1
    assert any(marked in line for line in lines), lines
    assert told.count("\n") == 1
    assert "changed or missing" in told


def test_a_missing_ancestor_is_marked_and_the_others_are_still_told(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "a.ome.tif").unlink()
    shutil.rmtree(copy / "results" / "tile" / "b.zarr")
    code, lines, told = _trace(capsys, "results/train/distilled/encoder")
    assert code == 1
    assert any(line.endswith("a.ome.tif: MISSING") for line in lines)
    assert any(line.endswith("b.zarr: MISSING") for line in lines)
    assert any(line.endswith("a.tif: unchanged") for line in lines)
    assert "dense" in told


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("no.json", b"{}"),
        ("deep.json", b"[" * 100_000),
        ("no.h5", b"\x89HDF\r\n\x1a\n"),
        ("no.parquet", b"PAR1"),
        ("no.html", b"<html>"),
        ("slide.tif", b"II*\0"),
    ],
)
def test_what_has_no_ancestry_is_a_stated_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    code, lines, told = _trace(capsys, str(tmp_path / name))
    assert (code, lines, told.count("\n")) == (1, [], 1)
    assert main(["trace", str(tmp_path / "absent.json")]) == 1


def test_a_second_run_gives_the_same_bytes_but_for_times_and_what_names_their_hash(
    small_results: Path, tmp_path: Path
) -> None:
    again = run_all(tmp_path, small_results)
    files = {str(path.relative_to(small_results)) for path in small_results.rglob("*") if path.is_file()}
    assert files == {str(path.relative_to(again)) for path in again.rglob("*") if path.is_file()}
    unlike = {name for name in files if (small_results / name).read_bytes() != (again / name).read_bytes()}
    assert unlike <= TIMED
    for slide in "ab":
        one, two = (
            json.loads((folder / f"results/register/{slide}/qc.json").read_text()) for folder in (small_results, again)
        )
        assert one.pop("cost").keys() == two.pop("cost").keys() == {"seconds", "peak_memory_mb"}
        assert one == two
    one, two = (
        [json.loads(line) for line in (folder / "results/train/distilled/metrics.jsonl").read_text().splitlines()]
        for folder in (small_results, again)
    )
    assert [line | {"images_per_s": 0} for line in one] == [line | {"images_per_s": 0} for line in two]


def test_slides_named_like_other_inputs_are_inputs_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slides = tuple(DrawnSlide(name, name, fold) for fold, name in enumerate(("held", "split", "weights")))
    draw_stores(tmp_path / "results", slides)
    monkeypatch.chdir(tmp_path)
    split, run, features = "results/split/patches.tsv", "results/train/distilled", "results/embed/distilled"
    argv = ["train", "--run", "distilled", "--stores", "results/tile", "--split", split]
    argv += ["--out-encoder", f"{run}/encoder", "--out-metrics", f"{run}/m.jsonl", "--out-curve", f"{run}/c.png"]
    settings = {"encoder": "test_resnet", "epochs": 0, "projector": [8], "batch_size": 16}
    assert main([*argv, "--settings", json.dumps(settings)]) == 0
    names = [slide.slide for slide in slides]
    for name in names:
        argv = ["embed", "--store", f"results/tile/{name}.zarr", "--encoder", f"{run}/encoder"]
        assert main([*argv, "--out", f"{features}/{name}.h5"]) == 0
    argv = ["embed-slides", "--features", features, "--slides", *names, "--split", split, "--prototypes", "2"]
    assert main([*argv, "--out", f"{features}/slides.parquet"]) == 0
    for result, wanted in (
        (f"{run}/encoder", {split, "results/tile/split.zarr", "results/tile/weights.zarr"}),
        (f"{features}/slides.parquet", {split, *(f"{features}/{name}.h5" for name in names)}),
    ):
        code, lines, _ = _trace(capsys, result)
        assert code == 0, lines
        assert {line.split()[3].rstrip(":") for line in lines if line.startswith("  <- ")} == wanted
