"""What the documentation shows is executed, in the order of each page, in a project folder of its own.

Every block of Python or shell is run, or says why not. A comment before the block says what to do with it:

    <!-- not run: REASON -->       for the reader only
    <!-- file: NAME -->            a file of the project, not a program
    <!-- background: WORDS -->     goes on while the rest of the page runs, once it has said these words
    <!-- fails: STATUS -->         is expected to end with this status
    <!-- signal: NAME COMMAND -->  stands for what the block does to a machine: this signal to that command in the
                                   background, and its end

In a `console` block, commands follow `$ `; other lines are what they print: they have to occur in this order; a line
with an ellipsis stands for any. What is exported stays so for the rest of the page. `coda dev` gets a free port, as
the default one may be in use, and wherever a page says the default address, that port is meant. The same goes for the
default ports on other loopback addresses, which are the machines of a page that needs several.
"""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from .harness import REPOSITORY, Process, Project, free_port, program, wait_for

SHELLS = ("console", "bash", "sh", "shell")
LANGUAGES = (*SHELLS, "python", "py")
#: Where nodes listen: for clients, and for each other.
DEFAULT_ADDRESS = re.compile(r"127\.0\.0\.\d+:474[78]\b")
MARKS = ("not run", "file", "background", "fails", "signal")
PATTERNS = (
    "README.md",
    "docs/**/*.md",
    "sdk/python/README.md",
    "examples/**/README.md",
    "bench/README.md",
    "deploy/*.md",
)
PRODUCT_PROGRAM = Path(__file__).parent / "programs" / "product_program.py"

COMMENT = re.compile(r"<!--\s*(?P<mark>[a-z ]+?)\s*:\s*(?P<value>.*?)\s*-->")
FENCE = re.compile(r"^(?P<ticks>```+)\s*(?P<language>\w*)")


@dataclass(frozen=True)
class Block:
    where: str
    language: str
    text: str
    marks: dict[str, str] = field(default_factory=dict)


def blocks(page: str, text: str) -> list[Block]:
    """The fenced blocks that are files, or of the languages that can be run."""
    return list(_blocks(page, text.splitlines()))


def _blocks(page: str, lines: list[str]) -> Iterator[Block]:
    marks: dict[str, str] = {}
    at = 0
    while at < len(lines):
        line = lines[at]
        comment, fence = COMMENT.fullmatch(line.strip()), FENCE.match(line)
        at += 1
        if comment and comment["mark"] in MARKS:
            marks[comment["mark"]] = comment["value"]
        elif fence:
            where, start = f"{page}:{at}", at
            while at < len(lines) and lines[at].rstrip() != fence["ticks"]:
                at += 1
            assert at < len(lines), f"{where}: the block does not end"
            if fence["language"] in LANGUAGES or "file" in marks:
                yield Block(where, fence["language"], "\n".join(lines[start:at]) + "\n", marks)
            marks = {}
            at += 1
        elif line.strip():
            # A comment belongs to the block right behind it.
            marks = {}


@dataclass
class Command:
    text: str
    prints: list[str] = field(default_factory=list)


def commands(block: Block) -> list[Command]:
    """The commands of a block, each with what it prints. A block that is no console is one command, a script."""
    if block.language != "console":
        return [Command(block.text)]
    found: list[Command] = []
    continues = False
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append(Command(line[2:]))
        elif found and (continues or line.startswith("> ")):
            found[-1].text += "\n" + line.removeprefix("> ")
        elif found:
            found[-1].prints.append(line)
        else:
            raise AssertionError(f"{block.where}: a console block begins with `$ ` and a command, not with {line!r}")
        continues = line.endswith("\\")
    return found


