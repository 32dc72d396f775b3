"""The configuration is checked once, and every mistake is named."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml
from cohort import REPOSITORY

from pipeline.commands.settings import schema
from pipeline.errors import StatedError
from pipeline.settings import RunSettings, Settings, TileSettings, build, load, to_json
from pipeline.settings.evaluate import baseline_of


def test_an_empty_configuration_is_all_defaults() -> None:
    settings = build(Settings, {}, source="test")
    assert settings.tile.mpp == "native"
    assert settings.slides == "config/slides.tsv"


def test_yamls_true_is_the_word_true_for_pairing(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("runs:\n  a:\n    pairing: true\n  b:\n    pairing: shuffled\n")
    runs = load(path).runs
    assert (runs["a"].pairing, runs["b"].pairing) == ("true", "shuffled")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"tyle": {}}, "tyle"),
        ({"tile": {"size_pxx": 3}}, "tile.size_pxx"),
        ({"tile": {"size_px": 2}}, "tile.size_px"),
        ({"tile": {"mpp": "fine"}}, "tile.mpp"),
        ({"runs": {"a": {"pairing": "wrong"}}}, "runs.a.pairing"),
        ({"runs": {"a": {"pairing": False}}}, "runs.a.pairing"),
        ({"runs": {"a": {"branches": ["sparse"]}}}, "runs.a.branches"),
        ({"runs": {"a": {"augmentation": "mfl", "crop": 0.5, "size_px": 64}}}, "size_px, crop"),
        ({"runs": {"a": {"augmentation": "mfl", "channel_dropout": 0.5}}}, "channel_dropout"),
        ({"runs": {"a": {"projector": [64, 0]}}}, "runs.a.projector.1"),
        ({"tile": {"min_tissue": float("nan")}}, "tile.min_tissue"),
        ({"runs": {"../a": {}}}, "runs"),
    ],
)
def test_a_wrong_key_or_value_is_named_in_one_line(values: dict[str, Any], named: str) -> None:
    with pytest.raises(StatedError) as caught:
        build(Settings, values, source="config.yaml")
    assert named in str(caught.value)
    assert "config.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
def test_no_number_of_any_section_may_be_infinite_or_none(value: str) -> None:
    """Every key of type float, in whatever section, alone or in a list."""
    tried = 0
    for section, kind in get_type_hints(Settings, include_extras=True).items():
        kind = RunSettings if section == "runs" else kind
        for key in fields(kind) if is_dataclass(kind) else ():
            if "float" not in str(key.type):
                continue
            given = {key.name: [float(value)] if "tuple" in str(key.type) else float(value)}
            values = {"runs": {"a": given}} if section == "runs" else {section: given}
            with pytest.raises(StatedError, match=rf"{key.name}"):
                build(Settings, values, source="config.yaml")
            tried += 1
    assert tried >= 20


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("tile: {size_px: 128}\nsplit: {folds: 3}\ntile: {mpp: 0.5}\n", "tile"),
        ("runs:\n  a: {epochs: 3}\n  a: {epochs: 4}\n", "a"),
    ],
)
def test_a_key_given_twice_is_an_error_and_not_the_last_of_them(tmp_path: Path, text: str, key: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(StatedError, match=f"twice the key {key}"):
        load(path)


def test_an_unknown_key_of_a_mapping_that_runs_share_is_told_once_with_the_key_that_is_meant(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("runs:\n  a: &a {epoch: 3}\n  b: {<<: *a, seed: 1}\ntile: {mmp: 0.5, zzz: 1}\nembeds: {}\n")
    with pytest.raises(StatedError) as caught:
        load(path)
    known = ", ".join(item.name for item in fields(TileSettings))
    assert caught.value.found.split("; ") == [
        "tile.mmp: unknown key", "did you mean mpp?", "tile.zzz: unknown key", f"known are {known}",
        "runs.a.epoch, runs.b.epoch: unknown key", "did you mean epochs?", "embeds: unknown key", "did you mean embed?",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "key", "remedy"),
    [
        ("tile:\n\tsize_px: 256\n", "line 2", "spaces"),
        ("tile: {size_px: 256\n", "line 2", "bracket"),
        ("slides:config/slides.tsv\n", "slides:config", "colon"),
        ('slides: "C:\\data"\n', "line 1", "single quotes"),
        ("runs: {a: {<<: *t}}\n", "line 1", "&"),
        ("tile:\n", "tile", "take the line out"),
        ("tile: 256\n", "tile", "{size_px: …}"),
        ("split: {test: bert}\n", "split.test", "write [bert]"),
        ("split: {test: [7]}\n", "split.test.0", 'write "7"'),
        ("runs: {7: {}}\n", "runs.7", 'write "7"'),
        ("runs: {my run: {}}\n", "runs.my run", "letters, digits"),
        ("tile: {mpp: -1}\n", "tile.mpp: should be greater than 0 (value -1), or", "'native'"),
        ("epochs: 3\n", "epochs", "runs.NAME.epochs"),
        ("register: {size_px: 3}\n", "register.size_px", "tile.size_px"),
        ("runs: {a: {learning_rate: 1}}\n", "runs.a.learning_rate", "mean lr?"),
        ("split: {xyz: 3}\n", "split.xyz", "known are by, "),
        ("", "empty", "mapping"),
    ],
)
def test_a_mistake_names_its_place_and_the_remedy(tmp_path: Path, text: str, key: str, remedy: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(StatedError) as caught:
        load(path)
    assert key in caught.value.found
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_seed_that_stands_twice_is_told_without_the_whole_section() -> None:
    with pytest.raises(StatedError) as caught:
        build(Settings, {"runs": {"a": {"seeds": [1, 1]}}}, source="x")
    assert caught.value.found == "runs.a: seeds must differ"


def test_what_a_merged_mapping_gives_may_be_given_anew(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("runs:\n  a: &a {epochs: 3, seed: 1}\n  b: &b {<<: *a, seed: 2}\n  c: {<<: *b, epochs: 5}\n")
    runs = load(path).runs
    assert [(run.epochs, run.seed) for run in runs.values()] == [(3, 1), (3, 2), (5, 2)]


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(StatedError) as caught:
        build(Settings, {"foo": 1, "tile": {"size_px": -1, "bar": 2}}, source="x")
    assert all(word in str(caught.value) for word in ("foo", "tile.size_px", "tile.bar"))


def test_json_handed_to_the_command_line_gives_the_same_settings() -> None:
    import json

    run = build(RunSettings, {"branches": ["sparse", "sparse", "dense"], "epochs": 3}, source="x")
    assert build(RunSettings, json.loads(to_json(run)), source="x") == run
    tile = build(TileSettings, {"mpp": 0.5}, source="x")
    assert build(TileSettings, json.loads(to_json(tile)), source="x") == tile


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n", ""])
def test_a_file_that_is_no_mapping_is_stated(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(StatedError, match=r"broken\.yaml"):
        load(path)


def test_the_schema_for_editors_is_up_to_date_and_takes_the_configurations_here() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    known = json.loads((REPOSITORY / "config" / "schema.json").read_text(encoding="utf-8"))
    assert known == json.loads(schema()), "run: python -m pipeline settings --schema > config/schema.json"
    for path in (REPOSITORY / "config" / "config.yaml", REPOSITORY / ".test" / "config" / "config.yaml"):
        jsonschema.validate(yaml.safe_load(path.read_text(encoding="utf-8")), known)
    with pytest.raises(jsonschema.ValidationError, match="epoch"):
        jsonschema.validate({"slides": "s.tsv", "runs": {"a": {"epoch": 3}}}, known)


def test_the_reference_of_the_configuration_is_up_to_date() -> None:
    from pipeline.commands.settings import reference

    written = (Path(__file__).resolve().parents[1] / "config" / "README.md").read_text()
    assert written == reference(), "run: python -m pipeline settings > config/README.md"


def test_a_run_of_several_seeds_becomes_one_run_per_seed() -> None:
    runs = build(Settings, {"runs": {"a": {"seeds": [3, 4], "epochs": 2}, "b": {"seed": 7}}}, source="x").runs
    assert {name: (run.seed, run.repeats, run.epochs) for name, run in runs.items()} == {
        "a": (3, "", 2),
        "a-seed4": (4, "a", 2),
        "b": (7, "", 20),
    }


@pytest.mark.parametrize(
    ("runs", "found"),
    [
        ({"a": {}, "b": {"repeats": "c"}}, "not a separate run"),
        ({"a": {}, "b": {"repeats": "a"}}, "in its seed"),
        ({"a": {}, "b": {"repeats": "a", "seed": 1, "lr": 0.5}}, "in its seed"),
        ({"a": {"seeds": [1, 1]}}, "must differ"),
        ({"a": {"seeds": [0, 1]}, "a-seed1": {}}, "two runs"),
        ({"a": {"seeds": [0, 1], "repeats": "b"}, "b": {}}, "has one seed"),
    ],
)
def test_repetitions_that_are_none_are_refused(runs: dict[str, Any], found: str) -> None:
    with pytest.raises(StatedError, match=found):
        build(Settings, {"runs": runs}, source="x")


@pytest.mark.parametrize(
    ("baseline", "refused"),
    [
        ("sparse_only", "did you mean sparse-only?"),
        ("nothing-alike", "runs are sparse-only, distilled"),
        ("", ""),
        (None, ""),
    ],
)
def test_a_baseline_that_is_no_run_is_refused_with_the_runs_that_there_are(baseline: str | None, refused: str) -> None:
    values = {
        "runs": {"sparse-only": {"branches": ["sparse", "sparse"]}, "distilled": {"branches": ["sparse", "dense"]}}
    }
    if not refused:
        build(Settings, {**values, "evaluate": {"baseline": baseline}}, source="c")
        return
    with pytest.raises(StatedError) as caught:
        build(Settings, {**values, "evaluate": {"baseline": baseline}}, source="c")
    assert refused in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_baseline_may_be_no_repetition_of_a_run_and_is_asked_for_only_where_there_are_runs() -> None:
    runs = {"a": {"branches": ["sparse", "sparse"], "seeds": [0, 1]}}
    with pytest.raises(StatedError, match="a-seed1, which is not a run"):
        build(Settings, {"runs": runs, "evaluate": {"baseline": "a-seed1"}}, source="c")
    build(Settings, {"evaluate": {"baseline": "a"}}, source="c")


def test_without_a_word_the_baseline_is_sparse_only_where_a_run_has_that_name() -> None:
    assert baseline_of(None, ["distilled", "sparse-only"]) == "sparse-only"
    assert baseline_of(None, ["distilled"]) == ""
