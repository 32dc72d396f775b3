"""Registration against known truth, from pose search to verdict, and the door of the stage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from array_slide import ArraySlide
from PIL import Image
from synthetic_pair import SyntheticPair, synthetic_pair

from pipeline.cli import main
from pipeline.errors import StatedError
from pipeline.registration import affine, coarse
from pipeline.registration.assessment import assess
from pipeline.registration.blocks_engine import align
from pipeline.registration.close_ups import close_ups
from pipeline.registration.deformable import BLOCKS, FINE, measure
from pipeline.registration.images import NuclearImage, NuclearSource
from pipeline.registration.overlay import overlay
from pipeline.registration.pair import Pair, overview, tissue_of
from pipeline.registration.pictures import View
from pipeline.registration.qc_file import to_mapping
from pipeline.registration.quality import Quality
from pipeline.registration.smoothing import fit_field
from pipeline.registration.transform import Transform
from pipeline.settings import RegisterSettings

SETTINGS = RegisterSettings()


def opened(drawn: SyntheticPair) -> Pair:
    return Pair.of(drawn.sparse, drawn.dense, drawn.mpp, None)


def errors_um(drawn: SyntheticPair, transform: Transform) -> Any:
    return np.linalg.norm(transform.to_dense(drawn.nuclei_um) - drawn.truth(drawn.nuclei_um), axis=1)


CASES = {
    "small turn": (1, 6.0, False, 15.0),
    "mirrored": (2, -35.0, True, 12.0),
    "turned by 170 degrees": (3, 170.0, False, 20.0),
    "mirrored and turned": (4, 171.5, True, 25.0),
}


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES.keys())
def case(request: pytest.FixtureRequest) -> tuple[SyntheticPair, Transform, Quality]:
    seed, degrees, mirrored, deformation_um = request.param
    drawn = synthetic_pair(seed, degrees=degrees, mirrored=mirrored, deformation_um=deformation_um, side_um=1280)
    return drawn, *align(opened(drawn), SETTINGS)


def test_true_map_is_found(case: tuple[SyntheticPair, Transform, Quality]) -> None:
    drawn, transform, quality = case
    median, p90 = np.percentile(errors_um(drawn, transform), (50, 90))
    assert quality.verdict == "pass", quality.reasons
    assert median < 0.5
    assert p90 < 1.0
    assert quality.round_trip_um < 0.1
    assert quality.fold_fraction == 0


def test_reported_residual_is_honest(case: tuple[SyntheticPair, Transform, Quality]) -> None:
    drawn, transform, quality = case
    median, p90 = np.percentile(errors_um(drawn, transform), (50, 90))
    assert quality.held_out.median_um == pytest.approx(median, rel=0.25, abs=0.3)
    assert quality.held_out.p90_um == pytest.approx(p90, rel=0.25, abs=0.4)


def test_steps_are_told_in_order_with_falling_residuals(case: tuple[SyntheticPair, Transform, Quality]) -> None:
    _, _, quality = case
    assert [step.name for step in quality.steps] == ["initial", "coarse", "affine", "smooth", "blocks", "fine"]
    medians = [step.after.median_um for step in quality.steps]
    assert medians[0] > medians[2] > medians[3] > medians[5]
    for earlier, later in zip(quality.steps, quality.steps[1:], strict=False):
        assert later.before == earlier.after


def test_pose_is_reported(case: tuple[SyntheticPair, Transform, Quality]) -> None:
    drawn, _, quality = case
    assert quality.pose is not None
    assert quality.pose.mirrored == bool(np.linalg.det(drawn.truth.matrix) < 0)


def test_the_other_mirror_is_refined_even_where_every_near_turn_correlates_better() -> None:
    """A broad arc that fades along its way: six turns of it fit better than any of its mirror image."""

    def arc(turned_by: float) -> NuclearImage:
        y, x = np.mgrid[:256, :256] - 128.0
        along = (np.arctan2(y, x) - turned_by) / (2 * np.pi) % 1
        values = np.exp(-(((np.hypot(x, y) / 256 - 0.22) / 0.09) ** 2)) * along**2
        return NuclearImage(values.astype(np.float32), np.ones(values.shape, np.bool_), (0.0, 0.0), 8.0)

    sparse, dense = arc(0.0), arc(1.0)
    refined = affine.refined(coarse.search(sparse, dense), sparse, dense)
    assert {pose.mirrored for pose in refined} == {False, True}
    mirrored = max(pose.ncc for pose in refined if pose.mirrored)
    assert mirrored > 0.5
    assert coarse.margin(refined) == refined[0].ncc - mirrored


def test_a_pose_that_was_compared_with_no_other_is_not_decisive() -> None:
    pose = coarse.Pose(mirrored=False, degrees=0.0, ncc=0.9, affine=np.eye(2, 3))
    assert coarse.margin([]) == coarse.margin([pose]) == coarse.margin([pose, replace(pose, degrees=5.0)]) == 0.0
    assert coarse.margin([pose, replace(pose, degrees=90.0, ncc=0.5)]) == pytest.approx(0.4)


@pytest.fixture(scope="module")
def plain() -> SyntheticPair:
    return synthetic_pair(7, degrees=10, deformation_um=10, side_um=1024)


@pytest.fixture(scope="module")
def aligned(plain: SyntheticPair) -> tuple[Transform, Quality]:
    return align(opened(plain), SETTINGS)


def test_same_input_gives_the_same_map(plain: SyntheticPair, aligned: tuple[Transform, Quality]) -> None:
    first, second = aligned, align(opened(plain), SETTINGS)
    assert first[0].forward is not None
    assert second[0].forward is not None
    assert np.array_equal(first[0].forward.values_um, second[0].forward.values_um)
    assert to_mapping(first[1]) == to_mapping(second[1])


def test_wrong_pair_fails_without_a_residual() -> None:
    drawn = synthetic_pair(8, degrees=20, side_um=1024, tissue_seed=99)
    transform, quality = align(opened(drawn), SETTINGS)
    assert quality.verdict == "fail"
    assert quality.reasons
    assert np.isnan(quality.held_out.median_um)
    assert to_mapping(quality)["held_out_residual_um"] == {"median": None, "p90": None}
    assert np.isfinite(transform.affine).all()


@pytest.mark.parametrize("side", ["sparse", "dense"])
def test_blank_slide_fails(plain: SyntheticPair, side: str) -> None:
    drawn = plain
    if side == "dense":
        drawn = replace(
            plain,
            dense=ArraySlide(
                np.zeros((900, 1000, 2), np.uint16), mpp=0.8, downsamples=(1, 2, 4), channels=("CD3", "DAPI")
            ),
        )
    else:
        drawn = replace(
            plain, sparse=ArraySlide(np.full((900, 1000, 3), 255, np.uint8), mpp=1.0, downsamples=(1, 2, 4))
        )
    transform, quality = align(opened(drawn), SETTINGS)
    assert quality.verdict == "fail"
    assert "an image without any nuclear signal" in quality.reasons
    assert np.isfinite(transform.to_dense(np.array([[5.0, 5.0]]))).all()


def test_dense_part_of_the_field_is_placed(plain: SyntheticPair) -> None:
    whole = plain.dense.read_region(0, (0, 0), plain.dense.header.size_xy)
    height, width = whole.shape[:2]
    cut = replace(
        plain,
        dense=ArraySlide(
            whole[: int(height * 0.7), : int(width * 0.75)], mpp=0.8, downsamples=(1, 2, 4), channels=("CD3", "DAPI")
        ),
    )
    transform, quality = align(opened(cut), SETTINGS)
    there = plain.truth(plain.nuclei_um)
    covered = ((there > 20) & (there < np.array([width * 0.75, height * 0.7]) * 0.8 - 20)).all(1)
    assert quality.verdict == "pass", quality.reasons
    assert np.median(errors_um(plain, transform)[covered]) < 0.5


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_no_numbers_do_not_keep_the_map_from_being_found(plain: SyntheticPair, value: float) -> None:
    pixels = plain.dense.levels[0].astype(np.float32)
    pixels[400:480, 500:600] = pixels[:, :40] = value
    holed = ArraySlide(pixels, mpp=0.8, channels=plain.dense.header.channels)
    transform, quality = align(opened(replace(plain, dense=holed)), SETTINGS)
    assert quality.verdict == "pass", quality.reasons
    assert np.median(errors_um(plain, transform)) < 0.5


def test_serial_mode_stops_at_the_smooth_step(plain: SyntheticPair) -> None:
    transform, quality = align(opened(plain), replace(SETTINGS, mode="serial"))
    assert [step.name for step in quality.steps][-1] == "smooth"
    assert "stops at the smooth step" in to_mapping(quality)["mode_note"]
    assert np.median(errors_um(plain, transform)) < 6


def test_given_map_is_judged_and_left_alone(plain: SyntheticPair, aligned: tuple[Transform, Quality]) -> None:
    found, _ = aligned
    right = assess(opened(plain), found, SETTINGS)
    assert right.engine == "given"
    assert right.verdict == "pass"
    shifted = Transform(found.affine + np.array([[0, 0, 6.0], [0, 0, 8.0]]), found.forward, found.inverse)
    wrong = assess(opened(plain), shifted, SETTINGS)
    assert wrong.verdict == "warn"
    assert wrong.held_out.median_um == pytest.approx(10, abs=0.5)
    assert wrong.steps[0].before == wrong.steps[0].after
    assert assess(opened(plain), Transform.identity(), SETTINGS).verdict == "fail"


def test_region_and_pyramid_keep_the_frame(plain: SyntheticPair) -> None:
    """Reads at several resolutions show one painted spot at one place."""
    pixels = np.full((512, 640, 3), 255, np.uint8)
    pixels[200:208, 320:328] = (80, 60, 150)
    source = NuclearSource(ArraySlide(pixels, mpp=0.5, downsamples=(1, 2, 4)), 0.5, None)
    for mpp in (0.5, 1.0, 2.0, 4.0):
        for bounds in (None, np.array([[130.0, 60.0], [200.0, 140.0]]), np.array([[-30.0, -20.0], [300.0, 250.0]])):
            image = source.read(mpp, bounds)
            y, x = np.mgrid[0 : image.values.shape[0], 0 : image.values.shape[1]]
            weight = image.values / image.values.sum()
            centre = image.to_um(np.array([[(x * weight).sum(), (y * weight).sum()]]))
            np.testing.assert_allclose(centre, [[323.5 * 0.5, 203.5 * 0.5]], atol=1e-3)
            assert image.mpp == mpp


@pytest.mark.parametrize("kind", ["nuclei", "mask"])
def test_pictures_read_the_dense_slide_only_under_the_sparse_one(kind: str) -> None:
    """A region of H&E on a whole dense slide, which at the picture's resolution no memory holds."""
    values = np.random.default_rng(0).integers(0, 2, (2000, 3000, 1), np.uint8)
    sparse = ArraySlide(np.full((100, 120, 3), 200, np.uint8), mpp=0.5)
    dense = ArraySlide(values, mpp=0.5, channels=("DAPI",))
    pair = Pair.of(sparse, dense, (0.5, 0.5), None)
    if kind == "mask":
        pair = replace(pair, dense=NuclearSource(dense, 0.5, None, "labels"), classes=((1, "tumour"),))
    view = View.of(pair, Transform(np.array([[1.0, 0, 400.0], [0, 1, 300.0]])))
    shown = view.number if view.dense is None else view.dense.values
    np.testing.assert_allclose(shown, values[600:700, 800:920, 0], atol=0.01)
    assert all(width < 200 and height < 200 for _, (width, height) in dense.reads)
    beside = View.of(pair, Transform(np.array([[1.0, 0, 9000.0], [0, 1, 300.0]])))
    assert not (beside.number if beside.dense is None else beside.dense.inside).any()
    assert overlay(beside).picture.shape[2] == 3


