#!/usr/bin/env python3
"""Measures Coda, alone or beside its peers.

    bench/run.py                                       the Rust load generator, then the Python SDK, on a real node
    bench/run.py --peers DIR --systems coda,restate    both systems in turn, and their ratio

DIR is a copy of the peers' harness (`run.py`, `lib.py`, one folder per system). It is copied to `--work`, Coda's driver
is put beside the others, and every measurement runs there in a process of its own: workload by workload, in each round
one system after the other, so that all of them see the same machine. README.md says how to read the result.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent
PEERS_DEFAULT = CHECKOUT.parent / "shared/peers-bench"
ALONE = {"coda": "spawned", "coda-inline": "inline"}
OURS = {**ALONE, "coda-3": "spawned-3", "coda-3-inline": "inline-3"}
#: What runs on three nodes is compared with what does too.
OF_THREE = {"coda-3", "coda-3-inline", "restate-3", "restate3", "restate3-ts", "nats", "rabbit3"}
#: Of the peers' systems, under a name and with sizes of our own: see coda/beyond.py.
THEIRS = {"restate-3": ("restate", "py3")}
CLUSTER_NODES = 3
#: workload -> its figure, and whether more of it is better
FIGURES = {
    "W1": ("tasks_per_s", True),
    "W2": ("step_p50_ms", False),
    "W3": ("wf_per_s", True),
    "W4": ("tasks_per_s", True),
    "W5": ("stage_ms", False),
    "W6": ("p50_ms", False),
}
#: What the peers' set-up makes in the working copy, and what a run leaves there: never copied over.
MADE_THERE = ("venv", "node_modules", "data", "__pycache__", "sdk", "coda")
NO_SDK = "The Python SDK is not installed for this interpreter: `make sdk`, then .venv/bin/python bench/run.py"
#: Runs the harness with our driver known to it, and with what it does not measure. The harness is not changed.
LAUNCHER = """\
import sys
sys.path[:0] = [{work!r}, {work!r} + "/coda"]
import beyond, run
run.SYSTEMS.update({systems!r})
beyond.add_to(run)
run.main()
"""
Record = dict[str, Any]


def main() -> int:
    options = parse()
    if options.report:
        records = [json.loads(line) for line in options.report.read_text().splitlines()]
        # In the order in which they were first measured.
        print(table(records, unique(records, "system"), list(dict.fromkeys(map(kind, records)))))
        print(cluster_table(records))
        return 0
    if options.peers is None:
        return alone(options)
    work = prepare(options)
    records = compare(options, work)
    print(table(records, options.systems, options.workload))
    print(cluster_table(records))
    return 0 if any(figure(record) is not None for record in records) else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, epilog="Figures: bench/README.md"
    )
    parser.add_argument("--peers", type=Path, metavar="DIR", help=f"the peers' harness [default: {PEERS_DEFAULT}]")
    parser.add_argument("--alone", action="store_true", help="Coda only, also where a peers' harness exists")
    parser.add_argument("--systems", type=names, help="in this order; a peer here is what starts a comparison")
    parser.add_argument("--workload", type=names, default=["W1", "W2", "W3"], metavar="W1,W2,..")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=0.2, help="how much of the full size [default: 0.2]")
    parser.add_argument("--timeout", type=float, default=120, help="seconds for one measurement [default: 120]")
    parser.add_argument("--sync-delay", metavar="2ms", help="added to every sync of Coda's log")
    parser.add_argument("--wire", action="store_true", help="count what nodes send one another (root, nftables)")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path(tempfile.gettempdir()) / "coda-bench-peers",
        metavar="DIR",
        help="the working copy of the harness, kept [default: %(default)s]",
    )
    parser.add_argument("--setup", action="store_true", help="install the peers into the working copy (minutes)")
    parser.add_argument("--out", type=Path, help="append each measurement here, one JSON line each")
    parser.add_argument("--report", type=Path, metavar="FILE", help="measure nothing: the tables of an --out file")
    options = parser.parse_args()
    options.systems = options.systems or list(ALONE)
    if set(options.workload) - set(FIGURES):
        parser.error(f"workloads are {', '.join(FIGURES)}")
    others = [system for system in options.systems if system not in OURS]
    clusters = [system for system in options.systems if system in OURS and system not in ALONE]
    if options.peers is None and (others or clusters or options.setup) and not options.alone:
        options.peers = PEERS_DEFAULT
    if options.alone:
        options.peers = None
    if options.peers is None and (others or clusters):
        parser.error(f"{', '.join(others + clusters)} needs --peers")
    if options.peers is not None and not (options.peers / "run.py").is_file():
        parser.error(f"there is no peers' harness in {options.peers}; without --peers Coda is measured alone")
    return options


def names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


# Coda alone


def alone(options: argparse.Namespace) -> int:
    """The two programs of this folder, one after the other."""
    node = Path(os.environ.get("CODA_BIN", CHECKOUT / "target/release/coda")).resolve()
    delay = ["--sync-delay", options.sync_delay] if options.sync_delay else []
    rounds = ["--rounds", str(options.rounds)]
    # The load generator knows what inline steps cost by names of its own, and neither W4 nor W5.
    mine = [w for w in options.workload if w in ("W1", "W2", "W3", "W6")]
    mine += [f"{w}-inline" for w in mine if w in ("W2", "W3")]
    failed = 0
    if mine:
        cargo = ["cargo", "run", "--quiet", "--release", "--package", "coda-bench", "--"]
        failed |= subprocess.run([*cargo, *mine, *rounds, *delay, "--coda-bin", node], cwd=CHECKOUT).returncode
    if sdk_folder() is None:
        print(NO_SDK, file=sys.stderr)
        return 1
    client = [sys.executable, HERE / "python/client.py", "--scale", str(options.scale), *rounds, *delay]
    environment = {**os.environ, "CODA_BIN": str(node)}
    for system in options.systems:
        inline = ALONE[system] == "inline"
        workloads = [w for w in options.workload if w in ("W2", "W3")] if inline else options.workload
        if workloads:
            command = [*client, *workloads, *(["--inline"] if inline else [])]
            failed |= subprocess.run(command, env=environment).returncode
    return failed


# Beside the peers


def prepare(options: argparse.Namespace) -> Path:
    """The working copy: the peers' files as they are, our driver, and a way to our SDK."""
    work: Path = options.work.resolve()
    if options.peers.resolve() != work:
        for folder, inside, files in os.walk(options.peers):
            inside[:] = [name for name in inside if name not in MADE_THERE]
            target = work / Path(folder).relative_to(options.peers)
            target.mkdir(parents=True, exist_ok=True)
            for name in files:
                copy(Path(folder) / name, target / name)
    if options.setup:
        subprocess.run(["./setup.sh"], cwd=work, check=True)
    if not (work / "venv/bin/python").exists():
        sys.exit(f"The peers are not installed in {work}: run this again with --setup, it takes some minutes")
    (work / "coda").mkdir(exist_ok=True)
    for name in ("driver.py", "beyond.py"):
        copy(HERE / "coda" / name, work / "coda" / name)
    # One link, and not our whole environment: the peers keep the versions that their set-up has pinned.
    (work / "sdk").mkdir(exist_ok=True)
    if any(system in OURS for system in options.systems):
        sdk = sdk_folder()
        if sdk is None:
            sys.exit(NO_SDK)
        link = work / "sdk/coda"
        link.unlink(missing_ok=True)
        link.symlink_to(sdk)
    return work


