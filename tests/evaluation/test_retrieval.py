"""Cross-modal retrieval: ranks against counting by hand, kept branches against the network they are of, controls."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_training import TINY, train_tiny, write_cohort
from safetensors import safe_open
from safetensors.torch import load_file

from pipeline.cli import main
from pipeline.errors import StatedError
from pipeline.evaluation.bootstrap import resample_counts
from pipeline.evaluation.held_out import HeldOut
from pipeline.evaluation.retrieval import Ranks, partner_ranks, retrieval_figures, weighted_median
from pipeline.report.results import Results
from pipeline.report.words import retrieval
from pipeline.store.patch_store import PatchStore
from pipeline.training.branch_checkpoint import BRANCHES_NAME, KeptBranches
from pipeline.training.branches import BranchNetwork, build_projector
from pipeline.training.dense_description import DenseDescription

RUNS = {
    "distilled": {"branches": ["sparse", "dense"]},
    "shuffled": {"branches": ["sparse", "dense"], "pairing": "shuffled"},
    "blank": {"branches": ["sparse", "dense"], "pairing": "blank", "epochs": 1},
    "sparse-only": {"branches": ["sparse", "sparse"], "epochs": 1},
}
HELD_OUT = 160


def test_ranks_are_those_of_counting_and_ties_share_theirs() -> None:
    rng = np.random.default_rng(0)
    queries, gallery = rng.normal(size=(2, 40, 3))
    gallery[[7, 20, 31]] = 2 * gallery[7]  # one direction, other lengths
    gallery[5] = 0
    ranks = partner_ranks(queries, gallery)
    for row, query in enumerate(queries):
        near = [
            float(query @ other / np.linalg.norm(query) / (np.linalg.norm(other) or 1)) for other in gallery.tolist()
        ]
        ahead = sum(value > near[row] + 1e-9 for value in near)
        tied = sum(abs(value - near[row]) <= 1e-9 for value in near)
        assert (ranks.ahead[row], ranks.tied[row]) == (ahead, tied)
        assert ranks.mean[row] == np.mean([ahead + 1 + place for place in range(tied)])
        for depth in (1, 5, 10):
            expected = np.mean([ahead + 1 + place <= depth for place in range(tied)])
            assert ranks.within(depth)[row] == pytest.approx(expected)
    assert ranks.tied[7] == 3


def test_a_median_with_weights_is_that_of_copies() -> None:
    rng = np.random.default_rng(1)
    values, copies = rng.integers(0, 9, 31).astype(float), rng.integers(0, 4, (20, 31))
    found = weighted_median(values, copies.astype(float))
    for row, counts in enumerate(copies):
        ordered = np.sort(np.repeat(values, counts))
        assert found[row] == ordered[(len(ordered) - 1) // 2]
    assert np.isnan(weighted_median(values, np.zeros((1, 31)))).all()


def test_figures_of_a_random_order_hold_chance_and_those_of_two_seeds_are_their_mean() -> None:
    rng = np.random.default_rng(2)
    count = 400
    orders = [Ranks(rng.integers(0, count, count), np.ones(count, np.int64)) for _ in range(2)]
    blocks = [np.repeat(np.arange(20), 20)]
    tested = HeldOut(("s",), (count,), tuple(blocks), tuple(resample_counts([20], 300, 0)), True)
    figures = {item.name: item for item in retrieval_figures(orders, blocks, tested)}
    assert figures["recall_at_10"].chance == 10 / count
    assert figures["median_rank"].chance == (count + 1) / 2
    for figure in figures.values():
        assert figure.score == pytest.approx(np.mean(figure.per_seed))
        assert figure.within.low <= figure.chance <= figure.within.high
    assert figures["recall_at_5"].per_seed[0] == (orders[0].ahead < 5).mean()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder's folder of a run on two panels, of which no slide has all markers."""
    return train_tiny(tmp_path_factory.mktemp("tiny"), size_px=24)


