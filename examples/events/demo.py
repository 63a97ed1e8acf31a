"""`make demo`: a thousand real error events through a three-step workflow, while things are killed.

    CODA_BIN=target/release/coda python -m examples.events.demo

Starts a node and four workers, submits every event, kills a worker with SIGKILL when 30 % are done and
the node when 60 % are, starts the node again, and then counts. The exit code is 1 unless every event
was stored exactly once.

`make demo-cluster` does the same with three nodes, and kills each of them in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from .cluster import Cluster
from .processes import DemoError, Node, Process, find_program, free_port
from .report import Report, busiest_worker, read_report, stored_event_ids
from .storing import connect

REPOSITORY = Path(__file__).resolve().parents[2]
# The folder is deleted and made again, so it has to be one that the demo made.
MARKER = ".made-by-the-coda-demo"
PROJECT_ID = 42
CONCURRENCY = 64
RESULT_TIMEOUT_S = 120.0
KILL_WORKER_AT = 0.30
KILL_NODE_AT = 0.60
# Of several nodes each is killed, evenly between these.
KILL_NODES_FROM, KILL_NODES_TO = 0.40, 0.90
VICTIM_TIMEOUT_S = 5.0

console = Console(highlight=False)


@dataclass(frozen=True, slots=True)
class Options:
    count: int
    workers: int
    nodes: int
    seed: int
    folder: Path
    kill: bool
    workflow: str


@dataclass(slots=True)
class Run:
    """What the client saw."""

    submitted: list[str]
    finished: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    # Waiters for "so many runs have ended".
    _milestones: list[tuple[int, asyncio.Event]] = field(default_factory=list)

    def ended(self) -> int:
        return self.finished + len(self.failed)

    def milestone(self, share: float) -> asyncio.Event:
        event = asyncio.Event()
        self._milestones.append((max(1, int(len(self.submitted) * share)), event))
        return event

    def note_end(self) -> None:
        for count, event in self._milestones:
            if self.ended() >= count:
                event.set()


def fresh_folder(folder: Path) -> Path:
    if folder.exists():
        if any(folder.iterdir()) and not (folder / MARKER).exists():
            raise DemoError(f"{folder} has files that are not the demo's: name another folder with --dir")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MARKER).touch()
    return folder


def make_events(options: Options, out: Path) -> list[dict[str, Any]]:
    """In a process of its own: the demo itself should not be an application under a Sentry SDK."""
    command = [sys.executable, "-m", "examples.events.raise_errors"]
    command += ["--count", str(options.count), "--out", str(out), "--seed", str(options.seed)]
    made = subprocess.run(command, check=False, cwd=REPOSITORY, capture_output=True, text=True)
    if made.returncode != 0:
        raise DemoError(f"the events could not be made:\n{made.stderr[-2_000:]}")
    console.print(made.stdout.strip(), style="dim")
    with out.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


async def submit_all(
    client: Any, workflow: Callable[..., Any], events: list[dict[str, Any]], run: Run, progress: Progress, bar: TaskID
) -> None:
    """Keep CONCURRENCY runs in flight until every event has been through."""
    import coda

    remaining = iter(events)

    async def submitter() -> None:
        for event in remaining:
            event_id = event["event_id"]
            try:
                # The run's id is the event's: a submit that has to be repeated after a lost reply
                # cannot start a second run.
                handle = await client.start(
                    workflow,
                    args={"project_id": PROJECT_ID, "event_data": event},
                    run_id=coda.id_for("event", event_id),
                )
                await handle.result(timeout=RESULT_TIMEOUT_S)
                run.finished += 1
            except Exception as exc:  # noqa: BLE001
                # One run that failed is a finding, not the end of the demo.
                run.failed[event_id] = f"{type(exc).__name__}: {exc}"
            progress.update(bar, completed=run.ended())
            run.note_end()

    async with asyncio.TaskGroup() as group:
        for _ in range(CONCURRENCY):
            group.create_task(submitter())


async def kill_a_worker(workers: Process, database: Path) -> str:
    """SIGKILL the child that is in the middle of a body, or the last one that was."""
    deadline = time.monotonic() + VICTIM_TIMEOUT_S
    while time.monotonic() < deadline:
        victim = await asyncio.to_thread(busiest_worker, database)
        # A pid in the database is a number. Only one that our workers' group owns may be killed.
        if victim is not None and workers.owns(victim[0]) and victim[0] != workers.pid:
            os.kill(victim[0], signal.SIGKILL)
            return f"kill -9 {victim[0]}: a worker, {'in the middle of a task' if victim[1] else 'between two tasks'}"
        await asyncio.sleep(0.01)
    raise DemoError(f"no worker child was found to kill among those of pid {workers.pid}:\n{workers.tail()}")


async def kill_a_node(node: Node) -> str:
    pid = node.pid
    started = time.monotonic()
    await asyncio.to_thread(node.kill)
    await asyncio.to_thread(node.start)
    return f"kill -9 {pid}: {node.name}; ready again after {time.monotonic() - started:.1f} s"


def kill_nodes_at(nodes: int) -> list[float]:
    """At which shares of the work each node is killed."""
    if nodes == 1:
        return [KILL_NODE_AT]
    return [KILL_NODES_FROM + (KILL_NODES_TO - KILL_NODES_FROM) * number / nodes for number in range(nodes)]


async def drive(
    options: Options, events: list[dict[str, Any]], nodes: Sequence[Node], workers: Process, database: Path
) -> Run:
    # Imported here: the address and the certificate have to be in the environment first.
    import coda

    from . import workflow as definitions

    run = Run(submitted=[event["event_id"] for event in events])
    columns = (TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("events", total=len(events))

        async def when(reached: asyncio.Event, act: Callable[[], Awaitable[str]]) -> None:
            await reached.wait()
            at = run.ended()
            progress.console.print(f"  [yellow]{await act()}[/] (at {at} of {len(events)})")

        async def watch() -> None:
            while True:
                workers.check()
                await asyncio.sleep(0.5)

        # Ask for the milestones before the first event is submitted, or a fast run may pass them.
        worker_due = run.milestone(KILL_WORKER_AT)
        nodes_due = [(run.milestone(share), node) for share, node in zip(kill_nodes_at(len(nodes)), nodes, strict=True)]
        # One node is down at a time: a cluster of three lives on two.
        one_at_a_time = asyncio.Lock()

        async def kill_in_turn(node: Node) -> str:
            async with one_at_a_time:
                return await kill_a_node(node)

        async with coda.AsyncClient() as client, asyncio.TaskGroup() as group:
            watcher = group.create_task(watch())
            chaos = []
            if options.kill:
                chaos.append(group.create_task(when(worker_due, lambda: kill_a_worker(workers, database))))
                for due, node in nodes_due:
                    chaos.append(group.create_task(when(due, partial(kill_in_turn, node))))
            started = time.monotonic()
            await submit_all(client, getattr(definitions, options.workflow), events, run, progress, bar)
            run.seconds = time.monotonic() - started
            # Both milestones have passed, so this waits for the end of a restart at the most.
            await asyncio.gather(*chaos)
            watcher.cancel()
    return run


def show(run: Run, report: Report, problems: list[str], audited_workflow: bool) -> None:
    table = Table(show_header=False, title="What happened", title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")

    submitted = len(run.submitted)
    exactly_once = "[red]no[/]" if problems else "[green]yes[/]"
    table.add_row("events stored exactly once", exactly_once, f"{report.stored} of {submitted}, {report.groups} groups")
    table.add_row("tasks executed", f"{report.executions}", f"bodies started, for {report.bodies} steps")
    table.add_row("steps whose body ran again", f"{report.bodies_run_again}", "for one of three reasons:")
    table.add_row("  retries", f"{report.retries}", "the body raised")
    table.add_row("  interrupted", f"{report.interrupted}", "killed inside the body")
    table.add_row("  completed twice", f"{report.completed_twice}", "the result was lost on its way")
    if audited_workflow:
        table.add_row("workflows run again", f"{report.workflows_resumed}", "from the first line")
        table.add_row("results reused", f"{report.results_reused}", "steps of those not run again")
    table.add_row("workflows/s", f"{submitted / max(run.seconds, 1e-9):.0f}", f"{run.seconds:.1f} s, kills included")
    if report.step_latency is not None:
        latency = report.step_latency
        table.add_row(
            "step latency",
            f"{latency.p50_ms:.0f} / {latency.p99_ms:.0f} ms",
            "p50 / p99, retries included",
        )
    console.print()
    console.print(table)


def problems_of(run: Run, report: Report, stored: set[str]) -> list[str]:
    """Everything that contradicts "each submitted event is stored exactly once"."""
    submitted = set(run.submitted)
    problems = []
    if missing := submitted - stored:
        problems.append(f"{len(missing)} events were not stored, for example {min(missing)}")
    if strangers := stored - submitted:
        problems.append(f"{len(strangers)} events were stored that nobody submitted, for example {min(strangers)}")
    if report.stored != len(run.submitted):
        problems.append(f"{len(run.submitted)} events were submitted and {report.stored} are stored")
    if report.stored_twice:
        problems.append(f"{report.stored_twice} events were inserted twice")
    for event_id, error in list(run.failed.items())[:5]:
        problems.append(f"the run of {event_id} failed: {error}")
    if len(run.failed) > 5:
        problems.append(f"and {len(run.failed) - 5} more runs failed")
    return problems


def short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def what_next(options: Options, start_again: str, database: Path) -> None:
    console.print("\nTry next:", style="bold")
    for command, why in [
        (
            f'sqlite3 {short(database)} "select count(*), title from events group by group_hash order by 1 desc limit 9"',
            "the biggest groups",
        ),
        (start_again, "the same again, with every run still in it"),
        (f"less {short(options.folder / 'logs' / 'workers.log')}", "what the workers said; nodes have logs too"),
        ("python -m examples.events.demo --workflow process_event", "the program of the documentation, to the letter"),
        ("python -m examples.events.demo --count 5000 --workers 8", "more of everything"),
        ("$EDITOR examples/events/workflow.py", "add a step of your own, and run the demo again"),
    ]:
        console.print(f"  {escape(command)}\n      [dim]{why}[/]", soft_wrap=True)


def serve(
    options: Options, folder: Path, logs: Path, binary: str
) -> tuple[Node | Cluster, Sequence[Node], dict[str, str], str]:
    """Start what does the work: a node, or several. Also, how clients find it, and how to start it again."""
    if options.nodes > 1:
        cluster = Cluster(folder / "cluster", nodes=options.nodes)
        cluster.__enter__()
        again = f"python -m examples.events.cluster --dir {short(cluster.folder)} --nodes {options.nodes}"
        return cluster, cluster.nodes, cluster.environment, again
    data_dir = folder / "data"
    node = Node(binary, data_dir, free_port(), logs / "node.log", os.environ)
    node.start()
    again = f"{short(Path(binary))} dev --data-dir {short(data_dir)} --port {node.address.split(':')[1]}"
    settings = {"CODA_ADDRESS": node.address, "CODA_CA": str(data_dir / "certs" / "ca.pem")}
    return node, [node], settings, again


def run_demo(options: Options) -> int:
    binary = find_program("coda", "CODA_BIN", beside=REPOSITORY / "target" / "release")
    worker_program = find_program("coda-worker", "CODA_WORKER_BIN")
    folder = fresh_folder(options.folder)
    logs = folder / "logs"
    logs.mkdir()
    database = folder / "events.sqlite3"
    connect(database).close()
    events = make_events(options, folder / "events.jsonl")

    service, nodes, settings, start_again = serve(options, folder, logs, binary)
    os.environ.update(settings | {"EVENTS_DB": str(database)})
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
    }
    command = [worker_program, "examples.events.workflow", "-n", str(options.workers)]
    workers = Process("coda-worker", command, logs / "workers.log", environment, REPOSITORY)

    # Leaving the stack stops the workers first and the nodes after them, whatever happened.
    with ExitStack() as running:
        running.push(service)
        for node in nodes:
            console.print(f"{node.name} is ready on {node.address}, pid {node.pid}")
        running.enter_context(workers)
        console.print(f"{options.workers} workers are under pid {workers.pid}")
        run = asyncio.run(drive(options, events, nodes, workers, database))

    report = read_report(database)
    problems = problems_of(run, report, stored_event_ids(database))
    show(run, report, problems, audited_workflow=report.workflow_executions > 0)
    for problem in problems:
        console.print(f"[red]✗[/] {escape(problem)}", soft_wrap=True)
    if problems:
        console.print(f"Logs are in {logs}.")
        return 1
    what_next(options, start_again, database)
    return 0


def raise_interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000, help="how many events (default 1000)")
    parser.add_argument("--workers", type=int, default=4, help="how many worker processes (default 4)")
    parser.add_argument("--nodes", type=int, default=1, help="how many nodes (default 1); each is killed once")
    parser.add_argument("--seed", type=int, default=1, help="which events")
    parser.add_argument("--dir", type=Path, default=Path(".demo"), help="a folder for everything; made afresh")
    parser.add_argument("--workflow", choices=("handle_event", "process_event"), default="handle_event")
    parser.add_argument("--no-kill", action="store_true", help="kill nothing: a base line")
    arguments = parser.parse_args()
    if arguments.count < 1 or arguments.workers < 1 or arguments.nodes < 1:
        parser.error("--count, --workers and --nodes must be at least 1")
    options = Options(
        count=arguments.count,
        workers=arguments.workers,
        nodes=arguments.nodes,
        seed=arguments.seed,
        folder=arguments.dir.resolve(),
        kill=not arguments.no_kill,
        workflow=arguments.workflow,
    )
    # A terminal that goes away, or a supervisor, must not leave processes behind either. SIGINT is set
    # too, because a shell starts a background job with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, raise_interrupt)
    try:
        return run_demo(options)
    except* DemoError as group:
        for error in leaves(group):
            console.print(f"[red]✗[/] {escape(str(error))}", soft_wrap=True)
        return_code = 1
    except* KeyboardInterrupt:
        console.print("\nstopped; nothing is left running")
        return_code = 130
    return return_code


def leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in leaves(part)]
    return [error]


if __name__ == "__main__":
    sys.exit(main())