def copy(source: Path, target: Path) -> None:
    """As a file of ours: what is copied may be read-only, and be copied again."""
    target.unlink(missing_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)


def sdk_folder() -> Path | None:
    """The SDK as this interpreter imports it; asked elsewhere, because a folder beside this file has the same name."""
    ask = [sys.executable, "-c", "import coda; print(coda.__file__)"]
    found = subprocess.run(ask, cwd="/", capture_output=True, text=True)
    return Path(found.stdout.strip()).parent if found.returncode == 0 else None


def compare(options: argparse.Namespace, work: Path) -> list[Record]:
    environment = {
        **os.environ,
        "CODA_BIN": str(Path(os.environ.get("CODA_BIN", CHECKOUT / "target/release/coda")).resolve()),
        "CODA_BENCH_PYTHON": str(HERE / "python"),
        "PYTHONPATH": str(work / "sdk"),
    }
    if options.sync_delay:
        environment["CODA_SYNC_DELAY"] = options.sync_delay
    if options.wire:
        environment["CODA_BENCH_WIRE"] = "1"
    systems = {name: ("coda", variant) for name, variant in OURS.items()} | THEIRS
    launcher = LAUNCHER.format(work=str(work), systems=systems)
    records: list[Record] = []
    for round_ in range(options.rounds):
        for workload in options.workload:
            for system in options.systems:
                for record in measure(options, work, launcher, environment, system, workload):
                    record = {**record, "run": round_}
                    records.append(record)
                    print(summary(record), flush=True)
                    if options.out:
                        with options.out.open("a") as out:
                            out.write(json.dumps(record) + "\n")
    return records


