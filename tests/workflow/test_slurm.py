"""The workflow under its SLURM profile, on a real one-node SLURM: results, memory, a killed job, one and two GPUs."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import one_node_slurm
import pytest
from cohort import REPOSITORY, planned, snakemake, write_cohort

from pipeline.provenance import file_digest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

SLIDES = ("demo-1", "demo-4", "demo-5")
TRAINING = {"encoder": "test_resnet", "epochs": 12, "batch_size": 64, "projector": [64, 64]}
CONFIG: dict[str, object] = {
    "tile": {"size_px": 64, "mpp": 1.0},
    "split": {"test": ["p1"]},
    "runs": {"distilled": {"branches": ["sparse", "dense"], **TRAINING}},
    "evaluate": {"baseline": "distilled"},
    "embed": {"encoder": "distilled"},
}
PROFILE = ("--workflow-profile", str(REPOSITORY / "workflow" / "profiles" / "slurm"))
# Less than a tile job takes, so that the first attempt is killed.
TILE_MB = 300
# A cluster without accounting is asked through squeue; a node of two cores cannot give a training eight.
HERE = ("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2", "--slurm-no-account")
SMALL = ("--set-threads", "train=1", "--set-resources", f"tile:mem_mb=attempt*{TILE_MB}", "--latency-wait", "5")


@dataclass(frozen=True)
class Ran:
    """What one run of the workflow under SLURM left behind."""

    folder: Path
    output: str
    returncode: int
    jobs: list[dict[str, str]]
    in_two: Path

    def of(self, rule: str) -> list[dict[str, str]]:
        """SLURM's records of the jobs of one rule."""
        return [job for job in self.jobs if job["comment"].split("_")[1] == rule]


def _rows() -> list[dict[str, str]]:
    with (REPOSITORY / "config" / "slides.tsv").open() as stream:
        rows = csv.DictReader((line for line in stream if not line.startswith("#")), delimiter="\t")
        return [row for row in rows if row["slide"] in SLIDES]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """The whole path for three slides; the first training is killed in the middle."""
    reason = one_node_slurm.missing()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, _rows(), CONFIG)
    with one_node_slurm.one_node_slurm(tmp_path_factory.mktemp("slurm")) as cluster:
        argv = [sys.executable, "-m", "snakemake", "-s", str(REPOSITORY / "Snakefile"), *PROFILE, *HERE, *SMALL]
        with (folder / "output.txt").open("w") as log:
            process = subprocess.Popen(cluster.command(argv), stdout=log, stderr=log, cwd=folder)
            try:
                _kill_training(cluster, process, folder)
                process.wait(timeout=2000)
            finally:
                process.kill()
        jobs = _jobs(cluster)
        in_two = _train_in_two_processes(cluster, folder, tmp_path_factory.mktemp("in_two"))
        yield Ran(folder, (folder / "output.txt").read_text(), process.returncode, jobs, in_two)


def _train_in_two_processes(cluster: one_node_slurm.OneNode, trained: Path, folder: Path) -> Path:
    """A cohort whose stores are those of `trained`, and whose training is a job with two GPUs."""
    write_cohort(folder, _rows(), CONFIG)
    for name in ("resources", "results"):
        shutil.copytree(trained / name, folder / name, ignore=shutil.ignore_patterns("train", "embed", "evaluate"))
    asked = ("--set-resources", "train:gpu=2", "train:mem_mb=8000", "--set-threads", "train=2", "--latency-wait", "5")
    argv = ["-s", str(REPOSITORY / "Snakefile"), *PROFILE, *HERE, *asked, "train_all"]
    done = cluster.run([sys.executable, "-m", "snakemake", *argv], timeout_s=1000, cwd=folder)
    assert done.returncode == 0, done.stdout[-6000:]
    assert planned(done.stdout) == {"train": 1, "train_all": 1, "total": 2}
    job = _jobs(cluster)[-1]
    assert (job["comment"].split("_")[1], job["tres-per-job"].partition("gpu")[2]) == ("train", ":2")
    return folder


