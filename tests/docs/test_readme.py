"""What README.md and the pages of its first steps tell a user to write and to run plans as it stands.

The tutorial is run for real by its own test.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from cohort import REPOSITORY, planned
from conda_stand_in import write_conda
from safetensors.torch import load_file

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
_PAGES = ("cohort", "workflow", "cluster", "conda", "limits", "demo")
PAGES = {name: (REPOSITORY / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in _PAGES}
OUTPUTS = (REPOSITORY / "docs" / "outputs.md").read_text(encoding="utf-8")
ALL = "\n".join([README, *PAGES.values()])
# Said in the README not to have been run: their plugins are not among our dependencies.
_NOT_RUN = ("cluster-generic", "kubernetes", "--executor")


def _blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language, without the indentation of the list that they stand in."""
    found = re.findall(r"^( *)```(\w*)\n(.*?)^ *```$", text, flags=re.MULTILINE | re.DOTALL)
    blocks = [(indentation, content) for indentation, known, content in found if known == language]
    return [re.sub(rf"^{indentation}", "", content, flags=re.MULTILINE) for indentation, content in blocks]


def _commands() -> list[str]:
    """Every command that runs jobs, by Snakemake itself or by `mfl run`, in blocks and in the text."""
    lines = [line.partition("#")[0].strip() for block in _blocks(ALL, "sh") for line in block.splitlines()]
    inline = re.findall(r"`([^`]+)`", _without_blocks(ALL))
    found = [
        text
        for text in (*lines, *inline)
        if text.startswith(("snakemake -", "mfl run --directory ")) and not {"--unlock", "--lint"} & set(text.split())
    ]
    return list(dict.fromkeys(found))


def _options() -> list[str]:
    """The options that the sections on clusters and conda tell a user to add."""
    texts = re.findall(r"`(--[^`]+)`", _without_blocks(PAGES["cluster"] + PAGES["conda"]))
    wanted = [text for text in texts if not any(name in text for name in _NOT_RUN) and text != "--conda-prefix"]
    return list(dict.fromkeys(wanted))


def _without_blocks(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with the cohorts that the README describes; planning needs slides to exist, not to be slides."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("Snakefile", "workflow", "config", "envs"):
        (folder / name).symlink_to(REPOSITORY / name)
    (sheet,) = (block for block in _blocks(PAGES["cohort"], "") if block.startswith("slide\tpatient\t"))
    first, new = _blocks(PAGES["cohort"], "yaml")
    for name, configuration in (("cohort", first), ("newcohort", new)):
        (folder / name / "config").mkdir(parents=True)
        (folder / name / "config" / "slides.tsv").write_text(sheet)
        (folder / name / "config" / "config.yaml").write_text(configuration)
        for path in re.findall(r"slides/\S+", sheet):
            (folder / name / path).parent.mkdir(exist_ok=True)
            (folder / name / path).touch()
    (folder / "bin").mkdir()
    (folder / "bin" / "conda").symlink_to(write_conda(tmp_path_factory.mktemp("conda")) / "conda")
    for made in ("train/distilled/encoder", "evaluate/probes/distilled"):
        (folder / "cohort" / "results" / made).mkdir(parents=True)
    return folder


def _plan(checkout: Path, words: list[str], program: str = "snakemake") -> str:
    command = [sys.executable, "-m", *(["pipeline", "run"] if program == "mfl" else ["snakemake"]), *words]
    done = subprocess.run(
        [*command, "--dry-run"],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "PATH": f"{checkout / 'bin'}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, f"snakemake {shlex.join(words)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def test_the_readme_has_the_commands_this_file_looks_for() -> None:
    commands = " ".join(_commands())
    assert len(_commands()) >= 8
    assert all(words in commands for words in ("--use-conda", "register_all", "predict_all", "profiles/slurm"))
    assert {"--set-resources train:gpu=4", "--slurm-status-command squeue --slurm-no-account"} <= set(_options())


@pytest.mark.parametrize("command", _commands())
def test_a_command_of_the_readme_plans_jobs(checkout: Path, command: str) -> None:
    program, *words = shlex.split(command)
    if program == "mfl":
        words = words[1:] if "--" in words or len(words) > 3 else [*words[1:], "--"]
        words = [word for word in words if word != "--dry-run"]
    assert planned(_plan(checkout, words, program))["total"] > 1


@pytest.mark.slow
@pytest.mark.parametrize("options", _options())
def test_options_that_the_readme_offers_are_known(checkout: Path, options: str) -> None:
    profile = ["--workflow-profile", "workflow/profiles/slurm"]
    assert planned(_plan(checkout, [*profile, *shlex.split(options)]))["total"] > 1


def test_commands_of_the_readme_run_one_after_the_other_in_one_shell(checkout: Path) -> None:
    """As a reader types them; make and the activation of .venv aside, and nothing but planned."""
    binaries = checkout / "shell"
    binaries.mkdir()
    stand_ins = {
        "python": f'exec "{sys.executable}" -P "$@"',
        "snakemake": f'exec "{sys.executable}" -m snakemake "$@" --dry-run',
        "make": "exit 0",
        # Runs are planned; of what needs slides that are more than empty files, only the arguments are looked at.
        "mfl": f"""case "$1 $*" in
            run*" -- "*) exec "{sys.executable}" -P -m pipeline "$@" --dry-run ;;
            run*) exec "{sys.executable}" -P -m pipeline "$@" -- --dry-run ;;
            init*|doctor*) exec "{sys.executable}" -P -m pipeline "$@" --help ;;
            *) exec "{sys.executable}" -P -m pipeline "$@" ;;
        esac""",
    }
    for name, text in stand_ins.items():
        (binaries / name).write_text(f"#!/bin/sh\n{text}\n")
        (binaries / name).chmod(0o755)
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "activate").touch()
    pages = (README, PAGES["cohort"], PAGES["cluster"], PAGES["conda"])
    script = "\n".join(block for page in pages for block in _blocks(page, "sh"))
    path = os.pathsep.join((str(binaries), str(checkout / "bin"), os.environ["PATH"]))
    done = subprocess.run(
        ["bash", "-c", f"set -eu\n{script}"],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "Empty file path encountered" not in done.stdout + done.stderr


def test_the_python_example_of_the_outputs_opens_a_trained_encoder(
    small_results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = (block for block in _blocks(OUTPUTS, "python") if "local-dir:" in block)
    monkeypatch.chdir(small_results)
    names: dict[str, Any] = {}
    exec(example, names)
    known = json.loads(Path("results/train/distilled/encoder/config.json").read_text())
    weights = load_file("results/train/distilled/encoder/model.safetensors")
    found = names["encoder"].state_dict()
    assert set(found) == set(weights)
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert names["encoder"].num_features == known["num_features"]


def test_the_first_cohort_is_trained_and_the_new_one_is_not(checkout: Path) -> None:
    first = planned(_plan(checkout, ["-s", "Snakefile", "--directory", "cohort", "--cores", "all"]))
    assert (first["register"], first["train"]) == (1, 3)
    new = planned(
        _plan(checkout, ["-s", "Snakefile", "--directory", "newcohort", "--cores", "all", "embed_all", "predict_all"])
    )
    assert new["embed"] == new["predict"] == 2
    assert not {"register", "train", "evaluate"} & set(new)
