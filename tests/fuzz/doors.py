"""The doors that a file from elsewhere comes in by: a few valid contents, and what reads them.

Each is made by a function of its own, which imports what it needs, so that a small reader is started in a moment.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

from hostile import CONFIGURATION, MARKERS, MATRIX, RECORD, SHEET

from pipeline.errors import StatedError


@dataclass(frozen=True)
class Door:
    """Where something comes in.

    Attributes:
        seeds: valid contents, made with the help of an empty folder.
        read: reads contents, given a folder to put them in; StatedError is the one way to refuse them.
    """

    seeds: Callable[[Path], list[bytes]]
    read: Callable[[Path, bytes], object]

    def accept(self, folder: Path, data: bytes) -> None:
        """Lets one input in; anything but a result or a StatedError comes out as it is."""
        with suppress(StatedError):
            self.read(folder, data)


def _text(name: str, read: Callable[[Path], object], *valid: bytes) -> Door:
    def door(folder: Path, data: bytes) -> object:
        (folder / name).write_bytes(data)
        return read(folder / name)

    return Door(lambda _: list(valid), door)


def _sheet() -> Door:
    from pipeline.sheet import read_sheet

    return _text("slides.tsv", read_sheet, SHEET)


def _configuration() -> Door:
    from pipeline.settings import load

    return _text("config.yaml", load, CONFIGURATION)


def _markers() -> Door:
    from pipeline.slides.markers import named_channels

    return _text("markers.csv", lambda path: named_channels(("DAPI", "C1"), path, file=path), MARKERS)


def _matrix() -> Door:
    from pipeline.registration.transform_file import read_transform

    return _text("matrix.csv", read_transform, MATRIX)


def _json() -> Door:
    from pipeline.json_file import read_json

    def read(path: Path) -> None:
        # As it says itself; the doors that use it make a StatedError of it.
        with suppress(ValueError):
            read_json(path)

    return _text("x.json", read, b'{"a": [1, 2.5, null, "x"]}')


def _record() -> Door:
    from pipeline.slides.record import read_record

    return _text("record.json", read_record, json.dumps(RECORD).encode())


def _encoder() -> Door:
    from pipeline.embedding.encoder_description import read_description

    patch = {"size_px": 32, "input_px": 32, "mpp": 1.0}
    own = {"schema": 1, "run": "r", "patch": patch, "feature_dim": 8, "bf16_cosine": 1.0, "weights_sha256": "0"}
    value = {"architecture": "x", "pretrained_cfg": {"mean": [0, 0, 0], "std": [1, 1, 1]}, "more_from_less": own}
    return _text("config.json", lambda path: read_description(path.parent), json.dumps(value).encode())


def _weights() -> Door:
    from safetensors.torch import save

    from pipeline.embedding.encoder import Encoder
    from pipeline.training.encoders import build_encoder

    weights = save(build_encoder("test_resnet", in_chans=3, size_px=32).state_dict())
    head = int.from_bytes(weights[:8], "little")
    seed = json.loads(_encoder().seeds(Path())[0])
    seed["architecture"] = "test_resnet"

    def read(folder: Path, data: bytes) -> None:
        """The header is what is damaged; behind it stand the weights, and the hash is that of the whole."""
        whole = len(data).to_bytes(8, "little") + data + weights[8 + head :]
        (folder / "model.safetensors").write_bytes(whole)
        seed["more_from_less"]["weights_sha256"] = sha256(whole).hexdigest()
        (folder / "config.json").write_text(json.dumps(seed))
        Encoder.load(folder)

    return Door(lambda _: [weights[8 : 8 + head]], read)


def _annotations() -> Door:
    from pipeline.tiling.annotations import read_annotations

    square = [[0, 0], [0, 9], [9, 9], [9, 0], [0, 0]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [square]}}
    valid = json.dumps(feature | {"properties": {"classification": {"name": "Tissue"}}}).encode()
    return _text("a.geojson", lambda path: read_annotations(path, (9, 9), slide="a"), valid)


def _tiffs(folder: Path) -> list[bytes]:
    from slide_files import channels_image, smooth_rgb, write_ome, write_rgb

    paths = [write_rgb(folder / "rgb.tif", [smooth_rgb(40, 30), smooth_rgb(20, 15)], tile=16)]
    paths.append(write_ome(folder / "x.ome.tif", [channels_image(2, 40, 30)], ["DAPI", "CD3"]))
    return [path.read_bytes() for path in paths]


def _tiff_structure() -> Door:
    from pipeline.slides.tiff_structure import check_whole

    return Door(_tiffs, _text("x.tif", check_whole).read)


def _tiff() -> Door:
    from pipeline.slides.tiff_reader import TiffSlide
    from pipeline.slides.tiff_structure import check_whole

    def read(path: Path) -> None:
        # As `open_slide` does before any library sees the file.
        check_whole(path)
        with TiffSlide(path) as slide:
            for level in range(len(slide.header.levels)):
                slide.read_region(level, (0, 0), (20, 20))

    return Door(_tiffs, _text("x.tif", read).read)


def _jpeg_tiles() -> Door:
    import numpy as np
    from imagecodecs import jpeg8_encode
    from slide_files import smooth_rgb

    from pipeline.slides.jpeg_tiles import RGB, JpegTiles

    def seeds(_: Path) -> list[bytes]:
        streams = [jpeg8_encode(smooth_rgb(16, 16), level=80, subsampling=kind) for kind in ("444", "420")]
        return [b"\x01" + stream for stream in streams]

    def read(folder: Path, data: bytes) -> None:
        """The first byte says where tables end and the tile begins."""
        if len(data) < 2:
            return
        begin = max(1, min(data[0], len(data) - 1))
        (folder / "tiles").write_bytes(data)
        page = SimpleNamespace(tilewidth=16, imagewidth=32, dataoffsets=[begin, 1], jpegtables=data[1:begin] or None)
        page.databytecounts = [len(data) - begin, len(data) - 1]
        with JpegTiles(folder / "tiles", page) as tiles:
            tiles.streams(np.array([0, 1]), RGB)
            for number in (0, 1):
                tiles.stream(number, RGB)

    return Door(seeds, read)


def _shard() -> Door:
    from drawn_store import write_store
    from drawn_training import draw_pairs

    from pipeline.store.sharded_rows import ShardedRows
    from pipeline.store.shards import CHECKSUM_BYTES, checksum
    from pipeline.store.writer import SHARD_ROWS

    def shard(folder: Path) -> Path:
        return folder / "s.zarr" / "dense" / "c" / "0" / "0" / "0" / "0"

    def seeds(folder: Path) -> list[bytes]:
        sparse, dense = draw_pairs(4, 1, 0)
        write_store(folder / "s.zarr", sparse=sparse, dense=dense, slide="s", patient="p", markers=("DAPI",))
        whole = shard(folder).read_bytes()
        return [whole[: len(whole) - 16 * SHARD_ROWS - CHECKSUM_BYTES + 4 * 16]]

    def read(folder: Path, data: bytes) -> None:
        """Chunks, and the index of four of them under the checksum that a forger would give it."""
        index = data[-64:].ljust(16 * SHARD_ROWS, b"\xff")
        shard(folder).write_bytes(data[:-64] + index + checksum(index))
        array = ShardedRows.open(folder / "s.zarr" / "dense")
        assert array is not None
        for rows in ([0, 1, 2, 3], [3, 1]):
            with suppress(StatedError):
                array.read(rows)

    return Door(seeds, read)


def _nuclei() -> Door:
    from pipeline.tools.datasets.nuclei import read_nuclei

    nucleus = b'{"bbox": [[1, 2], [3, 4]], "centroid": [2.5, 3], "contour": [[1, 2]], "type_prob": 0.9, "type": 2}'
    whole = b'{"mag": null, "nuc": {"1": ' + nucleus + b"}}"
    return _text("a.json", lambda path: read_nuclei(path, 224).most_frequent(), whole)


def _state() -> Door:
    import torch

    from pipeline.training.state import load_state

    def seeds(_: Path) -> list[bytes]:
        stream = io.BytesIO()
        values = {"epoch": 1, "step": 2, "network": {"a": torch.zeros(3)}, "optimiser": {}, "sums": {}, "history": []}
        torch.save({"recipe": "r", **values}, stream)
        return [stream.getvalue()]

    def read(folder: Path, data: bytes) -> None:
        (folder / "state.pt").write_bytes(sha256(data).digest() + data)
        load_state(folder, "r")

    return Door(seeds, read)


def _metadata(write: Callable[[Path], None], read: Callable[[Path], object]) -> Door:
    """The metadata of a Zarr folder: the first byte says which of its zarr.json files the others take the place of."""

    def files(path: Path) -> list[Path]:
        return sorted(path.rglob("zarr.json"))

    def seeds(folder: Path) -> list[bytes]:
        write(folder / "x.zarr")
        return [bytes([number]) + file.read_bytes() for number, file in enumerate(files(folder / "x.zarr"))]

    def door(folder: Path, data: bytes) -> None:
        if not data:
            return
        named = files(folder / "x.zarr")
        file = named[data[0] % len(named)]
        whole = file.read_bytes()
        file.write_bytes(data[1:])
        try:
            read(folder / "x.zarr")
        finally:
            file.write_bytes(whole)

    return Door(seeds, door)


def _store() -> Door:
    from drawn_store import write_store
    from drawn_training import draw_pairs

    from pipeline.store.patch_store import PatchStore

    def write(path: Path) -> None:
        sparse, dense = draw_pairs(4, 1, 0)
        write_store(path, sparse=sparse, dense=dense, slide="s", patient="p", markers=("DAPI",))

    return _metadata(write, PatchStore.open)


def _transform() -> Door:
    import numpy as np

    from pipeline.registration.displacement import DisplacementGrid
    from pipeline.registration.transform import Transform, write_transform
    from pipeline.registration.transform_file import read_transform

    def write(path: Path) -> None:
        grid = DisplacementGrid((0.0, 0.0), 16.0, np.zeros((2, 8, 8), np.float32))
        write_transform(path, Transform(np.eye(2, 3), grid, grid), {})

    return _metadata(write, read_transform)


def _dense_description() -> Door:
    from pipeline.training.dense_description import DenseDescription

    marker = {"marker": "CD3", "cofactor": 1.0, "mean": 0.0, "std": 1.0, "patches": 4}
    settings = {"branches": ["sparse", "dense"], "projector": [8, 8], "alignment": "whole", "pairing": "true"}
    own = {
        "schema": 1, "weights_sha256": "0", "feature_dim": 8, "patch": {"input_px": 32}, "settings": settings,
        "dense": {"kind": "fluorescence", "panel": ["CD3"], "components": {"dense": ["CD3"]}}, "markers": [marker],
    }  # fmt: skip
    value = {"architecture": "test_resnet", "more_from_less": own}
    return _text("config.json", lambda path: DenseDescription.read(path.parent), json.dumps(value).encode())


DOORS: dict[str, Callable[[], Door]] = {
    "sheet": _sheet,
    "configuration": _configuration,
    "markers": _markers,
    "matrix": _matrix,
    "json": _json,
    "record": _record,
    "encoder": _encoder,
    "weights": _weights,
    "annotations": _annotations,
    "tiff-structure": _tiff_structure,
    "tiff": _tiff,
    "jpeg-tiles": _jpeg_tiles,
    "shard": _shard,
    "nuclei": _nuclei,
    "state": _state,
    "store": _store,
    "transform": _transform,
    "dense-description": _dense_description,
}
