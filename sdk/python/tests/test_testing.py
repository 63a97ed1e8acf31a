"""`coda.testing` without a node: what it says when there is none, and that it leaves nothing behind. With one:
`tests/e2e/test_testing.py`."""

from __future__ import annotations

import os
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import coda
import coda.testing
import pytest
from coda.testing import LocalBroker, LocalBrokerError, LocalWorker
from fake_native import FakeCluster

pytest_plugins = ["pytester"]


def program(folder: Path, name: str, body: str) -> Path:
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{textwrap.dedent(body)}")
    path.chmod(0o755)
    return path


READY = """
    import sys, time
    print("coda is ready on 127.0.0.1:9\\n")
    print("  export CODA_ADDRESS=127.0.0.1:9\\n  export CODA_CA=/no/such/ca.pem", flush=True)
    print("said more", file=sys.stderr, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is left behind is seen."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.delenv("CODA_BIN", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()


def left_behind(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "tmp").iterdir())


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_without_a_program_it_says_where_it_has_looked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(LocalBrokerError, match=r"neither on PATH nor beside .*set CODA_BIN") as error:
        LocalBroker().start()
    assert error.value.code == "CODA5007"
    assert not left_behind(tmp_path)


@pytest.mark.parametrize("named_by", ["CODA_BIN", "`binary`"])
def test_a_wrong_path_is_named(monkeypatch: pytest.MonkeyPatch, named_by: str) -> None:
    if named_by == "CODA_BIN":
        monkeypatch.setenv("CODA_BIN", "/no/such/coda")
    with pytest.raises(LocalBrokerError, match=f"'/no/such/coda' is no program .*{named_by}"):
        LocalBroker(binary=None if named_by == "CODA_BIN" else "/no/such/coda").start()


@pytest.mark.parametrize("where", ["CODA_BIN", "PATH", "beside"])
def test_the_program_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str) -> None:
    found = program(tmp_path / "bin", "coda", READY)
    if where != "PATH":
        monkeypatch.setenv("PATH", "/nowhere")
    if where == "CODA_BIN":
        monkeypatch.setenv("CODA_BIN", str(found))
    if where == "beside":
        (tmp_path / "bin/python").symlink_to(sys.executable)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "bin/python"))
    with LocalBroker() as broker:
        assert (broker.address, broker.ca) == ("127.0.0.1:9", Path("/no/such/ca.pem"))
        assert broker.environment == {"CODA_ADDRESS": "127.0.0.1:9", "CODA_CA": "/no/such/ca.pem"}
        assert broker._node is not None
        pid = broker._node.pid
        assert is_alive(pid)
        with pytest.raises(LocalBrokerError, match="runs already"):
            broker.start()
    assert not is_alive(pid)
    assert not left_behind(tmp_path)
    with pytest.raises(LocalBrokerError, match="does not run"):
        _ = broker.address
    broker.stop()


def test_a_program_that_ends_is_reported_with_what_it_said(tmp_path: Path) -> None:
    found = program(tmp_path, "fails", "import sys\nsys.exit('out of ideas')")
    with pytest.raises(LocalBrokerError, match=r"has ended with 1; it said last:\nout of ideas") as error:
        LocalBroker(binary=found).start()
    assert error.value.code == "CODA5008"
    assert not left_behind(tmp_path)


def test_a_program_that_never_gets_ready_is_ended(tmp_path: Path) -> None:
    found = program(tmp_path, "hangs", "import time\nprint('who are you?', flush=True)\ntime.sleep(60)")
    started = time.monotonic()
    with pytest.raises(LocalBrokerError, match=r"did not become ready within 0\.5 s; it said last:\nwho are you\?"):
        LocalBroker(binary=found, timeout=0.5).start()
    assert time.monotonic() - started < 5
    assert not left_behind(tmp_path)


def test_a_test_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    found = program(tmp_path, "ready", READY)
    broker = LocalBroker(binary=found)

    def test() -> None:
        with broker:
            pids.append(broker._node.pid)  # type: ignore[union-attr]
            broker.client()
            _ = 1 / 0

    pids: list[int] = []
    with pytest.raises(ZeroDivisionError):
        test()
    (pid,) = pids
    assert not is_alive(pid)
    assert not left_behind(tmp_path)


def test_a_worker_whose_loop_is_blocked_is_not_waited_for_for_ever(
    cluster: FakeCluster, app: coda.App, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, release = threading.Event(), threading.Event()

    @app.task
    async def blocks() -> None:
        begun.set()
        release.wait(60)

    monkeypatch.setattr(coda.testing, "_STOP_SECONDS", 0.2)
    worker = coda.Worker(app, drain_timeout=0.1)
    monkeypatch.setattr(worker, "_open", lambda: cluster.port([line.wire() for line in worker.lines]))
    local = LocalWorker(worker, timeout=10)
    with coda.Client(_open=cluster.port) as client:
        client.submit(blocks)
    assert begun.wait(10)
    with pytest.raises(LocalBrokerError, match="something blocks its event loop") as error:
        local.stop()
    assert error.value.code == "CODA5009"
    release.set()
    local.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel has no such service")
def test_a_node_ends_with_a_test_run_that_is_killed(tmp_path: Path) -> None:
    found = program(tmp_path, "ready", READY)
    code = f"""
        import os
        from coda.testing import LocalBroker
        broker = LocalBroker(binary={str(found)!r}).start()
        print(broker._node.pid, flush=True)
        os.kill(os.getpid(), 9)
    """
    import subprocess

    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    deadline = time.monotonic() + 10
    while is_alive(int(done.stdout)):
        assert time.monotonic() < deadline, "it was left behind"
        time.sleep(0.01)


def test_the_fixture_comes_with_the_package_and_reports_what_was_said(
    pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODA_BIN", str(program(tmp_path, "ready", READY)))
    pytester.makepyfile("""
        def test_works(coda_broker):
            assert coda_broker.address == "127.0.0.1:9"

        def test_fails(coda_broker):
            assert False

        def test_does_without():
            pass
    """)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*coda dev*", "*said more*"])
