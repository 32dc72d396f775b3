"""One record: what is written is what is read, and a probe that evaluate-probe fitted is not fitted again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawn_results import MARKERS, draw_features, draw_stores

from pipeline.cli import main
from pipeline.evaluation.aggregates import Targets
from pipeline.evaluation.bootstrap import Interval
from pipeline.evaluation.details import told_rows
from pipeline.evaluation.evidence_row import EvidenceRow, read_summary, write_summary
from pipeline.evaluation.probe_spec import ProbeSpec
from pipeline.evaluation.seen_markers import left_out, seen_markers
from pipeline.settings import PanelSettings

SPECS = [
    ProbeSpec("sparse", "markers", "ridge", "pearson_r"),
    ProbeSpec("sparse", "markers", "ridge", "pearson_r", 30),
    ProbeSpec("dense", "cell", "knn", "auc"),
    # Columns called as kinds and sides are.
    ProbeSpec("sparse", "knn", "linear", "recall", 100),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
@pytest.mark.parametrize("target", ["CD3", "mean"])
def test_a_row_is_read_as_it_was_written(spec: ProbeSpec, target: str, tmp_path: Path) -> None:
    row = EvidenceRow(
        "distilled",
        spec,
        target,
        0.5,
        Interval(0.25, 0.75),
        0.125,
        Interval(-0.5, 0.5),
        "no difference",
        seeds=2,
        train_patches=30,
        test_patches=40,
        test_slides=2,
        seed_low=0.25,
        seed_high=0.75,
        disjoint=False,
        blocks=12,
        note="a note",
        seen="no",
        fewer_labels=8.5,
        fewer_labels_within=Interval(2.0, 16.0),
    )
    write_summary(tmp_path / "summary.tsv", [row])
    (found,) = read_summary(tmp_path / "summary.tsv")
    assert repr(found) == repr(row)  # nan is nan there


def test_probes_have_names_of_their_own() -> None:
    assert [spec.name for spec in SPECS] == ["ridge", "ridge-30-labels", "dense-cell-knn-auc", "knn-linear-100-labels"]


def test_means_over_unseen_and_seen_markers_are_those_of_their_markers() -> None:
    targets = Targets.of(("a", "b", "c"), {"b"})
    assert targets.columns == ("a", "b", "c", "mean", "mean of unseen", "mean of seen")
    np.testing.assert_allclose(targets.known(np.array([[1.0, 5.0, 3.0]]))[0, 3:], [3.0, 5.0, 2.0])
    np.testing.assert_allclose(targets.known(np.array([[1.0, np.nan, 3.0]]))[0, 3:], [2.0, np.nan, 2.0])
    for unseen in ((), ("a", "b", "c"), ("of no slide",)):
        assert Targets.of(("a", "b", "c"), unseen).means == ("mean",)


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    drawn = draw_stores(tmp_path)
    draw_features(drawn, "distilled", 1.0, seed=1)
    draw_features(drawn, "sparse-only", 4.0, seed=2)
    return [*drawn.arguments("distilled", "sparse-only"), "--settings", '{"labels": [30], "bootstrap": 50}']


def test_evaluate_scores_the_probe_that_evaluate_probe_fitted(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["evaluate", *arguments]) == 0
    alone = (tmp_path / "evaluate/summary.tsv").read_bytes()
    probe = ["evaluate-probe", *arguments[:6], "--run", "distilled", "--out", str(tmp_path / "probe")]
    assert main([*probe, "--settings", '{"bootstrap": 50}']) == 0
    given = [*arguments, "--probes", f"distilled={tmp_path / 'probe'}"]
    fits: list[int] = []
    from pipeline.evaluation import marker_evidence

    fit = marker_evidence.fit_ridge
    monkeypatch.setattr(marker_evidence, "fit_ridge", lambda x, *more: (fits.append(len(x)), fit(x, *more))[1])
    assert main(["evaluate", *given]) == 0
    assert (tmp_path / "evaluate/summary.tsv").read_bytes() == alone
    # Two patterns of markers: of all labels they are fitted for the other run only.
    assert sum(count > 30 for count in fits) == 2
    capsys.readouterr()
    assert main(["evaluate", *given, "--settings", '{"bootstrap": 60}']) == 1
    assert "as evaluate-probe fits it now, bootstrap 60" in capsys.readouterr().err


def _encoder(folder: Path, run: str, branches: list[str], panel: list[str], pairing: str = "true") -> Path:
    path = folder / run / "encoder/config.json"
    path.parent.mkdir(parents=True)
    own = {"settings": {"branches": branches, "pairing": pairing}, "dense": {"panel": panel} if panel else None}
    path.write_text(json.dumps({"more_from_less": own}))
    return path.parent


def test_what_a_training_saw_is_what_its_dense_branches_had(tmp_path: Path) -> None:
    known = PanelSettings()
    asked = (
        ("all", ["sparse", "dense"], list(MARKERS), "true", set(MARKERS)),
        ("part", ["sparse", "sparse", "dense"], ["dapi", "elsewhere"], "true", {"DAPI"}),
        ("blank", ["sparse", "dense"], list(MARKERS), "blank", set()),
        ("sparse", ["sparse", "sparse"], [], "true", set()),
    )
    for run, branches, panel, pairing, expected in asked:
        assert seen_markers(_encoder(tmp_path, run, branches, panel, pairing), MARKERS, known) == expected
    assert seen_markers(tmp_path / "none", MARKERS, known) is None
    everything = frozenset(MARKERS)
    assert left_out({"a": everything, "b": frozenset({"DAPI"}), "c": frozenset()}, MARKERS) == {"CD45", "Pan-CK"}
    assert left_out({"a": everything, "c": frozenset(), "d": None}, MARKERS) == set()


def test_markers_that_a_run_left_out_are_told_apart(arguments: list[str], tmp_path: Path) -> None:
    _encoder(tmp_path / "train", "distilled", ["sparse", "dense"], ["DAPI", "Pan-CK"])
    _encoder(tmp_path / "train", "sparse-only", ["sparse", "sparse"], [])
    asked = [*arguments, "--trainings", str(tmp_path / "train")]
    asked[asked.index("--settings") + 1] = '{"labels": [30], "bootstrap": 50, "retrieval_patches": 0}'
    assert main(["evaluate", *asked]) == 0
    rows = pd.read_csv(tmp_path / "evaluate/summary.tsv", sep="\t").set_index(["run", "probe", "target"])
    own = rows.loc["distilled", "ridge"]
    assert own["seen"].to_dict() == {
        "DAPI": "yes",
        "CD45": "no",
        "Pan-CK": "yes",
        "mean": "some",
        "mean of unseen": "no",
        "mean of seen": "yes",
    }
    assert own.score["mean of unseen"] == pytest.approx(own.score["CD45"], abs=1e-4)
    assert own.score["mean of seen"] == pytest.approx(own.score[["DAPI", "Pan-CK"]].mean(), abs=2e-4)
    assert own.verdict["mean of unseen"] == "helped"
    assert set(rows.loc["sparse-only", "ridge"]["seen"]) == {"no"}


def test_of_thousands_of_targets_the_details_tell_the_best_and_count_the_rest() -> None:
    spec = SPECS[0]
    rows = [EvidenceRow("run", spec, f"g{n}", n / 1000, verdict="helped") for n in range(1000)]
    rows.append(EvidenceRow("run", spec, "mean", 0.5))
    told = told_rows(rows)
    assert [row["target"] for row in told["rows"]] == [*(f"g{n}" for n in range(976, 1000)), "mean"]
    assert told["left_out"] == [
        {"run": "run", "probe": "ridge", "targets": 976, "scored": 976, "verdicts": {"helped": 976}}
    ]
    assert set(told_rows(rows[-200:])) == {"rows"}