def _kill_training(cluster: one_node_slurm.OneNode, process: subprocess.Popen[bytes], folder: Path) -> None:
    """Kills the first training job once it has saved a state."""
    state = folder / "results" / "train" / "distilled" / "state" / "state.pt"
    while process.poll() is None:
        training = [job for job in _jobs(cluster) if job["comment"].startswith("rule_train")]
        if training and state.exists():
            cluster.run(["scancel", "--signal=KILL", training[0]["jobid"]], timeout_s=30, cwd=folder)
            return
        time.sleep(0.2)


def _jobs(cluster: one_node_slurm.OneNode) -> list[dict[str, str]]:
    """All jobs that SLURM remembers, oldest first."""
    keys = ("jobid", "state", "minmemory", "tres-per-job", "comment")
    argv = ["squeue", "--states=all", "--noheader", "--sort=i", "--Format=" + ",".join(f"{key}:100" for key in keys)]
    lines = cluster.run(argv, timeout_s=30, cwd=cluster.folder).stdout.splitlines()
    cells = ([line[start : start + 100].strip() for start in range(0, 100 * len(keys), 100)] for line in lines)
    return [dict(zip(keys, row, strict=True)) for row in cells]


@pytest.fixture(scope="module")
def undisturbed(ran: Ran, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same from the same slides, without a cluster and without a kill; one thread for the training."""
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(ran.folder / "resources", folder / "resources")
    write_cohort(folder, _rows(), CONFIG)
    done = snakemake(folder, "--cores", "2", "tile_all", "train_all", "--set-threads", "train=1")
    assert done.returncode == 0, done.stdout[-4000:]
    return folder


def test_the_whole_path_runs_under_the_profile(ran: Ran) -> None:
    assert ran.returncode == 0, ran.output[-6000:]
    assert (ran.folder / "results" / "report" / "index.html").is_file()
    assert {job["state"] for job in ran.of("inspect")} == {"COMPLETED"}
    assert len(ran.of("inspect")) == len(SLIDES)


def test_a_job_that_takes_more_memory_than_it_asked_for_is_tried_again_with_more(ran: Ran) -> None:
    jobs = [job for job in ran.of("tile") if "demo-1" in job["comment"]]
    assert len(jobs) >= 2
    assert [job["minmemory"] for job in jobs] == [f"{TILE_MB * attempt}M" for attempt in range(1, len(jobs) + 1)]
    assert [job["state"] for job in jobs] == ["FAILED"] * (len(jobs) - 1) + ["COMPLETED"]


def test_only_training_and_embedding_ask_for_a_gpu(ran: Ran) -> None:
    asking = {job["comment"].split("_")[1] for job in ran.jobs if "gpu" in job["tres-per-job"]}
    assert asking == {"train", "embed"}
    assert all("gpu:1" in job["tres-per-job"] for job in ran.of("train"))


def test_a_killed_training_goes_on_and_ends_in_the_same_weights(ran: Ran, undisturbed: Path) -> None:
    states = [job["state"] for job in ran.of("train")]
    assert len(states) == 2, states
    assert states[1] == "COMPLETED"
    log = (ran.folder / "logs" / "train" / "distilled.log").read_text()
    assert "going on at epoch" in log
    weights = Path("results", "train", "distilled", "encoder", "model.safetensors")
    assert file_digest(ran.folder / weights) == file_digest(undisturbed / weights)


def test_a_training_on_two_gpus_is_two_processes_with_the_losses_of_one(ran: Ran, undisturbed: Path) -> None:
    """As the node's GPUs are but names, the processes compute on its CPUs."""
    log = (ran.in_two / "logs" / "train" / "distilled.log").read_text()
    assert "2 processes" in log
    assert _losses(ran.in_two) == pytest.approx(_losses(undisturbed), rel=5e-3)


def _losses(folder: Path) -> list[float]:
    lines = (folder / "results" / "train" / "distilled" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.parametrize("slide", SLIDES)
def test_jobs_on_the_cluster_give_the_stores_that_one_machine_gives(ran: Ran, undisturbed: Path, slide: str) -> None:
    store = Path("results", "tile", f"{slide}.zarr")
    assert file_digest(ran.folder / store) == file_digest(undisturbed / store)
