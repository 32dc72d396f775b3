"""The branch graph of a run: who shares weights, which markers a branch sees, and all of it through the stages."""

from __future__ import annotations

import json
import os
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cohort import REPOSITORY
from drawn_training import TINY, write_cohort
from safetensors.torch import load_file

from pipeline.cli import main
from pipeline.errors import StatedError
from pipeline.marker_names import Aliases
from pipeline.settings import RunSettings, build, load, to_json
from pipeline.settings.branches import Branch
from pipeline.store.patch_store import PatchStore
from pipeline.tools.datasets.orion import MARKERS
from pipeline.training import loop
from pipeline.training.augmentation import Augmentation
from pipeline.training.branch_checkpoint import BRANCHES_NAME, KeptBranches
from pipeline.training.branches import BranchNetwork, build_projector
from pipeline.training.components import component_panel, run_panel
from pipeline.training.dense_description import DenseDescription
from pipeline.training.draws import Draws, seed_of
from pipeline.training.encoders import build_encoder, feature_width
from pipeline.training.loop import Trainer
from pipeline.training.normalisation import ColourStatistics, MarkerStatistics, Normalisation
from pipeline.training.published_views import PublishedViewMaker
from pipeline.training.rows import read_training_rows
from pipeline.training.views import Batch, MakeViews, ViewMaker, window_numbers

NUCLEI = {"modality": "dense", "encoder": "nuclei", "markers": ["dna"]}
IMMUNE = {"modality": "dense", "encoder": "immune", "markers": ["CD8", "CD3"]}
PARTS = {"branches": ["sparse", NUCLEI, IMMUNE], "alignment": "parts"}
PANELS = (("DAPI", "CD3", "SMA"), ("CD8", "Hoechst", "CD3"))


def run_of(*branches: object, **settings: object) -> RunSettings:
    return build(RunSettings, {"branches": list(branches), **settings}, source="x")


def test_a_mapping_without_more_to_say_is_the_word() -> None:
    plain = run_of("sparse", "dense")
    assert run_of("sparse", {"modality": "dense"}) == plain
    assert run_of({"modality": "sparse", "projector": "sparse"}, {"modality": "dense", "encoder": "dense"}) == plain
    assert json.loads(to_json(plain))["branches"] == ["sparse", "dense"]


def test_names_left_out_are_those_of_modality_and_encoder_and_json_gives_them_back() -> None:
    run = run_of("sparse", NUCLEI, {"modality": "dense", "encoder": "immune", "projector": "p", "markers": ["CD3"]})
    assert run.branches[1:] == (
        Branch("dense", ("dna",), "nuclei", "nuclei"),
        Branch("dense", ("CD3",), "immune", "p"),
    )
    assert run.modalities == ("sparse", "dense", "dense")
    assert build(RunSettings, json.loads(to_json(run)), source="x") == run


@pytest.mark.parametrize(
    ("branches", "said"),
    [
        (["sparse", {"modality": "dense", "encoder": "sparse"}], "encoder sparse is one of sparse branches"),
        (
            [{"modality": "sparse", "encoder": "a"}, {"modality": "dense", "encoder": "a"}],
            "the encoder a is one of sparse branches, a dense one cannot use it",
        ),
        (["sparse", {"modality": "dense", "projector": "sparse"}], "projector sparse is one of sparse branches"),
        (["sparse", {"modality": "sparse", "encoder": "dense"}], "encoder dense is one of dense branches"),
        (
            ["sparse", {"modality": "dense", "markers": ["CD3"]}, "dense"],
            "branches with other markers cannot share the encoder dense",
        ),
        (["sparse", {"modality": "sparse", "markers": ["CD3"]}], "markers are for a dense branch"),
        (["sparse", {"modality": "target", "encoder": "a"}], "target branch has neither"),
        (["sparse", "target", {"modality": "target"}], "one target branch at most"),
        (["dense", "target"], "at least one branch must be sparse"),
        (["sparse", {"modality": "dense", "encoder": "a.b"}], "branches.1.encoder: "),
        (["sparse", {"modality": "dense", "marker": ["CD3"]}], "branches.1.marker: unknown key"),
        (["sparse", {"encoder": "a"}], "branches.1.modality: "),
        (["sparse", "dens"], "branches.1: should be 'sparse'"),
        (["sparse", 3], "branches.1: needs keys"),
        (["dense", "dense"], "at least one branch must be sparse"),
        (["sparse"], "2 to 64 branches"),
        (["sparse"] * 65, "2 to 64 branches"),
    ],
)
def test_branches_that_no_run_can_have_are_refused_in_one_clear_line(branches: list[object], said: str) -> None:
    with pytest.raises(StatedError) as caught:
        run_of(*branches)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count(said) == 1, "one mistake is told once"
    assert str(caught.value).count("(value ") <= 1


