"""`init` finds pairs in folders of slides, writes a cohort that the doctor passes, and overwrites nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from drawn_training import train_tiny
from slide_files import channels_image, pyramid, smooth_rgb, write_ome, write_rgb

from pipeline.cli import main
from pipeline.settings import load
from pipeline.sheet import SheetRow, read_sheet
from pipeline.tools.init.configuration import patches_for, training_for
from pipeline.tools.init.files import slide_files
from pipeline.tools.init.names import Patients, key_of, unique_names
from pipeline.tools.init.pairs import propose_pairs
from pipeline.tools.init.recognise import Recognised, is_brown, recognise

NAMES = ["DAPI", "CD3"]


@pytest.fixture
def slides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of slides in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slides").mkdir()
    return tmp_path / "slides"


# Optical densities of R, G, B after Ruifrok and Johnston (2001), of a stain of density 1.
STAINS = {"hematoxylin": (0.65, 0.70, 0.29), "eosin": (0.07, 0.99, 0.11), "dab": (0.27, 0.57, 0.78)}


def he(path: Path, mpp: float | None = 0.5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    amounts = smooth_rgb(300 + sum(path.name.encode()) % 40, 260)[..., :2] / 255.0
    density = amounts @ np.array([STAINS["hematoxylin"], STAINS["eosin"]])
    return write_rgb(path, pyramid(np.rint(255 * 10**-density).astype(np.uint8), 2), mpp=mpp)


def multiplex(path: Path, names: list[str] | None = NAMES, channels: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_ome(path, [channels_image(channels, 200 + sum(path.name.encode()) % 40, 180)], names)


def init(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, list[str], str]:
    code = main(["init", "cohort", *argv])
    told = capsys.readouterr()
    return code, told.out.splitlines(), told.err


def rows() -> dict[str, SheetRow]:
    return {row.slide: row for row in read_sheet(Path("cohort/config/slides.tsv"))}


def test_names_make_pairs_and_a_pattern_makes_patients(slides: Path, capsys: pytest.CaptureFixture[str]) -> None:
    he(slides / "P01_S1_HE.tif")
    multiplex(slides / "p01_s1_mIF.ome.tif")
    he(slides / "P01_S2 H&E.tif")
    he(slides / "P02-7/he.tif")
    multiplex(slides / "P02-7/multiplex.ome.tif")
    code, lines, _ = init(capsys, "--slides", str(slides), "--patient-regex", r"(?i)(P\d+)")
    assert code == 0, lines
    found = {name: (row.patient, Path(row.sparse).name, Path(row.dense).name) for name, row in rows().items()}
    assert found == {
        "P01-S1": ("P01", "P01_S1_HE.tif", "p01_s1_mIF.ome.tif"),
        "P01-S2": ("P01", "P01_S2 H&E.tif", ""),
        "P02-7": ("P02", "he.tif", "multiplex.ome.tif"),
    }
    assert not any(line.startswith("warning") for line in lines)
    assert lines[-3:] == ["Next:", "  mfl doctor --directory cohort", "  mfl run --directory cohort"]


def test_the_cohort_passes_the_doctor(
    slides: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        he(slides / f"{name}_he.tif")
        multiplex(slides / f"{name}_mif.ome.tif")
    assert init(capsys, "--slides", "slides")[0] == 0
    settings = load(Path("cohort/config/config.yaml"))
    assert list(settings.runs) == ["distilled", "sparse-only", "shuffled"]
    assert settings.runs["sparse-only"].modalities == ("sparse", "sparse")
    assert settings.runs["shuffled"].pairing == "shuffled"
    assert len({(run.encoder, run.epochs, run.batch_size) for run in settings.runs.values()}) == 1
    monkeypatch.chdir("cohort")
    assert main(["doctor"]) == 0, capsys.readouterr().out


def test_unnamed_pairs_of_the_demo_are_found_by_what_they_show_and_the_odd_one_stays_alone(
    slides: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyvips")
    for number, name in ((1, "kite"), (2, "lark"), (6, "wren")):
        argv = ["--out-sparse", str(slides / f"{name}.tif"), "--out-truth", str(slides.parent / f"truth{number}")]
        argv += ["--out-dense", str(slides / f"{name[::-1]}.ome.tif")] if number != 2 else []
        assert main(["demo", "--slide", f"demo-{number}", *argv]) == 0
    code, lines, _ = init(capsys, "--slides", "slides")
    assert code == 0, lines
    assert {name: Path(row.dense).name for name, row in rows().items()} == {
        "kite": "etik.ome.tif",
        "lark": "",
        "wren": "nerw.ome.tif",
    }
    assert sum("paired by content with" in line for line in lines) == 2
    sheet = Path("cohort/config/slides.tsv").read_text()
    assert "# kite: paired by content with etik.ome.tif" in sheet


def test_two_he_for_one_dense_are_told_and_none_is_guessed(slides: Path, capsys: pytest.CaptureFixture[str]) -> None:
    he(slides / "A1_HE.tif")
    he(slides / "a1_he.tif")
    multiplex(slides / "a1_mif.ome.tif")
    code, lines, _ = init(capsys, "--slides", "slides")
    assert code == 0
    assert [row.dense for row in rows().values()] == ["", ""]
    assert len({name.lower() for name in rows()}) == 2
    assert sum("2 H&E and 1 dense files of this name, none clearly its partner" in line for line in lines) == 2
    assert any("a1_mif.ome.tif: no H&E found for it" in line for line in lines)


def test_a_cohort_that_is_there_stays_as_it_is(slides: Path, capsys: pytest.CaptureFixture[str]) -> None:
    he(slides / "a.tif")
    for name in ("slides.tsv", "config.yaml"):
        folder = Path("cohort/config")
        folder.mkdir(parents=True)
        (folder / name).write_text("mine\n")
        code, _, told = init(capsys, "--slides", "slides")
        assert code == 1
        assert told.startswith(f"error: file cohort/config/{name}: expected no cohort there yet, found this file")
        assert [(item.name, item.read_text()) for item in folder.iterdir()] == [(name, "mine\n")]
        shutil.rmtree("cohort")


def test_what_cannot_be_opened_is_a_line_each_and_the_others_go_on(
    slides: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    he(slides / "a_he.tif")
    (slides / "gone.svs").symlink_to("/removed/disk/gone.svs")
    (slides / "text.svs").write_text("no slide\n")
    (slides / "empty.ndpi").touch()
    (slides / "notes.txt").write_text("not looked at\n")
    code, lines, _ = init(capsys, "--slides", "slides")
    assert code == 0
    assert list(rows()) == ["a"]
    warned = [line for line in lines if line.startswith("warning")]
    assert len(warned) == 3
    assert any("gone.svs: a link to /removed/disk/gone.svs, which is not there" in line for line in warned)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user may reach, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_folder_without_permission_is_told(open_folder: Path) -> None:
    he(open_folder / "a_he.tif")
    (open_folder / "closed").mkdir(mode=0)
    was = os.geteuid()
    try:
        if was == 0:
            os.seteuid(65534)
        found = slide_files([open_folder])
    finally:
        os.seteuid(was)
    assert [path.name for path, _ in found.files] == ["a_he.tif"]
    (finding,) = found.findings
    assert str(finding) == f"warning  folder {open_folder / 'closed'}: cannot be read: Permission denied"


def test_a_slide_that_lacks_something_is_a_comment_that_says_what(
    slides: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    he(slides / "a_he.tif")
    he(slides / "b_he.tif", mpp=None)
    he(slides / "c_he.tif")
    multiplex(slides / "c_mif.ome.tif", names=["CD3", "CD8"])
    he(slides / "d{1}_he.tif")
    code, lines, _ = init(capsys, "--slides", "slides")
    assert code == 0
    assert list(rows()) == ["a"]
    sheet = Path("cohort/config/slides.tsv").read_text()
    assert "# b cannot run yet, b_he.tif: the file states no um per pixel: write it in the column sparse_mpp" in sheet
    assert "no channel has the name of a nuclear stain (CD3, CD8)" in sheet
    assert "without tabs, line ends and braces" in sheet
    assert sum("cannot run yet" in line for line in lines) == 3


def test_an_encoder_makes_a_cohort_of_he_alone(slides: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = train_tiny(Path("first"))
    he(slides / "a_he.tif")
    multiplex(slides / "a_mif.ome.tif")
    code, lines, _ = init(capsys, "--slides", "slides", "--encoder", str(encoder))
    assert code == 0, lines
    assert [row.dense for row in rows().values()] == [""]
    settings = load(Path("cohort/config/config.yaml"))
    assert not settings.runs
    assert (Path("cohort") / settings.embed.encoder).resolve() == encoder.resolve()


def test_no_he_slide_is_an_error_and_nothing_is_written(slides: Path, capsys: pytest.CaptureFixture[str]) -> None:
    multiplex(slides / "a_mif.ome.tif")
    code, _, told = init(capsys, "--slides", "slides")
    assert (code, Path("cohort").exists()) == (1, False)
    assert "expected an H&E slide that can run, found none in 1 files" in told
    code, _, told = init(capsys, "--slides", "elsewhere")
    assert (code, "file elsewhere: expected a folder of slides" in told) == (1, True)


def test_a_list_names_slides_and_a_link_does_not_count_twice(slides: Path) -> None:
    he(slides / "a.tif")
    (slides / "again.tif").symlink_to("a.tif")
    Path("list.txt").write_text("# mine\nslides/a.tif\nslides/nowhere.svs\n")
    found = slide_files([Path("list.txt"), slides])
    assert [path.name for path, _ in found.files] == ["a.tif"]
    assert [str(item) for item in found.findings] == [
        "warning  file slides/nowhere.svs: listed in list.txt, but not there"
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("S1_HE.svs", "s1_mIF.ome.tiff"),
        ("x/S1.H&E.ndpi", "y/S1-CODEX.qptiff"),
        ("demo-1/he.tif", "demo-1/multiplex.ome.tif"),
        ("P3_he_A.svs", "P3_A_immunofluorescence.tif"),
    ],
)
def test_files_of_one_section_share_their_key(one: str, other: str) -> None:
    assert key_of(Path(one)) == key_of(Path(other))


def test_files_of_two_sections_do_not() -> None:
    assert len({key_of(Path(name)) for name in ("S1_HE.svs", "S2_HE.svs", "S1_2_HE.svs", "HE1.svs")}) == 4


def test_names_of_slides_are_unique_whatever_their_case() -> None:
    names = unique_names(Path(name) for name in ("x/a_he.svs", "y/A_he.svs", "y/a.svs", "b.svs"))
    assert names == ["x-a", "y-A", "y-a-2", "b"]


def test_a_patient_is_the_group_of_the_pattern_or_all_of_it() -> None:
    import re

    assert Patients(re.compile(r"P(\d+)")).of(Path("in/P07/x.svs"), Path("in")) == "07"
    assert Patients(re.compile(r"P\d+")).of(Path("in/P07/x.svs"), Path("in")) == "P07"
    assert Patients(re.compile(r"in")).of(Path("in/P07/x.svs"), Path("in")) is None


def test_brown_is_immunohistochemistry_and_pink_is_not() -> None:
    shown = {name: np.tile(np.rint(255 * 10 ** -np.array(od)).astype(np.uint8), (90, 1)) for name, od in STAINS.items()}
    assert not is_brown(np.concatenate([shown["hematoxylin"], shown["eosin"]]))
    assert is_brown(np.concatenate([shown["hematoxylin"], shown["dab"][:10]]))
    assert not is_brown(np.full((50, 3), 250, np.uint8))


def slide(mpp: float, side_px: int = 20_000) -> Recognised:
    return Recognised(Path("a.svs"), Path(), "sparse", mpp, (side_px, side_px), ("R", "G", "B"))


def test_patches_fit_the_slides() -> None:
    assert patches_for([slide(0.25), slide(0.5)]).mpp == 0.5
    assert patches_for([slide(0.252), slide(0.2525)]).mpp == pytest.approx(0.505, abs=0.001)
    assert patches_for([slide(0.25), slide(1.3)]).mpp == 1.3
    assert [patches_for([slide(0.5, side)]).size_px for side in (20_000, 10_000, 2_000)] == [256, 128, 64]


def test_epochs_fit_the_machine() -> None:
    patches = patches_for([slide(0.5)])
    fast, slow = (training_for(patches, gpus=0, cores=cores, hours=2) for cores in (64, 1))
    order = ("test_resnet", "resnet18", "resnet50")
    assert (order.index(fast.encoder), fast.epochs) > (order.index(slow.encoder), slow.epochs)
    assert training_for(patches, gpus=1, cores=1, hours=2).encoder == "resnet50"


def test_real_slides_are_recognised(real_data: Path) -> None:
    sides = {}
    for path in (
        "formats/CMU-1-Small-Region.svs",
        "formats/OS-1-detail.ome.tif",
        "formats/pathml_small_vectra.qptiff",
        "orion_crc01/centre_he.tif",
        "orion_crc01/centre_mif_moved.ome.tif",
    ):
        seen = recognise(real_data / path, real_data)
        assert isinstance(seen, Recognised)
        sides[Path(path).name] = seen.side
    assert list(sides.values()) == ["sparse", "sparse", "dense", "sparse", "dense"]


def test_real_tissue_is_paired_by_content(real_data: Path) -> None:
    names = ("west_he.tif", "centre_he.tif", "west_mif.ome.tif", "centre_mif_moved.ome.tif")
    seen = [recognise(real_data / "orion_crc01" / name, real_data) for name in names]
    paired = propose_pairs([item for item in seen if isinstance(item, Recognised)])
    pairs = {item.sparse.path.name: item.dense and item.dense.path.name for item in paired.slides}
    assert pairs == {"west_he.tif": "west_mif.ome.tif", "centre_he.tif": "centre_mif_moved.ome.tif"}
