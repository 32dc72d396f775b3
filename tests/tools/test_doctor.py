"""The doctor finds what would fail, finds it all at once, and lets a sound cohort go."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from cohort import REPOSITORY, write_cohort
from drawn_training import train_tiny
from slide_files import channels_image, pyramid, smooth_rgb, write_ome, write_rgb

from pipeline.cli import main
from pipeline.evaluation.probe_file import MarkerProbe, Probe
from pipeline.settings import Settings
from pipeline.sheet import SheetRow
from pipeline.slides.stage import inspect_slide
from pipeline.tools.doctor import resources
from pipeline.tools.doctor.environment import examine_packages, pinned
from pipeline.tools.doctor.resources import store_bytes

RUN = {"encoder": "test_resnet"}
CONFIG: dict[str, object] = {
    "tile": {"size_px": 64, "mpp": 0.5},
    "runs": {
        "distilled": RUN,
        "sparse-only": RUN | {"branches": ["sparse", "sparse"]},
        "shuffled": RUN | {"pairing": "shuffled"},
    },
}


@pytest.fixture
def cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Two sound pairs of two patients in the working directory; returns the rows of their sheet."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate("ab"):
        write_rgb(tmp_path / f"{name}.tif", pyramid(smooth_rgb(300 + number, 260), 2))
        write_ome(tmp_path / f"{name}.ome.tif", [channels_image(2, 200 + number, 180)], ["DAPI", "CD3"])
    rows = [
        {"slide": name, "patient": f"p{name}", "sparse": f"{name}.tif", "dense": f"{name}.ome.tif"} for name in "ab"
    ]
    write_cohort(tmp_path, rows, CONFIG)
    return rows


def _findings(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str]]:
    code = main(["doctor", *words])
    return code, capsys.readouterr().out.splitlines()


def _changed(rows: list[dict[str, str]], **config: object) -> None:
    write_cohort(Path(), rows, CONFIG | config)


def test_a_sound_cohort_passes_with_one_line_per_finding(
    cohort: list[dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines = _findings(capsys)
    assert code == 0, lines
    assert all(line.split()[0] in ("ok", "warning") for line in lines)
    assert "ok       slides: 2 of 2 open, 2 of them pairs" in lines
    assert any(line.startswith("ok       runs: 3") for line in lines)


def test_a_slide_that_is_taken_for_tissue_as_a_whole_is_told(
    cohort: list[dict[str, str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # Uneven over tens of um, as tissue is and glass is not.
    cells = np.random.default_rng(0).integers(90, 190, (38, 32, 3), dtype=np.uint8)
    stained = cells.repeat(16, axis=0).repeat(16, axis=1)[:600, :500]
    on_glass = np.full_like(stained, 243)
    on_glass[200:400, 150:350] = stained[200:400, 150:350]
    for name, image in (("a", stained), ("b", on_glass)):
        write_rgb(tmp_path / f"{name}.tif", [image])
    _, lines = _findings(capsys)
    told = [line for line in lines if "of the slide taken for tissue" in line]
    assert len(told) == 1
    assert told[0].startswith("warning  slide a: ")
    ring = [[0, 0], [400, 0], [400, 400], [0, 400], [0, 0]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}}
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    _changed([cohort[0] | {"tissue": "a.geojson"}, cohort[1]])
    assert not any("taken for tissue" in line for line in _findings(capsys)[1])


def test_everything_that_is_wrong_is_said_in_one_go(
    cohort: list[dict[str, str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    whole = (tmp_path / "b.ome.tif").read_bytes()
    (tmp_path / "b.ome.tif").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.svs").write_text("no slide\n")
    write_ome(tmp_path / "blank.ome.tif", [channels_image(2, 50, 40)], ["CD3", "CD8"])
    write_rgb(tmp_path / "small.tif", [smooth_rgb(40, 300)])
    rows = [
        cohort[0] | {"sparse_mpp": "0.25"},
        cohort[1] | {"sparse": "nowhere.svs"},
        {"slide": "text", "patient": "p", "sparse": "text.svs"},
        {"slide": "blank", "patient": "p", "sparse": "a.tif", "dense": "blank.ome.tif"},
        {"slide": "small", "patient": "p", "sparse": "small.tif"},
    ]
    runs = {"one": {"encoder": "resnet19"}, "two": RUN | {"size_px": 128}}
    runs["three"] = RUN | {"branches": ["sparse", "target"], "target": "label"}
    _changed(rows, runs=runs, embed={"encoder": "one"}, split={"test": ["nobody"]})
    code, lines = _findings(capsys)
    assert code == 1
    said = [line for line in lines if line.startswith("problem")]
    for words in (
        ("slide b:", "nowhere.svs", "no such file"),
        ("slide b:", "b.ome.tif", "a whole TIFF file"),
        ("slide text:", "a file that begins with"),
        ("slide blank:", "nuclear channel"),
        ("slide small:", "smaller than one patch"),
        ("run one:", "resnet19"),
        ("run two:", "128"),
        ("run three:", "no pair with a table in the sheet's column classes"),
        ("split:", "nobody"),
    ):
        assert any(all(word in line for word in words) for line in said), (words, lines)
    assert any(line.startswith("warning  slide a:") and "takes sparse_mpp 0.25" in line for line in lines)
    assert any("slide blank: the same file as slide a of another patient (pa)" in line for line in lines)
    assert any("warning  runs: no run to compare the others with" in line for line in lines)


def test_branches_whose_markers_or_names_no_training_could_take_are_found(
    cohort: list[dict[str, str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_ome(tmp_path / "c.ome.tif", [channels_image(1, 200, 180)], ["DAPI"])
    write_rgb(tmp_path / "c.tif", pyramid(smooth_rgb(310, 260), 2))
    rows = [*cohort, {"slide": "c", "patient": "pc", "sparse": "c.tif", "dense": "c.ome.tif"}]

    def run(**branch: object) -> dict[str, object]:
        return RUN | {"branches": ["sparse", {"modality": "dense", **branch}]}

    sound = run(encoder="nuclei", markers=["dna"])
    absent = run(encoder="immune", markers=["CD3", "CD8"])
    runs = {"sound": sound, "absent": absent, "ragged": run(markers=["CD3"]), "named": run(encoder="half")}
    _changed(rows, runs=runs, embed={"encoder": "sound"})
    code, lines = _findings(capsys)
    assert code == 1
    assert not any("run sound" in line for line in lines)
    for words in (
        ("problem", "run absent:", "of the run's DAPI, CD3, found CD8 not among them"),
        ("warning", "run ragged:", "slide c: expected at least one of the markers CD3, found DAPI"),
        ("problem", "run named:", "that torch does not use itself, found half"),
    ):
        assert any(all(word in line for word in words) for line in lines), (words, lines)


def test_files_that_later_stages_read_are_looked_for_before_they_are_needed(
    cohort: list[dict[str, str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "broken.geojson").write_text("{}")
    rows = [
        cohort[0] | {"tissue": "nowhere.geojson", "classes": "nowhere.csv"},
        cohort[1] | {"tissue": "broken.geojson", "classes": "{b}.csv"},
    ]
    runs = {"started": RUN | {"weights": "nowhere"}, "chosen": RUN | {"markers": ["CD99"]}}
    _changed(rows, runs=runs, embed={"encoder": "started"})
    code, lines = _findings(capsys)
    assert code == 1
    said = [line for line in lines if line.startswith("problem")]
    for words in (
        ("slide a:", "nowhere.geojson", "No such file"),
        ("slide a:", "nowhere.csv", "no such file"),
        ("slide b:", "broken.geojson", "no features"),
        ("slide b:", "without braces", "{b}.csv"),
        ("run started:", "nowhere"),
        ("run chosen:", "CD99"),
    ):
        assert any(all(word in line for word in words) for line in said), (words, lines)
    assert not any("run started" in line and "CD99" in line for line in said)


def test_annotations_are_looked_for_where_nothing_is_trained_and_classes_are_not(
    cohort: list[dict[str, str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    encoder = train_tiny(tmp_path / "elsewhere")
    rows = [cohort[0] | {"tissue": "nowhere.geojson", "classes": "nowhere.csv"}]
    _changed(rows, tile={"size_px": 32, "mpp": 1.0}, embed={"encoder": str(encoder)})
    code, lines = _findings(capsys)
    assert code == 1
    said = [line for line in lines if line.startswith("problem")]
    assert len(said) == 1
    assert "nowhere.geojson" in said[0]


def test_patches_finer_than_the_slide_and_native_ones_of_two_scanners_are_problems(
    cohort: list[dict[str, str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_rgb(tmp_path / "b.tif", [smooth_rgb(300, 260)], mpp=0.25)
    _changed(cohort, tile={"size_px": 64, "mpp": 0.25})
    code, lines = _findings(capsys)
    assert code == 1
    assert any("problem  slide a: expected tile.mpp 0.5 or coarser, found 0.25" in line for line in lines)
    assert not any("problem  slide b" in line for line in lines)
    _changed(cohort, tile={"size_px": 64})
    code, lines = _findings(capsys)
    assert code == 1
    assert any("problem  resolution: native patches from 0.25 (b) to 0.5 um/px (a)" in line for line in lines)


def test_a_probe_must_be_one_for_the_encoder_that_embeds(
    cohort: list[dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = train_tiny(tmp_path / "elsewhere")
    sha256 = json.loads((encoder / "config.json").read_text())["more_from_less"]["weights_sha256"]
    markers = (MarkerProbe("CD3", 0.6, 0.5, 0.7, 1.0, 90, 30, -1.0, 1.0),)
    chosen = {"tile": {"size_px": 32, "mpp": 1.0}, "embed": {"encoder": str(encoder)}}
    told = []
    for name, fitted_for, wanted in (("own", sha256, {}), ("own", sha256, {"min_score": 0.9}), ("other", "0" * 64, {})):
        probe = Probe("distilled", fitted_for, markers, np.zeros((8, 1)), np.zeros(1), frozenset())
        probe.write(tmp_path / name, {})
        _changed(cohort, **chosen, predict={"probe": str(tmp_path / name), **wanted})
        told += [line for line in _findings(capsys)[1] if " probe: " in line]
    assert [line.split()[0] for line in told] == ["ok", "warning", "problem"]
    assert told[0].endswith("of run distilled: CD3")
    assert f"expected one for the encoder {sha256[:12]}, found one for 000000000000" in told[2]


def test_an_encoder_from_elsewhere_must_be_whole_and_fit_the_patches(
    cohort: list[dict[str, str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    encoder = train_tiny(tmp_path / "elsewhere")
    (tmp_path / "a.ome.tif").unlink()
    _changed(cohort, tile={"size_px": 32, "mpp": 1.0}, embed={"encoder": str(encoder)})
    code, lines = _findings(capsys)
    assert code == 0, lines
    assert any(line.startswith("ok       encoder: test_resnet") for line in lines)
    _changed(cohort, tile={"size_px": 64, "mpp": 0.5}, embed={"encoder": str(encoder)})
    code, lines = _findings(capsys)
    assert code == 1
    assert sum(line.startswith("problem  encoder: expected patches of 32 px at 1 um/px") for line in lines) == 2
    weights = encoder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    _changed(cohort, tile={"size_px": 32, "mpp": 1.0}, embed={"encoder": str(encoder)})
    code, lines = _findings(capsys)
    assert code == 1
    assert any("problem  encoder" in line and "SHA-256" in line for line in lines)


def test_a_disk_that_is_too_small_is_a_problem_and_stores_that_are_there_count_no_more(
    cohort: list[dict[str, str]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda _: usage)
    code, lines = _findings(capsys)
    assert code == 1
    assert any(line.startswith("problem  disk: 2 stores") for line in lines)
    for name in "ab":
        Path(f"results/tile/{name}.zarr").mkdir(parents=True)
    assert any(line.startswith("ok       disk: 0 stores") for line in _findings(capsys)[1])


def test_the_space_of_a_store_is_estimated_from_slide_and_settings(cohort: list[dict[str, str]]) -> None:
    row = SheetRow("a", "p", "a.tif", "a.ome.tif")
    record = inspect_slide(row, Settings().inspect, hashed=False)
    small, coarse = Settings(tile={"size_px": 64, "mpp": 0.5}), Settings(tile={"size_px": 64, "mpp": 1.0})
    raw = 300 * 260 * (3 + 2 * 2)
    assert 0.3 * raw < store_bytes(record, small) < 4 * raw
    assert store_bytes(record, coarse) == pytest.approx(store_bytes(record, small) / 4)


def test_versions_are_compared_with_the_pins(tmp_path: Path) -> None:
    assert len(pinned(REPOSITORY / "envs")) > 20
    value = {"dependencies": ["python=3.11", {"pip": ["numpy==0.1", "no-such-thing==1.0"]}]}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(value))
    found = [str(item) for item in examine_packages(use_conda=False, envs=tmp_path)]
    assert any(line.startswith("problem  packages: not installed: no-such-thing") for line in found)
    assert any(line.startswith("warning  packages") and "(0.1)" in line for line in found)
    empty = tmp_path / "empty"
    empty.mkdir()
    (said,) = examine_packages(use_conda=False, envs=empty)
    assert said.weight == "warning"


@pytest.mark.parametrize(("name", "text"), [("config/config.yaml", "tile: {size: 3}"), ("config/slides.tsv", "x\ny\n")])
def test_a_broken_configuration_or_sheet_is_a_problem(
    cohort: list[dict[str, str]], capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    Path(name).write_text(text)
    code, lines = _findings(capsys)
    assert code == 1
    assert sum(line.startswith("problem") for line in lines) == 1
    assert name in lines[-1]


def test_the_demo_before_it_is_drawn_is_no_problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").symlink_to(REPOSITORY / "config")
    code, lines = _findings(capsys)
    assert code == 0, lines
    assert "ok       slides: 6 of the demo, which the workflow draws first" in lines


def test_copies_of_an_image_are_problems_where_a_split_would_part_them(
    cohort: list[dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    for end in ("tif", "ome.tif"):
        shutil.copy(f"a.{end}", f"copy.{end}")
    copied = {"slide": "copy", "patient": "pc", "sparse": "copy.tif", "dense": "copy.ome.tif"}
    _changed([*cohort, copied])
    code, lines = _findings(capsys)
    assert code == 1
    for what in ("bytes", "dense bytes"):
        assert any(f"slide copy: the same {what} as slide a of another patient (pa)" in line for line in lines)
    _changed([*cohort, copied | {"patient": "pa"}])
    code, lines = _findings(capsys)
    assert code == 0
    assert any(line.startswith("warning  slide copy: the same bytes as slide a: ") for line in lines)
