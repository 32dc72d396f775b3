"""Slides that lie elsewhere, on a web server: what inspect reads of them, how they are fetched, and what goes wrong."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from range_server import Server, serving
from slide_files import channels_image, pyramid, smooth_rgb, write_ome, write_svs
from zarr_files import write_zarr

from pipeline.cli import main
from pipeline.elsewhere import source as patience
from pipeline.elsewhere.address import address_faults, is_elsewhere, is_zarr_address
from pipeline.errors import StatedError
from pipeline.provenance import file_digest
from pipeline.settings import InspectSettings, StagingSettings
from pipeline.sheet import SheetRow, read_sheet
from pipeline.slides.opening import open_side, open_slide
from pipeline.slides.record import SlideRecord, read_record, to_mapping
from pipeline.slides.remote_tiff import look_at
from pipeline.slides.stage import inspect_slide
from pipeline.staging import fetching
from pipeline.staging.stage import stage_slide

pytest.importorskip("tiffslide")
NAMES = ["DAPI", "CD3", "CD8"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_scanned(folder / "he.svs", pyramid(smooth_rgb(1024, 768), 3))
    write_ome(folder / "mif.ome.tif", channel_pyramid(), NAMES)
    return folder


def channel_pyramid() -> list[NDArray[Any]]:
    levels = pyramid(np.moveaxis(channels_image(3, 512, 384), 0, -1), 2)
    return [np.ascontiguousarray(np.moveaxis(level, -1, 0)) for level in levels]


def write_scanned(path: Path, levels: list[NDArray[Any]]) -> None:
    """An Aperio slide with the thumbnail that scanners put behind level 0."""
    told = "Aperio Image Library v11.2.1|AppMag = 20|MPP = 0.5000"
    with tifffile.TiffWriter(path) as writer:
        for index, image in enumerate([levels[0], levels[-1], *levels[1:]]):
            tile = None if index == 1 else (64, 64)
            options = {"compressionargs": {"level": 95}, "description": told, "metadata": None}
            writer.write(image, tile=tile, photometric="rgb", compression="jpeg", **options)


@pytest.fixture
def server(files: Path) -> Iterator[Server]:
    with serving(files) as state:
        yield state


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PAUSES_S", (0.01, 0.01, 0.01))


def row(base: str | Path, **cells: str) -> SheetRow:
    return SheetRow("s", "p", f"{base}/he.svs", f"{base}/mif.ome.tif", **cells)  # type: ignore[arg-type]


def inspected(base: str | Path) -> SlideRecord:
    return inspect_slide(row(base), InspectSettings())


def without_places(record: SlideRecord) -> dict[str, object]:
    """All that a record says but where its files lie."""
    told = to_mapping(record)
    for side in ("sparse", "dense"):
        told[side] |= {"path": ""}
    return told


def test_a_slide_elsewhere_is_inspected_as_if_it_were_here(files: Path, server: Server) -> None:
    here, there = inspected(files), inspected(server.url)
    for one, other in ((here.sparse, there.sparse), (here.dense, there.dense)):
        assert one is not None
        assert other is not None
        assert (one.levels, one.channels, one.dtype, one.kind) == (
            other.levels,
            other.channels,
            other.dtype,
            other.kind,
        )
        assert other.mpp == pytest.approx(one.mpp)
        assert other.path.startswith(server.url)
    assert there.sparse.reader == "tiffslide"
    # Less than the files are, and what was asked for is counted.
    assert server.sent < sum(path.stat().st_size for path in files.iterdir())


def test_the_overview_is_the_coarsest_level(files: Path, server: Server) -> None:
    look = look_at(f"{server.url}/he.svs")
    with open_slide(files / "he.svs") as opened:
        shown = opened.read_region(2, (0, 0), opened.header.levels[2].size_xy)
    assert look.overview is not None
    assert np.abs(look.overview.astype(int) - shown.astype(int)).mean() < 1
    assert (look.requests, look.bytes_read) == (len(server.asked), server.sent)


def test_a_fetched_slide_is_the_one_here_in_every_byte_and_in_its_record(
    files: Path, server: Server, tmp_path: Path
) -> None:
    staged = stage_slide(inspected(server.url), tmp_path / "staged" / "s", StagingSettings())
    for side, name in ((staged.sparse, "he.svs"), (staged.dense, "mif.ome.tif")):
        assert side is not None
        assert Path(side.path).read_bytes() == (files / name).read_bytes()
    assert without_places(staged) == without_places(inspected(files))
    assert read_record(tmp_path / "staged" / "s" / "record.json") == staged
    with open_side(staged.sparse) as opened:
        assert opened.header.reader == "openslide"
    assert not list((tmp_path / "staged" / ".parts").glob("s"))


def test_a_connection_that_is_cut_goes_on_where_it_was(
    files: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "PIECE_BYTES", 2**17)
    record = inspected(server.url)
    server.cuts, server.cut_after = 2, 2**16
    staged = stage_slide(record, tmp_path / "staged" / "s", StagingSettings(connections=1))
    assert server.cuts == 0
    assert file_digest(Path(staged.sparse.path)) == file_digest(files / "he.svs")


def test_what_an_earlier_attempt_fetched_is_not_asked_for_again(
    files: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "PIECE_BYTES", 2**16)
    record, out = inspected(server.url), tmp_path / "staged" / "s"
    size = (files / "he.svs").stat().st_size
    # After three pieces every answer is a failure.
    server.asked.clear()

    def fail_later() -> None:
        if sum("he.svs" in path for path, _ in server.asked) > 3:
            server.statuses["/he.svs"] = 503

    monkeypatch.setattr(server, "on_request", fail_later)
    with pytest.raises(StatedError) as caught:
        stage_slide(record, out, StagingSettings(connections=1))
    assert "503" in str(caught.value)
    assert not out.exists()
    part = tmp_path / "staged" / ".parts" / "s" / "sparse"
    there = part.stat().st_size
    assert 0 < there < size
    monkeypatch.setattr(server, "on_request", lambda: None)
    server.statuses.clear()
    server.asked.clear()
    server.sent = 0
    staged = stage_slide(record, out, StagingSettings(connections=1))
    starts = [int(told.split("=")[1].split("-")[0]) for path, told in server.asked if "he.svs" in path]
    # The first request tells the version; the last one asks whether it changed.
    assert [start for start in starts[1:-1] if start < there] == []
    assert file_digest(Path(staged.sparse.path)) == file_digest(files / "he.svs")


@pytest.mark.parametrize(("status", "told"), [(403, "403"), (404, "404"), (401, "401"), (500, "500")])
def test_a_refusal_is_one_line_with_slide_place_expected_and_found(
    server: Server, tmp_path: Path, status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.statuses["/he.svs"] = status
    address = f"{server.url}/he.svs"
    words = ["inspect", "--slide", "s", "--patient", "p", "--sparse", address, "--out", str(tmp_path / "r.json")]
    assert main(words) == 1
    line = capsys.readouterr().err.strip()
    assert len(line.splitlines()) == 1
    for part in ("slide s", address, "expected", told):
        assert part in line
    assert not (tmp_path / "r.json").exists()


def test_a_server_without_ranges_is_told_before_anything_large_is_read(server: Server) -> None:
    server.has_ranges = False
    with pytest.raises(StatedError) as caught:
        inspected(server.url)
    assert "200" in caught.value.found
    assert server.sent < 2**20


def test_a_file_that_changes_between_two_reads_is_an_error(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "he.svs").write_bytes((files / "he.svs").read_bytes())
    with serving(tmp_path) as server:

        def touched() -> None:
            if len(server.asked) == 3:
                os.utime(tmp_path / "he.svs", ns=(1, 1))

        monkeypatch.setattr(server, "on_request", touched)
        with pytest.raises(StatedError) as caught:
            look_at(f"{server.url}/he.svs", slide="s")
    assert "changed" in caught.value.found
    assert caught.value.slide == "s"


def test_a_file_that_changed_since_it_was_inspected_is_not_fetched(files: Path, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for name in ("he.svs", "mif.ome.tif"):
        (folder / name).write_bytes((files / name).read_bytes())
    with serving(folder) as server:
        record = inspected(server.url)
        os.utime(folder / "mif.ome.tif", ns=(1, 1))
        with pytest.raises(StatedError) as caught:
            stage_slide(record, tmp_path / "staged" / "s", StagingSettings())
    assert str(caught.value.file).endswith("mif.ome.tif")
    assert not (tmp_path / "staged" / "s").exists()


def test_parts_of_another_version_are_not_kept(files: Path, server: Server, tmp_path: Path) -> None:
    parts = tmp_path / "staged" / ".parts" / "s"
    parts.mkdir(parents=True)
    (parts / "sparse").write_bytes(b"x" * 1000)
    (parts / "sparse.json").write_text(json.dumps({"address": f"{server.url}/he.svs", "state": "another"}))
    staged = stage_slide(inspected(server.url), tmp_path / "staged" / "s", StagingSettings())
    assert file_digest(Path(staged.sparse.path)) == file_digest(files / "he.svs")


def test_a_truncated_file_is_told_by_its_directory_alone(files: Path, tmp_path: Path) -> None:
    data = (files / "mif.ome.tif").read_bytes()
    (tmp_path / "mif.ome.tif").write_bytes(data[: len(data) // 2])
    with serving(tmp_path) as server, pytest.raises(StatedError) as caught:
        look_at(f"{server.url}/mif.ome.tif")
    assert caught.value.expected


def test_more_than_the_bound_is_refused_and_less_waits_for_room(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = inspected(server.url)
    with pytest.raises(StatedError) as caught:
        stage_slide(record, tmp_path / "staged" / "s", StagingSettings(max_gb=1e-6))
    assert "max_gb" in caught.value.expected
    taken = tmp_path / "staged" / "other"
    taken.mkdir(parents=True)
    (taken / "slide").write_bytes(b"x" * 2_000_000)
    with pytest.raises(StatedError) as caught:
        stage_slide(record, tmp_path / "staged" / "s", StagingSettings(max_gb=2.1e-3, max_wait_h=1e-9))
    assert "waits" in capsys.readouterr().err
    assert caught.value.slide == "s"


def test_a_file_within_a_zip_is_read_by_ranges_if_it_is_stored_plain(
    files: Path, server: Server, tmp_path: Path
) -> None:
    for name, method in (("plain.zip", zipfile.ZIP_STORED), ("packed.zip", zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(files / name, "w", method) as archive:
            archive.write(files / "he.svs", "a/he.svs")
    try:
        for base in (str(files), server.url):
            record = inspect_slide(SheetRow("s", "p", f"zip://a/he.svs::{base}/plain.zip"), InspectSettings())
            staged = stage_slide(record, tmp_path / base.strip("/").replace("/", "-") / "s", StagingSettings())
            assert staged.sparse.sha256 == file_digest(files / "he.svs")
            with pytest.raises(StatedError) as caught:
                inspect_slide(SheetRow("s", "p", f"zip://a/he.svs::{base}/packed.zip"), InspectSettings())
            assert "compress" in caught.value.found
    finally:
        for name in ("plain.zip", "packed.zip"):
            (files / name).unlink()


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_is_read_in_place(tmp_path: Path, version: str) -> None:
    write_zarr(tmp_path / "mif.ome.zarr", channel_pyramid(), NAMES, version=version)
    with serving(tmp_path) as server:
        address = f"{server.url}/mif.ome.zarr"
        assert is_zarr_address(address)
        write_svs(tmp_path / "he.svs", pyramid(smooth_rgb(256, 192), 1))
        record = inspect_slide(SheetRow("s", "p", str(tmp_path / "he.svs"), address), InspectSettings())
        assert record.dense is not None
        assert record.dense.path == address
        assert record.dense.channels == tuple(NAMES)
        with open_side(record.dense) as there, open_slide(tmp_path / "mif.ome.zarr") as here:
            for level in range(len(here.header.levels)):
                window = (level, (33, 17), (100, 90))
                assert np.array_equal(there.read_region(*window), here.read_region(*window))
        with pytest.raises(StatedError) as caught:
            open_slide(f"{server.url}/none.ome.zarr", slide="s")
        assert caught.value.slide == "s"
        server.statuses["/mif.ome.zarr/zarr.json"] = server.statuses["/mif.ome.zarr/.zgroup"] = 403
        server.statuses["/mif.ome.zarr/.zattrs"] = 403
        with pytest.raises(StatedError) as caught:
            open_slide(address, slide="s")
        assert caught.value.file == address


def test_secrets_come_from_the_environment_and_are_never_printed(
    files: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"{server.url}/he.svs?$SIGNATURE"
    words = ["inspect", "--slide", "s", "--patient", "p", "--sparse", address, "--out", str(tmp_path / "r.json")]
    assert main(words) == 1
    assert "SIGNATURE" in capsys.readouterr().err
    monkeypatch.setenv("SIGNATURE", "sig=verysecretvalue")
    assert main(words) == 0
    assert server.queries[-1] == "sig=verysecretvalue"
    out = tmp_path / "staged" / "s"
    assert main(["stage", "--record", str(tmp_path / "r.json"), "--out", str(out)]) == 0
    server.statuses["/he.svs"] = 403
    assert main(words) == 1
    told = "".join(capsys.readouterr())
    for path in (tmp_path / "r.json", out / "record.json"):
        told += path.read_text()
    assert "verysecretvalue" not in told
    assert address in told


@pytest.mark.parametrize(
    "address",
    [
        "https://user:hunter2@host/a.svs",
        "https://host/a.svs?X-Amz-Signature=hunter2hunter2",
        "https://host/a.svs?sv=2020&sig=hunter2hunter2",
        "ftp://host/a.svs",
        "zip://a.svs",
    ],
)
def test_the_sheet_refuses_addresses_with_secrets_and_of_other_kinds(tmp_path: Path, address: str) -> None:
    assert is_elsewhere(address)
    assert list(address_faults(address))
    (tmp_path / "slides.tsv").write_text(f"slide\tpatient\tsparse\ns\tp\t{address}\n")
    with pytest.raises(StatedError) as caught:
        read_sheet(tmp_path / "slides.tsv")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("address", ["s3://b/a.svs", "gs://b/a.svs", "https://h/a.svs?versionId=7", "zip://a::b.zip"])
def test_plain_addresses_are_fine(address: str) -> None:
    assert not list(address_faults(address))


def test_paths_are_no_addresses() -> None:
    for path in ("a.svs", "/data/a.svs", "C:/a.svs", "../x:y/a.svs"):
        assert not is_elsewhere(path)


def test_a_missing_package_is_told_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(patience.importlib, "import_module", missing)
    with pytest.raises(StatedError) as caught:
        look_at("s3://bucket/a.svs")
    assert patience.INSTALL in caught.value.expected