def network_of(*branches: str | Branch, seed: int = 0, **channels: int) -> BranchNetwork:
    return BranchNetwork(
        branches,
        encoder="test_resnet",
        channels={"sparse": 3, "dense": 4, **channels},
        size_px=32,
        projector=(16, 8),
        seed=seed,
    )


def test_the_weights_of_a_plain_run_are_those_that_its_seed_and_modality_give() -> None:
    network = network_of("sparse", "sparse", "dense", seed=3)
    expected = {}
    for modality, channels in (("sparse", 3), ("dense", 4)):
        torch.manual_seed(seed_of(3, "weights", modality))
        encoder = build_encoder("test_resnet", in_chans=channels, size_px=32)
        expected |= {f"encoders.{modality}.{name}": value for name, value in encoder.state_dict().items()}
        projector = build_projector(feature_width(encoder, in_chans=channels, size_px=32), (16, 8))
        expected |= {f"projectors.{modality}.{name}": value for name, value in projector.state_dict().items()}
    found = network.state_dict()
    assert set(found) == set(expected)
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_branches_of_one_name_share_weights_and_others_do_not() -> None:
    immune, again = Branch("dense", ("a",), "immune"), Branch("dense", ("a",), "immune", "own")
    stroma = Branch("dense", ("b", "c"), "stroma", "immune")
    network = network_of("sparse", immune, again, stroma, immune=1, stroma=2)
    assert set(network.encoders) == {"sparse", "immune", "stroma"}
    assert set(network.projectors) == {"sparse", "immune", "own"}
    assert network.exported_encoder is network.encoders["sparse"]
    views = [torch.randn(6, channels, 32, 32) for channels in (3, 1, 1, 2)]
    outputs = network(views)
    for index, names in ((1, ("immune", "immune")), (2, ("immune", "own")), (3, ("stroma", "immune"))):
        network.zero_grad()
        outputs[index].embedding.sum().backward(retain_graph=True)
        touched = {name.split(".")[1] for name, item in network.encoders.named_parameters("e") if item.grad is not None}
        assert touched == {names[0]}
        touched = {
            name.split(".")[1] for name, item in network.projectors.named_parameters("p") if item.grad is not None
        }
        assert touched == {names[1]}


def test_initial_weights_depend_on_the_name_and_not_on_the_other_branches() -> None:
    immune = Branch("dense", ("a",), "immune")
    alone = network_of("sparse", "sparse").state_dict()
    beside = network_of(Branch("dense", ("b",), "stroma"), immune, "sparse", immune=1, stroma=1).state_dict()
    other = network_of("sparse", immune, immune=1).state_dict()
    assert all(torch.equal(value, beside[name]) for name, value in alone.items())
    for name, value in other.items():
        assert torch.equal(value, beside[name])
    same = [(beside[name.replace("immune", "stroma")] - value) for name, value in other.items() if "immune" in name]
    assert any(difference.abs().max() > 0 for difference in same)


def test_a_name_that_torch_uses_itself_is_refused() -> None:
    with pytest.raises(StatedError, match="that torch does not use itself, found half"):
        network_of("sparse", Branch("dense", encoder="half"), half=2)


