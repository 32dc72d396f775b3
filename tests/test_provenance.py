"""Results reach their final name whole or not at all, and the code digest follows the code that matters."""

from __future__ import annotations

import ast
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from pipeline import provenance
from pipeline.errors import StatedError
from pipeline.provenance import file_digest, finished


def test_a_failed_write_leaves_the_old_result_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    target.write_text("old")

    def write_half() -> None:
        with finished(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_half()
    assert target.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["result.json"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "store.zarr"
    target.mkdir()
    for name in ("zarr.json", "stale"):
        (target / name).touch()
    with finished(target) as temporary:
        temporary.mkdir()
        for name in ("zarr.json", "fresh"):
            (temporary / name).touch()
    assert {item.name for item in target.iterdir()} == {"zarr.json", "fresh"}


@pytest.mark.parametrize("is_folder", [True, False])
def test_a_folder_of_other_files_is_never_replaced(tmp_path: Path, is_folder: bool) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "precious.txt").write_text("kept")

    def write() -> None:
        with finished(tmp_path / "notes") as temporary:
            if is_folder:
                temporary.mkdir()
            (temporary / "config.json" if is_folder else temporary).write_text("new")

    with pytest.raises(StatedError, match=r"notes: expected .*, found a folder"):
        write()
    assert (tmp_path / "notes" / "precious.txt").read_text() == "kept"
    assert [item.name for item in tmp_path.iterdir()] == ["notes"]


def test_an_empty_folder_such_as_one_that_snakemake_made_gives_way(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / ".snakemake_timestamp").touch()
    with finished(tmp_path / "store") as temporary:
        temporary.mkdir()
        (temporary / "zarr.json").touch()
    assert [item.name for item in (tmp_path / "store").iterdir()] == ["zarr.json"]


@pytest.mark.parametrize("name", [".", "..", "/"])
def test_a_result_without_a_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StatedError, match="a name for the result"), finished(Path(name)):
        pass


def test_digest_of_a_folder_follows_names_and_contents_but_not_snakemakes_dotfile(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = file_digest(tmp_path)
    (tmp_path / ".snakemake_timestamp").touch()
    assert file_digest(tmp_path) == first
    (tmp_path / "a").rename(tmp_path / "b")
    assert file_digest(tmp_path) != first


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout in small: the stages one and two, of which only one imports a shared module."""
    monkeypatch.setattr(provenance, "SOURCE_ROOT", tmp_path)
    provenance.code_digest.cache_clear()
    stages = tmp_path / "pipeline" / "commands"
    stages.mkdir(parents=True)
    (tmp_path / "pipeline" / "__init__.py").write_text("")
    (tmp_path / "pipeline" / "settings.py").write_text("A = 1\n")
    (tmp_path / "pipeline" / "shared.py").write_text('"""Doc."""\nA = 1\n')
    (stages / "one.py").write_text("from pipeline.settings import A\ndef run():\n    from pipeline import shared\n")
    (stages / "two.py").write_text("import json\n")
    (tmp_path / "pipeline" / "page.html").write_text("<p>")
    return tmp_path / "pipeline"


def _digests() -> tuple[str, str]:
    provenance.code_digest.cache_clear()
    provenance._code_of.cache_clear()
    found = provenance.code_digest("one"), provenance.code_digest("two")
    provenance.code_digest.cache_clear()
    return found


def test_code_digest_changes_with_imported_code_of_that_stage_only(sources: Path) -> None:
    one, two = _digests()
    (sources / "shared.py").write_text("A = 2\n")
    changed_one, changed_two = _digests()
    assert changed_one != one
    assert changed_two == two


def test_code_digest_changes_with_a_file_that_the_code_names(sources: Path) -> None:
    before = _digests()
    (sources / "page.html").write_text("<h1>")
    assert _digests() == before
    (sources / "shared.py").write_text('A = "page.html"\n')
    named = _digests()
    (sources / "page.html").write_text("<h2>")
    changed_one, changed_two = _digests()
    assert changed_one != named[0]
    assert changed_two == named[1]


def test_the_look_of_the_report_is_part_of_its_code() -> None:
    module = provenance.SOURCE_ROOT / "pipeline" / "report" / "stage.py"
    beside = provenance._named_beside(provenance._code_of(module), module)
    assert [path.name for path in beside] == ["script.js", "style.css", "template.html"]


def test_code_digest_ignores_comments_docstrings_and_settings(sources: Path) -> None:
    before = _digests()
    (sources / "shared.py").write_text('"""Another text."""\n# why\nA = 1\n')
    (sources / "settings.py").write_text("A = 1\nB = 2\n")
    assert _digests() == before


def test_a_field_that_only_later_pythons_know_does_not_change_the_code_digest(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _digests()
    # As Python 3.12 did with `type_params`; nodes of code that does not use it hold an empty list.
    monkeypatch.setattr(ast.FunctionDef, "_fields", (*ast.FunctionDef._fields, "later"))
    monkeypatch.setattr(ast.FunctionDef, "later", [], raising=False)
    assert ast.dump(ast.parse("def f(): pass")).count("later")
    assert _digests() == before


def test_every_python_on_this_machine_gives_the_same_code_digest() -> None:
    asked = "from pipeline.provenance import code_digest; print(code_digest('tile'), code_digest('train'))"
    told = {}
    for minor in range(11, 16):
        done = (
            subprocess.run(
                [f"python3.{minor}", "-B", "-c", asked],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "PYTHONPATH": str(provenance.SOURCE_ROOT)},
            )
            if shutil.which(f"python3.{minor}")
            else None
        )
        # A name on the path may be a stand-in for a Python that is not there.
        if done and done.returncode == 0:
            told[minor] = done.stdout
    if len(told) < 2:
        pytest.skip(f"there is one Python of 3.11 or newer only: {sorted(told)}")
    assert len(set(told.values())) == 1, told


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    gone = subprocess.Popen(["true"])
    gone.wait()
    host = socket.gethostname()
    # No system has a process of the second number.
    litter = [tmp_path / f".result.json.new.{host}.{process}.partial" for process in (gone.pid, 10**30)]
    others = [
        tmp_path / f".result.json.new.{host}.{os.getppid()}.partial",
        tmp_path / f".result.json.new.elsewhere.{gone.pid}.partial",
        tmp_path / f".another.json.new.{host}.{gone.pid}.partial",
    ]
    for path in (*litter, *others):
        path.mkdir()
    with finished(target) as temporary:
        temporary.write_text("whole")
    assert not any(path.exists() for path in litter)
    assert all(path.exists() for path in others)


@pytest.mark.parametrize("can_exchange", [True, False])
def test_an_old_folder_stays_whole_until_the_new_one_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(provenance, "_exchange", lambda one, other: False)
    target = tmp_path / "store.zarr"
    for content in ("old", "new"):
        with finished(target) as temporary:
            temporary.mkdir()
            (temporary / "a").write_text(content)
    assert (target / "a").read_text() == "new"
    assert [item.name for item in tmp_path.iterdir()] == ["store.zarr"]
