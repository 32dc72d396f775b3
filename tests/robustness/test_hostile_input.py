"""Whatever stands in an input file: it is read, or refused with a stated error; never a traceback, never a crash."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import tifffile
from cohort import REPOSITORY
from drawn_training import train_tiny
from hostile import CONFIGURATION, MARKERS, MATRIX, RECORD, SHEET, changed, damaged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from slide_files import channels_image, smooth_rgb, write_ome, write_rgb

from pipeline.cli import main
from pipeline.embedding.encoder import Encoder
from pipeline.embedding.encoder_description import read_description
from pipeline.embedding.features_file import open_features
from pipeline.errors import StatedError
from pipeline.provenance import file_digest
from pipeline.registration.displacement import DisplacementGrid
from pipeline.registration.transform import Transform, write_transform
from pipeline.registration.transform_file import read_transform
from pipeline.settings import load
from pipeline.sheet import read_sheet
from pipeline.slides.base import CorruptTileError
from pipeline.slides.jpeg_tiles import RGB, JpegTiles
from pipeline.slides.markers import named_channels
from pipeline.slides.opening import open_slide
from pipeline.slides.record import read_record
from pipeline.store.patch_store import PatchStore
from pipeline.training.rows import read_training_rows

MANY = settings(
    max_examples=80, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
SPLIT = b"slide\trow\tpatient\tfold\tpair_quality\n"

Door = Callable[[Path], object]


def _rows(path: Path) -> object:
    return read_training_rows(path, path.parent / "tile", branches=("sparse", "dense"), batch_size=4)


TEXTS: dict[str, tuple[bytes, Door]] = {
    "slides.tsv": (SHEET, read_sheet),
    "config.yaml": (CONFIGURATION, load),
    "markers.csv": (MARKERS, lambda path: named_channels(("DAPI", "C1"), path, file=path)),
    "matrix.csv": (MATRIX, read_transform),
    "matrix.json": (b'{"matrix": [[1, 0, 5], [0, 1, 7], [0, 0, 1]]}', read_transform),
    "record.json": (json.dumps(RECORD).encode(), read_record),
}


@pytest.mark.parametrize("name", TEXTS)
def test_damaged_text_is_read_or_refused(name: str, tmp_path: Path) -> None:
    valid, door = TEXTS[name]
    path = tmp_path / name
    path.write_bytes(valid)
    door(path)

    @MANY
    @given(damaged(valid))
    def check(data: bytes) -> None:
        path.write_bytes(data)
        with suppress(StatedError):
            door(path)

    check()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("slides.tsv", b"slide\tpatient\tsparse\na\tp\t" + b"x" * 200_000 + b"\n"),
        ("markers.csv", b"channel,marker\n" + b"9" * 5000 + b",CD3\n"),
        ("markers.csv", b"channel,marker\n" + b"x" * 200_000 + b",CD3\n"),
    ],
)
def test_cells_longer_than_python_takes_are_read_or_refused(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with suppress(StatedError):
        TEXTS[name][1](tmp_path / name)


@pytest.mark.parametrize(("offset", "count"), [(0, 2**40), (0, 2**62), (2**63 - 1, 2**63 - 1), (2**62, 8)])
def test_tiles_that_claim_more_than_their_file_holds_take_no_memory(offset: int, count: int, tmp_path: Path) -> None:
    (tmp_path / "x.tif").write_bytes(b"\xff\xd8\xff\xd9" * 10)
    page = SimpleNamespace(tilewidth=16, imagewidth=16, dataoffsets=[offset], databytecounts=[count], jpegtables=None)
    with JpegTiles(tmp_path / "x.tif", page) as tiles:  # type: ignore[arg-type]
        with pytest.raises(CorruptTileError, match="then the file's end"):
            tiles.stream(0, RGB)
        with pytest.raises(CorruptTileError, match="then the file's end"):
            tiles.streams(np.array([0]), RGB)


@MANY
@given(data=changed(RECORD))
def test_a_record_of_other_values_is_read_or_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_bytes(data)
    with suppress(StatedError):
        read_record(tmp_path / "record.json")


def test_yaml_that_unfolds_to_more_than_memory_holds_is_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 {pairing: true}"]
    lines += [f"a{i}: &a{i} {{{', '.join(f'k{j}: *a{i - 1}' for j in range(9))}}}" for i in range(1, 30)]
    (tmp_path / "bomb.yaml").write_text("\n".join([*lines, "runs: {d: *a29}"]))
    with pytest.raises(StatedError, match="a valid configuration"):
        load(tmp_path / "bomb.yaml")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train_tiny(folder)
    return folder


def test_a_damaged_split_table_is_read_or_refused(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "tile", tmp_path / "tile")
    path = tmp_path / "patches.tsv"
    valid = (trained / "patches.tsv").read_bytes()

    @settings(MANY, max_examples=40)
    @given(damaged(valid))
    def check(data: bytes) -> None:
        path.write_bytes(data)
        with suppress(StatedError):
            _rows(path)

    check()


@pytest.mark.parametrize("part", ["zarr.json", "sparse/zarr.json", "position_px/zarr.json", "overview/zarr.json"])
def test_a_store_of_other_metadata_is_read_or_refused(trained: Path, tmp_path: Path, part: str) -> None:
    store = Path(shutil.copytree(trained / "tile" / "s0.zarr", tmp_path / "s0.zarr"))
    valid = json.loads((store / part).read_text())

    @settings(MANY, max_examples=50)
    @given(changed(valid))
    def check(data: bytes) -> None:
        (store / part).write_bytes(data)
        with suppress(StatedError):
            PatchStore.open(store).read_sparse(slice(0, 3))

    check()


@pytest.mark.parametrize("part", ["zarr.json", "displacement/forward/zarr.json"])
def test_a_transform_of_other_metadata_is_read_or_refused(tmp_path: Path, part: str) -> None:
    path = tmp_path / "transform.zarr"
    grid = DisplacementGrid((0.0, 0.0), 16.0, np.zeros((2, 5, 5), np.float32))
    write_transform(path, Transform(np.eye(2, 3), grid, grid), {})
    valid = json.loads((path / part).read_text())

    @settings(MANY, max_examples=50)
    @given(changed(valid))
    def check(data: bytes) -> None:
        (path / part).write_bytes(data)
        with suppress(StatedError):
            read_transform(path)

    check()


def test_an_encoder_of_other_values_is_read_or_refused(trained: Path, tmp_path: Path) -> None:
    encoder = Path(shutil.copytree(trained / "run" / "encoder", tmp_path / "encoder"))
    valid = json.loads((encoder / "config.json").read_text())

    @MANY
    @given(changed(valid))
    def check(data: bytes) -> None:
        (encoder / "config.json").write_bytes(data)
        with suppress(StatedError):
            read_description(encoder)

    check()


def test_damaged_weights_under_their_own_hash_are_read_or_refused(trained: Path, tmp_path: Path) -> None:
    encoder = Path(shutil.copytree(trained / "run" / "encoder", tmp_path / "encoder"))
    weights, config = encoder / "model.safetensors", json.loads((encoder / "config.json").read_text())
    valid = weights.read_bytes()
    length = 8 + int.from_bytes(valid[:8], "little")

    @settings(MANY, max_examples=30)
    @given(st.one_of(damaged(valid[:length]).map(lambda head: head + valid[length:]), damaged(valid)))
    def check(data: bytes) -> None:
        weights.write_bytes(data)
        config["more_from_less"]["weights_sha256"] = file_digest(weights)
        (encoder / "config.json").write_text(json.dumps(config))
        with suppress(StatedError):
            Encoder.load(encoder)

    check()


@pytest.mark.parametrize(
    ("shape", "coords"),
    [((10**12, 4), (10**12, 2)), ((4, 10**9), (4, 2)), ((0, 4), (0, 2)), ((3, 4), (4, 2)), ((4,), (4, 2))],
)
def test_features_of_absurd_shape_are_refused_before_memory_is_asked_for(
    tmp_path: Path, shape: tuple[int, ...], coords: tuple[int, ...]
) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("features", shape=shape, dtype="f4", chunks=True if 0 not in shape else None)
        made = file.create_dataset("coords", shape=coords, dtype="i8", chunks=True if 0 not in coords else None)
        made.attrs.update({"name": "a", "patch_size": 64, "patch_size_level0": 64})
    with pytest.raises(StatedError), open_features(path):
        pass


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", "a\nb", "a\0b"])
def test_a_slide_name_in_a_features_file_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    path = tmp_path / "in" / "a.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file["features"] = np.zeros((3, 4), np.float32)
        file["coords"] = np.zeros((3, 2), np.int64)
        attributes = {"patch_size": 64, "patch_size_level0": 64, "mpp": 0.5, "mpp_level0": 0.5}
        file["coords"].attrs.update(attributes | {"name": np.bytes_(name.encode())})
    before = sorted(tmp_path.rglob("*"))
    code = main(["convert", "--features", str(path), "--to", "clam", "--out", str(tmp_path / "in" / "clam")])
    if name != "a\0b":  # HDF5 ends text at a zero byte, so this one is `a`.
        assert code == 1
        assert sorted(tmp_path.rglob("*")) == before


def _ome_of(xml: str, path: Path) -> Path:
    tifffile.imwrite(path, channels_image(2, 40, 30), description=xml, metadata=None, photometric="minisblack")
    return path


def test_ome_xml_of_any_kind_is_read_or_refused(tmp_path: Path) -> None:
    write_ome(tmp_path / "valid.ome.tif", [channels_image(2, 40, 30)], ["DAPI", "CD3"])
    with tifffile.TiffFile(tmp_path / "valid.ome.tif") as tif:
        xml = tif.ome_metadata or ""

    @settings(MANY, max_examples=60)
    @given(damaged(xml.encode()))
    def check(data: bytes) -> None:
        text = data.decode("utf-8", "replace").replace("\0", "")
        path = _ome_of(text.encode("ascii", "xmlcharrefreplace").decode(), tmp_path / "x.ome.tif")
        with suppress(StatedError), open_slide(path) as slide:
            slide.read_region(0, (0, 0), (8, 8))

    check()


@pytest.mark.parametrize(
    ("tag", "value"),
    [(256, 2**31), (257, 2**31), (322, 2**31), (323, 2**31), (277, 60000), (258, 64), (262, 60000), (259, 60000)],
)
def test_absurd_header_values_are_refused_before_memory_is_asked_for(tmp_path: Path, tag: int, value: int) -> None:
    path = write_rgb(tmp_path / "a.tif", [smooth_rgb(130, 120)])
    with tifffile.TiffFile(path, mode="r+") as tif:
        entry = tif.pages.first.tags[tag]
        data = bytearray(path.read_bytes())
        place = entry.offset + 8
        width = {3: 2, 4: 4}[int(entry.dtype)]
        value = min(value, 256**width - 1)
        if int(entry.count) == 1:
            data[place : place + width] = value.to_bytes(width, "little")
        else:
            data[entry.valueoffset : entry.valueoffset + width] = value.to_bytes(width, "little")
    path.write_bytes(bytes(data))
    with pytest.raises(StatedError), open_slide(path) as slide:
        slide.read_region(0, (0, 0), (8, 8))


@pytest.mark.parametrize("tag", [324, 325])
def test_tiles_whose_places_are_text_are_refused(tag: int, tmp_path: Path) -> None:
    path = write_ome(tmp_path / "a.ome.tif", [channels_image(1, 130, 120)], ["DAPI"])
    with tifffile.TiffFile(path) as tif:
        place = tif.pages.first.tags[tag].offset + 2
    data = bytearray(path.read_bytes())
    data[place : place + 2] = (2).to_bytes(2, "little")
    path.write_bytes(bytes(data))
    with pytest.raises(StatedError), open_slide(path) as slide:
        slide.read_region(0, (0, 0), (130, 120))


FUZZ = """
import resource, sys
from pathlib import Path
import numpy as np
from pipeline.errors import StatedError
from pipeline.slides.opening import open_slide
resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
folder, count = Path(sys.argv[1]), int(sys.argv[2])
refused = 0
for source in sorted(folder.glob("valid*.tif")):
    valid = source.read_bytes()
    rng = np.random.default_rng(len(valid))
    for number in range(count):
        data = bytearray(valid)
        for _ in range(int(rng.integers(1, 6))):
            # Headers are where structure lies: at the beginning, or behind the pixels.
            near = int(rng.choice([0, max(0, len(data) - 3000)])) + int(rng.integers(0, 3000))
            data[min(near, len(data) - 1)] = int(rng.integers(0, 256))
        path = folder / ("x" + source.name)
        path.write_bytes(bytes(data))
        try:
            with open_slide(path) as slide:
                for level in range(len(slide.header.levels)):
                    slide.read_region(level, (0, 0), (70, 70))
        except StatedError:
            refused += 1
