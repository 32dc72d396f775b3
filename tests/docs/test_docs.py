"""The pages of docs/ name every key, file, column and message that there is, and link to what exists."""

from __future__ import annotations

import ast
import csv
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as parquet
import pytest
import yaml
import zarr
from cohort import REPOSITORY

from pipeline.cli import _parser, main
from pipeline.commands.settings import sections, with_keys
from pipeline.registration.displacement import DisplacementGrid
from pipeline.registration.transform import Transform, write_transform
from pipeline.registration.transform_file import read_transform

DOCS = REPOSITORY / "docs"
STAGES = (
    "inspect",
    "panel",
    "register",
    "tile",
    "split",
    "train",
    "embed",
    "evaluate",
    "predict",
    "outcomes",
    "report",
)
PAGES = [REPOSITORY / "README.md", REPOSITORY / "config" / "README.md", *sorted(DOCS.rglob("*.md"))]


@cache
def page(stage: str) -> str:
    return (DOCS / "stages" / f"{stage}.md").read_text(encoding="utf-8")


def named(stage: str) -> set[str]:
    """Everything in backticks on a stage's page."""
    return set(re.findall(r"`([^`\n]+)`", page(stage)))


def check(stage: str, names: set[str]) -> None:
    missing = sorted(names - named(stage))
    assert not missing, f"docs/stages/{stage}.md does not name {', '.join(missing)}"


def keys(value: Any) -> set[str]:
    """The keys of nested mappings and lists of mappings; provenance and settings are told elsewhere."""
    if isinstance(value, list):
        return {key for item in value for key in keys(item)}
    if not isinstance(value, dict):
        return set()
    inner = (keys(item) for key, item in value.items() if key not in ("provenance", "settings", "recipe"))
    return set(value).union(*inner)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_the_tables_of_keys_are_up_to_date(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text == with_keys(text, file=path), "run: python -m pipeline settings --pages docs"


def test_every_section_of_the_configuration_stands_on_a_page() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in PAGES)
    assert [name for name in sections() if f"<!-- keys of {name}: " not in text] == []


@pytest.mark.parametrize("stage", STAGES)
def test_every_output_of_the_rules_is_named(stage: str) -> None:
    text = (REPOSITORY / "workflow" / "rules" / f"{stage}.smk").read_text()
    outputs = re.findall(r"^    output:\n((?: {8}.*\n)+)", text, flags=re.MULTILINE)
    files = {path for block in outputs for path in re.findall(r'"<results>/([^"]+)"', block)}
    assert files
    missing = [path for path in files if path not in page(stage) and Path(path).name not in named(stage)]
    assert not missing, f"docs/stages/{stage}.md does not name {missing}"


def test_inspect_names_all_keys(small_results: Path) -> None:
    check("inspect", keys(json.loads((small_results / "results/inspect/a.json").read_text())))


def test_panel_names_all_keys(small_results: Path) -> None:
    found = json.loads((small_results / "results/panel/a.json").read_text())
    assert found["markers"]
    markers = [{key: value for key, value in item.items() if key != "neighbours"} for item in found["markers"]]
    check("panel", keys(found | {"markers": markers}) - {"findings"} | {"neighbours", "findings", "what", "message"})


def test_register_names_all_keys(small_results: Path, tmp_path: Path) -> None:
    folder = small_results / "results/register/a"
    found = json.loads((folder / "qc.json").read_text())
    # A given transform is not searched for, so this one is null there.
    found["coarse"] = {"ncc": 0, "margin": 0, "mirrored": False, "degrees": 0}
    check("register", keys(found) | {item.name for item in folder.iterdir()})
    grid = DisplacementGrid((0.0, 0.0), 16.0, np.zeros((2, 8, 8), np.float32))
    write_transform(
        tmp_path / "transform.zarr", Transform(read_transform(folder / "transform.zarr").affine, grid, grid), {}
    )
    group = zarr.open_group(tmp_path / "transform.zarr", mode="r")
    arrays = {f"displacement/{name}" for name in ("forward", "inverse")}
    check("register", set(group.attrs) | arrays | set(group["displacement/forward"].attrs))


def test_tile_names_all_arrays_and_attributes(small_results: Path) -> None:
    group = zarr.open_group(small_results / "results/tile/a.zarr", mode="r")
    check("tile", set(group.array_keys()) | keys(dict(group.attrs)))


def test_split_names_all_columns(small_results: Path) -> None:
    folder = small_results / "results/split"
    check("split", set((folder / "patches.tsv").read_text().partition("\n")[0].split("\t")))
    summary = json.loads((folder / "split.json").read_text())
    check("split", set(summary) | keys(summary["folds"]["0"]))


def test_train_names_all_keys(small_results: Path) -> None:
    folder = small_results / "results/train/distilled"
    check("train", {item.name for item in (*folder.iterdir(), *(folder / "encoder").iterdir())})
    check("train", keys(json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])))
    config = json.loads((folder / "encoder" / "config.json").read_text())
    check("train", set(config) | keys(config["more_from_less"]))