def test_kept_branches_give_what_the_network_gave(trained: Path) -> None:
    described = DenseDescription.read(trained)
    assert described is not None
    assert described.panel == ("DAPI", "CD3", "CD8")
    kept = KeptBranches.load(trained.parent / BRANCHES_NAME, described, torch.device("cpu"))
    whole = BranchNetwork(
        ("sparse", "dense"),
        encoder="test_resnet",
        channels={"sparse": 3, "dense": 3},
        size_px=24,
        projector=TINY["projector"],
        seed=5,
    )
    own = {f"encoders.sparse.{name}": value for name, value in load_file(trained / "model.safetensors").items()}
    whole.load_state_dict(own | load_file(trained.parent / BRANCHES_NAME))
    whole.eval()
    store = PatchStore.open(trained.parents[1] / "tile/test.zarr")
    raw = store.read_dense(slice(0, 6)).astype(np.float32)
    pixels, present = np.zeros((6, 3, 32, 32), np.float32), np.zeros((6, 3), bool)
    pixels[:, :2], present[:, :2] = raw, True
    view = np.zeros((6, 3, 24, 24))
    config = json.loads((trained / "config.json").read_text())["more_from_less"]
    for index, item in enumerate(config["markers"][:2]):
        window = raw[:, index, 4:28, 4:28].astype(np.float64) / item["cofactor"]
        view[:, index] = (np.sign(window) * np.log1p(np.abs(window)) - item["mean"]) / item["std"]
    rgb = store.read_sparse(slice(0, 6))[:, 4:28, 4:28].transpose(0, 3, 1, 2) / 255
    with torch.inference_mode():
        sparse, dense = whole([torch.from_numpy(rgb).float(), torch.from_numpy(view).float()])
    np.testing.assert_allclose(kept.dense_features(pixels.copy(), present), dense.features.numpy(), atol=1e-4)
    np.testing.assert_allclose(kept.embed_dense(pixels, present), dense.embedding.numpy(), atol=1e-4)
    np.testing.assert_allclose(kept.project_sparse(sparse.features.numpy()), sparse.embedding.numpy(), atol=1e-5)


def test_of_an_embedding_aligned_in_parts_only_the_dense_part_is_compared(tmp_path: Path) -> None:
    folder = train_tiny(tmp_path, branches=["sparse", "sparse", "dense"], alignment="parts")
    described = DenseDescription.read(folder)
    assert described is not None
    kept = KeptBranches.load(folder.parent / BRANCHES_NAME, described, torch.device("cpu"))
    found = kept.project_sparse(np.ones((2, described.feature_dim), np.float32))
    weights = load_file(folder.parent / BRANCHES_NAME)
    projector = build_projector(described.feature_dim, TINY["projector"]).eval()
    prefix = "projectors.sparse."
    projector.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
    whole = projector(torch.ones(2, described.feature_dim)).detach().numpy()
    np.testing.assert_allclose(found, whole[:, 16:], atol=1e-5)