def test_components_look_through_the_window_of_the_sparse_branch() -> None:
    immune, stroma = Branch("dense", encoder="immune"), Branch("dense", encoder="stroma")
    assert window_numbers(["sparse", immune, stroma, immune], shared_geometry=True) == (0, 0, 0, 1)
    assert window_numbers(["sparse", Branch("sparse", encoder="b"), "dense"], shared_geometry=True) == (0, 1, 0)
    assert window_numbers(["sparse", immune, stroma], shared_geometry=False) == (0, 1, 2)


def test_a_panel_holds_what_some_branch_sees_and_components_say_where() -> None:
    channels, aliases = {"a": PANELS[0], "b": PANELS[1]}, Aliases({}, known=True)
    branches = run_of(*PARTS["branches"]).branches
    panel, components = run_panel(channels, aliases, (), branches)
    assert panel.markers == ("DAPI", "CD3", "CD8")
    assert components == {"nuclei": (0,), "immune": (2, 1)}
    assert panel.indices == {"a": (0, 1, -1), "b": (2, 0, 1)}
    immune = component_panel(panel, components["immune"])
    assert (immune.markers, immune.indices) == (("CD8", "CD3"), {"a": (-1, 1, -1), "b": (0, -1, 1)})
    panel, components = run_panel(channels, aliases, ("SMA", "CD8", "DAPI", "CD3"), (*branches, "dense"))
    assert panel.markers == ("SMA", "CD8", "DAPI", "CD3")
    assert components == {"nuclei": (2,), "immune": (1, 3)}
    assert run_panel(channels, aliases, (), ("sparse", "dense"))[1] == {}


@pytest.mark.parametrize(
    ("chosen", "markers", "said"),
    [
        (["CD3", "CD9"], (), "of the run's DAPI, CD3, SMA, CD8, found CD9 not among them"),
        (["CD3", "SMA"], ("DAPI", "CD3"), "of the run's DAPI, CD3, found SMA not among them"),
        (["CD3", "CD3e"], (), "found one twice in CD3, CD3e"),
    ],
)
def test_markers_outside_the_panel_of_the_run_are_refused(
    chosen: list[str], markers: tuple[str, ...], said: str
) -> None:
    branches = ("sparse", Branch("dense", tuple(chosen), "immune"))
    with pytest.raises(StatedError, match="dense encoder immune each once") as caught:
        run_panel({"a": PANELS[0], "b": PANELS[1]}, Aliases({}, known=True), markers, branches)
    assert said in str(caught.value)


def test_a_training_slide_without_a_marker_of_some_component_is_refused(tmp_path: Path) -> None:
    stores, split = write_cohort(tmp_path, panels=PANELS)
    branches = ("sparse", "dense", Branch("dense", ("SMA",), "stroma"))
    with pytest.raises(
        StatedError, match="slide s1: expected at least one of the markers SMA, found CD8, Hoechst, CD3"
    ):
        read_training_rows(split, stores, branches=branches, batch_size=8)


COMPONENTS = {"nuclei": (0,), "immune": (3, 1)}
BRANCHES = ("sparse", Branch("dense", ("a",), "nuclei"), Branch("dense", ("d", "b"), "immune"), "dense")


def views_of(kind: str, augmentation: str, dense: torch.Tensor, present: torch.Tensor) -> list[torch.Tensor]:
    """The views of BRANCHES, always with the same random numbers."""
    markers = tuple(MarkerStatistics(name, 3.0 + index, 0.1 * index, 1.5, 9) for index, name in enumerate("abcd"))
    colour = ColourStatistics((0.7,) * 3, (0.2,) * 3)
    normalisation = Normalisation(colour, () if kind == "mask" else markers, torch.device("cpu"))
    maker: MakeViews = ViewMaker(
        BRANCHES,
        Augmentation(16, 0.75, 1.0, 0.0, 0.3, 1.0),
        shared_geometry=True,
        normalisation=normalisation,
        dense_kind=kind,
        components=COMPONENTS,
    )
    if augmentation == "mfl":
        maker = PublishedViewMaker(BRANCHES, 16, normalisation=normalisation, dense_kind=kind, components=COMPONENTS)
    sparse = torch.full((len(dense), 16, 16, 3), 200, dtype=torch.uint8)
    return maker(Batch(sparse, dense, present), Draws(torch.Generator().manual_seed(5), len(dense)))


