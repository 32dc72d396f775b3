"""Registration against known truth, ours and its peers side by side, each pair in a separate process.

Usage: python benchmarks/registration.py [--engines blocks sitk valis best-affine] [--cases synthetic half refused orion
west orion_tissue landmarks] [--seeds N] [--cache FOLDER] [--check]. Prints a table per pair and one per case; the last
line is JSON. `orion_tissue` is the autofluorescence of `orion`, which has no nuclei, so that sitk alone can register
it. VALIS runs in .venv-valis (`make valis`). Orion and the landmarks need MFL_REAL_DATA. With --check the exit code is
1 where a goal of ours is missed, or where one against VALIS was not measured, as without VALIS.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
REAL = {"orion": ["orion"], "west": ["west"], "orion_tissue": ["orion_tissue"], "landmarks": ["kidney", "lesion"]}
CASES = ("synthetic", "half", "refused", *REAL)
# Nothing but mutual information compares a channel without nuclei.
ABLE = {"orion_tissue": ("sitk", "best-affine")}
# Where our engine is held against VALIS.
AGAINST_VALIS = ("synthetic", "half", "orion", "kidney", "lesion")
ENGINES = ("blocks", "sitk", "valis", "best-affine")
INTERPRETER = {"valis": REPOSITORY / ".venv-valis" / "bin" / "python"}
# Largest median, p90 and maximum in um.
GOALS = {
    "synthetic": (0.5, 1.0, 3.0),
    "half": (1.0, 2.0, float("inf")),
    "orion": (0.8, 1.6, 5.0),
}
MAX_SECONDS = {"orion": 15.0}

Row = dict[str, object]


def main() -> int:
    """Run what was asked for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=["blocks"])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seeds", type=int, default=20, help="synthetic pairs of each kind, with any pose")
    parser.add_argument("--cache", type=Path, help="folder that keeps the result of every pair, so that none is rerun")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parsed = parser.parse_args()
    print(
        f"{'pair':16}{'engine':>12}{'verdict':>8}{'median':>9}{'p90':>9}{'max':>9}{'held out':>9}"
        f"{'s':>8}{'cpu s':>8}{'MB':>7}"
    )
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = parsed.cache or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for case in parsed.cases:
            for name in names(case, parsed.seeds):
                # Engines take turns on a pair, so that a slow moment of the machine hits them alike.
                for engine in parsed.engines:
                    if not interpreter_of(engine).exists():
                        print(f"{name:16}{engine:>12}  not measured: expected {interpreter_of(engine)} (make {engine})")
                    elif engine in ABLE.get(case, ENGINES) and (engine != "best-affine" or case in REAL):
                        rows.append(measured(name, case, engine, folder))
                        tell(rows[-1])
    print()
    summary = [summed(case, engine, rows) for case in parsed.cases for engine in parsed.engines]
    summary = [entry for entry in summary if entry]
    tell_summary(summary)
    missed = missed_goals(rows, summary)
    for reason in missed:
        print(f"MISSED {reason}")
    print(json.dumps({"benchmark": "registration", "rows": rows, "summary": summary, "missed": missed}))
    return 1 if parsed.check and missed else 0