def test_branches_of_another_encoder_are_refused(trained: Path, tmp_path: Path) -> None:
    described = DenseDescription.read(trained)
    assert described is not None
    path = tmp_path / BRANCHES_NAME
    for data, found in ((b"", ""), (b"\xff" * 100, ""), (None, "those of")):
        if data is not None:
            path.write_bytes(data)
        else:
            other = train_tiny(tmp_path / "other", seed=1).parent / BRANCHES_NAME
            path.write_bytes(other.read_bytes())
        with pytest.raises(StatedError, match=f"expected the branches .*{found}"):
            KeptBranches.load(path, described, torch.device("cpu"))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four runs on pairs whose blob lies at the same place in both sides, and the evaluation of them."""
    folder = tmp_path_factory.mktemp("retrieval")
    stores, split = write_cohort(folder, patches=HELD_OUT, panels=(("DAPI", "CD3"), ("DAPI", "CD3")))
    base = {**TINY, "epochs": 6, "batch_size": 32, "lr": 0.003, "crop": 1.0, "colour": 0.2}
    for run, changes in RUNS.items():
        out = folder / "train" / run
        argv = ["train", "--run", run, "--stores", str(stores), "--split", str(split)]
        argv += ["--settings", json.dumps({**base, **changes}), "--out-encoder", str(out / "encoder")]
        assert main([*argv, "--out-metrics", str(out / "m.jsonl"), "--out-curve", str(out / "c.png")]) == 0
        for slide in ("s0", "s1", "test"):
            argv = ["embed", "--store", str(stores / f"{slide}.zarr"), "--encoder", str(out / "encoder")]
            assert main([*argv, "--out", str(folder / f"embed/{run}/{slide}.h5")]) == 0
    assert main(_argv(folder)) == 0
    return folder


def _argv(folder: Path, *runs: str, **settings: object) -> list[str]:
    argv = ["evaluate", "--stores", str(folder / "tile"), "--split", str(folder / "patches.tsv")]
    argv += ["--embeddings", str(folder / "embed"), "--trainings", str(folder / "train")]
    argv += ["--runs", *(runs or RUNS), "--out-summary", str(folder / "summary.tsv")]
    known = {"bootstrap": 100, "block_um": 160, "retrieval_patches": 1000, **settings}
    return [*argv, "--out-details", str(folder / "details.json"), "--settings", json.dumps(known)]


def test_true_pairs_are_found_and_those_of_controls_are_left_to_chance(evaluated: Path) -> None:
    found = json.loads((evaluated / "details.json").read_text())["retrieval"]
    assert set(found) == {"distilled", "shuffled", "blank"}
    for run, told in found.items():
        assert told["patches"] == HELD_OUT
        assert told["slides"] == ["test"]
        assert told["recall_at_10"]["chance"] == 10 / HELD_OUT
        assert told["recall_at_1"]["score"] <= told["recall_at_5"]["score"] <= told["recall_at_10"]["score"]
        for name in ("recall_at_1", "recall_at_5", "recall_at_10", "median_rank"):
            assert told[name]["low"] <= told[name]["score"] <= told[name]["high"], (run, name)
    assert found["distilled"]["recall_at_10"]["low"] > 2 * found["distilled"]["recall_at_10"]["chance"]
    assert found["distilled"]["median_rank"]["high"] < HELD_OUT / 4
    assert found["shuffled"]["recall_at_10"]["score"] < 2 * found["shuffled"]["recall_at_10"]["chance"]
    assert found["blank"]["recall_at_10"]["score"] == pytest.approx(10 / HELD_OUT)
    assert found["blank"]["median_rank"]["score"] == (HELD_OUT + 1) / 2


def test_the_report_tells_it_in_a_sentence(evaluated: Path) -> None:
    found = json.loads((evaluated / "details.json").read_text())["retrieval"]
    results = Results((), None, {}, (), "", {}, None, retrieval=found)
    share = 100 * found["distilled"]["recall_at_10"]["score"]
    assert f"“distilled” {share:.1f} % (" in retrieval(results)
    assert "6.2 % by chance, median rank 80 of 160" in retrieval(results)
    assert retrieval(replace(results, retrieval={})) == ""
    with pytest.raises(StatedError, match="retrieval as evaluate writes it"):
        retrieval(replace(results, retrieval={"distilled": {"recall_at_10": 1}}))


def test_fewer_patches_are_drawn_where_asked_and_none_leaves_it_out(evaluated: Path, tmp_path: Path) -> None:
    for most, expected in ((40, 40), (0, None)):
        argv = _argv(evaluated, "distilled", retrieval_patches=most)
        argv[argv.index("--out-details") + 1] = str(tmp_path / "details.json")
        argv[argv.index("--out-summary") + 1] = str(tmp_path / "summary.tsv")
        assert main(argv) == 0
        found = json.loads((tmp_path / "details.json").read_text())["retrieval"]
        assert found.get("distilled", {}).get("patches") == expected


def test_a_run_without_a_dense_branch_keeps_no_weights_beside_its_encoder(evaluated: Path) -> None:
    with safe_open(evaluated / "train/sparse-only" / BRANCHES_NAME, framework="pt") as file:
        assert not file.keys()
    with safe_open(evaluated / "train/distilled" / BRANCHES_NAME, framework="pt") as file:
        assert {name.split(".")[1] for name in file.keys()} == {"sparse", "dense"}  # noqa: SIM118
        assert not any(name.startswith("encoders.sparse") for name in file.keys())  # noqa: SIM118


def test_features_of_another_training_are_refused(
    evaluated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = _argv(evaluated, "distilled")
    other = tmp_path / "train" / "distilled"
    other.mkdir(parents=True)
    for name in ("encoder", BRANCHES_NAME):
        (other / name).symlink_to(evaluated / "train/shuffled" / name)
    argv[argv.index("--trainings") + 1] = str(tmp_path / "train")
    assert main(argv) == 1
    assert "expected features of encoder" in capsys.readouterr().err.strip().splitlines()[-1]
