"""A real SLURM on this one machine, for as long as a test needs it.

Made from Debian's slurm-wlm and munge. There is no slurmdbd, so `squeue` is asked, not `sacct`; the two GPUs are
device files under another name. The job-step plugin forgets SLURM_CONF, so the configuration must lie at /etc/slurm:
it is bound there in a mount namespace of its own, and nothing outside that namespace changes.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "unshare", "nsenter")


def missing() -> str | None:
    """Why there can be no SLURM here, or None."""
    absent = [program for program in PROGRAMS if shutil.which(program, path=_path()) is None]
    if absent:
        return f"a one-node SLURM needs {', '.join(absent)} (Debian: slurm-wlm, munge)"
    return None if os.geteuid() == 0 else "a one-node SLURM needs root, to bind its configuration over /etc/slurm"


@dataclass(frozen=True)
class OneNode:
    """The running cluster; `pid` is a process in its mount namespace."""

    pid: int
    folder: Path

    def run(self, argv: Sequence[str], *, timeout_s: float, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Runs a command where the cluster can be seen; both streams come back as `stdout`."""
        return subprocess.run(
            self.command(argv),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            cwd=cwd,
            env=_environment(),
            check=False,
        )

    def command(self, argv: Sequence[str]) -> list[str]:
        """The words that run `argv` where the cluster can be seen."""
        return ["nsenter", "--target", str(self.pid), "--mount", "--wd=.", "--", *argv]


@contextmanager
def one_node_slurm(folder: Path, *, cpus: int = 2, memory_mb: int = 12000) -> Iterator[OneNode]:
    """Starts the cluster with its files below `folder`, and ends it with all its jobs."""
    configuration = folder / "etc"
    for path in (configuration, folder / "munge", folder / "state", folder / "spool", folder / "log"):
        path.mkdir(parents=True)
    _write(configuration, folder, {"cpus": cpus, "memory_mb": memory_mb})
    key = folder / "munge" / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    script = folder / "start.sh"
    script.write_text(_START.format(folder=folder))
    with (folder / "log" / "start.log").open("w") as log:
        argv = ["unshare", "--mount", "--propagation", "private", "bash", str(script)]
        process = subprocess.Popen(argv, stdout=log, stderr=log, env=_environment(), start_new_session=True)
    try:
        node = OneNode(process.pid, folder)
        _wait_until_idle(node, process)
        yield node
    finally:
        process.terminate()
        process.wait(timeout=60)


_START = """set -eu
mount --bind {folder}/etc /etc/slurm
munged --foreground --force --key-file={folder}/munge/munge.key --socket={folder}/munge/socket \\
    --pid-file={folder}/munge/pid --log-file={folder}/log/munged.log --seed-file={folder}/munge/seed &
until [ -S {folder}/munge/socket ]; do sleep 0.1; done
slurmctld -D &
slurmd -D &
stop() {{
    scancel --user=root || true
    sleep 1
    kill $(jobs -p) || true
    wait || true
    exit 0
}}
trap stop TERM INT
while true; do sleep 1; done
"""


def _write(configuration: Path, folder: Path, size: Mapping[str, int]) -> None:
    host = socket.gethostname().partition(".")[0]
    control, node = _free_ports(2)
    lines = f"""ClusterName=onenode
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmdPort={node}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=2,batch_sched_delay=0
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
JobRequeue=0
MinJobAge=7200
KillWait=5
ReturnToService=2
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={size["cpus"]} RealMemory={size["memory_mb"]} Gres=gpu:drawn:2 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
    (configuration / "slurm.conf").write_text(lines)
    (configuration / "gres.conf").write_text(
        "".join(f"Name=gpu Type=drawn File={file}\n" for file in ("/dev/null", "/dev/zero"))
    )


def _wait_until_idle(node: OneNode, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        state = node.run(["sinfo", "--noheader", "--format=%T"], timeout_s=30, cwd=node.folder).stdout
        if state.strip() == "idle":
            return
        time.sleep(0.5)
    logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in (node.folder / "log").glob("*.log"))
    raise RuntimeError(f"the one-node SLURM did not come up:\n{logs}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(item.getsockname()[1]) for item in sockets]
    for item in sockets:
        item.close()
    return ports


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")} | {"PATH": _path()}
