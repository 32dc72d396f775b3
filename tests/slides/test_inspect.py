"""The stage inspect: the record, the mpp, markers, and files that are broken in every way we could think of."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from slide_files import (
    channels_image,
    pyramid,
    smooth_rgb,
    write_dicom,
    write_ome,
    write_ome_set,
    write_rgb,
    write_svs,
)

from pipeline.cli import main
from pipeline.errors import StatedError
from pipeline.settings import InspectSettings
from pipeline.sheet import SheetRow
from pipeline.slides.companions import slide_files_of
from pipeline.slides.dicom_header import dicom_header
from pipeline.slides.markers import named_channels, named_labels
from pipeline.slides.opening import open_side, open_slide
from pipeline.slides.record import read_record
from pipeline.slides.stage import inspect_slide, source_digest


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    sparse = write_svs(folder / "he.svs", pyramid(smooth_rgb(301, 203), 2))
    dense = write_ome(folder / "mif.ome.tif", [channels_image(3, 230, 160)], ["DAPI", "CD3", "CD8"])
    return sparse, dense


def inspect(*arguments: str | Path) -> int:
    return main(["inspect", *(str(argument) for argument in arguments)])


def test_the_record_says_what_the_files_are(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results" / "s.json"
    optional = ["--transform", "", "--sparse-mpp", "", "--dense-mpp", "0.66", "--markers", ""]
    arguments = ["--slide", "s", "--patient", "p", "--sparse", pair[0], "--dense", pair[1], *optional, "--out", out]
    assert inspect(*arguments) == 0
    assert capsys.readouterr() == ("", "")
    record = read_record(out)
    assert (record.slide, record.patient, record.transform) == ("s", "p", "")
    assert (record.sparse.path, record.sparse.reader, record.sparse.mpp) == (str(pair[0]), "openslide", 0.5)
    assert [(level.size_xy, level.downsample) for level in record.sparse.levels] == [
        ((301, 203), 1.0),
        ((150, 101), 2.0),
    ]
    assert record.sparse.sha256 == hashlib.sha256(pair[0].read_bytes()).hexdigest()
    assert record.dense is not None
    assert (record.dense.channels, record.dense.dtype) == (("DAPI", "CD3", "CD8"), "uint16")
    assert (record.dense.mpp, record.dense.mpp_source, record.sparse.mpp_source) == (0.66, "sheet", "file")
    value = json.loads(out.read_text())
    assert value["provenance"]["inputs"] == {"sparse": record.sparse.sha256, "dense": record.dense.sha256}
    assert value["provenance"]["settings"] == {"mpp_tolerance": 0.05}
    first = out.read_bytes()
    assert inspect(*arguments) == 0
    assert out.read_bytes() == first


def test_an_inspected_side_opens_with_the_records_mpp_and_names(pair: tuple[Path, Path], tmp_path: Path) -> None:
    markers = tmp_path / "markers.csv"
    markers.write_text("channel,marker\n2,Ki67\nCD3,CD3e\n")
    dense = tmp_path / "d.ome.tif"
    shutil.copy(pair[1], dense)
    row = SheetRow("s", "p", str(pair[0]), str(dense), dense_mpp=0.66, markers=str(markers))
    record = inspect_slide(row, InspectSettings())
    assert record.dense is not None
    with open_side(record.dense, slide="s") as slide:
        assert slide.header.channels == ("DAPI", "CD3e", "Ki67")
        assert slide.header.mpp == 0.66
        with tifffile.TiffFile(dense) as tif:
            np.testing.assert_array_equal(np.moveaxis(slide.read_region(0, (0, 0), (230, 160)), -1, 0), tif.asarray())
    write_ome(dense, [channels_image(2, 230, 160)], ["DAPI", "CD3"])
    with pytest.raises(StatedError, match=r"slide s, .*as inspected"):
        open_side(record.dense, slide="s")


@pytest.mark.parametrize(
    ("in_file", "in_sheet", "outcome"),
    [
        (0.5, None, (0.5, "file")),
        (None, 0.26, (0.26, "sheet")),
        (0.5, 0.51, (0.51, "sheet")),
        (0.5, 0.53, (0.53, "sheet")),
        (352.8, None, r"found a printing resolution in the file \(72 dpi"),
        (352.8, 0.25, (0.25, "sheet")),
        (None, None, "in the file or as sparse_mpp in the sheet, found neither"),
        (None, 250.0, "0.05 to 50 um per pixel, found 250"),
        (None, 0.01, "0.05 to 50"),
    ],
)
def test_where_the_mpp_comes_from(
    tmp_path: Path, in_file: float | None, in_sheet: float | None, outcome: tuple[float, str] | str
) -> None:
    path = write_rgb(tmp_path / "s.tif", [smooth_rgb(150, 130)], mpp=in_file)
    row = SheetRow("s", "p", str(path), sparse_mpp=in_sheet)
    if isinstance(outcome, str):
        with pytest.raises(StatedError, match=outcome) as error:
            inspect_slide(row, InspectSettings())
        assert error.value.slide == "s"
        assert error.value.file == path
    else:
        record = inspect_slide(row, InspectSettings())
        assert (record.sparse.mpp, record.sparse.mpp_source) == (pytest.approx(outcome[0]), outcome[1])


@pytest.mark.parametrize(
    ("xy_um", "in_sheet", "mpp", "line"),
    [
        ((0.5, 0.5), 0.25, 0.25, "0.5 um/px in the file; takes sparse_mpp 0.25 of the sheet"),
        ((0.5, 0.51), 0.51, 0.51, ""),
        ((0.5, 0.515), None, 0.5075, "0.5 x 0.515 um/px in the file: pixels are not square, takes the mean 0.5075"),
        ((0.5, 0.6), 0.5, 0.5, "not square within 5%: 0.5 x 0.6 um/px in the file; takes sparse_mpp 0.5 of the sheet"),
        ((25400 / 300,) * 2, 0.5, 0.5, "a printing resolution in the file (300 dpi, 84.6667 um/px); takes sparse_mpp"),
    ],
)
def test_the_sheet_has_the_last_word_and_what_the_file_states_otherwise_is_told(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    xy_um: tuple[float, float],
    in_sheet: float | None,
    mpp: float,
    line: str,
) -> None:
    path, out = tmp_path / "s.tif", tmp_path / "s.json"
    options = {"resolution": tuple(1e4 / um for um in xy_um), "resolutionunit": "CENTIMETER", "metadata": None}
    tifffile.imwrite(path, smooth_rgb(200, 150), photometric="rgb", tile=(64, 64), **options)
    told = ["--sparse-mpp", str(in_sheet)] if in_sheet else []
    assert inspect("--slide", "s", "--patient", "p", "--sparse", path, *told, "--out", out) == 0
    said = capsys.readouterr().err
    assert line in said if line else said == ""
    assert said.count("\n") == bool(line)
    assert read_record(out).sparse.mpp == pytest.approx(mpp)


def test_pixels_far_from_square_need_the_sheet(tmp_path: Path) -> None:
    path = tmp_path / "s.tif"
    options = {"resolution": (20000, 18000), "resolutionunit": "CENTIMETER", "metadata": None}
    tifffile.imwrite(path, smooth_rgb(200, 150), photometric="rgb", tile=(64, 64), **options)
    with pytest.raises(
        StatedError, match=r"sparse_mpp in the sheet, found pixels that are not square .*0\.5 x 0\.55556"
    ):
        inspect_slide(SheetRow("s", "p", str(path)), InspectSettings())


def test_the_sparse_side_must_be_rgb(pair: tuple[Path, Path]) -> None:
    with pytest.raises(StatedError, match=r"RGB image of 8 bits.*3 channels of uint16 \(DAPI, CD3, CD8\)"):
        inspect_slide(SheetRow("s", "p", str(pair[1])), InspectSettings())


def test_16_bit_colour_is_no_sparse_side(tmp_path: Path) -> None:
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, smooth_rgb(130, 120).astype(np.uint16) * 256, photometric="rgb", metadata=None)
    with pytest.raises(StatedError, match=r"RGB image of 8 bits.*uint16"):
        inspect_slide(SheetRow("s", "p", str(path), sparse_mpp=0.5), InspectSettings())


def test_a_transform_must_exist_and_needs_a_dense_side(pair: tuple[Path, Path], tmp_path: Path) -> None:
    nowhere = SheetRow("s", "p", str(pair[0]), str(pair[1]), str(tmp_path / "nowhere.zarr"))
    with pytest.raises(StatedError, match=r"nowhere\.zarr: expected a transform"):
        inspect_slide(nowhere, InspectSettings())
    with pytest.raises(StatedError, match="expected a dense slide, found transform and markers without one"):
        inspect_slide(SheetRow("s", "p", str(pair[0]), transform="identity", markers="m.csv"), InspectSettings())
    row = SheetRow("s", "p", str(pair[0]), str(pair[1]), "identity")
    assert inspect_slide(row, InspectSettings()).transform == "identity"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("channel,marker\nDAPI,DNA\n", ("DNA", "CD3", "CD3")),
        ("channel,marker\n2,CD8\n\n", ("DAPI", "CD3", "CD8")),
        ("channel,marker\r\n1,A\r\n2,B\r\n", ("DAPI", "A", "B")),
        ("channel,marker\nCD3,X\n", "line 2: channel 'CD3'"),
        ("channel,marker\n3,X\n", "line 2: channel '3'"),
        ("channel,marker\n-1,X\n", "line 2: channel '-1'"),
        ("channel,marker\n0,X\nDAPI,Y\n", "line 3: again for channel 'DAPI'"),
        ("channel,marker\n0,\n", "line 2: no marker"),
        ("channel,marker\n1,DAPI\n", "'DAPI' more than once"),
        ("name,marker\n0,X\n", "expected a first line channel,marker, found name,marker"),
        ("", "found no line"),
        ("channel,marker\n0,X,Y\n", "line 2"),
    ],
)
def test_markers_rename_channels(tmp_path: Path, text: str, expected: tuple[str, ...] | str) -> None:
    path = tmp_path / "markers.csv"
    path.write_bytes(text.encode())
    names = ("DAPI", "CD3", "CD3")
    if isinstance(expected, str):
        with pytest.raises(StatedError, match=expected) as error:
            named_channels(names, path, file=Path("image.tif"))
        assert error.value.file == path
    elif len(set(expected)) < len(expected):
        with pytest.raises(StatedError, match="'CD3' more than once"):
            named_channels(names, path, file=Path("image.tif"))
    else:
        assert named_channels(names, path, file=Path("image.tif")) == expected


@pytest.mark.parametrize("label", ["-1", "256", "1.0", "1" * 5000])
def test_labels_that_no_mask_of_8_bits_has_are_refused(tmp_path: Path, label: str) -> None:
    markers = tmp_path / "classes.csv"
    markers.write_text(f"channel,marker\n1,tumour\n{label},stroma\n")
    with pytest.raises(StatedError, match=f"line 3: label '{label}'"):
        named_labels(markers, largest=255, most=255)


def test_a_dense_kind_that_is_none_is_wrong_usage(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--slide", "s", "--patient", "p", "--sparse", pair[0], "--dense", pair[1], "--out", tmp_path / "out"]
    with pytest.raises(SystemExit, match="2"):
        inspect(*arguments, "--dense-kind", "flourescence")
    assert "flourescence" in capsys.readouterr().err
    assert inspect(*arguments, "--dense-kind", "") == 0


@pytest.mark.parametrize("word", ["half", "0", "-1", "inf", "nan"])
def test_a_resolution_that_is_no_positive_number_is_wrong_usage(
    pair: tuple[Path, Path], tmp_path: Path, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        inspect(
            "--slide", "s", "--patient", "p", "--sparse", pair[0], "--out", tmp_path / "out", f"--sparse-mpp={word}"
        )
    assert f"--sparse-mpp: must be a positive number, not '{word}'" in capsys.readouterr().err


def test_repeated_channel_names_are_refused_unless_markers_resolve_them(
    tmp_path: Path, pair: tuple[Path, Path]
) -> None:
    dense = write_ome(tmp_path / "d.ome.tif", [channels_image(2, 130, 120)], ["FITC", "FITC"])
    row = SheetRow("s", "p", str(pair[0]), str(dense))
    with pytest.raises(StatedError, match=r"slide s, .*d\.ome\.tif: .*'FITC' more than once"):
        inspect_slide(row, InspectSettings())
    markers = tmp_path / "m.csv"
    markers.write_text("channel,marker\n0,CD3\n1,CD8\n")
    named = inspect_slide(SheetRow("s", "p", str(pair[0]), str(dense), markers=str(markers)), InspectSettings())
    assert named.dense is not None
    assert named.dense.channels == ("CD3", "CD8")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("s.svs", b"", "an empty file"),
        ("s.svs", b"This is the text of a letter.\n", "a file that begins with b'This is the text'"),
        ("s.tif", b"II*\0", "cut off"),
        ("s.tif", b"II*\0\x08\0\0\0\0\0\0\0\0\0", "a TIFF with an image"),
        ("s.tif", b"II*\0\xff\xff\0\0", "beyond the end"),
        ("s.tif", b"MM\0\x2b\0\x08\0\0\0\0\0\0\0\0\0\x10" + b"\xff" * 32, "found a directory"),
        ("s.jpg", b"\xff\xd8\xff\xe0" + b"x" * 40, "a file that begins with b'.xff.xd8.xff.xe0xx"),
    ],
)
def test_files_that_are_no_slides(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(StatedError, match=told) as error:
        open_slide(path, slide="s")
    assert str(error.value).startswith(f"slide s, file {path}: expected ")
    assert "\n" not in str(error.value)


def test_absent_files_and_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--slide", "s", "--patient", "p", "--out", tmp_path / "out.json"]
    assert inspect(*arguments, "--sparse", tmp_path / "none.svs") == 1
    expected = f"error: slide s, file {tmp_path / 'none.svs'}: expected a slide file, found no such file\n"
    assert capsys.readouterr() == ("", expected)
    assert inspect(*arguments, "--sparse", tmp_path) == 1
    assert "found a folder" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("kind", ["jpeg", "svs", "ome", "ome-raw", "strips", "imagej", "bigtiff"])
def test_truncation_is_noticed_wherever_the_file_ends(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s.tif"
    levels = pyramid(smooth_rgb(301, 203), 2)
    planes = channels_image(3, 150, 130)
    if kind == "jpeg":
        write_rgb(path, levels)
    elif kind == "svs":
        write_svs(path, levels)
    elif kind in ("ome", "ome-raw", "bigtiff"):
        write_ome(path, [planes], None, compression=None if kind == "ome-raw" else "zlib", bigtiff=kind == "bigtiff")
    elif kind == "strips":
        tifffile.imwrite(path, planes, photometric="minisblack", compression="zlib", rowsperstrip=8, metadata=None)
    else:
        tifffile.imwrite(path, planes, imagej=True, metadata={"axes": "CYX"})
    whole = path.read_bytes()
    open_slide(path).close()
    cut = tmp_path / "cut.tif"
    for size in sorted({1, 3, 7, 8, 20, 200, *(int(len(whole) * part) for part in (0.1, 0.35, 0.5, 0.8, 0.97))}):
        cut.write_bytes(whole[:size])
        with pytest.raises(StatedError) as error:
            open_slide(cut, slide="s")
        assert "\n" not in str(error.value)


def test_damaged_bytes_give_stated_errors_or_pixels_but_never_a_crash(tmp_path: Path) -> None:
    path = write_ome(tmp_path / "s.ome.tif", [channels_image(2, 150, 130)], ["a", "b"])
    whole = bytearray(path.read_bytes())
    random = np.random.default_rng(0)
    stated = 0
    for _ in range(150):
        damaged = bytearray(whole)
        # Half of the damage falls on the first kilobyte, where the directory lies.
        ends = [1024, len(whole)]
        for end in ends:
            damaged[int(random.integers(4, end))] = int(random.integers(0, 256))
        path.write_bytes(damaged)
        try:
            with open_slide(path, slide="s") as slide:
                slide.read_region(0, (0, 0), (150, 130))
        except StatedError:
            stated += 1
    assert stated > 10


def test_a_file_that_claims_absurd_dimensions(tmp_path: Path) -> None:
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, np.zeros((64, 64), np.uint8), photometric="minisblack", compression="zlib", metadata=None)
    data = bytearray(path.read_bytes())
    directory = struct.unpack("<I", data[4:8])[0]
    for entry in range(struct.unpack("<H", data[directory : directory + 2])[0]):
        at = directory + 2 + 12 * entry
        if struct.unpack("<H", data[at : at + 2])[0] in (256, 257, 278):
            data[at + 2 : at + 12] = struct.pack("<HII", 4, 1, 2_000_000_000)
    path.write_bytes(data)
    with pytest.raises(StatedError, match="px"):
        open_slide(path)


def test_the_hash_covers_companions(tmp_path: Path) -> None:
    mrxs = tmp_path / "a.mrxs"
    mrxs.write_bytes(b"x")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "Data0000.dat").write_bytes(b"1")
    before = source_digest(mrxs)
    (tmp_path / "a" / "Data0000.dat").write_bytes(b"2")
    assert source_digest(mrxs) != before


def test_the_files_of_a_dicom_slide_are_those_of_its_series(tmp_path: Path) -> None:
    """Whatever their endings; another slide in the folder is none of its business."""
    one, two = write_dicom(tmp_path / "1.dcm", "1.2.3"), write_dicom(tmp_path / "second", "1.2.3")
    before = source_digest(one)
    assert source_digest(two) == before
    other = write_dicom(tmp_path / "3.dcm", "1.2.30")
    (tmp_path / "notes.txt").write_text("no slide")
    assert source_digest(one) == before != source_digest(other)
    assert slide_files_of(one) == (one, two)
    two.write_bytes(two.read_bytes() + b"more")
    assert source_digest(one) != before


@pytest.mark.parametrize("delimited", [True, False])
@pytest.mark.parametrize("implicit", [True, False])
def test_a_dicom_header_is_read_past_the_sequences_of_other_series(
    tmp_path: Path, delimited: bool, implicit: bool
) -> None:
    path = write_dicom(tmp_path / "1.dcm", "1.2.3", delimited=delimited, implicit=implicit)
    header = dicom_header(path)
    assert header is not None
    assert (header.series, header.image_type) == ("1.2.3", ("ORIGINAL", "PRIMARY", "VOLUME", "NONE"))
    assert (header.size_xy, header.tile_xy) == ((1536, 1280), (512, 256))
    assert header.spacing_um == pytest.approx(0.5)
    assert dicom_header(write_rgb(tmp_path / "s.tif", [smooth_rgb(80, 70)])) is None


def test_the_files_of_vms_slides_and_ome_sets_are_those_that_they_name(tmp_path: Path) -> None:
    vms = tmp_path / "a.vms"
    vms.write_text("[Virtual Microscope Specimen]\nNoLayers=1\nImageFile=a(0,0).jpg\nImageFile(1,0)=a(1,0).jpg\n")
    for name in ("a(0,0).jpg", "a(1,0).jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in slide_files_of(vms)] == ["a.vms", "a(0,0).jpg", "a(1,0).jpg"]
    files = write_ome_set(tmp_path / "set", channels_image(3, 90, 70), ["DAPI", "CD3", "CD8"])
    assert slide_files_of(files[1]) == (files[1], files[0], files[2])
    assert source_digest(files[0]) == source_digest(files[1])


@pytest.mark.realdata
def test_the_tcga_slide_needs_its_mpp_from_the_sheet(real_data: Path) -> None:
    path = real_data / "formats" / "TCGA-CR-7395-01A-01-TS1.svs"
    with pytest.raises(StatedError, match=r"slide t, .*or as sparse_mpp in the sheet, found neither"):
        inspect_slide(SheetRow("t", "p", str(path)), InspectSettings())
    record = inspect_slide(SheetRow("t", "p", str(path), sparse_mpp=0.5), InspectSettings())
    assert (record.sparse.mpp, record.sparse.mpp_source) == (0.5, "sheet")


@pytest.mark.realdata
def test_a_real_pair(real_data: Path) -> None:
    folder = real_data / "orion_crc01"
    row = SheetRow("o", "crc01", str(folder / "centre_he.tif"), str(folder / "centre_mif_moved.ome.tif"))
    record = inspect_slide(row, InspectSettings())
    assert record.dense is not None
    assert len(record.dense.channels) == 18
    assert record.sparse.extent_um == pytest.approx((4096 * 1.3, 4096 * 1.3))


@pytest.mark.realdata
@pytest.mark.parametrize("part", [0.002, 0.2, 0.5, 0.9, 0.9999])
@pytest.mark.parametrize(
    "name",
    [
        "CMU-1-Small-Region.svs",
        "TCGA-CR-7395-01A-01-TS1.svs",
        "FIHC4__0929309_HP_IM3_2_component_data.tif",
        "OS-1-detail.ome.tif",
        "fluorescence-DAPI.ndpi",
        "pathml_small_vectra.qptiff",
    ],
)
def test_real_files_cut_short(real_data: Path, tmp_path: Path, name: str, part: float) -> None:
    whole = (real_data / "formats" / name).read_bytes()
    cut = tmp_path / name
    cut.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(StatedError):
        open_slide(cut, slide="s")
