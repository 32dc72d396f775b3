"""What register found is told: a line by register, a table by register_all, also where some pairs are lost."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from cohort import snakemake, write_cohort
from small_pair import draw_pair

from pipeline.cli import main
from pipeline.registration.verdicts import sentence


def test_a_line_gives_verdict_first_reason_and_picture() -> None:
    found = sentence("a", "fail", ("too little agrees", "it folds"), Path("results/register/a/overlay.png"))
    assert found == "register a: fail, too little agrees; look at results/register/a/overlay.png"
    assert sentence("a", "pass", (), Path("o.png")) == "register a: pass; look at o.png"


def test_the_table_has_a_line_per_slide_and_tells_what_has_no_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for slide, verdict, reasons in (("a1", "pass", []), ("long-name", "fail", ["not decisive", "and folds"])):
        (tmp_path / "register" / slide).mkdir(parents=True)
        (tmp_path / "register" / slide / "qc.json").write_text(json.dumps({"verdict": verdict, "reasons": reasons}))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "lost.log").write_text("some words\nerror: slide lost: expected nuclei, found none\n")
    argv = ["--registrations", str(tmp_path / "register"), "--logs", str(tmp_path / "logs")]
    assert main(["verdicts", *argv, "--slides", "a1", "long-name", "lost"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "slide      verdict  first reason",
        "a1         pass",
        "long-name  fail     not decisive",
        "lost       error    slide lost: expected nuclei, found none",
    ]


@pytest.mark.timeout(600)
def test_register_all_ends_with_the_table_also_where_a_pair_is_lost(tmp_path: Path) -> None:
    rows = [draw_pair(tmp_path, slide, number) for number, slide in enumerate(("good", "lost"))]
    rows[0]["transform"] = "identity"
    (tmp_path / rows[1]["dense"]).write_bytes(b"no image")
    write_cohort(tmp_path, rows, {"slides": "config/slides.tsv"})
    done = snakemake(tmp_path, "--cores", "2", "--keep-going", "register_all")
    assert done.returncode == 1
    head = done.stdout.index("slide  verdict  first reason")
    table = done.stdout[head:].splitlines()
    assert re.match(r"good +(pass|warn|fail)", table[1])
    assert re.match(r"lost +error +not registered: see the log of inspect", table[2])
    write_cohort(tmp_path, rows[:1], {"slides": "config/slides.tsv"})
    again = snakemake(tmp_path, "--cores", "2", "register_all")
    assert again.returncode == 0, again.stdout[-3000:]
    assert re.search(r"^slide  verdict  first reason\ngood +", again.stdout, flags=re.MULTILINE)
