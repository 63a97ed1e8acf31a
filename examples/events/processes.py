"""The demo's child processes: a node and its workers. Started, waited for, killed, and never left behind.

Each is the leader of its own session. Ctrl-C then reaches only the demo, which stops its children in
order, and a process group can be ended as a whole without ever naming a process that is not ours.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.02


class DemoError(Exception):
    """The demo cannot go on; the message says what to do about it."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def find_program(name: str, variable: str, *, beside: Path | None = None) -> str:
    """A program from an environment variable, else beside this interpreter, else from PATH."""
    chosen = os.environ.get(variable)
    if chosen:
        if not os.access(chosen, os.X_OK):
            raise DemoError(f"{variable}={chosen} is not an executable file")
        return chosen
    # `bin/python` is a link in a virtual environment: do not follow it, its neighbours are wanted.
    for folder in filter(None, [beside, Path(sys.executable).parent]):
        if os.access(folder / name, os.X_OK):
            return str(folder / name)
    found = shutil.which(name)
    if found is None:
        raise DemoError(f"`{name}` was not found: run `make build sdk`, or set {variable} to its path")
    return found


class Process:
    """One child process group with its output in a file."""

    def __init__(self, name: str, command: list[str], log: Path, environment: Mapping[str, str], cwd: Path) -> None:
        self.name = name
        self.command = command
        self.log = log
        self._environment = dict(environment)
        self._cwd = cwd
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._child is None:
            raise DemoError(f"{self.name} was not started")
        return self._child.pid

    def start(self) -> None:
        with self.log.open("ab") as output:
            try:
                self._child = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    cwd=self._cwd,
                    start_new_session=True,
                )
            except OSError as exc:
                raise DemoError(f"cannot start {self.name}: {exc}") from exc

    def owns(self, pid: int) -> bool:
        """Whether a process is this one or descends from it."""
        while pid > 1 and pid != self.pid:
            try:
                stat = Path(f"/proc/{pid}/stat").read_text()
            except OSError:
                return False
            # The name, in brackets, may hold anything; the parent is the second field behind it.
            pid = int(stat.rpartition(")")[2].split()[1])
        return pid == self.pid

    def check(self) -> None:
        """Raise if the process has ended without being asked to."""
        if self._child is not None and self._child.poll() is not None:
            raise DemoError(f"{self.name} ended with code {self._child.returncode}:\n{self.tail()}")

    def tail(self, lines: int = 15) -> str:
        try:
            text = self.log.read_text(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])

    def kill(self) -> None:
        """kill -9 of the whole group: no clean-up, no last words."""
        self._signal_group(signal.SIGKILL)
        if self._child is not None:
            self._child.wait()

    def stop(self) -> None:
        """Ask nicely, wait, then insist. Also ends what the group's leader may have left behind."""
        if self._child is None:
            return
        if self._child.poll() is None:
            self._signal_group(signal.SIGTERM)
            try:
                self._child.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                pass
        self.kill()
        self._child = None

    def _signal_group(self, number: int) -> None:
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            # Nobody is left. macOS says "not permitted" when only zombies are.
            pass

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Node(Process):
    """`coda dev`, one node on this machine."""

    def __init__(self, binary: str, data_dir: Path, port: int, log: Path, environment: Mapping[str, str]) -> None:
        command = [binary, "dev", "--data-dir", str(data_dir), "--port", str(port)]
        super().__init__("the node", command, log, environment, data_dir.parent)
        self.address = f"127.0.0.1:{port}"

    def start(self) -> None:
        """Start and wait for the ready line; one that an earlier start printed does not count."""
        seen = self.log.stat().st_size if self.log.exists() else 0
        super().start()
        ready = f"coda is ready on {self.address}".encode()
        deadline = time.monotonic() + READY_TIMEOUT_S
        try:
            while time.monotonic() < deadline:
                if ready in self.log.read_bytes()[seen:]:
                    return
                self.check()
                time.sleep(POLL_S)
            raise DemoError(f"the node was not ready within {READY_TIMEOUT_S:.0f} s:\n{self.tail()}")
        except BaseException:
            # `with Node(...)` has not been entered yet, so nobody else would stop it.
            self.stop()
            raise
