"""Real processes for tests: a node, its workers, and the commands that people type.

Everything a test starts lives in one `Project`: a folder, and an environment with a mark by which each process that
descends from the test is found again and killed by its id, however the test ends. Nothing here sleeps for luck: tests
wait for conditions, with a deadline that only a broken program reaches.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import coda

T = TypeVar("T")

REPOSITORY = Path(__file__).resolve().parents[2]
#: Where the worker finds `e2e.programs`.
TESTS = REPOSITORY / "tests"

#: Nothing takes this long. A test that waits so long is broken, or what it tests is.
PATIENCE_S = 60.0
POLL_S = 0.01
STOP_TIMEOUT_S = 20.0
#: Names each process of a project in its environment.
MARK = "CODA_E2E_MARK"
#: Below Linux's ephemeral ports, so that no client's socket takes the port of a node that is being restarted.
PORTS = range(20_000, 32_000)

#: What no healthy program logs. A Rust panic, an error, and Python's ways to say that nobody looked.
ALARMS = re.compile(
    r"panicked at|\bERROR\b|cannot handle an event|was never retrieved|Exception ignored|was never awaited"
    r"|Exception in callback|Fatal Python error"
)
#: What follows from what tests do on purpose.
OUR_DOING = re.compile(r"was killed by SIGKILL")


def number_from_env(name: str, default: int) -> int:
    return int(os.environ.get(name) or default)


def program(name: str) -> str:
    """A program of ours: `CODA_BIN` and what lies beside it, else beside this Python, else the build folder."""
    chosen = os.environ.get("CODA_BIN")
    if name == "coda" and chosen:
        return chosen
    # `bin/python` is a link in a virtual environment: its neighbours are wanted, so it is not followed.
    folders = [Path(chosen).parent] if chosen else []
    folders += [Path(sys.executable).parent]
    target = Path(os.environ.get("CARGO_TARGET_DIR") or REPOSITORY / "target")
    folders += [target / "release", target / "debug"]
    for folder in folders:
        if os.access(folder / name, os.X_OK):
            return str(folder / name)
    found = shutil.which(name)
    assert found, f"`{name}` was not found: run `make build sdk`, or set CODA_BIN to the path of `coda`"
    return found


# Waiting


def wait_for(
    what: str, probe: Callable[[], T | None], timeout: float = PATIENCE_S, explain: Callable[[], str] = str
) -> T:
    """Asks until the answer is neither `None` nor false."""
    deadline = time.monotonic() + timeout
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s in vain for {what}\n{explain()}")
        time.sleep(POLL_S)


def free_port(host: str = "127.0.0.1") -> int:
    """A UDP port that nobody has. Chosen at random, so that tests that run side by side do not meet."""
    chance = random.SystemRandom()
    for _ in range(100):
        port = chance.choice(PORTS)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port was found")


# Processes


def is_alive(pid: int) -> bool:
    """A zombie is dead: it only waits for its parent to notice."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def children_of(pid: int) -> list[int]:
    """The direct children, oldest first."""
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        # The process has ended; or one of its threads has meanwhile, and its children are another thread's now.
        return children_of(pid) if is_alive(pid) else []
    return sorted(child for child in found if is_alive(child))


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def rss_mib(pid: int) -> float:
    """Resident memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found, status
    return int(found[1]) / 1024


def kill_9(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def marked(mark: str) -> list[int]:
    """The living processes that carry a mark in their environment."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if wanted in environment.split(b"\0") and is_alive(int(entry.name)):
            found.append(int(entry.name))
    return found


class Process:
    """One child process with its output in files. Its end is always waited for."""

    def __init__(
        self,
        project: Project,
        name: str,
        command: list[str],
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.project = project
        self.name = name
        self.command = command
        self.env = dict(env or {})
        self.cwd = cwd or project.folder
        self.out = project.logs / f"{name}.out"
        self.err = project.logs / f"{name}.err"
        self._child: subprocess.Popen[bytes] | None = None
        project.processes.append(self)

    def spawn(self) -> Self:
        with self.out.open("ab") as out, self.err.open("ab") as err:
            self._child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**self.project.env, **self.env},
                cwd=self.cwd,
                # Its own group, so that Ctrl-C in the terminal ends pytest and not the program under it.
                start_new_session=True,
            )
        return self

    @property
    def pid(self) -> int:
        assert self._child is not None, f"{self.name} was not started"
        return self._child.pid

    @property
    def status(self) -> int | None:
        """`None` while it runs; negative if a signal ended it."""
        return None if self._child is None else self._child.poll()

    @property
    def runs(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float = STOP_TIMEOUT_S) -> int:
        assert self._child is not None
        try:
            return self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {timeout:g} s\n{self.tail()}") from None

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = STOP_TIMEOUT_S) -> int:
        """Asks it to end, and returns its exit status."""
        self.send(number)
        return self.wait(timeout)

    def kill(self) -> None:
        """kill -9: no clean-up, no last words."""
        if self._child is not None:
            kill_9(self._child.pid)
            self._child.wait()

    def said(self) -> str:
        return (self.out.read_text(errors="replace") if self.out.exists() else "") + self.errors()

    def errors(self) -> str:
        return self.err.read_text(errors="replace") if self.err.exists() else ""

    def tail(self, lines: int = 25) -> str:
        last = "\n".join(f"    {line}" for line in self.said().splitlines()[-lines:])
        return f"{self.name} ({' '.join(self.command)}), status {self.status}, said last:\n{last}"

    def wait_until_it_says(self, words: str, timeout: float = PATIENCE_S) -> None:
        wait_for(f"{self.name} to say {words!r}", lambda: words in self.said(), timeout, self.tail)


