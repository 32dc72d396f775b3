"""The stage panel names the channels that are drawn wrong and no other one, on drawn and on real slides."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from drawn_panel import BACKGROUND, BLEEDING, CHANNELS, DEAD, LENT, SATURATED, SOURCE, Faults, draw_panel
from slide_files import pyramid, smooth_rgb, write_ome, write_rgb

from pipeline.cli import main
from pipeline.errors import StatedError
from pipeline.panel.block_sums import added, bin_values, block_sums
from pipeline.panel.dense_level import DenseLevel
from pipeline.panel.panel_file import read_panel_check
from pipeline.panel.seams import seam_of
from pipeline.slides.lazy_blocks import opened_once
from pipeline.slides.record import read_record

SIDE = 1024
METADATA = {"PhysicalSizeX": 1.0, "PhysicalSizeY": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A slide with all faults and one without any, both inspected."""
    path = tmp_path_factory.mktemp("panel")
    with contextlib.chdir(path):
        for name, faults in (("wrong", Faults()), ("good", Faults(dead=False, saturated=False, bleeding=False))):
            draw_slide(name, draw_panel(SIDE, faults))
        yield path
    opened_once.cache_clear()


def draw_slide(name: str, image: np.ndarray, channels: tuple[str, ...] = CHANNELS, levels: int = 2) -> None:
    write_rgb(Path(f"{name}.tif"), [smooth_rgb(256, 256)], mpp=6.0)
    write_ome(Path(f"{name}.ome.tif"), pyramid_cyx(image, levels), list(channels), tile=(256, 256), metadata=METADATA)
    sheet = ["--slide", name, "--patient", "p", "--sparse", f"{name}.tif", "--dense", f"{name}.ome.tif"]
    assert main(["inspect", *sheet, "--out", f"{name}.json"]) == 0


def pyramid_cyx(image: np.ndarray, levels: int) -> list[np.ndarray]:
    return [np.moveaxis(level, -1, 0) for level in pyramid(np.moveaxis(image, 0, -1), levels)]


def checked(name: str, out: str = "", **settings: object) -> dict[str, Any]:
    path = Path("results/panel") / f"{out or name}.json"
    argv = ["panel", "--record", f"{name}.json", "--out", str(path), "--threads", "2"]
    assert main([*argv, "--settings", json.dumps({"mpp": 2.0} | settings)]) == 0
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def named(check: dict[str, Any]) -> dict[str, list[str]]:
    found = {item["marker"]: [finding["what"] for finding in item["findings"]] for item in check["markers"]}
    return {marker: what for marker, what in found.items() if what}


@pytest.mark.parametrize("mpp", [1.0, 4.0])
def test_a_dead_a_saturated_and_a_bleeding_channel_are_named_and_no_other(folder: Path, mpp: float) -> None:
    found = named(checked("wrong", mpp=mpp))
    assert found == {DEAD: ["dead"], SATURATED: ["saturated"], BLEEDING: ["bleeding"]}


@pytest.mark.parametrize("mpp", [1.0, 4.0])
def test_nothing_is_named_on_a_slide_without_faults(folder: Path, mpp: float) -> None:
    assert named(checked("good", mpp=mpp)) == {}