@pytest.mark.parametrize(
    ("kind", "augmentation"),
    [("fluorescence", "standard"), ("fluorescence", "mfl"), ("mask", "standard"), ("mask", "mfl")],
)
def test_a_branch_sees_its_own_markers_and_no_other(kind: str, augmentation: str) -> None:
    generator = torch.Generator().manual_seed(1)
    drawn = 200 * torch.rand(8, 4, 16, 16, generator=generator) + 1
    dense = (drawn > 100).float() if kind == "mask" else drawn
    present = torch.ones(8, 4, dtype=torch.bool)
    before = views_of(kind, augmentation, dense.clone(), present)
    assert [view.shape[1] for view in before] == [3, 1, 2, 4]
    for marker in range(4):
        changed = dense.clone()
        changed[:, marker] = 1 - dense[:, marker] if kind == "mask" else 201 - dense[:, marker]
        after = views_of(kind, augmentation, changed, present)
        differ = [
            [not torch.equal(a[:, c], b[:, c]) for c in range(a.shape[1])] for a, b in zip(before, after, strict=True)
        ]
        assert differ == [[False] * 3, [marker == 0], [marker == 3, marker == 1], [marker == c for c in range(4)]]


def test_gradients_of_a_component_with_respect_to_other_markers_are_zero() -> None:
    values = torch.rand(6, 4, 16, 16, generator=torch.Generator().manual_seed(2)).requires_grad_()
    views = views_of("mask", "standard", values, torch.ones(6, 4, dtype=torch.bool))
    for index, seen in ((1, [0]), (2, [1, 3])):
        (gradient,) = torch.autograd.grad(views[index].sum(), values, retain_graph=True)
        touched = gradient.abs().amax(dim=(0, 2, 3)) > 0
        assert touched.nonzero().flatten().tolist() == seen


def test_a_marker_that_a_slide_lacks_is_masked_in_the_component_that_sees_it() -> None:
    present = torch.ones(8, 4, dtype=torch.bool)
    present[2, 3] = False
    dense = 200 * torch.rand(8, 4, 16, 16, generator=torch.Generator().manual_seed(3)) + 1
    *_, immune, _ = views_of("fluorescence", "standard", dense, present)
    assert (immune[2, 0] == 0).all()
    assert (immune[2, 1] != 0).any()


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, panels=PANELS)
    return folder


def words_of(folder: Path, name: str, **changes: Any) -> list[str]:
    out = folder / "train" / name
    return [
        "train", "--run", name, "--stores", str(folder / "tile"), "--split", str(folder / "patches.tsv"),
        "--out-encoder", str(out / "encoder"), "--out-metrics", str(out / "metrics.jsonl"),
        "--out-curve", str(out / "curve.png"), "--settings", json.dumps({**TINY, **changes}),
    ]  # fmt: skip


def train(folder: Path, name: str, **changes: Any) -> Path:
    assert main(words_of(folder, name, **changes)) == 0
    return folder / "train" / name


@pytest.fixture(scope="module")
def parts(cohort: Path) -> Path:
    return train(cohort, "parts", **PARTS)


def test_the_encoder_and_what_is_kept_beside_it_tell_the_components(parts: Path) -> None:
    config = json.loads((parts / "encoder" / "config.json").read_text())["more_from_less"]
    assert config["dense"] == {
        "kind": "fluorescence",
        "panel": ["DAPI", "CD3", "CD8"],
        "components": {"nuclei": ["DAPI"], "immune": ["CD8", "CD3"]},
    }
    assert [item["marker"] for item in config["markers"]] == ["DAPI", "CD3", "CD8"]
    kept = load_file(parts / BRANCHES_NAME)
    assert {".".join(name.split(".")[:2]) for name in kept} == {
        "encoders.nuclei", "encoders.immune", "projectors.sparse", "projectors.nuclei", "projectors.immune"
    }  # fmt: skip
    card = (parts / "encoder" / "card.md").read_text()
    assert "beside 2 dense branches that saw the same tissue in DAPI; in CD8, CD3; it needs" in card
    assert "| branches | sparse, dense (markers dna, encoder nuclei, projector nuclei), dense (" in card