def test_windows_do_not_change_what_is_measured(plain: SyntheticPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large slide is gone through in windows; their seams must not show."""
    pair = opened(plain)
    start = Transform(np.column_stack([plain.truth.matrix, plain.truth(np.zeros((1, 2)))[0]]))
    tissue = tissue_of(overview(pair.sparse))
    step = replace(BLOCKS, reach_um=40.0)
    whole = measure(pair.sparse, pair.dense, start, step, tissue)
    monkeypatch.setattr("pipeline.registration.deformable._WINDOW_PX", 200)
    parts = measure(pair.sparse, pair.dense, start, step, tissue)
    first = {tuple(c): s for c, s in zip(whole.shifts.centre_um.round(), whole.shifts.shift_um, strict=True)}
    second = {tuple(c): s for c, s in zip(parts.shifts.centre_um.round(), parts.shifts.shift_um, strict=True)}
    assert first.keys() == second.keys()
    apart = [np.linalg.norm(first[key] - second[key]) for key in first]
    assert np.median(apart) < 0.1


def test_smooth_field_ignores_wrong_shifts() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 2000, (400, 2))
    shifts = 8 * np.sin(points[:, ::-1] / 400)
    wrong = rng.uniform(size=400) < 0.2
    given = np.where(wrong[:, None], rng.uniform(-40, 40, (400, 2)), shifts + rng.normal(0, 0.2, shifts.shape))
    domain = np.array([[0.0, 0.0], [2000.0, 2000.0]])
    field = fit_field(points, given, np.ones(400), domain, knot_um=250, stiffness=0.01)
    left = np.linalg.norm(field.at(points) - shifts, axis=1)
    assert np.median(left) < 0.3
    assert np.percentile(left, 95) < 1.5


def test_smooth_field_is_the_same_on_a_lattice_and_at_its_points() -> None:
    rng, domain = np.random.default_rng(3), np.array([[-300.0, 100.0], [1500.0, 1300.0]])
    points = rng.uniform(*domain, (80, 2))
    field = fit_field(points, rng.normal(0, 9, (80, 2)), np.ones(80), domain, knot_um=250, stiffness=0.01)
    # Beyond the domain too, where the field is clamped.
    x, y = np.arange(-500.0, 1700.0, 16.0), np.arange(0.0, 1400.0, 16.0)
    lattice = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    np.testing.assert_allclose(field.on_lattice(x, y), field.at(lattice), atol=1e-9)


@pytest.mark.parametrize("degree", [0, 1])
def test_smooth_field_keeps_straight_fields(degree: int) -> None:
    points = np.random.default_rng(1).uniform(0, 1000, (100, 2))
    shifts = 3.0 + 0.01 * degree * points
    domain = np.array([[0.0, 0.0], [1000.0, 1000.0]])
    field = fit_field(points, shifts, np.ones(100), domain, knot_um=200, stiffness=0.1)
    np.testing.assert_allclose(field.at(points), shifts, atol=0.05)


def write_files(drawn: SyntheticPair, folder: Path, channels: tuple[str, str] = ("CD3", "DAPI")) -> None:
    """The pair as a tiled RGB TIFF and an OME-TIFF."""
    rgb = drawn.sparse.read_region(0, (0, 0), drawn.sparse.header.size_xy)
    per_cm = 10_000 / drawn.mpp[0]
    tifffile.imwrite(
        folder / "he.tif", rgb, photometric="rgb", tile=(256, 256), resolution=(per_cm, per_cm), resolutionunit=3
    )
    planes = np.moveaxis(drawn.dense.read_region(0, (0, 0), drawn.dense.header.size_xy), -1, 0)
    size = {"PhysicalSizeX": drawn.mpp[1], "PhysicalSizeY": drawn.mpp[1]}
    metadata = {"axes": "CYX", "Channel": {"Name": list(channels)}} | size
    tifffile.imwrite(folder / "if.ome.tif", planes, photometric="minisblack", tile=(256, 256), metadata=metadata)


OUTPUTS = ("transform", "itk", "qc", "overlay", "checkerboard", "residual", "deformation")
NAMES = (
    "transform.zarr",
    "transform.h5",
    "qc.json",
    "overlay.png",
    "checkerboard.png",
    "residual.png",
    "deformation.png",
)


def run_register(folder: Path, out: Path, transform: str = "") -> int:
    sides = ["--sparse", str(folder / "he.tif"), "--dense", str(folder / "if.ome.tif")]
    mpps = ["--sparse-mpp", "1.0", "--dense-mpp", "0.8"]
    argv = ["inspect", "--slide", "s1", "--patient", "p1", *sides, *mpps, "--transform", transform]
    assert main([*argv, "--out", str(out / "s1.json")]) == 0
    argv = ["register", "--record", str(out / "s1.json"), "--settings", "{}"]
    for output, name in zip(OUTPUTS, NAMES, strict=True):
        argv += [f"--out-{output}", str(out / name)]
    return main(argv)


def test_door_writes_everything_twice_the_same(plain: SyntheticPair, tmp_path: Path) -> None:
    write_files(plain, tmp_path)
    for out in ("a", "b"):
        assert run_register(tmp_path, tmp_path / out) == 0
    for name in ("transform.h5", "overlay.png", "checkerboard.png", "residual.png", "deformation.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    first, second = (json.loads((tmp_path / out / "qc.json").read_text()) for out in ("a", "b"))
    assert first.pop("cost").keys() == {"seconds", "peak_memory_mb"}
    second.pop("cost")
    assert first == second
    assert first["verdict"] == "pass"
    assert first["channel"] == "DAPI"
    assert set(first) >= {"slide", "mode", "engine", "coarse", "steps", "det_j", "fold_fraction", "provenance"}
    with Image.open(tmp_path / "a" / "overlay.png") as picture:
        left, top, width, height = map(int, picture.info["field_px"].split())
        assert max(width, height) == pytest.approx(1024, rel=0.1)
        beside_px = list(map(int, picture.info["close_ups_px"].split()))
        assert beside_px[0] >= left + width
        assert beside_px[2:] == [516, 3 * 280]
        assert picture.size[1] >= top + height

    taken = tmp_path / "taken"
    assert run_register(tmp_path, taken, str(tmp_path / "a" / "transform.zarr")) == 0
    report = json.loads((taken / "qc.json").read_text())
    assert report["engine"] == "given"
    assert report["verdict"] == "pass"
    assert report["steps"][0]["before_um"] == report["steps"][0]["after_um"] == report["held_out_residual_um"]
    assert (taken / "transform.h5").read_bytes() == (tmp_path / "a" / "transform.h5").read_bytes()

    assert run_register(tmp_path, tmp_path / "same", "identity") == 0
    assert json.loads((tmp_path / "same" / "qc.json").read_text())["verdict"] == "fail"


def test_close_ups_stand_at_the_median_and_the_largest_shift(plain: SyntheticPair) -> None:
    pair = opened(plain)
    truth = Transform(np.column_stack([plain.truth.matrix, plain.truth(np.zeros((1, 2)))[0]]))
    found = assess(pair, truth, SETTINGS)
    residual_um = found.block_residual_um[np.isfinite(found.block_residual_um)]
    shown = close_ups(pair, truth, found)
    assert [item.caption.split(": ")[0] for item in shown] == ["median shift", "9 in 10 below", "largest shift"]
    assert shown[2].caption == f"largest shift: {residual_um.max():.2g} um"
    worst_um = found.block_um[np.nanargmax(found.block_residual_um)]
    corner_um = np.array(shown[2].sparse.origin_um)
    assert ((corner_um <= worst_um) & (worst_um <= corner_um + 130)).all()
    for item in shown:
        assert item.rgb.shape[:2] == item.dense.values.shape
    # At the median both sides show the same nuclei in the same places.
    assert np.corrcoef(shown[0].sparse.values.ravel(), shown[0].dense.values.ravel())[0, 1] > 0.3


def test_unmeasured_blocks_are_shown_where_none_could_be_measured(plain: SyntheticPair) -> None:
    found = assess(opened(plain), Transform.identity(), SETTINGS)
    nothing = replace(found, block_residual_um=np.full(len(found.block_um), np.nan))
    assert {item.caption for item in close_ups(opened(plain), Transform.identity(), nothing)} <= {"no clear peak"}
    none = replace(nothing, block_um=np.zeros((0, 2)), block_residual_um=np.zeros(0))
    assert close_ups(opened(plain), Transform.identity(), none) == ()


def test_no_nuclear_channel_is_one_line(
    plain: SyntheticPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files(plain, tmp_path, ("CD3", "CD8"))
    assert run_register(tmp_path, tmp_path / "out") == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("error: slide s1, file ")
    assert "nuclear channel" in told
    assert "CD3, CD8" in told
    assert not (tmp_path / "out" / "qc.json").exists()


def test_dense_side_without_rgb_sparse_is_stated(plain: SyntheticPair) -> None:
    with pytest.raises(StatedError, match="RGB"):
        Pair.of(plain.dense, plain.dense, plain.mpp, None)


@pytest.mark.realdata
def test_orion_centre_is_registered_within_five_um(real_data: Path) -> None:
    from pipeline.slides.opening import open_slide

    folder = real_data / "orion_crc01"
    with open_slide(folder / "centre_he.tif") as sparse, open_slide(folder / "centre_mif_moved.ome.tif") as dense:
        transform, quality = align(Pair.of(sparse, dense, (1.3, 1.3), None), SETTINGS)
    truth = np.loadtxt(folder / "centre_truth.csv", delimiter=",", skiprows=1)
    error = np.linalg.norm(transform.to_dense(truth[:, :2]) - truth[:, 2:], axis=1)
    assert np.median(error) <= 5
    # Reached: 0.91, 1.5, 2.3. The makers' own registration of this slide is off by 0.8 um, see the next test.
    median, p90 = np.percentile(error, (50, 90))
    assert median <= 1.1
    assert p90 <= 1.9
    assert error.max() <= 5
    assert quality.verdict == "pass"
    assert quality.channel == "Hoechst"


@pytest.mark.realdata
def test_orion_west_is_judged_as_registered(real_data: Path) -> None:
    from pipeline.slides.opening import open_slide

    folder = real_data / "orion_crc01"
    with open_slide(folder / "west_he.tif") as sparse, open_slide(folder / "west_mif.ome.tif") as dense:
        pair = Pair.of(sparse, dense, (1.3, 1.3), None)
        quality = assess(pair, Transform.identity(), SETTINGS)
        measured = measure(
            pair.sparse,
            pair.dense,
            Transform.identity(),
            replace(FINE, spacing_um=512.0),
            tissue_of(overview(pair.sparse)),
        )
    assert quality.verdict == "pass"
    assert quality.held_out.median_um < 1.3
    # About half a pixel, the same over the whole slide: the floor of every accuracy measured on this slide.
    np.testing.assert_allclose(np.median(measured.shifts.shift_um, axis=0), [0.45, 0.65], atol=0.15)