print("refused", refused)
"""


def test_damaged_slides_neither_crash_nor_surprise_the_readers(tmp_path: Path) -> None:
    """In a separate process, since OpenSlide and the codecs are native code that could take this one with them."""
    write_rgb(tmp_path / "valid1.tif", [smooth_rgb(130, 120), smooth_rgb(65, 60)])
    write_ome(tmp_path / "valid2.ome.tif", [channels_image(2, 130, 120)], ["DAPI", "CD3"])
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", FUZZ, str(tmp_path), "150"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[-1]) > 10


def test_a_tile_that_unfolds_to_far_more_than_its_size_is_refused(tmp_path: Path) -> None:
    """A deflate stream of 1 MB that holds 1 GB, where a tile of 64 x 64 pixels is promised."""
    path = write_ome(tmp_path / "bomb.ome.tif", [np.zeros((1, 64, 64), np.uint8)], ["DAPI"])
    bomb = subprocess.run(
        [sys.executable, "-c", "import sys, zlib; sys.stdout.buffer.write(zlib.compress(bytes(2**28), 9))"],
        capture_output=True,
        check=True,
    ).stdout
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        offsets, counts = page.tags[324], page.tags[325]
    data = bytearray(path.read_bytes())
    for tag, value in ((offsets, len(data)), (counts, len(bomb))):
        width = {3: 2, 4: 4, 16: 8}[int(tag.dtype)]
        if width == 2:
            data[tag.offset + 2 : tag.offset + 4] = (4).to_bytes(2, "little")
        data[tag.valueoffset : tag.valueoffset + 4] = value.to_bytes(4, "little")
    path.write_bytes(bytes(data) + bomb)
    with open_slide(path) as slide, pytest.raises(StatedError, match="compressed bytes for"):
        slide.read_region(0, (0, 0), (64, 64))


def test_no_code_of_ours_loads_a_pickle() -> None:
    """Every door through which a pickle could come says that none may, and no other door is there."""
    banned = {"pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal"}
    checked = 0
    for path in (REPOSITORY / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in banned:
                assert (node.value.id, node.attr) == ("pickle", "UnpicklingError"), path
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            options = {item.arg: ast.unparse(item.value) for item in node.keywords}
            if name == "torch.load":
                assert options.get("weights_only") == "True", path
                checked += 1
            if name == "np.load":
                assert options.get("allow_pickle") == "False", path
            assert name not in ("numpy.load", "pd.read_pickle", "yaml.load", "eval", "exec", "os.system"), path
            assert options.get("allow_pickle", "False") == "False", path
            assert options.get("shell", "False") == "False", path
    assert checked


def test_a_points_table_of_any_kind_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.csv").write_bytes(MATRIX)
    for content in (
        b"",
        b"\xff\xfe",
        b"x_um,y_um\n1,a\n",
        b"x_um\n1\n",
        b"x_um,y_um\n1e999,2\n",
        b"x_um,y_um,x_um\n1,2,3\n",
    ):
        (tmp_path / "p.csv").write_bytes(content)
        argv = ["--transform", str(tmp_path / "m.csv"), "--points", str(tmp_path / "p.csv")]
        code = main(["warp-points", *argv, "--output", str(tmp_path / "o.csv")])
        told = capsys.readouterr().err
        assert code == 0 or told.count("\n") == 1, content