def test_embed_names_all_attributes_and_columns(small_results: Path, tmp_path: Path) -> None:
    folder = small_results / "results/embed/distilled"
    with h5py.File(folder / "a.h5") as file:
        datasets = [file[name] for name in file]
        check("embed", {*file, *file.attrs, *(name for item in datasets for name in item.attrs)})
    words = ["embed-slides", "--features", str(folder), "--slides", "a", "b", "--out", str(tmp_path / "slides.parquet")]
    assert main([*words, "--split", str(small_results / "results/split/patches.tsv")]) == 0
    check("embed", set(parquet.read_schema(tmp_path / "slides.parquet").names))


def test_evaluate_names_all_columns(small_results: Path) -> None:
    folder = small_results / "results/evaluate"
    with (folder / "summary.tsv").open() as stream:
        check("evaluate", set(next(csv.reader(stream, delimiter="\t"))))
    details = json.loads((folder / "details.json").read_text())
    (held_out, *_), (run, *_) = details["held_out"].values(), details["runs"].values()
    row = {key: value for key, value in details["rows"][0].items() if key != "per_slide"}
    check("evaluate", set(details) | set(held_out) | set(run) | set(row) | {"per_slide"})
    assert details["retrieval"]["distilled"]["patches"] > 0
    check("evaluate", keys(details["retrieval"]["distilled"]))


def test_report_names_all_sections() -> None:
    source = (REPOSITORY / "pipeline" / "report" / "template.html").read_text(encoding="utf-8")
    titles = set(re.findall(r'<h2 id="[a-z]+-title">([^<]+)</h2>', source))
    assert "Cohort" in titles
    check("report", {title.replace("{{ page.dense.many }}", "markers") for title in titles})


@cache
def sentences() -> tuple[str, ...]:
    """Every text of the code, with … for what is filled in, as it would be printed."""
    found = []
    for path in [*(REPOSITORY / "pipeline").rglob("*.py"), REPOSITORY / "workflow" / "rules" / "common.smk"]:
        source = path.read_text(encoding="utf-8")
        # Snakemake's own words are no Python; the file of functions has none before its last lines.
        source = source.split("\nwildcard_constraints:")[0] if path.suffix == ".smk" else source
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(_shown(part) for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return tuple(found)


def _shown(part: ast.expr) -> str:
    return part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else "…"


def _messages() -> Iterator[tuple[str, str]]:
    for stage in STAGES:
        table = page(stage).partition("| message |")[2]
        for message in re.findall(r"^\| `([^`]+)` \|", table, flags=re.MULTILINE):
            yield stage, message


@pytest.mark.parametrize(("stage", "message"), list(_messages()))
def test_a_message_is_one_that_the_program_prints(stage: str, message: str) -> None:
    expected, _, found = message.removeprefix("expected ").partition(", found ")
    for part in (expected, found):
        pattern = ".*".join(re.escape(piece) for piece in part.split("…"))
        assert any(re.search(pattern, sentence, flags=re.DOTALL) for sentence in sentences()), part


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        aim = (path.parent / file).resolve() if file else path
        assert aim.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", aim.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, target


def _commands() -> Iterator[tuple[str, list[str]]]:
    """Page and words of every command of ours with options, in blocks and in the text."""
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        found = re.findall(r"^ *(?:cd \S+ && )?python -m pipeline (.+)$", text, flags=re.MULTILINE)
        found += re.findall(r"`python -m pipeline ([^`]+)`", text)
        found += re.findall(r"^ *mfl (?!VERB)(.+)$", text, flags=re.MULTILINE)
        found += re.findall(r"`mfl (?!VERB)([^`]+)`", text)
        for command in found:
            words = shlex.split(re.sub(r"[\[\]…]", "", command.partition("#")[0]))
            if len(words) > 1 and words[1] != "--help":
                yield path.name, words


@pytest.mark.parametrize(("name", "words"), list(_commands()))
def test_a_command_is_one_that_the_program_takes(name: str, words: list[str]) -> None:
    _parser(words[0]).parse_args([{"UM": "0.5"}.get(word, word) for word in words])


def test_the_page_of_messages_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(DOCS / "troubleshooting.py")], capture_output=True, text=True, check=True
    )
    written = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    assert written == done.stdout, "run: python docs/troubleshooting.py > docs/troubleshooting.md"
    assert written.count("\n| `") >= 60


def test_the_site_lists_every_page_once() -> None:
    site = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))
    first, *groups = site["nav"]
    listed = [first, *(path for group in groups for paths in group.values() for path in paths)]
    hook = ast.parse((DOCS / "site_pages.py").read_text(encoding="utf-8"))
    (outside,) = (
        ast.literal_eval(node.value)
        for node in hook.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "OUTSIDE"
    )
    assert all((REPOSITORY / path).is_file() for path in outside)
    pages = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    assert sorted(listed) == sorted([*pages, *outside.values()])


def test_pictures_of_the_pages_are_small() -> None:
    pictures = [path for path in DOCS.rglob("*") if path.suffix in (".jpg", ".png")]
    assert len(pictures) >= 4
    assert sum(path.stat().st_size for path in pictures) < 400_000


def test_the_page_on_architecture_names_modules_that_exist() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    package = ""
    missing = []
    for line in text.splitlines():
        row = re.match(r"\| [a-z]+ \| `([a-z]+)`", line)
        package = row[1] if row else ""
        for name in re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.(?:py|html))`", line):
            places = (REPOSITORY / name, REPOSITORY / "pipeline" / name, REPOSITORY / "pipeline" / package / name)
            if not any(path.exists() for path in places):
                missing.append(name)
    assert not missing