def names(case: str, seeds: int) -> list[str]:
    """Return the pairs of a case."""
    if case == "refused":
        return [f"{('wrong', 'blank')[seed % 2]}-{seed}" for seed in range(max(2, seeds // 2))]
    if case in ("synthetic", "half"):
        return [f"{case}-{seed}" for seed in range(seeds)]
    if not os.environ.get("MFL_REAL_DATA"):
        return []
    return REAL[case]


def interpreter_of(engine: str) -> Path:
    """Return the interpreter that an engine runs in."""
    return INTERPRETER.get(engine, Path(sys.executable))


def measured(name: str, case: str, engine: str, folder: Path) -> Row:
    """Return the result of one pair with one engine, from the cache where it is there."""
    path = folder / f"{name}.{engine}.json"
    if not path.exists():
        script = str(Path(__file__).with_name("registration_case.py"))
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(
            [str(interpreter_of(engine)), "-P", script, name, engine, str(path)],
            env=environment,
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode:
            # Of a run that ends well it is noise.
            raise SystemExit(
                f"expected a registration of {name} by {engine}, found exit code {done.returncode}\n{done.stderr}"
            )
    row: Row = json.loads(path.read_text()) | {"group": name if case == "landmarks" else case}
    # A pair that its engine gives up counts with the error that it began with.
    row["counted"] = row["before"] if row["verdict"] == "fail" else row["error"]
    return row


def tell(row: Row) -> None:
    """Print the line of a pair."""
    median, p90, largest = row["error"]
    held_out = "-" if row["held_out"] is None else format(row["held_out"], ".2f")
    print(
        f"{row['case']:16}{row['engine']:>12}{row['verdict'] or '-':>8}{median:9.2f}{p90:9.2f}{largest:9.2f}"
        f"{held_out:>9}{row['seconds']:8.1f}{row['processor_seconds']:8.1f}{row['peak_mb']:7}",
        flush=True,
    )


def summed(case: str, engine: str, rows: list[Row]) -> list[Row]:
    """Return one entry per group of pairs: medians over the pairs, and the largest maximum."""
    entries = []
    for group in dict.fromkeys(row["group"] for row in rows if row["group"] == case or case == "landmarks"):
        chosen = [row for row in rows if row["group"] == group and row["engine"] == engine]
        if not chosen or (case == "landmarks" and group not in ("kidney", "lesion")):
            continue
        counted = list(zip(*(row["counted"] for row in chosen), strict=True))
        entries.append(
            {
                "group": group,
                "engine": engine,
                "pairs": len(chosen),
                "failed": sum(row["verdict"] == "fail" for row in chosen),
                # Right by its own verdict, and yet more than five cells off.
                "silent": sum(row["verdict"] in ("pass", "warn") and row["error"][0] > 50 for row in chosen),
                "median": statistics.median(counted[0]),
                "p90": statistics.median(counted[1]),
                "worst_median": max(counted[0]),
                "max": max(counted[2]),
                "seconds": statistics.median(row["seconds"] for row in chosen),
                "processor_seconds": statistics.median(row["processor_seconds"] for row in chosen),
                "peak_mb": max(row["peak_mb"] for row in chosen),
            }
        )
    return entries


def tell_summary(summary: list[list[Row]]) -> None:
    """Print one line per group and engine."""
    print(
        f"{'case':12}{'engine':>12}{'pairs':>6}{'failed':>7}{'silent':>7}{'median':>9}{'p90':>9}{'worst':>9}{'max':>9}"
        f"{'s':>8}{'cpu s':>8}{'MB':>7}"
    )
    for entry in (entry for entries in summary for entry in entries):
        print(
            f"{entry['group']:12}{entry['engine']:>12}{entry['pairs']:6}{entry['failed']:7}{entry['silent']:7}"
            f"{entry['median']:9.2f}{entry['p90']:9.2f}{entry['worst_median']:9.2f}{entry['max']:9.2f}"
            f"{entry['seconds']:8.1f}{entry['processor_seconds']:8.1f}{entry['peak_mb']:7}"
        )


def missed_goals(rows: list[Row], summary: list[list[Row]]) -> list[str]:
    """Return what our engine falls short of, one line each."""
    missed = []
    for row in (row for row in rows if row["engine"] == "blocks"):
        goal = GOALS.get(row["group"])
        if row["group"] == "refused" and row["verdict"] != "fail":
            missed.append(f"{row['case']}: a pair that must fail got {row['verdict']}")
        if goal and any(found > allowed for found, allowed in zip(row["counted"], goal, strict=True)):
            missed.append(f"{row['case']}: {row['counted']} um, goal {list(goal)}")
        # The makers' own registration, the floor of Orion's truth, cannot be seen by looking at its images.
        if row["group"] in ("synthetic", "half") and not honest(row):
            missed.append(f"{row['case']}: reports {row['held_out']} um, is {row['error'][0]} um")
        if row["seconds"] > MAX_SECONDS.get(row["group"], float("inf")):
            missed.append(f"{row['case']}: {row['seconds']} s, goal {MAX_SECONDS[row['group']]} s")
    entries = {(entry["group"], entry["engine"]): entry for entries in summary for entry in entries}
    for (group, engine), peer in entries.items():
        ours = entries.get((group, "blocks"))
        if engine in ("blocks", "sitk") or ours is None or group == "refused":
            continue
        for key in ("median", "p90"):
            if group in ("kidney", "lesion") and ours[key] >= peer[key]:
                missed.append(f"{group}: {key} {ours[key]:.2f} px, {engine} {peer[key]:.2f} px")
        if engine == "valis" and group in AGAINST_VALIS and group not in ("kidney", "lesion"):
            faster = peer["processor_seconds"] / ours["processor_seconds"]
            if faster < 5 or ours["p90"] > peer["p90"]:
                missed.append(f"{group}: {faster:.1f} times as fast as valis, p90 {ours['p90']} to {peer['p90']}")
    missed += [
        f"{group}: goals against valis not measured (--engines blocks valis, after make valis)"
        for group in AGAINST_VALIS
        if (group, "blocks") in entries and (group, "valis") not in entries
    ]
    return missed


def honest(row: Row) -> bool:
    """Return whether the reported residual is within a quarter or 0.3 um of the truth."""
    median = row["error"][0]
    return row["held_out"] is not None and abs(row["held_out"] - median) <= max(0.25 * median, 0.3)


if __name__ == "__main__":
    sys.exit(main())
