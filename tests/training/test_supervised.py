"""The supervised reference: what it predicts, what it loses, and that it learns from true targets only."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn_store import write_store
from drawn_training import TINY, draw_pairs, write_cohort
from torch.nn.functional import cross_entropy

from pipeline.cli import main
from pipeline.errors import StatedError
from pipeline.provenance import file_digest
from pipeline.settings import RunSettings, build
from pipeline.training.batches import make_batch, partners
from pipeline.training.patches import TrainingPatches
from pipeline.training.rows import TrainingRows, labelled_rows, read_training_rows
from pipeline.training.targets import supervised_terms, training_targets

BRANCHES = ("sparse", "target")
CLASSES = ("tumour", "stroma", "glass")


def _rows(folder: Path, **options: Any) -> TrainingRows:
    split, stores = folder / "patches.tsv", folder / "tile"
    return read_training_rows(split, stores, branches=BRANCHES, batch_size=8, **options)


def _argv(folder: Path, name: str, *more: str, **changes: Any) -> list[str]:
    out = folder / name
    argv = ["train", "--run", name, "--stores", str(folder / "tile"), "--split", str(folder / "patches.tsv")]
    argv += ["--out-encoder", str(out / "encoder"), "--out-metrics", str(out / "m"), "--out-curve", str(out / "c")]
    return [*argv, *more, "--settings", json.dumps({**TINY, "branches": BRANCHES, **changes})]


def _train(folder: Path, name: str, *more: str, **changes: Any) -> tuple[list[dict[str, float]], Path]:
    assert main(_argv(folder, name, *more, **changes)) == 0
    out = folder / name
    return [json.loads(line) for line in (out / "m").read_text().splitlines()], out / "encoder"


def _write_masks(folder: Path, patches: int = 64) -> np.ndarray:
    """Two training slides and a held-out one, whose patches are bluest where most of them is tumour."""
    lines, shares = ["slide\trow\tpatient\tfold\tpair_quality"], []
    for number, slide in enumerate(("test", "one", "two")):
        sparse, _ = draw_pairs(patches, 1, number)
        rng = np.random.default_rng(number)
        label = rng.integers(0, 2, patches)
        sparse = np.where((label == 0)[:, None, None, None], sparse // 2, sparse)
        share = np.zeros((patches, 3))
        share[np.arange(patches), label] = 0.8
        share[:4] = 0.3
        dense = np.zeros((patches, 1, 32, 32), np.uint8)
        path = folder / f"tile/{slide}.zarr"
        write_store(
            path, sparse=sparse, dense=dense, slide=slide, markers=CLASSES, dense_kind="mask", marker_mean=share
        )
        shares.append(share)
        lines += [f"{slide}\t{row}\t{slide}\t{number}\t1.0" for row in range(patches)]
    (folder / "patches.tsv").write_text("\n".join(lines) + "\n")
    return np.concatenate(shares[1:])


def test_values_are_standardised_within_slides_and_unknown_where_a_marker_is_absent(tmp_path: Path) -> None:
    write_cohort(tmp_path)
    rows = _rows(tmp_path)
    targets = training_targets(rows, "values")
    assert rows.markers == ("DAPI", "CD3", "CD8")
    assert np.isnan(targets[:20, 2]).all()
    assert np.isnan(targets[20:, 1]).all()
    for slide, part, columns in zip(rows.slides, (targets[:20], targets[20:]), ([0, 1], [0, 2]), strict=True):
        log = np.log1p(slide.store.table.marker_mean)
        np.testing.assert_allclose(part[:, columns], (log - log.mean(axis=0)) / log.std(axis=0), atol=1e-5)
    chosen = training_targets(_rows(tmp_path, markers=("CD8", "DAPI")), "values")
    np.testing.assert_array_equal(chosen, targets[:, [2, 0]])


def test_classes_are_those_of_most_of_the_patch(tmp_path: Path) -> None:
    shares = _write_masks(tmp_path)
    targets = training_targets(_rows(tmp_path), "class")
    known = shares.max(axis=1) > 0.5
    assert np.isnan(targets[~known]).all()
    np.testing.assert_array_equal(targets[known], np.eye(3)[shares[known].argmax(axis=1)])


def _write_tables(folder: Path, shares: np.ndarray) -> list[str]:
    """By row the names of what covers more than half, empty for the others; of both training slides."""
    argv = ["--classes"]
    for slide, own in zip(("one", "two"), np.split(shares, 2), strict=True):
        names = [CLASSES[row.argmax()] if row.max() > 0.5 else "" for row in own]
        lines = [f"{row}\tx\t{name}" for row, name in enumerate(names)]
        (folder / f"{slide}.tsv").write_text("\n".join(["row\tfile\tlabel", *reversed(lines)]) + "\n")
        argv.append(f"{slide}={folder / slide}.tsv")
    return argv


def test_labels_are_those_of_the_tables_and_patches_without_one_are_no_rows(tmp_path: Path) -> None:
    shares = _write_masks(tmp_path)
    argv = _write_tables(tmp_path, shares)
    rows = read_training_rows(tmp_path / "patches.tsv", tmp_path / "tile", branches=("sparse",), batch_size=8)
    tables = {slide: Path(path) for slide, _, path in (word.partition("=") for word in argv[1:])}
    found = labelled_rows(rows, tables, batch_size=8)
    known = shares.max(axis=1) > 0.5
    assert found.classes == ("stroma", "tumour")
    assert len(found) == known.sum() == len(rows) - 8
    np.testing.assert_array_equal(np.concatenate([slide.rows for slide in found.slides]), np.flatnonzero(known) % 64)
    truth = [CLASSES[index] for index in shares[known].argmax(axis=1)]
    targets = training_targets(found, "label")
    assert [found.classes[index] for index in targets.argmax(axis=1)] == truth
    assert (targets.sum(axis=1) == 1).all()
    # A slide without a table has no rows either.
    one = labelled_rows(rows, {"one": tables["one"]}, batch_size=8)
    assert [slide.store.attributes.slide for slide in one.slides] == ["one"]


def test_the_losses_are_those_of_torch_on_what_is_known() -> None:
    rng = torch.Generator().manual_seed(0)
    predicted, target = torch.randn(9, 3, generator=rng), torch.randn(9, 3, generator=rng)
    target[2, 1] = target[5, 0] = torch.nan
    known = torch.isfinite(target)
    (error,) = supervised_terms(predicted, target, "values").values()
    torch.testing.assert_close(error, ((predicted - target)[known] ** 2).mean())
    labels = torch.tensor([0, 2, 1, 1, 0, 2, 2, 0, 1])
    classes = torch.eye(3)[labels]
    classes[3] = torch.nan
    rest = torch.arange(9) != 3
    (entropy,) = supervised_terms(predicted, classes, "class").values()
    torch.testing.assert_close(entropy, cross_entropy(predicted[rest], labels[rest]))
    nothing = torch.full((4, 3), torch.nan)
    assert all(supervised_terms(predicted[:4], nothing, kind)[name] == 0 for kind, name in _NAMES.items())


_NAMES = {"values": "error", "class": "cross_entropy"}


def test_a_batch_holds_the_targets_of_its_patches_or_of_their_wrong_partners(tmp_path: Path) -> None:
    write_cohort(tmp_path)
    rows = _rows(tmp_path)
    targets = training_targets(rows, "values")
    patches = TrainingPatches(rows, dense=False, targets=targets)
    numbers = np.array([3, 30, 7])
    for pairing in ("true", "shuffled"):
        partner = partners(40, pairing, seed=0)
        assert partner is not None
        batch = make_batch(patches, numbers, partner, dense=False)
        assert batch.dense is None
        assert batch.target is not None
        np.testing.assert_array_equal(batch.target.numpy(), targets[partner[numbers]])


def test_true_values_are_learnt_better_than_those_of_other_patches(tmp_path: Path) -> None:
    write_cohort(tmp_path, patches=64, panels=(("DAPI",), ("DAPI",)))
    ends = {}
    for pairing, said in (("true", "the values of patches (DAPI)"), ("shuffled", "of patches of OTHER places")):
        lines, encoder = _train(tmp_path, pairing, pairing=pairing, epochs=8, batch_size=32, lr=3e-3)
        assert lines[0]["loss"] == pytest.approx(lines[0]["error"])
        assert said in (encoder / "card.md").read_text()
        ends[pairing] = lines[-1]["error"]
    assert ends["true"] < 0.7 * ends["shuffled"]
    own = json.loads((encoder / "config.json").read_text())
    assert own["more_from_less"]["dense"]["panel"] == ["DAPI"]
    assert own["num_features"] == own["more_from_less"]["feature_dim"] > 1


def test_classes_are_learnt(tmp_path: Path) -> None:
    _write_masks(tmp_path)
    lines, encoder = _train(tmp_path, "classes", target="class", epochs=6, batch_size=32, lr=3e-3)
    assert lines[-1]["cross_entropy"] < 0.6 * lines[0]["cross_entropy"]
    card = (encoder / "card.md").read_text()
    assert "to predict the class of patches (tumour, stroma, glass)" in card
    assert "| objective | cross-entropy of the classes |" in card


def test_labels_of_a_table_are_learnt_without_any_dense_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = _write_tables(tmp_path, _write_masks(tmp_path))
    options = {"target": "label", "epochs": 6, "batch_size": 32, "lr": 3e-3}
    lines, encoder = _train(tmp_path, "labels", *more, **options)
    assert "train labels: 8 of 128 patches have no class and are left out" in capsys.readouterr().err
    assert lines[-1]["cross_entropy"] < 0.6 * lines[0]["cross_entropy"]
    assert lines[0]["loss"] == pytest.approx(lines[0]["cross_entropy"])
    card = (encoder / "card.md").read_text()
    assert "to tell the class of patches (stroma, tumour)" in card
    assert "| objective | cross-entropy of the classes |" in card
    assert "| dense side | none |" in card
    own = json.loads((encoder / "config.json").read_text())["more_from_less"]
    assert (own["classes"], own["dense"], own["training"]["patches"]) == (["stroma", "tumour"], None, 120)
    inputs = own["provenance"]["inputs"]
    assert inputs["classes/one"] == file_digest(tmp_path / "one.tsv")
    # Those of other patches cannot be learnt.
    wrong, _ = _train(tmp_path, "wrong", *more, pairing="shuffled", **options)
    assert lines[-1]["cross_entropy"] < 0.7 * wrong[-1]["cross_entropy"]


@pytest.mark.parametrize(
    ("tables", "told"),
    [
        ({}, "a table of classes of a training slide, for target is label .*found none"),
        ({"test": "row,class\n0,a\n1,b\n"}, "a training slide, .*found tables of test"),
        ({"one": "row,class\n0,a\n1,a\n"}, "two classes or more of the training patches, .*found a only"),
        ({"one": "row,class\n0,\n"}, "two classes or more .*found no class of any of them"),
        ({"one": "row,class\n0,a\n1,b\n"}, "at least one batch of 8 patches with a class to train on, found 2"),
        ({"one": "row,class\n64,a\n"}, "rows of the store, 0 to 63"),
        ({"one": "x\n"}, "columns x_um, y_um, size_um and class, or row and class"),
    ],
)
def test_labels_that_cannot_be_learnt_are_told_in_a_line(
    tmp_path: Path, tables: dict[str, str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _write_masks(tmp_path)
    more = ["--classes"]
    for slide, text in tables.items():
        (tmp_path / f"{slide}.csv").write_text(text)
        more.append(f"{slide}={tmp_path / slide}.csv")
    assert main(_argv(tmp_path, "labels", *more, target="label")) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert re.search(told, line)
    assert not (tmp_path / "labels").exists()


def test_what_cannot_be_predicted_is_refused(tmp_path: Path) -> None:
    write_cohort(tmp_path)
    with pytest.raises(StatedError, match="a mask as the dense side, for target is class, found fluorescence"):
        training_targets(_rows(tmp_path), "class")
    with pytest.raises(StatedError, match="target"):
        build(RunSettings, {"branches": BRANCHES, "pairing": "blank"}, source="x")
    assert build(RunSettings, {"branches": BRANCHES}, source="x").encoded == ("sparse",)
