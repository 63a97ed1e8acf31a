"""The supervisor: children that die are replaced, signals drain, and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from coda import _cli, _reload, _supervisor
from coda._cli import EXIT_DYING, EXIT_OK, EXIT_USAGE
from coda._supervisor import Restarts, Supervisor
from conftest import until

TESTS = Path(__file__).parent


class Story:
    """A supervisor of stub children. Sessions that it ends are noted."""

    def __init__(self, folder: Path, how: str, count: int = 1, drain_timeout: float = 5.0) -> None:
        self.folder = folder
        self.ended: list[bytes] = []
        command = [sys.executable, str(TESTS / "stub_child.py"), how, str(folder)]
        self.supervisor = Supervisor(command, count, drain_timeout, self._end)

    async def _end(self, session: bytes) -> None:
        self.ended.append(session)

    def files(self, prefix: str) -> list[Path]:
        return sorted(self.folder.glob(f"{prefix}-*"))

    def pids(self) -> list[int]:
        return [int(path.name.split("-")[1]) for path in self.files("child")]

    def sessions(self) -> set[bytes]:
        return {UUID(path.read_text().split()[0]).bytes for path in self.files("child")}

    def play(self, script: Callable[[Story], Any], changes: Path | None = None) -> int:
        async def main() -> int:
            running = asyncio.create_task(self.supervisor.run(changes))
            await script(self)
            return await asyncio.wait_for(running, 20)

        return asyncio.run(main())


def test_restarts_are_delayed_longer_each_time_and_limited() -> None:
    restarts = Restarts()
    delays = [restarts.on_death(now=float(n), lived=0.1) for n in range(11)]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0, None]
    # Deaths are forgotten after a minute, and a process that lived well starts the delays anew.
    assert restarts.on_death(now=75.0, lived=30.0) == 0.1


def test_a_child_that_dies_is_replaced_under_a_new_session_after_its_old_one_ended(tmp_path: Path) -> None:
    async def script(story: Story) -> None:
        await until(lambda: story.pids())
        first = story.sessions()
        os.kill(story.pids()[0], signal.SIGKILL)
        await until(lambda: len(story.pids()) == 2)
        assert set(story.ended) == first
        story.supervisor.on_signal()

    story = Story(tmp_path, "polite")
    assert story.play(script) == EXIT_OK
    assert len(story.sessions()) == 2


def test_children_that_keep_dying_end_the_supervisor_and_its_other_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_supervisor, "RESTARTS_MAX", 2)

    async def script(story: Story) -> None: ...

    story = Story(tmp_path, "crash", count=2)
    assert story.play(script) == EXIT_DYING
    # One of them died its third time; the other was at most as far.
    assert 3 <= len(story.pids()) <= 6
    # A process that was stopped before it wrote its note has its session ended too.
    assert story.sessions() <= set(story.ended)


def test_a_child_that_cannot_be_used_is_not_started_again(tmp_path: Path) -> None:
    async def script(story: Story) -> None: ...

    story = Story(tmp_path, "usage")
    assert story.play(script) == EXIT_USAGE
    assert len(story.pids()) == 1


def test_a_signal_drains_all_children(tmp_path: Path) -> None:
    async def script(story: Story) -> None:
        await until(lambda: len(story.pids()) == 3)
        story.supervisor.on_signal()

    story = Story(tmp_path, "polite", count=3)
    assert story.play(script) == EXIT_OK
    assert len(story.files("term")) == 3
    assert {path.read_text().split()[1] for path in story.files("child")} == {"1", "2", "3"}


def test_a_second_signal_is_passed_on_and_a_third_kills(tmp_path: Path) -> None:
    async def two(story: Story) -> None:
        await until(lambda: story.pids())
        story.supervisor.on_signal()
        await until(lambda: len(story.files("term")) == 1)
        story.supervisor.on_signal()

    assert Story(tmp_path, "slow").play(two) == EXIT_OK

    async def three(story: Story) -> None:
        await until(lambda: len(story.pids()) == 2)
        for _ in range(3):
            story.supervisor.on_signal()
            await asyncio.sleep(0.05)

    assert Story(tmp_path, "deaf").play(three) == EXIT_OK


def test_children_that_overstay_the_drain_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_supervisor, "_GRACE_SECONDS", 0.1)

    async def script(story: Story) -> None:
        await until(lambda: story.pids())
        story.supervisor.on_signal()

    story = Story(tmp_path, "deaf", drain_timeout=0.1)
    assert story.play(script) == EXIT_OK
    assert len(story.ended) == 1


def test_a_changed_file_starts_children_again_and_their_sessions_are_not_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_reload, "_POLL_SECONDS", 0.02)
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    source = tmp_path / "src"
    source.mkdir()

    async def script(story: Story) -> None:
        await until(lambda: story.pids())
        (source / "code.py").write_text("x = 1")
        await until(lambda: len(story.pids()) == 2)
        story.supervisor.on_signal()

    story = Story(tmp_path, "polite")
    assert story.play(script, changes=source) == EXIT_OK
    assert not story.ended


def test_with_reload_a_mistake_waits_for_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_reload, "_POLL_SECONDS", 0.02)
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    source = tmp_path / "src"
    source.mkdir()

    async def script(story: Story) -> None:
        await until(lambda: story.pids())
        await asyncio.sleep(0.2)
        assert len(story.pids()) == 1
        (source / "code.py").write_text("x = 1")
        await until(lambda: len(story.pids()) == 2)
        story.supervisor.on_signal()

    assert Story(tmp_path, "usage").play(script, changes=source) == EXIT_OK


def test_watched_are_source_files_and_no_environments(tmp_path: Path) -> None:
    for name in ("a.py", "pkg/b.py", ".venv/c.py", "env/pyvenv.cfg", "env/d.py", "node_modules/e.py", "f.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert sorted(Path(path).name for path in _reload.snapshot(tmp_path)) == ["a.py", "b.py"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
def test_children_do_not_outlive_a_killed_supervisor(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys; from coda._supervisor import Supervisor\n"
        "async def end(session): ...\n"
        f"command = [sys.executable, {str(TESTS / 'stub_child.py')!r}, 'orphan', {str(tmp_path)!r}]\n"
        "asyncio.run(Supervisor(command, 1, 1, end).run())"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    assert eventually(lambda: list(tmp_path.glob("armed-*")))
    (armed,) = tmp_path.glob("armed-*")
    parent.kill()
    parent.wait()
    assert eventually(lambda: not is_running(int(armed.name.split("-")[1])))


def eventually(condition: Callable[[], Any], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def worker(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **(env or {})}
    return subprocess.run(
        [sys.executable, "-m", "coda.worker", *arguments],
        cwd=cwd,
        env={name: value for name, value in environment.items() if value},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaves:
        _cli.main(["--help"])
    assert leaves.value.code == 0
    text = capsys.readouterr().out
    for part in (
        "examples:",
        "coda-worker shop.workflows -n 4",
        "signals:",
        "exit codes:",
        "--drain-timeout",
        "CODA_ADDRESS",
    ):
        assert part in text


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["m", "-n", "x"],
        ["m", "-n", "-1"],
        ["m", "--concurrency", "0"],
        ["m", "--drain-timeout", "-1"],
        ["m", "-n", "0", "--reload"],
    ],
)
def test_wrong_options_are_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaves:
        _cli.parse(arguments)
    assert leaves.value.code == EXIT_USAGE
    assert "usage:" in capsys.readouterr().err


def test_under_coda_run_it_works_in_its_own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_cli.SUPERVISED, "0")
    assert _cli.parse(["m"]).processes == 0
    assert _cli.parse(["m", "-n", "2"]).processes == 2


def test_options_are_read() -> None:
    options = _cli.parse(["m:app", "-n", "3", "-Q", "a", "--queue", "b", "-c", "5", "--threads", "6", "--runs", "7"])
    assert (options.target, options.processes, options.queues) == ("m:app", 3, ("a", "b"))
    assert (options.slots.concurrency, options.slots.threads, options.slots.runs) == (5, 6, 7)


@pytest.mark.parametrize(
    ("module", "target", "says"),
    [
        ("x = 1", "code", "nothing to serve"),
        ("1 / 0", "code", "ZeroDivisionError"),
        ("import nowhere", "code", "No module named 'nowhere'"),
        ("x = 1", "code.py", "did you mean code?"),
        ("x = 1", "missing", "no module 'missing'"),
        ("x = 1", "code:x", "no coda.App"),
        ("x = 1", "code:y", "has no 'y'"),
    ],
)
def test_what_cannot_be_served_is_said_once_and_is_exit_code_2(
    tmp_path: Path, module: str, target: str, says: str
) -> None:
    (tmp_path / "code_").mkdir()
    (tmp_path / "shop.py").write_text(module)
    done = worker(target.replace("code", "shop"), cwd=tmp_path)
    assert done.returncode == EXIT_USAGE
    assert says.replace("code?", "shop?") in done.stderr
    assert done.stderr.count("Traceback") <= 1
    assert "\033[" not in done.stderr


def test_without_a_cluster_the_exit_code_is_4_and_the_message_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("import coda\n@coda.task\ndef t(): ...\n")
    done = worker("shop", cwd=tmp_path, env={"CODA_ADDRESS": "", "CODA_CA": ""})
    assert done.returncode == _cli.EXIT_NO_CLUSTER
    assert "coda dev" in done.stderr
    assert "CODA4001" in done.stderr