def test_a_run_of_components_that_is_stopped_goes_on_as_if_nothing_had_been(
    cohort: Path, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = Trainer._do

    def interrupted(self: Trainer, step: loop.Step) -> loop.StepResult:
        if (step.epoch, step.number) == (1, 2):
            os.kill(os.getpid(), signal.SIGTERM)
        return done(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_do", interrupted)
        with pytest.raises(SystemExit):
            main(words_of(cohort, "stopped", **PARTS))
    resumed = train(cohort, "stopped", **PARTS)
    for name in ("encoder/model.safetensors", BRANCHES_NAME):
        assert (resumed / name).read_bytes() == (parts / name).read_bytes()


def test_naming_all_markers_in_their_order_changes_no_number(cohort: Path) -> None:
    plain = train(cohort, "plain", branches=["sparse", "dense"], epochs=1)
    named = {"modality": "dense", "markers": ["DAPI", "CD3", "SMA", "CD8"]}
    spelt = train(cohort, "spelt", branches=["sparse", named], epochs=1)
    for name in ("encoder/model.safetensors", BRANCHES_NAME):
        assert (plain / name).read_bytes() == (spelt / name).read_bytes()


def test_a_run_yields_the_encoder_of_its_first_sparse_branch_and_keeps_another_beside_it(cohort: Path) -> None:
    other = {"modality": "sparse", "encoder": "other"}
    out = train(cohort, "two-sparse", branches=["dense", "sparse", other], epochs=0)
    initial = network_of("sparse").encoders["sparse"].state_dict()
    written = load_file(out / "encoder" / "model.safetensors")
    assert all(torch.equal(written[name], value) for name, value in initial.items())
    kept = load_file(out / BRANCHES_NAME)
    assert {name.split(".")[1] for name in kept if name.startswith("encoders")} == {"dense", "other"}
    weights = {"branches": ["dense", other, "sparse"], "weights": str(out / "encoder"), "epochs": 0}
    started = load_file(train(cohort, "started", **weights) / "encoder" / "model.safetensors")
    assert all(torch.equal(started[name], value) for name, value in written.items())


def test_the_cosine_of_kept_embeddings_is_the_mean_over_the_components(cohort: Path, parts: Path) -> None:
    described = DenseDescription.read(parts / "encoder")
    assert described is not None
    kept = KeptBranches.load(parts / BRANCHES_NAME, described, torch.device("cpu"))
    network = BranchNetwork(
        run_of(*PARTS["branches"]).branches,
        encoder="test_resnet",
        channels={"sparse": 3, "nuclei": 1, "immune": 2},
        size_px=32,
        projector=TINY["projector"],
        seed=9,
    )
    own = load_file(parts / "encoder" / "model.safetensors")
    whole = {f"encoders.sparse.{name}": value for name, value in own.items()} | load_file(parts / BRANCHES_NAME)
    network.load_state_dict(whole)
    network.eval()
    store = PatchStore.open(cohort / "tile" / "s0.zarr")
    raw = store.read_dense(slice(0, 6)).astype(np.float32)[:, :2]
    pixels, present = np.zeros((6, 3, 32, 32), np.float32), np.zeros((6, 3), bool)
    pixels[:, :2], present[:, :2] = raw, True
    normal = np.zeros((6, 3, 32, 32))
    for index, item in enumerate(described.markers[:2]):
        scaled = raw[:, index].astype(np.float64) / item.cofactor
        normal[:, index] = (np.sign(scaled) * np.log1p(np.abs(scaled)) - item.mean) / item.std
    dense = torch.from_numpy(normal).float()
    rgb = torch.from_numpy(store.read_sparse(slice(0, 6)).transpose(0, 3, 1, 2) / 255).float()
    with torch.inference_mode():
        sparse, nuclei, immune = network([rgb, dense[:, [0]], dense[:, [2, 1]]])
    halves = [
        torch.nn.functional.cosine_similarity(sparse.embedding[:, None, part], other.embedding[None, :, part], dim=2)
        for part, other in ((slice(0, 16), nuclei), (slice(16, 32), immune))
    ]
    one, other = kept.project_sparse(sparse.features.numpy()), kept.embed_dense(pixels, present)
    np.testing.assert_allclose(np.linalg.norm(one, axis=1), np.sqrt(2), atol=1e-5)
    np.testing.assert_allclose(one @ other.T / 2, sum(halves).numpy() / 2, atol=1e-4)


@pytest.mark.parametrize(
    "components", [{"immune": ["CD4"]}, {"immune": []}, {"immune": ["CD3", "CD3"]}, ["immune"], {"immune": 3}]
)
def test_components_that_are_not_of_the_panel_are_refused(parts: Path, tmp_path: Path, components: object) -> None:
    config = json.loads((parts / "encoder" / "config.json").read_text())
    config["more_from_less"]["dense"]["components"] = components
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(StatedError, match="an encoder folder as train writes it"):
        DenseDescription.read(tmp_path)


def test_partners_are_found_by_components_and_a_control_is_left_to_chance(tmp_path: Path) -> None:
    held_out = 160
    panel = ("DAPI", "CD3")
    stores, split = write_cohort(tmp_path, patches=held_out, panels=(panel, panel))
    immune = {"modality": "dense", "encoder": "immune", "markers": ["CD3"]}
    settings = {"branches": ["sparse", NUCLEI, immune], "alignment": "parts", "epochs": 6, "batch_size": 32}
    settings |= {"lr": 0.003, "crop": 1.0, "colour": 0.2}
    for run, changes in (("parts", {}), ("shuffled", {"pairing": "shuffled"})):
        encoder = train(tmp_path, run, **settings, **changes) / "encoder"
        for slide in ("s0", "s1", "test"):
            argv = ["embed", "--store", str(stores / f"{slide}.zarr"), "--encoder", str(encoder)]
            assert main([*argv, "--out", str(tmp_path / f"embed/{run}/{slide}.h5")]) == 0
    argv = ["evaluate", "--stores", str(stores), "--split", str(split), "--embeddings", str(tmp_path / "embed")]
    argv += ["--trainings", str(tmp_path / "train"), "--runs", "parts", "shuffled"]
    argv += ["--out-summary", str(tmp_path / "summary.tsv"), "--out-details", str(tmp_path / "details.json")]
    known = {"bootstrap": 100, "block_um": 160, "retrieval_patches": 1000, "baseline": "shuffled"}
    assert main([*argv, "--settings", json.dumps(known)]) == 0
    found = json.loads((tmp_path / "details.json").read_text())["retrieval"]
    chance = 10 / held_out
    assert found["parts"]["patches"] == held_out
    assert found["parts"]["recall_at_10"]["low"] > 2 * chance
    assert found["shuffled"]["recall_at_10"]["score"] < 2 * chance


def test_the_components_of_the_experiment_on_orion_cover_its_panel_once() -> None:
    runs = load(REPOSITORY / "config" / "experiments" / "orion-parts.yaml").runs
    branches = runs["distilled"].branches
    panel, components = run_panel({"case": MARKERS}, Aliases({}, known=True), (), branches)
    assert panel.markers == MARKERS
    assert sorted(index for indices in components.values() for index in indices) == list(range(len(MARKERS)))
    assert runs["distilled"].projector[-1] % len(components) == 0
    assert [run.pairing for run in runs.values()].count("shuffled") == 1
    assert all(one.seed == other.seed for one, other in pairwise(runs.values()))