def test_the_log_says_which_channel_and_why(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    checked("wrong")
    told = capfd.readouterr().err
    assert f"panel wrong: {DEAD} is dead: " in told
    assert f"panel wrong: {BLEEDING} is bleeding: shows at least 0." in told
    assert f"of {SOURCE} wherever that is bright" in told
    checked("good")
    assert "panel good: nothing wrong with its 18 channels" in capfd.readouterr().err


def test_measures_are_those_of_numpy_on_the_whole_slide(folder: Path) -> None:
    image = draw_panel(SIDE, Faults(dead=False, saturated=False, bleeding=False))
    check = checked("good", mpp=1.0)
    assert check["imaged"] == 1
    for item, plane in zip(check["markers"], image, strict=True):
        assert item["background"] == pytest.approx(BACKGROUND, abs=6)
        for number, value in item["percentiles"].items():
            # Values are counted whole; numpy interpolates between the two neighbouring ones.
            between = [np.percentile(plane, float(number), method=method) for method in ("lower", "higher")]
            assert between[0] - 1 <= value <= between[1] + 1
        assert item["largest"] == plane[256:768, 256:768].max()
        assert item["structure"] > 0.15
    assert check["autofluorescence"] == "Autofluorescence"
    correlation = np.array(check["correlation"])
    np.testing.assert_allclose(correlation, correlation.T, atol=1e-4)
    np.testing.assert_allclose(np.diag(correlation), 1, atol=1e-4)
    cd3 = check["markers"][CHANNELS.index("CD3e")]
    assert list(cd3["neighbours"]) == ["PD-L1", "CD163"]


def test_what_a_channel_is_lent_is_what_was_drawn(folder: Path) -> None:
    (finding,) = checked("wrong", mpp=1.0)["markers"][CHANNELS.index(BLEEDING)]["findings"]
    assert float(finding["message"].split("at least ")[1].split()[0]) == pytest.approx(LENT, abs=0.06)


def test_a_channel_that_shows_another_one_only_tells_nothing_and_one_with_signal_of_its_own_does(folder: Path) -> None:
    image = draw_panel(SIDE, Faults(dead=False, saturated=False)).astype(np.float64)
    source = image[CHANNELS.index(SOURCE)] - BACKGROUND
    noise = np.random.default_rng(3).normal(0, 12, source.shape)
    image[CHANNELS.index(DEAD)] = BACKGROUND + 0.5 * source + noise
    draw_slide("copied", np.clip(image, 0, 65535).astype(np.uint16))
    markers = {item["marker"]: item for item in checked("copied")["markers"]}
    assert markers[DEAD]["tells_nothing"]
    assert markers[BLEEDING]["findings"]
    assert not markers[BLEEDING]["tells_nothing"]
    assert read_panel_check(Path("results/panel/copied.json")).left_out == (DEAD,)


def test_float_pixels_and_other_exposures_name_the_same_channels(folder: Path) -> None:
    image = draw_panel(SIDE, Faults()).astype(np.float32) / 655.35
    draw_slide("floats", image)
    assert set(named(checked("floats"))) == {DEAD, SATURATED, BLEEDING}


@pytest.mark.parametrize("where", ["right", "tiles"])
def test_area_that_was_never_imaged_is_told_and_does_not_count(folder: Path, where: str) -> None:
    image = draw_panel(SIDE, Faults())
    if where == "right":
        image[:, :, 820:] = 0
    else:
        image[:, :204] = 0
    name = f"part-{where}"
    draw_slide(name, image)
    check = checked(name)
    assert check["imaged"] == pytest.approx(0.8, abs=0.01)
    assert named(check) == {DEAD: ["dead"], SATURATED: ["saturated"], BLEEDING: ["bleeding"]}
    assert check["markers"][0]["background"] == pytest.approx(BACKGROUND, abs=6)


def test_blocks_add_up_to_the_same_whatever_their_number(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = checked("wrong", mpp=1.0)
    monkeypatch.setattr("pipeline.panel.dense_level.BLOCK_PX", 400)
    again = checked("wrong", mpp=1.0)
    for one, other in zip(first["markers"], again["markers"], strict=True):
        assert one["percentiles"] == other["percentiles"]
        assert one["background"] == other["background"]
        # The detail of a block's border is measured within the block.
        assert one["structure"] == pytest.approx(other["structure"], abs=0.02)
    assert named(first) == named(again)


def test_seams_are_measured_where_they_were_drawn_and_nowhere_else(folder: Path) -> None:
    draw_slide("seams", draw_panel(SIDE, Faults(seam=0.05, seam_px=200)))
    seams, none = checked("seams", mpp=1.0), checked("good", mpp=1.0)
    cd45 = seams["markers"][CHANNELS.index("CD45")]
    assert cd45["seam_um"] == pytest.approx(200, abs=4)
    assert cd45["seam"] * (cd45["percentiles"]["99.9"] - cd45["background"]) == pytest.approx(150, rel=0.25)
    assert [item["seam"] for item in none["markers"]] == [0.0] * len(CHANNELS)


@pytest.mark.parametrize("seed", range(5))
def test_noise_and_an_edge_of_tissue_have_no_seam(seed: int) -> None:
    values = 100 + np.random.default_rng(seed).normal(0, 1, 3000)
    values[1200:] += 60
    assert seam_of((values, values), 500.0, 1.0).step == 0


def test_the_sums_of_blocks_are_those_of_one(folder: Path) -> None:
    side = read_record(Path("wrong.json")).dense
    assert side is not None
    level = DenseLevel.at(side, "wrong", 1.0)
    image = draw_panel(SIDE, Faults())[:, :256, :512]
    whole = block_sums(image, (0, 0), level, 3)
    halves = added([block_sums(image[:, :, part : part + 256], (part, 0), level, 3) for part in (0, 256)])
    assert halves.pixels == whole.pixels == 256 * 512
    for one, other, plane in zip(whole.histograms, halves.histograms, image, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, np.bincount(plane.ravel(), minlength=len(one)))


def test_a_tile_that_cannot_be_decoded_costs_its_block_and_is_told(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.panel.dense_level.BLOCK_PX", 256)
    draw_slide("torn", draw_panel(SIDE, Faults()))
    with tifffile.TiffFile("torn.ome.tif") as tif:
        page = tif.series[0].levels[1].pages[0]
        offset, count = page.dataoffsets[0], page.databytecounts[0]
    with Path("torn.ome.tif").open("r+b") as stream:
        stream.seek(offset)
        stream.write(b"\xff" * count)
    check = checked("torn", mpp=2.0)
    assert check["imaged"] == 0.75
    assert set(named(check)) == {DEAD, SATURATED, BLEEDING}
    assert "256 x 256 px of level 1 count as not imaged" in capfd.readouterr().err


@pytest.mark.parametrize("value", [0.0, 1e-3, 0.7, 1.0, 123.4, 6.5e4])
def test_a_bin_of_floats_stands_for_its_values(value: float) -> None:
    number = int(np.array([value], np.float32).view(np.uint32)[0] >> 16)
    assert bin_values(np.array([number]), "float32")[0] == pytest.approx(value, rel=0.008)


def test_a_dense_side_of_another_kind_is_said_not_to_be_checked(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_rgb(Path("ihc.tif"), [smooth_rgb(256, 256)], mpp=6.0)
    sheet = ["--slide", "ihc", "--patient", "p", "--sparse", "wrong.tif", "--dense", "ihc.tif"]
    assert main(["inspect", *sheet, "--dense-kind", "brightfield", "--out", "ihc.json"]) == 0
    check = checked("ihc")
    assert check["markers"] == []
    assert "not checked: the dense side is brightfield" in check["note"]
    assert "not checked: the dense side is brightfield" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("settings", "found"),
    [({"autofluorescence": "CD999"}, "CD999"), ({"mpp": 0}, "mpp"), ({"max_saturated": 2}, "max_saturated")],
)
def test_a_setting_that_cannot_be_is_one_line(
    folder: Path, settings: dict[str, object], found: str, capfd: pytest.CaptureFixture[str]
) -> None:
    argv = ["panel", "--record", "wrong.json", "--out", "never.json", "--settings", json.dumps(settings)]
    assert main(argv) == 1
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert found in line
    assert not Path("never.json").exists()


def test_a_check_that_is_none_is_one_line(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"schema": 9, "slide": "a", "kind": "fluorescence"}'):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(StatedError, match="written by panel"):
            read_panel_check(tmp_path / "a.json")


def test_a_cluster_that_the_environment_names_gives_the_same_check(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")
    alone = checked("wrong")
    options = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "dashboard_address": None}
    with distributed.LocalCluster(host="127.0.0.1", protocol="tcp://", **options) as cluster:
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", cluster.scheduler_address)
        assert checked("wrong") == alone


def test_a_cluster_that_is_not_there_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("pipeline.panel.stage.CONNECT_S", 1)
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:9")
    assert main(["panel", "--record", "wrong.json", "--out", "never.json"]) == 1
    assert "expected the dask.distributed cluster that DASK_SCHEDULER_ADDRESS names" in capfd.readouterr().err


@pytest.mark.realdata
@pytest.mark.parametrize("part", ["west", "centre"])
def test_no_channel_of_a_real_slide_is_named(tmp_path: Path, part: str) -> None:
    given = os.environ.get("MFL_REAL_DATA")
    if not given:
        pytest.skip("MFL_REAL_DATA names no folder")
    orion = Path(given).absolute() / "orion_crc01"
    dense = orion / ("west_mif.ome.tif" if part == "west" else "centre_mif_moved.ome.tif")
    with contextlib.chdir(tmp_path):
        sheet = ["--slide", part, "--patient", "p", "--sparse", str(orion / f"{part}_he.tif"), "--dense", str(dense)]
        assert main(["inspect", *sheet, "--out", f"{part}.json"]) == 0
        check = checked(part, mpp=4.0)
    assert named(check) == {}
    assert min(item["structure"] for item in check["markers"]) > 0.3