class Node(Process):
    """`coda dev`. Starts again on the same folder and the same port."""

    def __init__(
        self,
        project: Project,
        name: str = "node",
        data_dir: Path | None = None,
        ephemeral: bool = False,
        options: Iterable[str] = (),
    ) -> None:
        self.data_dir = data_dir or project.folder / ".coda"
        self.port = free_port()
        where = ["--ephemeral"] if ephemeral else ["--data-dir", str(self.data_dir)]
        command = [program("coda"), "dev", *where, "--port", str(self.port), *options]
        super().__init__(project, name, command)
        self.address = f"127.0.0.1:{self.port}"
        self.ca = self.data_dir / "certs" / "ca.pem"

    def start(self) -> Self:
        """Returns when it has said that it is ready; what an earlier start said does not count."""
        seen = self.out.stat().st_size if self.out.exists() else 0
        self.spawn()
        ready = f"coda is ready on {self.address}\n".encode()

        def is_ready() -> bool:
            assert self.runs, f"the node ended instead of starting\n{self.tail()}"
            return self.out.read_bytes()[seen:].startswith(ready)

        wait_for("the node to be ready", is_ready, explain=self.tail)
        return self

    def restart(self) -> Self:
        """kill -9, and again."""
        self.kill()
        return self.start()

    def client(self, **options: Any) -> coda.Client:
        return coda.Client(self.address, self.ca, **options)

    def async_client(self, **options: Any) -> coda.AsyncClient:
        return coda.AsyncClient(self.address, self.ca, **options)


class Service(Process):
    """`coda serve` on a `node.toml`, with certificates that `coda-admin cert` has made in the project's folder.

    `ca` holds the authority, `certs` the node's files, `ops` those of a client.
    """

    def __init__(self, project: Project, settings: str = "", name: str = "serve") -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.config = project.folder / "node.toml"
        self.config.write_text(
            f'[node]\nid = 1\ndata_dir = "data"\n\n[listen]\nclient = "{self.address}"\n\n'
            f"[client]\nrequire_certificate = true\n{settings}"
        )
        super().__init__(project, name, [program("coda"), "serve", "--config", str(self.config)])
        self.cert("ca", "--cluster-name", "e2e", "--out", "ca")
        self.cert("node", "--ca", "ca", "--id", "1", "--out", "certs")
        self.cert("client", "--ca", "ca", "--name", "ops", "--out", "ops")
        #: What a client of this node has in its environment.
        self.client_env = {
            "CODA_ADDRESS": self.address,
            **{
                variable: str(project.folder / "ops" / file)
                for variable, file in (("CODA_CA", "ca.pem"), ("CODA_CERT", "client.pem"), ("CODA_KEY", "client.key"))
            },
        }

    def cert(self, *words: str) -> Done:
        done = self.project.command("coda-admin", "cert", *words)
        assert done.status == 0, done
        return done

    def start(self) -> Self:
        """Returns when it has said that it is ready; what an earlier start said does not count."""
        seen = self.out.stat().st_size if self.out.exists() else 0
        self.spawn()
        ready = f"coda is ready on {self.address}\n".encode()

        def is_ready() -> bool:
            assert self.runs, f"the node ended instead of starting\n{self.tail()}"
            return self.out.read_bytes()[seen:].startswith(ready)

        wait_for("the node to be ready", is_ready, explain=self.tail)
        return self

    def client(self, **options: Any) -> coda.Client:
        folder = self.project.folder / "ops"
        files = {"ca": folder / "ca.pem", "cert": folder / "client.pem", "key": folder / "client.key"}
        return coda.Client(self.address, **{**files, **options})