def measure(
    options: argparse.Namespace, work: Path, launcher: str, environment: dict[str, str], system: str, workload: str
) -> list[Record]:
    with tempfile.TemporaryDirectory(prefix="coda-bench-") as folder:
        out, log = Path(folder) / "out.jsonl", Path(folder) / "log"
        size = ["--scale", str(options.scale), "--timeout", str(options.timeout)]
        command = [work / "venv/bin/python", "-c", launcher, "--system", system, "--workload", workload, "--runs", "1"]
        with log.open("wb") as said:
            process = subprocess.Popen(
                [*command, *size, "--out", out],
                cwd=work,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
            )
            try:
                # Start, warm-up and stop take a while too.
                process.wait(options.timeout + 120)
            except BaseException:
                # The harness stops its servers when it is told to end.
                process.terminate()
                process.wait(30)
                raise
        if out.exists():
            return [json.loads(line) for line in out.read_text().splitlines()]
        return [{"system": system, "workload": workload, "error": log.read_text(errors="replace")[-400:]}]


# What a person reads


def kind(record: Record) -> str:
    return str(record["workload"]).split("/")[0]


def figure(record: Record) -> float | None:
    name, _ = FIGURES[kind(record)]
    return record.get(name)


def others(record: Record) -> float:
    """Share of the cores that went to processes outside the test."""
    own = sum(record.get(name, 0.0) for name in ("server_cpu_s", "worker_cpu_s", "client_cpu_s"))
    cores = os.cpu_count() or 1
    share = (record.get("machine_busy_s", own) - own) / max(0.01, record.get("wall_s", 0.0) * cores)
    return max(0.0, share)


def summary(record: Record) -> str:
    head = f"round {record['run']}  {record['workload']:8} {record['system']:16}"
    if "skip" in record:
        return f"{head} skipped: {record['skip']}"
    value = figure(record)
    if value is None:
        return f"{head} FAILED: {record.get('error', 'no figure')}"
    name, _ = FIGURES[kind(record)]
    disturbed = f"others' CPU {others(record) * 100:3.0f} %   calib {record.get('calib_ms', 0):.1f} ms"
    return f"{head} {value:10.2f} {name}   {disturbed}"


#: What stands beside the figure itself: a heading, and its value in one measurement.
COLUMNS: dict[str, Callable[[Record], float]] = {
    "server CPU s/1k": lambda r: r["server_cpu_s"] / r["tasks"] * 1e3,
    "rest CPU s/1k": lambda r: (r["worker_cpu_s"] + r["client_cpu_s"]) / r["tasks"] * 1e3,
    "server RSS MB": lambda r: r["server_rss_mb"],
    "disk KB/task": lambda r: r["disk_write_mb"] / r["tasks"] * 1e3,
    "others' CPU %": lambda r: others(r) * 100,
    "calib ms": lambda r: r["calib_ms"],
}