class Reader:
    """Somebody who types what a page shows."""

    def __init__(self, project: Project) -> None:
        self.project = project
        shim = project.folder / ".bin" / "coda"
        shim.parent.mkdir()
        self.port = free_port()
        self.addresses = {"127.0.0.1:4747": f"127.0.0.1:{self.port}"}
        self.background: dict[str, Process] = {}
        port = f'case "$*" in *--port*) ;; dev*) shift; set -- dev --port {self.port} "$@" ;; esac'
        shim.write_text(f'#!/bin/sh\n{port}\nexec {program("coda")} "$@"\n')
        shim.chmod(0o755)
        project.env["PATH"] = f"{shim.parent}:{project.env['PATH']}"
        # As for a reader: only what lies in the folder, and what is installed.
        project.env.pop("PYTHONPATH")

    def read(self, page: str, text: str) -> None:
        for block in blocks(page, DEFAULT_ADDRESS.sub(self._address, text)):
            self._block(block)

    def _address(self, found: re.Match[str]) -> str:
        """The same one for the same one."""
        host, _, _ = found[0].partition(":")
        return self.addresses.setdefault(found[0], f"{host}:{free_port(host)}")

    def _block(self, block: Block) -> None:
        if "not run" in block.marks:
            assert block.marks["not run"], f"{block.where}: say why it is not run"
        elif "file" in block.marks:
            path = self.project.folder / block.marks["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
            if path.suffix == ".py":
                compile(block.text, block.where, "exec")
        elif block.language not in SHELLS:
            self._python(block)
        elif "background" in block.marks:
            self._background(block)
        elif "signal" in block.marks:
            self._signal(block)
        else:
            for command in commands(block):
                self._shell(block, command)

    def _shell(self, block: Block, command: Command) -> None:
        if command.text.startswith("export "):
            settings = (word.partition("=") for word in shlex.split(command.text)[1:])
            self.project.env.update({name: value for name, _, value in settings})
        else:
            self._run(block, ["bash", "-euo", "pipefail", "-c", command.text], command)

    def _python(self, block: Block) -> None:
        # It imports a module that the page does not show. `test_product` compares and runs it.
        if block.text == PRODUCT_PROGRAM.read_text():
            return
        self._run(block, ["python3", "-c", block.text], Command(block.text))

    def _run(self, block: Block, argv: list[str], command: Command) -> None:
        done = self.project.command(*argv)
        said = f"{block.where}: {command.text.rstrip()}\n--- ended with {done.status}\n{done.out}{done.err}"
        assert done.status == int(block.marks.get("fails", "0")), said
        rest = (done.out + done.err).splitlines()
        for line in command.prints:
            if "…" in line or "..." in line:
                continue
            assert line in rest, f"{said}\n--- does not print {line!r} there"
            rest = rest[rest.index(line) + 1 :]

    def _background(self, block: Block) -> None:
        (command,) = commands(block)
        words = block.marks["background"]
        assert words, f"{block.where}: say what it prints when the next block may run"
        name = f"background-{len(self.project.processes)}"
        # Replaced by its command, so that a signal reaches that.
        process = Process(self.project, name, ["bash", "-c", f"exec env {command.text}"]).spawn()
        self.background[command.text] = process
        # What a page waits for is no surprise, be it an error.
        self.project.expected_alarms.append(words)

        def is_ready() -> bool:
            assert process.runs, f"{block.where}: it ended\n{process.tail()}"
            return words in process.said()

        wait_for(f"{block.where} to say {words!r}", is_ready, explain=process.tail)

    def _signal(self, block: Block) -> None:
        name, _, command = block.marks["signal"].partition(" ")
        process = self.background.get(command)
        assert process is not None and process.runs, f"{block.where}: {command!r} is not in the background"
        number = signal.Signals[name]
        status = process.stop(number)
        expected = -number if number is signal.SIGKILL else 0
        assert status == expected, f"{block.where}: {command} ended with {status}\n{process.tail()}"


def pages() -> list[str]:
    found = {path for pattern in PATTERNS for path in REPOSITORY.glob(pattern)}
    return sorted(str(path.relative_to(REPOSITORY)) for path in found if "node_modules" not in path.parts)


@pytest.mark.parametrize("page", pages())
def test_the_page_does_what_it_shows(project: Project, page: str) -> None:
    Reader(project).read(page, (REPOSITORY / page).read_text())


# The mechanism


PAGE = """
Start it.

<!-- background: ready on -->
```console
$ coda dev
```

<!-- file: shop.py -->
```python
import coda

@coda.task(name="double")
def double(n): return n * 2
```

```text
never run
```

<!-- file: where.txt -->
```text
127.0.0.1:4747
```

```console
$ coda queue list --address "$(cat where.txt)"
…
```

<!-- background: serving -->
```console
$ coda-worker shop
```

```console
$ coda task submit double \\
    --input '{"n": 21}' --wait
42
$ coda queue list
QUEUE     STATE    READY   LEASED   DELAYED   WORKERS
…
```

```python
import coda
from shop import double

with coda.Client() as client:
    assert client.submit(double, {"n": 4}).result(30) == 8
```

<!-- fails: 3 -->
```bash
coda task result 0192f0c1-5f3c-7c3e-9d52-0a6f6e1f7a01
```

```console
$ export GREETING="hello there" PLACE=here
$ echo "$GREETING, $PLACE" > greeting; cat greeting
hello there, here
```

<!-- signal: SIGTERM coda-worker shop -->
```console
$ systemctl stop shop-workers
```

<!-- not run: it would be odd -->
```sh
exit 1
```
"""


def test_a_page_is_executed_in_its_order(project: Project) -> None:
    Reader(project).read("page", PAGE)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```console\n$ false\n```\n", "ended with 1"),
        ("```console\n$ echo a\nb\n```\n", "does not print 'b'"),
        ("```console\nfalse\n```\n", "begins with `\\$ `"),
        ("```python\nraise SystemExit(3)\n```\n", "ended with 3"),
        ("<!-- not run:  -->\n```bash\nfalse\n```\n", "say why"),
        ("<!-- not run: because -->\n\nwords\n\n```bash\nfalse\n```\n", "ended with 1"),
        ("```bash\nfalse\ntrue\n```\n", "ended with 1"),
        ("<!-- signal: SIGTERM coda dev -->\n```bash\nfalse\n```\n", "'coda dev' is not in the background"),
        ("```bash\ntrue\n", "does not end"),
    ],
)
def test_a_page_that_is_wrong_is_noticed(project: Project, text: str, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        Reader(project).read("page", text)