class Workers(Process):
    """`coda-worker MODULE`, whose children execute."""

    def __init__(
        self,
        project: Project,
        module: str,
        *options: str,
        n: int = 1,
        name: str = "workers",
        command: list[str] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.n = n
        command = command or [program("coda-worker"), module, "-n", str(n), *options]
        super().__init__(project, name, command, env, cwd)

    def start(self) -> Self:
        """Returns when all children serve."""
        before = self.errors().count("serving ")
        self.spawn()
        self.wait_until_serving(before + self.n)
        return self

    def serving(self) -> int:
        """How many times a child has said that it serves."""
        return self.errors().count("serving ")

    def wait_until_serving(self, times: int) -> None:
        def serve() -> bool:
            assert self.runs, f"{self.name} ended\n{self.tail()}"
            return self.serving() >= times

        wait_for(f"{self.n} workers to serve", serve, explain=self.tail)

    def children(self) -> list[int]:
        """The processes that execute, not the helpers of Python's multiprocessing."""
        helpers = ("resource_tracker", "forkserver")
        return [pid for pid in children_of(self.pid) if not any(each in command_of(pid) for each in helpers)]

    def kill_all(self) -> None:
        """kill -9 of the supervisor and all that it has started."""
        family = [self.pid]
        for pid in family:
            family += children_of(pid)
        for pid in family:
            kill_9(pid)
        self.wait()
        for pid in family:
            wait_for(f"the end of process {pid}", lambda pid=pid: not is_alive(pid))


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.status == 0, self
        return json.loads(self.out)


class Project:
    """A folder, and all that a test starts in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.notes = folder / "notes.jsonl"
        self.logs.mkdir(parents=True)
        self.mark = uuid.uuid4().hex
        self.processes: list[Process] = []
        #: Words of the alarms that a test expects.
        self.expected_alarms: list[str] = []
        bins = dict.fromkeys(str(Path(program(name)).parent) for name in ("coda", "coda-worker"))
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("CODA_", "PYTEST_"))}
        self.env = {
            **ours,
            MARK: self.mark,
            "PATH": os.pathsep.join([*bins, os.environ.get("PATH", "")]),
            "PYTHONPATH": str(TESTS),
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "NO_COLOR": "1",
            "E2E_NOTES": str(self.notes),
        }

    def node(self, **options: Any) -> Node:
        return Node(self, **options).start()

    def workers(self, module: str, *options: str, **rest: Any) -> Workers:
        return Workers(self, f"e2e.programs.{module}", *options, **rest).start()

    def supervised_workers(self, module: str, *options: str, n: int, name: str = "workers") -> Workers:
        """`coda run -n N -- coda-worker -n 0 MODULE`: the children execute, and `coda run` keeps them."""
        worker = [program("coda-worker"), "-n", "0", f"e2e.programs.{module}"]
        command = [program("coda"), "run", "-n", str(n), *options, "--", *worker]
        return Workers(self, module, n=n, name=name, command=command).start()

    def command(self, *command: str, timeout: float = PATIENCE_S, env: Mapping[str, str] | None = None) -> Done:
        """Runs a command to its end, in the project's folder."""
        name, *rest = command
        done = subprocess.run(
            [program(name) if name in ("coda", "coda-admin", "coda-worker") else name, *rest],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env={**self.env, **(env or {})},
            cwd=self.folder,
            timeout=timeout,
            start_new_session=True,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def queue(self, name: str = "default") -> Any:
        return self.command("coda-admin", "queue", "describe", name, "-o", "json").json()

    def left_in_queues(self) -> dict[str, int]:
        """What is ready, leased or delayed, over all queues."""
        queues = self.command("coda-admin", "queue", "list", "-o", "json").json()["queues"]
        return {what: sum(queue[what] for queue in queues) for what in ("ready", "leased", "delayed")}

    def noted(self, *kinds: str) -> list[dict[str, Any]]:
        """What the programs noted, in the order in which they did."""
        text = self.notes.read_text() if self.notes.exists() else ""
        notes = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [note for note in notes if not kinds or note["kind"] in kinds]

    def wait_for_notes(self, kind: str, count: int = 1, timeout: float = PATIENCE_S) -> list[dict[str, Any]]:
        def enough() -> list[dict[str, Any]] | None:
            notes = self.noted(kind)
            return notes if len(notes) >= count else None

        return wait_for(f"{count} notes of {kind}", enough, timeout, self.tails)

    def tails(self) -> str:
        return "\n".join(process.tail() for process in self.processes)

    # The end

    def end(self) -> list[str]:
        """Ends everything. Says what should not have been: alarms in logs, and processes that nobody was to find."""
        for process in reversed(self.processes):
            if process.runs:
                process.send(signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        problems = []
        for process in reversed(self.processes):
            while process.runs and time.monotonic() < deadline:
                time.sleep(POLL_S)
            if process.runs:
                problems.append(f"{process.name} did not end within {STOP_TIMEOUT_S:g} s of SIGTERM\n{process.tail()}")
                process.kill()
        left = {pid: command_of(pid) for pid in self._left_soon()}
        for pid, command in left.items():
            problems.append(f"process {pid} was left behind: {command}")
            kill_9(pid)
        return problems + list(self.alarms())

    def _left_soon(self) -> list[int]:
        """Who is left a moment after everything was ended: children whose parent was killed get that moment."""
        deadline = time.monotonic() + 2.0
        while (left := marked(self.mark)) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        return left

    def alarms(self) -> Iterator[str]:
        for process in self.processes:
            for line in process.said().splitlines():
                expected = OUR_DOING.search(line) or any(each in line for each in self.expected_alarms)
                if ALARMS.search(line) and not expected:
                    yield f"{process.name} logged: {line}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        problems = self.end()
        if error is None:
            assert not problems, "\n".join(problems)
        elif problems:
            error.add_note("\n".join(problems))
