"""CZI, the files of Zeiss scanners, through OpenSlide: drawn from the structures of Zeiss's specification."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import openslide
import pytest
from numpy.typing import NDArray
from slide_files import halved

from pipeline.errors import StatedError
from pipeline.slides.opening import open_slide

MPP, TILE_PX = 0.22, 256
_BGR24, _UNCOMPRESSED = 3, 0

pytestmark = pytest.mark.skipif(
    tuple(map(int, openslide.__library_version__.split(".")[:2])) < (4, 0), reason="OpenSlide reads CZI from 4.0 on"
)


Pair = tuple[int, int]


def _segment(name: bytes, data: bytes) -> bytes:
    padded = data + bytes(-len(data) % 32)
    return name.ljust(16, b"\0") + struct.pack("<qq", len(padded), len(data)) + padded


def _entry(at: int, corner_xy: Pair, size_xy: Pair, stored_xy: Pair, tile: int, compression: int) -> bytes:
    """A directory entry of one tile; `size_xy` counts level-0 pixels, `stored_xy` those of the tile."""
    places = [(b"X", corner_xy[0], size_xy[0], stored_xy[0]), (b"Y", corner_xy[1], size_xy[1], stored_xy[1])]
    places += [(b"C", 0, 1, 1), (b"S", 0, 1, 1)] + ([(b"M", tile, 1, 1)] if size_xy == stored_xy else [])
    pyramid = 0 if size_xy == stored_xy else 1
    head = struct.pack("<2siqiiB5xi", b"DV", _BGR24, at, 0, compression, pyramid, len(places))
    dimensions = (struct.pack("<4siifi", name, start, size, 0.0, stored) for name, start, size, stored in places)
    return head + b"".join(dimensions)


def write_czi(path: Path, levels: list[NDArray[np.uint8]], compression: int = _UNCOMPRESSED) -> None:
    """A CZI of RGB levels (H, W, 3), each half the one before; `compression` is what the entries of tiles claim."""
    height, width = levels[0].shape[:2]
    distances = "".join(f'<Distance Id="{axis}"><Value>{MPP * 1e-6}</Value></Distance>' for axis in "XY")
    xml = (
        f"<ImageDocument><Metadata><Information><Image><SizeX>{width}</SizeX><SizeY>{height}</SizeY><SizeC>1</SizeC>"
        "<SizeS>1</SizeS><PixelType>Bgr24</PixelType></Image></Information><Scaling><Items>"
        f"{distances}</Items></Scaling></Metadata></ImageDocument>"
    ).encode()
    body, entries, start = b"", [], 32 + 512
    for number, pixels in enumerate(levels):
        for top in range(0, pixels.shape[0], TILE_PX):
            for left in range(0, pixels.shape[1], TILE_PX):
                tile = np.ascontiguousarray(pixels[top : top + TILE_PX, left : left + TILE_PX, ::-1])
                scale, stored = 2**number, (tile.shape[1], tile.shape[0])
                place = (
                    (left * scale, top * scale),
                    (stored[0] * scale, stored[1] * scale),
                    stored,
                    len(entries),
                    compression,
                )
                entries.append(_entry(start + len(body), *place))
                head = struct.pack("<iiq", 0, 0, tile.nbytes) + entries[-1]
                body += _segment(b"ZISRAWSUBBLOCK", head.ljust(256, b"\0") + tile.tobytes())
    directory = start + len(body)
    body += _segment(b"ZISRAWDIRECTORY", struct.pack("<i124x", len(entries)) + b"".join(entries))
    metadata = start + len(body)
    body += _segment(b"ZISRAWMETADATA", struct.pack("<ii248x", len(xml), 0) + xml)
    attachments = start + len(body)
    body += _segment(b"ZISRAWATTDIR", struct.pack("<i252x", 0))
    head = struct.pack("<iiii16x16xiqqiq", 1, 0, 0, 0, 0, directory, metadata, 0, attachments)
    path.write_bytes(_segment(b"ZISRAWFILE", head.ljust(512, b"\0")) + body)


@pytest.fixture
def drawn(tmp_path: Path) -> tuple[Path, list[NDArray[np.uint8]]]:
    rng = np.random.default_rng(0)
    rgb = np.clip(rng.normal((150, 90, 160), 25, (512, 768, 3)), 0, 255).astype(np.uint8)
    levels = [rgb, halved(rgb)]
    write_czi(tmp_path / "a.czi", levels)
    return tmp_path / "a.czi", levels


def test_a_czi_is_read_with_its_levels_and_um_per_pixel(drawn: tuple[Path, list[NDArray[np.uint8]]]) -> None:
    path, levels = drawn
    with open_slide(path) as slide:
        assert slide.header.mpp == pytest.approx(MPP)
        assert [level.size_xy for level in slide.header.levels] == [(768, 512), (384, 256)]
        assert slide.header.is_rgb
        # Across the borders of tiles, which carry no compression.
        np.testing.assert_array_equal(slide.read_region(0, (200, 100), (300, 250)), levels[0][100:350, 200:500])
        np.testing.assert_array_equal(slide.read_region(1, (0, 0), (384, 256)), levels[1])


def test_a_czi_that_is_cut_off_is_refused_in_one_line(drawn: tuple[Path, list[NDArray[np.uint8]]]) -> None:
    path, _ = drawn
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(StatedError) as refused:
        open_slide(path, slide="a")
    assert "\n" not in str(refused.value)
    assert "slide a" in str(refused.value)


def test_a_czi_in_jpeg_xr_is_refused_in_one_line_where_openslide_lacks_it(tmp_path: Path) -> None:
    write_czi(tmp_path / "a.czi", [np.zeros((256, 256, 3), np.uint8)], compression=4)
    with pytest.raises(StatedError) as refused, open_slide(tmp_path / "a.czi", slide="a") as slide:
        slide.read_region(0, (5, 5), (1, 1))
    assert "\n" not in str(refused.value)
    assert "slide a" in str(refused.value)
