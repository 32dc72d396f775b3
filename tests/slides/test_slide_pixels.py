"""What samples of a file mean: JPEG colours, alpha, codecs, pixel types, colour tables; known pixels are the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tifffile
from imagecodecs import jpeg8_decode, jpeg8_encode
from numpy.typing import NDArray
from slide_files import channels_image, halved, smooth_rgb, write_dicom, write_scn

from pipeline.cli import main
from pipeline.errors import StatedError
from pipeline.provenance import write_json
from pipeline.settings import InspectSettings
from pipeline.sheet import SheetRow
from pipeline.slides.dicom_colours import refuse_contradicting_frames
from pipeline.slides.opening import open_side, open_slide
from pipeline.slides.record import to_mapping
from pipeline.slides.stage import inspect_slide
from pipeline.store.patch_store import PatchStore

SIDE = 64
PLAIN: dict[str, Any] = {"metadata": None, "resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
OME: dict[str, Any] = {"ome": True, "metadata": {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}}
JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
ADOBE = {
    space: b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + byte for space, byte in (("RGB", b"\0"), ("YCBCR", b"\1"))
}


def _noisy(width: int = 256, height: int = 256) -> NDArray[np.uint8]:
    noise = np.random.default_rng(3).normal(0, 8, (height, width, 3))
    return np.clip(smooth_rgb(width, height) * 0.6 + 60 + noise, 0, 255).astype(np.uint8)


def _whole(path: Path, shows: Literal["file", "colours", "channels"] = "file", level: int = 0) -> NDArray[Any]:
    with open_slide(path, shows=shows) as slide:
        return slide.read_region(level, (0, 0), slide.header.levels[level].size_xy)


def _inspect(row: SheetRow) -> tuple[Any, list[str]]:
    told: list[str] = []
    return inspect_slide(row, InspectSettings(), tell=told.append), told


# JPEG streams and the photometric tag.


def _without_markers(stream: bytes) -> bytes:
    """The stream without JFIF's and Adobe's markers, its components counted from 1, as abbreviated tiles have them."""
    found, position = bytearray(stream[:2]), 2
    while stream[position + 1] != 0xDA:
        end = position + 2 + int.from_bytes(stream[position + 2 : position + 4], "big")
        if stream[position + 1] not in (0xE0, 0xEE):
            found += stream[position:end]
        position = end
    rest = bytearray(stream[position:])
    frame = found.index(b"\xff\xc0")
    found[frame + 10 : frame + 19 : 3] = b"\1\2\3"
    rest[5:11:2] = b"\1\2\3"
    return bytes(found + rest)


def _write_jpeg(
    path: Path, space: str, tag: int, subsampling: str, markers: bytes, images: list[NDArray[np.uint8]]
) -> None:
    """A pyramid of JPEG tiles that hold `space`, with these markers, under a photometric tag."""
    options = OME if path.name.endswith(".ome.tif") else {}
    with tifffile.TiffWriter(path, ome=bool(options)) as writer:
        for index, image in enumerate(images):
            cut = []
            for y in range(0, image.shape[0], SIDE):
                for x in range(0, image.shape[1], SIDE):
                    tile = np.ascontiguousarray(image[y : y + SIDE, x : x + SIDE])
                    coded = jpeg8_encode(tile, level=95, colorspace="RGB", outcolorspace=space, subsampling=subsampling)
                    cut.append(b"\xff\xd8" + markers + _without_markers(coded)[2:])
            more = dict(PLAIN) if not options else {"metadata": None if index else OME["metadata"]}
            if path.suffix == ".svs":
                more = {"description": "Aperio Image Library v11.2.1|AppMag = 20|MPP = 0.5", "metadata": None}
            if options and not index:
                more["subifds"] = len(images) - 1
            writer.write(
                iter(cut),
                shape=image.shape,
                dtype="uint8",
                tile=(SIDE, SIDE),
                photometric="ycbcr",
                compression="jpeg",
                subsampling=(2, 2) if subsampling == "420" else (1, 1),
                subfiletype=1 if index else 0,
                **more,
            )
    with tifffile.TiffFile(path, mode="r+b") as tif:
        pages = [page for top in tif.pages for page in (top, *(top.aspage().pages or ()))]
        for page in pages:
            page.aspage().tags[262].overwrite(tag)


def _truth(space: str, subsampling: str, image: NDArray[np.uint8], shown_as: str) -> NDArray[np.uint8]:
    """The tiles decoded one by one with the colours that they are said to hold."""
    out = np.empty_like(image)
    for y in range(0, image.shape[0], SIDE):
        for x in range(0, image.shape[1], SIDE):
            tile = np.ascontiguousarray(image[y : y + SIDE, x : x + SIDE])
            coded = jpeg8_encode(tile, level=95, colorspace="RGB", outcolorspace=space, subsampling=subsampling)
            out[y : y + SIDE, x : x + SIDE] = jpeg8_decode(
                _without_markers(coded), colorspace=shown_as, outcolorspace="RGB"
            )
    return out


@pytest.mark.parametrize("name", ["s.tif", "s.svs", "s.ome.tif"])
@pytest.mark.parametrize("tag", [2, 6])
@pytest.mark.parametrize(
    ("space", "subsampling", "markers", "states"),
    [
        ("YCBCR", "444", JFIF, "YCBCR"),
        ("YCBCR", "420", JFIF, "YCBCR"),
        ("YCBCR", "420", ADOBE["YCBCR"], "YCBCR"),
        ("RGB", "444", ADOBE["RGB"], "RGB"),
        # Fewer samples of two components than of the first: differences of colour.
        ("YCBCR", "420", b"", "YCBCR"),
        ("YCBCR", "444", b"", None),
        ("RGB", "444", b"", None),
        # These contradict each other, so that the tag decides.
        ("RGB", "444", JFIF + ADOBE["RGB"], None),
    ],
)
def test_jpeg_tiles_show_the_colours_that_they_state_or_else_the_tag(
    tmp_path: Path, name: str, tag: int, space: str, subsampling: str, markers: bytes, states: str | None
) -> None:
    levels = [_noisy(), halved(_noisy())]
    _write_jpeg(tmp_path / name, space, tag, subsampling, markers, levels)
    tagged = {2: "RGB", 6: "YCBCR"}[tag]
    expected = [_truth(space, subsampling, level, states or tagged) for level in levels]
    for level, pixels in enumerate(expected):
        np.testing.assert_array_equal(_whole(tmp_path / name, level=level), pixels)
    with open_slide(tmp_path / name) as slide:
        np.testing.assert_array_equal(slide.read_region(0, (37, 51), (90, 70)), expected[0][51:121, 37:127])
        assert slide.header.reader == ("tifffile" if name == "s.ome.tif" else "openslide")
    _, told = _inspect(SheetRow("s", "p", str(tmp_path / name)))
    assert any("the tiles are believed" in line for line in told) == (states not in (None, tagged))


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL_422", "YBR_FULL"])
@pytest.mark.parametrize(
    ("space", "subsampling", "markers", "states"),
    [
        ("YCBCR", "422", JFIF, "YCBCR"),
        ("YCBCR", "422", b"", "YCBCR"),
        ("YCBCR", "444", b"", None),
        ("RGB", "444", ADOBE["RGB"], "RGB"),
    ],
)
def test_frames_of_a_dicom_slide_that_contradict_its_header_are_refused(
    tmp_path: Path, photometric: str, space: str, subsampling: str, markers: bytes, states: str | None
) -> None:
    coded = jpeg8_encode(_noisy()[:64, :64], colorspace="RGB", outcolorspace=space, subsampling=subsampling)
    frame = b"\xff\xd8" + markers + _without_markers(coded)[2:]
    path = write_dicom(tmp_path / "1.dcm", "1.2.3", photometric=photometric, frame=frame)
    if states is None or (states == "RGB") == (photometric == "RGB"):
        refuse_contradicting_frames([path], "s")
        return
    with pytest.raises(StatedError, match=f"frames of {photometric}"):
        refuse_contradicting_frames([path], "s")


def test_frames_of_other_codecs_and_headers_alone_say_nothing_of_their_colours(tmp_path: Path) -> None:
    one = write_dicom(tmp_path / "1.dcm", "1.2.3", photometric="YBR_ICT", frame=b"\xff\x4f\xff\x51" + bytes(40))
    refuse_contradicting_frames([one, write_dicom(tmp_path / "2.dcm", "1.2.3", photometric="RGB")], "s")


@pytest.mark.parametrize("name", ["s.tif", "s.svs", "s.ome.tif"])
@pytest.mark.parametrize(("space", "tag", "markers"), [("YCBCR", 2, JFIF), ("RGB", 6, ADOBE["RGB"])])
def test_copied_tiles_keep_the_colours_that_they_state(
    tmp_path: Path, name: str, space: str, tag: int, markers: bytes
) -> None:
    path = tmp_path / name
    _write_jpeg(path, space, tag, "444", markers, [_noisy()])
    record, _ = _inspect(SheetRow("s1", "p", str(path)))
    write_json(tmp_path / "record.json", to_mapping(record))
    argv = ["tile", "--record", str(tmp_path / "record.json"), "--out", str(tmp_path / "s1.zarr")]
    assert main([*argv, "--settings", '{"size_px": 64, "min_tissue": 0}']) == 0
    store = PatchStore.open(tmp_path / "s1.zarr")
    assert store.attributes.recipe["codec"] == "jpeg-copied"
    expected = _truth(space, "444", _noisy(), space)
    for (x, y), patch in zip(store.table.position_px.astype(int), store.read_sparse(slice(None)), strict=True):
        np.testing.assert_array_equal(patch, expected[y : y + SIDE, x : x + SIDE])


def _philips_level(number: int, width: int, height: int) -> str:
    spacing = f"&quot;{0.0005 * 2**number}&quot;"
    return (
        '<DataObject ObjectType="PixelDataRepresentation">'
        f'<Attribute Name="DICOM_PIXEL_SPACING" PMSVR="IDoubleArray">{spacing} {spacing}</Attribute>'
        f'<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_NUMBER" PMSVR="IUInt16">{number}</Attribute>'
        f'<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_COLUMNS" PMSVR="IUInt32">{width}</Attribute>'
        f'<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_ROWS" PMSVR="IUInt32">{height}</Attribute></DataObject>'
    )


def _write_philips(path: Path, space: str, tag: int, levels: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """Write a Philips TIFF, its levels padded to whole tiles; return what they show."""
    described = "".join(_philips_level(i, level.shape[1], level.shape[0]) for i, level in enumerate(levels))
    xml = (
        '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">'
        '<Attribute Name="DICOM_MANUFACTURER" PMSVR="IString">PHILIPS</Attribute>'
        '<Attribute Name="PIM_DP_SCANNED_IMAGES" PMSVR="IDataObjectArray"><Array>'
        '<DataObject ObjectType="DPScannedImage">'
        '<Attribute Name="PIM_DP_IMAGE_TYPE" PMSVR="IString">WSI</Attribute>'
        '<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE" PMSVR="IDataObjectArray">'
        f"<Array>{described}</Array></Attribute></DataObject></Array></Attribute></DataObject>"
    )
    shown: list[NDArray[np.uint8]] = []
    with tifffile.TiffWriter(path) as writer:
        for index, level in enumerate(levels):
            height, width = level.shape[:2]
            padded = np.zeros((-(-height // SIDE) * SIDE, -(-width // SIDE) * SIDE, 3), np.uint8)
            padded[:height, :width] = level
            corners = [(y, x) for y in range(0, padded.shape[0], SIDE) for x in range(0, padded.shape[1], SIDE)]
            cut = [np.ascontiguousarray(padded[y : y + SIDE, x : x + SIDE]) for y, x in corners]
            writer.write(
                iter(
                    [
                        jpeg8_encode(tile, level=95, colorspace="RGB", outcolorspace=space, subsampling="444")
                        for tile in cut
                    ]
                ),
                shape=padded.shape,
                dtype="uint8",
                tile=(SIDE, SIDE),
                photometric="ycbcr",
                compression="jpeg",
                subsampling=(1, 1),
                software="Philips DP v1.0",
                description=f"level={index}" if index else xml,
                subfiletype=1 if index else 0,
                metadata=None,
            )
            # The first page counts with its padding, and as much of the others as shows it.
            whole = shown[0] if shown else padded
            height, width = (side // 2**index for side in whole.shape[:2])
            shown.append(_truth(space, "444", padded, space)[:height, :width])
    _overwrite_photometric(path, tag)
    return shown


def _overwrite_photometric(path: Path, tag: int) -> None:
    with tifffile.TiffFile(path, mode="r+b") as tif:
        for page in tif.pages:
            page.aspage().tags[262].overwrite(tag)


@pytest.mark.parametrize(("space", "tag"), [("YCBCR", 2), ("RGB", 6), ("YCBCR", 6)])
def test_philips_tiles_show_the_colours_that_they_state(tmp_path: Path, space: str, tag: int) -> None:
    whole = _noisy(300, 200)
    expected = _write_philips(tmp_path / "s.tiff", space, tag, [whole, halved(whole)])
    for level, pixels in enumerate(expected):
        np.testing.assert_array_equal(_whole(tmp_path / "s.tiff", level=level), pixels)
    with open_slide(tmp_path / "s.tiff") as slide:
        assert slide.header.reader == "openslide"
        assert any("the tiles are believed" in note for note in slide.header.notes) == ((space, tag) != ("YCBCR", 6))


def test_tiles_that_only_openslide_can_place_are_refused_where_it_would_show_false_colours(tmp_path: Path) -> None:
    image = smooth_rgb(512, 512)
    path = write_scn(tmp_path / "s.scn", image, (256, 256), 1024)
    assert np.abs(_whole(path)[256:768, 256:768].astype(int) - image).mean() < 3
    _overwrite_photometric(path, 2)
    with pytest.raises(StatedError, match="JPEG tiles state YCbCr, the photometric tag RGB"):
        open_slide(path)


@pytest.mark.parametrize(("space", "markers"), [("YCBCR", JFIF), ("RGB", ADOBE["RGB"])])
@pytest.mark.parametrize("tag", [2, 6])
def test_ndpi_shows_the_colours_that_its_stream_states(tmp_path: Path, space: str, markers: bytes, tag: int) -> None:
    path, image = tmp_path / "s.ndpi", _noisy()
    coded = jpeg8_encode(image, level=95, colorspace="RGB", outcolorspace=space, subsampling="444")
    flags = [(number, "i", 1, 0, True) for number in (65422, 65423, 65424)]
    tifffile.imwrite(
        tmp_path / "s.tif",
        iter([b"\xff\xd8" + markers + _without_markers(coded)[2:]]),
        shape=image.shape,
        dtype="uint8",
        photometric="ycbcr",
        compression="jpeg",
        subsampling=(1, 1),
        rowsperstrip=image.shape[0],
        extratags=[(65420, "I", 1, 1, True), (65421, "f", 1, 20.0, True), *flags],
        **PLAIN,
    )
    _overwrite_photometric(tmp_path / "s.tif", tag)
    (tmp_path / "s.tif").rename(path)
    expected = jpeg8_decode(_without_markers(coded), colorspace=space, outcolorspace="RGB")
    np.testing.assert_array_equal(_whole(path), expected)


# The fourth sample.


@pytest.mark.parametrize("layout", ["contig", "separate", "strips", "ome", "svs"])
@pytest.mark.parametrize("extra", ["unspecified", "assocalpha", "unassalpha"])
def test_the_fourth_sample_is_alpha_only_where_the_file_says_so(tmp_path: Path, extra: str, layout: str) -> None:
    options: dict[str, Any] = {"photometric": "rgb", "compression": "lzw", "extrasamples": [extra]}
    options |= {"rowsperstrip": 17} if layout == "strips" else {"tile": (SIDE, SIDE)}
    options |= {} if layout == "ome" else PLAIN
    options |= {"planarconfig": "separate"} if layout == "separate" else {}
    options |= {"description": "Aperio Image Library v11.2.1|AppMag = 20|MPP = 0.5"} if layout == "svs" else {}
    path = tmp_path / {"ome": "s.ome.tif", "svs": "s.svs"}.get(layout, "s.tif")
    seen = []
    with tifffile.TiffWriter(path, ome=layout == "ome") as writer:
        for index, image in enumerate([_noisy(200, 150), halved(_noisy(200, 150))]):
            height, width = image.shape[:2]
            ramp = np.clip(np.linspace(-60, 320, width), 0, 255).round().astype(np.uint8)
            alpha = ramp * np.ones((height, 1), np.uint8)
            opacity = alpha[..., None] / 255
            stored = np.rint(image * opacity).astype(np.uint8) if extra == "assocalpha" else image
            white = 255 * (1 - opacity)
            of_kind = {"unspecified": image, "assocalpha": stored + white, "unassalpha": image * opacity + white}
            seen.append(of_kind[extra])
            pixels = np.dstack([stored, alpha])
            if layout == "separate":
                pixels = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
            more = {}
            if layout == "ome":
                more = {"metadata": None} if index else {"metadata": OME["metadata"], "subifds": 1}
            writer.write(pixels, subfiletype=1 if index else 0, **options, **more)
    for level, expected in enumerate(seen):
        # Rounded once, from exact whole numbers.
        assert np.abs(_whole(path, level=level) - expected).max() <= 0.5 + 1e-9
    whole = _whole(path)
    with open_slide(path) as slide:
        assert slide.header.reader == ("openslide" if layout == "svs" else "tifffile")
        assert bool(slide.header.notes) == (extra == "unspecified")
        window = slide.read_region(0, (-5, 90), (40, 30), [2, 0])
        np.testing.assert_array_equal(window[:, 5:], whole[90:120, :35, [2, 0]])
        assert (slide.read_region(0, (-5, 90), (5, 30)) == 255).all()


def test_four_bands_saved_as_colours_can_be_declared_fluorescence(tmp_path: Path) -> None:
    bands = channels_image(4, 150, 120, "uint8") // 6
    for name, extra in (("unspecified.tif", "unspecified"), ("alpha.tif", "unassalpha")):
        path = tmp_path / name
        stored = np.ascontiguousarray(np.moveaxis(bands, 0, -1))
        tifffile.imwrite(path, stored, photometric="rgb", extrasamples=[extra], tile=(SIDE, SIDE), **PLAIN)
        sparse = tmp_path / "he.tif"
        tifffile.imwrite(sparse, _noisy(), photometric="rgb", tile=(SIDE, SIDE), **PLAIN)
        (tmp_path / "m.csv").write_text("channel,marker\n0,DAPI\n1,CD3\n2,CD8\n3,CD20\n")
        row = SheetRow("s", "p", str(sparse), str(path), markers=str(tmp_path / "m.csv"), dense_kind="fluorescence")
        record, _ = _inspect(row)
        assert (record.dense.kind, record.dense.channels) == ("fluorescence", ("DAPI", "CD3", "CD8", "CD20"))
        with open_side(record.dense) as slide:
            np.testing.assert_array_equal(slide.read_region(0, (0, 0), (150, 120)), stored)
            assert not slide.read_region(0, (-9, 0), (9, 120)).any()
        with pytest.raises(StatedError, match=r"dense_kind in the sheet.*an RGB image on black: fluorescence\?"):
            _inspect(SheetRow("s", "p", str(sparse), str(path)))


# RGB on black.


def _cells_on_black(width: int = 400, height: int = 300, colours: int = 3) -> NDArray[np.uint8]:
    """Blurred spots on black, of each colour other ones."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:height, :width]
    out = np.zeros((height, width, colours))
    for colour in range(colours):
        for cx, cy in rng.uniform(0, 1, (120, 2)) * (width, height):
            out[..., colour] += 180 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 30)
    return np.clip(out + rng.integers(0, 12, out.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("compression", ["deflate", "jpeg"])
def test_fluorescence_saved_as_rgb_is_asked_about_and_read_where_declared(
    tmp_path: Path, compression: str, grey: bool
) -> None:
    image = _cells_on_black(colours=1 if grey else 3) * np.ones(3, np.uint8)
    tifffile.imwrite(tmp_path / "if.tif", image, photometric="rgb", tile=(SIDE, SIDE), compression=compression, **PLAIN)
    tifffile.imwrite(tmp_path / "he.tif", _noisy(), photometric="rgb", tile=(SIDE, SIDE), **PLAIN)
    sparse, dense = str(tmp_path / "he.tif"), str(tmp_path / "if.tif")
    with pytest.raises(StatedError, match=r"dense_kind in the sheet.*an RGB image on black: fluorescence\?"):
        _inspect(SheetRow("s", "p", sparse, dense))
    with pytest.raises(StatedError, match=r"an H&E image, on bright glass.*an RGB image on black: fluorescence\?"):
        _inspect(SheetRow("s", "p", dense))
    assert _inspect(SheetRow("s", "p", sparse, dense, dense_kind="brightfield"))[0].dense.kind == "brightfield"
    record, _ = _inspect(SheetRow("s", "p", sparse, dense, dense_kind="fluorescence"))
    assert (record.dense.kind, record.dense.channels) == ("fluorescence", ("red", "green", "blue"))
    with open_side(record.dense) as slide:
        window = slide.read_region(0, (-10, 20), (90, 70))
    assert not window[:, :10].any()
    np.testing.assert_array_equal(window[:, 10:], _whole(Path(dense))[20:90, :80])


def test_colours_that_openslide_reads_become_channels_that_end_in_darkness(tmp_path: Path) -> None:
    path = tmp_path / "s.svs"
    description = "Aperio Image Library v11.2.1|AppMag = 20|MPP = 0.5"
    tifffile.imwrite(
        path, _cells_on_black(), photometric="rgb", tile=(SIDE, SIDE), description=description, metadata=None
    )
    with open_slide(path, shows="channels") as slide:
        assert (slide.header.reader, slide.header.channels) == ("openslide", ("red", "green", "blue"))
        window = slide.read_region(0, (350, 250), (90, 80), [1])
    assert not window[50:].any()
    assert not window[:, 50:].any()
    np.testing.assert_array_equal(window[:50, :50, 0], _cells_on_black()[250:, 350:, 1])


@pytest.mark.parametrize("fill", [0, 40])
def test_unscanned_parts_and_ink_are_no_fluorescence(tmp_path: Path, fill: int) -> None:
    image = np.full((600, 600, 3), fill, np.uint8)
    image[200:400, 200:420] = _noisy(220, 200)
    image[220:240, 200:400] = np.random.default_rng(0).integers(5, 60, (20, 200, 3))
    tifffile.imwrite(tmp_path / "s.tif", image, photometric="rgb", tile=(SIDE, SIDE), **PLAIN)
    assert _inspect(SheetRow("s", "p", str(tmp_path / "s.tif")))[0].sparse.kind == "brightfield"


# Codecs that OpenSlide lacks.


@pytest.mark.parametrize(
    ("compression", "arguments"),
    [
        ("deflate", {}),
        ("zstd", {}),
        ("lzma", {}),
        ("png", {}),
        ("packbits", {}),
        ("lerc", {}),
        ("webp", {"lossless": True}),
        ("jpegxl", {"lossless": True}),
        ("jpegxr", {"level": 1.0}),
        ("jpeg2000", {"reversible": True}),
    ],
)
def test_a_plain_tiled_pyramid_reads_the_same_in_any_codec(
    tmp_path: Path, compression: str, arguments: dict[str, Any]
) -> None:
    image = _noisy(230, 190)
    levels = [image, halved(image)]
    for name in ("s.tif", "s.ome.tif"):
        options: dict[str, Any] = {"photometric": "rgb", "tile": (SIDE, SIDE), "compression": compression}
        options["compressionargs"] = arguments
        with tifffile.TiffWriter(tmp_path / name, ome=name == "s.ome.tif") as writer:
            for index, level in enumerate(levels):
                more: dict[str, Any] = dict(PLAIN)
                if name == "s.ome.tif":
                    more = {"metadata": None} if index else {"metadata": OME["metadata"], "subifds": 1}
                writer.write(level, subfiletype=1 if index else 0, **options, **more)
        with open_slide(tmp_path / name) as slide:
            assert (slide.header.channels, slide.header.mpp) == (("R", "G", "B"), pytest.approx(0.5))
            for index, level in enumerate(levels):
                size = slide.header.levels[index].size_xy
                np.testing.assert_array_equal(slide.read_region(index, (0, 0), size), level)


def test_ycbcr_that_no_codec_converts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.ome.tif"
    tifffile.imwrite(
        path, _noisy(), photometric="ycbcr", subsampling=(1, 1), compression="lzw", tile=(SIDE, SIDE), ome=True
    )
    with pytest.raises(StatedError, match="write it again as RGB, found YCbCr in compression 5"):
        open_slide(path)


def test_an_image_without_any_tile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.tif"
    tiles = iter([b""] * 16)
    options: dict[str, Any] = {"shape": (256, 256, 3), "dtype": "uint8", "tile": (SIDE, SIDE), "compression": "zstd"}
    tifffile.imwrite(path, tiles, photometric="rgb", **options, **PLAIN)
    with pytest.raises(StatedError, match="none of 16 tiles or strips of the first image"):
        open_slide(path)


# Pixel types.


@pytest.mark.parametrize("layout", [{}, {"tile": (SIDE, SIDE), "compression": "deflate"}, {"byteorder": ">"}])
@pytest.mark.parametrize(
    ("dtype", "read_as"),
    [("int8", "float32"), ("int16", "float32"), ("float16", "float32"), ("bool", "uint8"), ("uint16", "uint16")],
)
def test_pixel_types_are_read_without_loss(tmp_path: Path, dtype: str, read_as: str, layout: dict[str, Any]) -> None:
    path = tmp_path / "s.tif"
    image = (np.random.default_rng(1).integers(-120, 120, (2, 90, 110)) * (1 if dtype != "uint16" else 200)).astype(
        dtype
    )
    tifffile.imwrite(path, image, photometric="minisblack", **PLAIN, **layout)
    with open_slide(path) as slide:
        pixels = slide.read_region(0, (0, 0), (110, 90))
        assert slide.header.dtype == pixels.dtype.name == read_as
        assert bool(slide.header.notes) == (dtype != read_as)
    np.testing.assert_array_equal(np.moveaxis(pixels, -1, 0).astype(np.float64), image.astype(np.float64))


@pytest.mark.parametrize("dtype", ["uint32", "int32", "float64", "int64"])
def test_pixel_types_that_would_lose_are_refused_with_what_to_do(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, np.zeros((2, 90, 110), dtype), photometric="minisblack", **PLAIN)
    with pytest.raises(StatedError, match=f"write it again as uint16 or float32, found {dtype}"):
        open_slide(path)


def test_colours_of_16_bits_and_colours_tagged_grey_are_refused_with_what_to_do(tmp_path: Path) -> None:
    deep, grey = tmp_path / "deep.tif", tmp_path / "grey.tif"
    tifffile.imwrite(deep, _noisy().astype(np.uint16) * 257, photometric="rgb", tile=(SIDE, SIDE), **PLAIN)
    rgba = np.dstack([_noisy(), np.full((256, 256), 255, np.uint8)])
    tifffile.imwrite(grey, rgba, photometric="minisblack", planarconfig="contig", tile=(SIDE, SIDE), **PLAIN)
    with pytest.raises(StatedError, match=r"again with 8 bits per colour.*3 channels of uint16"):
        _inspect(SheetRow("s", "p", str(deep)))
    with pytest.raises(StatedError, match=r"again with the photometric tag RGB.*4 channels of uint8"):
        _inspect(SheetRow("s", "p", str(grey)))


# Colour tables, and H&E in three planes.


@pytest.mark.parametrize("shift", [257, 256, 1])
def test_a_colour_table_is_colours_of_a_stain_and_numbers_of_channels(tmp_path: Path, shift: int) -> None:
    rng = np.random.default_rng(2)
    table = rng.integers(90, 256, (3, 256))
    indices = rng.integers(0, 256, (90, 110)).astype(np.uint8)
    path = tmp_path / "s.tif"
    tifffile.imwrite(
        path,
        indices,
        photometric="palette",
        colormap=(table * shift).astype(np.uint16),
        tile=(SIDE, SIDE),
        compression="lzw",
        **PLAIN,
    )
    np.testing.assert_array_equal(_whole(path, "colours"), np.moveaxis(table[:, indices], 0, -1))
    np.testing.assert_array_equal(_whole(path)[..., 0], indices)
    record, _ = _inspect(SheetRow("s", "p", str(path)))
    assert (record.sparse.kind, record.sparse.dtype) == ("brightfield", "uint8")
    with open_side(record.sparse) as slide:
        window = slide.read_region(0, (100, 80), (20, 20), [2, 0])
    np.testing.assert_array_equal(window[:10, :10], np.moveaxis(table[[2, 0]][:, indices[80:, 100:]], 0, -1))
    assert (window[10:] == 255).all()
    with pytest.raises(StatedError, match="dense_kind"):
        _inspect(SheetRow("s", "p", str(path), str(path)))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_channels_with_colour_tables_are_their_numbers(tmp_path: Path, dtype: str) -> None:
    image = channels_image(2, 110, 90, dtype)
    table = np.zeros((3, 2 ** (8 * image.dtype.itemsize)), np.uint16)
    table[1] = np.linspace(0, 65535, table.shape[1])
    metadata = {"axes": "CYX", "Channel": {"Name": ["DAPI", "CD3"]}}
    path = tmp_path / "s.ome.tif"
    tifffile.imwrite(path, image, photometric="palette", colormap=table, ome=True, metadata=metadata)
    with open_slide(path) as slide:
        assert (slide.header.channels, slide.header.dtype) == (("DAPI", "CD3"), dtype)
        np.testing.assert_array_equal(slide.read_region(0, (0, 0), (110, 90)), np.moveaxis(image, 0, -1))


@pytest.mark.parametrize("names", [None, ["Red", "Green", "Blue"], ["Channel 0", "Channel 1", "Channel 2"]])
def test_a_stain_in_three_grey_planes_is_an_rgb_image(tmp_path: Path, names: list[str] | None) -> None:
    image, path = _noisy() // 2 + np.uint8(120), tmp_path / "s.ome.tif"
    metadata: dict[str, Any] = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    metadata |= {"Channel": {"Name": names}} if names else {}
    planes = np.ascontiguousarray(np.moveaxis(image, -1, 0))
    tifffile.imwrite(path, planes, photometric="minisblack", ome=True, tile=(SIDE, SIDE), metadata=metadata)
    record, told = _inspect(SheetRow("s", "p", str(path)))
    assert record.sparse.channels == ("R", "G", "B")
    assert any("three grey planes" in line for line in told)
    with open_side(record.sparse) as slide:
        window = slide.read_region(0, (-8, 0), (100, 60))
    assert (window[:, :8] == 255).all()
    np.testing.assert_array_equal(window[:, 8:], image[:60, :92])
    with pytest.raises(StatedError, match=r"dense_kind in the sheet.*three bright channels"):
        _inspect(SheetRow("s", "p", str(path), str(path)))
    assert _inspect(SheetRow("s", "p", str(path), str(path), dense_kind="brightfield"))[0].dense.kind == "brightfield"


def test_three_named_channels_are_no_stain(tmp_path: Path) -> None:
    metadata = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "Channel": {"Name": ["DAPI", "CD3", "CD8"]}}
    path = tmp_path / "s.ome.tif"
    tifffile.imwrite(path, channels_image(3, 110, 90, "uint8"), photometric="minisblack", ome=True, metadata=metadata)
    with pytest.raises(StatedError, match=r"an RGB image of 8 bits on the sparse side.*DAPI, CD3, CD8"):
        _inspect(SheetRow("s", "p", str(path)))