def table(records: list[Record], systems: list[str], workloads: list[str]) -> str:
    """Medians with their range, and each as a multiple of the best peer, from this one interleaved run."""
    head = ["workload", "n", "system", "median (min–max)", "x best peer", *COLUMNS]
    lines = ["", row(head), row(["---"] * len(head))]
    good = [record for record in records if figure(record) is not None]
    order = {(r["workload"], r["system"]): (workloads.index(kind(r)), systems.index(r["system"])) for r in good}
    for workload, system in sorted(order, key=lambda key: (order[key][0], key[0], order[key][1])):
        same = [r for r in good if r["workload"] == workload and (r["system"] in OF_THREE) == (system in OF_THREE)]
        mine = [r for r in same if r["system"] == system]
        cells = [workload, mine[0]["tasks"], system, spread(mine), ratio(median(mine), same)]
        cells += [f"{statistics.median(map(value, mine)):.3g}" for value in COLUMNS.values()]
        lines.append(row(cells))
    failed = sum("error" in record for record in records)
    if failed:
        lines.append(f"\n{failed} measurements failed; they are in no median.")
    return "\n".join(lines)


#: What nodes of a cluster counted, all of them together, for the tasks of one measurement.
CLUSTER_COLUMNS: dict[str, Callable[[Record], float]] = {
    "commands/entry": lambda r: r["commands"] / r["entries"],
    "entries/sync": lambda r: r["entries"] * CLUSTER_NODES / r["log_syncs"],
    "commands/sync": lambda r: r["commands"] * CLUSTER_NODES / r["log_syncs"],
    "syncs/task": lambda r: r["log_syncs"] / r["tasks"],
    "log B/task, each node": lambda r: r["log_bytes"] / r["tasks"] / CLUSTER_NODES,
    "wire B/task": lambda r: r["wire_bytes"] / r["tasks"],
    "disk KB/task": lambda r: r["disk_write_mb"] / r["tasks"] * 1e3,
}


def cluster_table(records: list[Record]) -> str:
    """Medians of what a record has of it; empty without a cluster."""
    names = [name for name in CLUSTER_COLUMNS if any(cell(record, name) is not None for record in counted(records))]
    if not names:
        return ""
    lines = ["", row(["workload", "system", *names]), row(["---"] * (len(names) + 2))]
    for workload, system in dict.fromkeys((r["workload"], r["system"]) for r in counted(records)):
        mine = [r for r in counted(records) if (r["workload"], r["system"]) == (workload, system)]
        cells = [[value for r in mine if (value := cell(r, name)) is not None] for name in names]
        lines.append(row([workload, system, *(f"{statistics.median(some):.3g}" if some else "–" for some in cells)]))
    return "\n".join(lines)


def counted(records: list[Record]) -> list[Record]:
    return [r for r in records if figure(r) is not None and ("log_syncs" in r or "wire_bytes" in r)]


def cell(record: Record, name: str) -> float | None:
    try:
        return CLUSTER_COLUMNS[name](record)
    except (KeyError, ZeroDivisionError):
        return None


def row(cells: list[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def unique(records: list[Record], name: str) -> list[str]:
    return list(dict.fromkeys(record[name] for record in records))


def median(records: list[Record]) -> float:
    return statistics.median(float(figure(record) or 0.0) for record in records)


def spread(records: list[Record]) -> str:
    values = [float(figure(record) or 0.0) for record in records]
    name, _ = FIGURES[kind(records[0])]
    return f"{median(records):.4g} ({min(values):.4g}–{max(values):.4g}) {name}"


def ratio(value: float, same: list[Record]) -> str:
    """How many times better than the best peer, whichever way better is."""
    peers = {record["system"] for record in same if record["system"] not in OURS}
    medians = [median([r for r in same if r["system"] == peer]) for peer in peers]
    if not medians:
        return "–"
    _, more = FIGURES[kind(same[0])]
    return f"{value / max(medians):.2f}" if more else f"{min(medians) / value:.2f}"


if __name__ == "__main__":
    sys.exit(main())
