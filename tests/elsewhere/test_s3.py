"""Slides in S3, on a server that speaks its protocol."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from slide_files import channels_image, smooth_rgb, write_ome, write_rgb
from zarr_files import write_zarr

from pipeline.errors import StatedError
from pipeline.provenance import file_digest
from pipeline.settings import InspectSettings, StagingSettings
from pipeline.sheet import SheetRow
from pipeline.slides.opening import open_side, open_slide
from pipeline.slides.remote_tiff import look_at
from pipeline.slides.stage import inspect_slide
from pipeline.staging.stage import stage_slide

pytest.importorskip("s3fs")
pytest.importorskip("tiffslide")
moto = pytest.importorskip("moto.server")
boto3 = pytest.importorskip("boto3")

NAMES = ["DAPI", "CD3", "CD8"]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "testing"),
        ("AWS_SECRET_ACCESS_KEY", "verysecretvalue"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", endpoint),
    ):
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="slides")
    yield client
    found = client.list_objects_v2(Bucket="slides").get("Contents", [])
    for item in found:
        client.delete_object(Bucket="slides", Key=item["Key"])
    client.delete_bucket(Bucket="slides")


def test_a_pair_in_s3_is_inspected_and_fetched(bucket: Any, tmp_path: Path) -> None:
    he = write_rgb(tmp_path / "he.tif", [smooth_rgb(1024, 768)])
    mif = write_ome(tmp_path / "mif.ome.tif", [channels_image(3, 512, 384)], NAMES)
    for path in (he, mif):
        bucket.upload_file(str(path), "slides", f"deep/{path.name}")
    row = SheetRow("s", "p", "s3://slides/deep/he.tif", "s3://slides/deep/mif.ome.tif")
    record = inspect_slide(row, InspectSettings())
    here = inspect_slide(SheetRow("s", "p", str(he), str(mif)), InspectSettings())
    assert record.dense is not None
    assert here.dense is not None
    assert (record.sparse.size_xy, record.dense.channels) == (here.sparse.size_xy, here.dense.channels)
    staged = stage_slide(record, tmp_path / "staged" / "s", StagingSettings())
    assert staged.sparse.sha256 == file_digest(he)
    assert staged.dense is not None
    assert staged.dense.sha256 == file_digest(mif)
    # Another file under the same name is not the one that was inspected.
    bucket.upload_file(str(mif), "slides", "deep/he.tif")
    with pytest.raises(StatedError) as caught:
        stage_slide(record, tmp_path / "staged" / "t", StagingSettings())
    assert str(caught.value.file) == "s3://slides/deep/he.tif"


def test_ome_zarr_in_s3_is_read_in_place(bucket: Any, tmp_path: Path) -> None:
    folder = write_zarr(tmp_path / "mif.ome.zarr", [channels_image(3, 256, 192)], NAMES)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            bucket.upload_file(str(path), "slides", path.relative_to(tmp_path).as_posix())
    he = write_rgb(tmp_path / "he.tif", [smooth_rgb(256, 192)])
    record = inspect_slide(SheetRow("s", "p", str(he), "s3://slides/mif.ome.zarr"), InspectSettings())
    assert record.dense is not None
    with open_side(record.dense) as there, open_slide(folder) as here:
        window = (0, (10, 20), (130, 100))
        assert np.array_equal(there.read_region(*window), here.read_region(*window))


def test_what_is_not_there_is_one_line_without_secrets(bucket: Any) -> None:
    for address in ("s3://slides/none.svs", "s3://nobucket/a.svs"):
        with pytest.raises(StatedError) as caught:
            look_at(address, slide="s")
        told = str(caught.value)
        assert address in told
        assert len(told.splitlines()) == 1
        assert "verysecretvalue" not in told


def test_without_credentials_the_line_says_that_the_environment_gives_them(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    del bucket
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StatedError):
        look_at("s3://slides/none.svs")
