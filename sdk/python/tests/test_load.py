"""What `coda-worker package.module:app` says when it cannot import that."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import coda
import pytest
from coda._child import Unloadable, load


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)
    (tmp_path / "loadable").mkdir()
    (tmp_path / "loadable/__init__.py").write_text("")
    (tmp_path / "loadable/flows.py").write_text(
        "import coda\napp = coda.App('flows')\nbilling = coda.App('billing')\n@app.task\ndef charge(): ...\n"
    )
    (tmp_path / "loadable/plain.py").write_text("answer = 42\n")
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def said(target: str) -> str:
    with pytest.raises(Unloadable) as error:
        load(target)
    return str(error.value)


def test_a_module_and_an_app_of_it_are_found() -> None:
    app = load("loadable.flows:billing")
    assert isinstance(app, coda.App)
    assert app.name == "billing"
    assert load("loadable.flows").__name__ == "loadable.flows"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("target", "meant"),
    [
        ("loadabel.flows", "loadable"),
        ("loadable.flow", "loadable.flows"),
        ("loadable/flows.py", "loadable.flows"),
        ("./loadable/flows.py", "loadable.flows"),
        ("loadable.flows.app", "loadable.flows:app"),
        ("loadable.flows.charge", "loadable.flows:charge"),
    ],
)
def test_a_module_that_does_not_exist_has_a_neighbour(target: str, meant: str) -> None:
    text = said(target)
    assert text.startswith(f"{target!r} is no name of a module" if "/" in target else "there is no module '")
    assert text.endswith(f": did you mean {meant}?")


def test_what_is_like_nothing_suggests_nothing() -> None:
    assert said("quite_different").endswith("or on sys.path")
    assert said(":app") == "'' is no name of a module: write package.module, or package.module:app"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("loadable.flows:ap", "has no 'ap': it is :app"),
        ("loadable.flows:biling", "has no 'biling': it is :billing"),
        ("loadable.flows:charge", "is <coda.Task 'loadable.flows.charge' on queue 'default'> and no coda.App: it is :"),
        ("loadable.plain:app", "has no 'app': leave out :app to serve all of it"),
        ("loadable.plain:answer", "is 42 and no coda.App: leave out :answer"),
    ],
)
def test_an_attribute_that_is_no_app_is_named(target: str, expected: str) -> None:
    assert expected in said(target)


def test_a_module_that_raises_is_shown_with_its_own_frames_only(folder: Path) -> None:
    (folder / "broken.py").write_text("def deep():\n    raise RuntimeError('on import')\n\ndeep()\n")
    text = said("broken")
    assert text.startswith("importing broken failed:\nTraceback")
    assert "broken.py" in text
    assert "in deep" in text
    assert text.endswith("RuntimeError: on import")
    assert "importlib" not in text
    assert "_child.py" not in text


def test_a_missing_dependency_of_the_module_is_not_taken_for_the_module(folder: Path) -> None:
    (folder / "needs.py").write_text("import no_such_dependency\n")
    assert "No module named 'no_such_dependency'" in said("needs")


def test_a_module_with_a_mistake_in_its_syntax_is_shown_with_its_line(folder: Path) -> None:
    (folder / "mistyped.py").write_text("import coda\ndef charge(:\n")
    text = said("mistyped")
    assert "mistyped.py" in text
    assert "line 2" in text


@pytest.mark.parametrize("code", ["import sys; sys.exit(3)", "raise SystemExit(3)"])
def test_a_script_that_ends_the_program_does_not_end_it_silently(folder: Path, code: str) -> None:
    (folder / "script.py").write_text(code)
    assert "ended the program (SystemExit: 3)" in said("script")
    assert "__main__" in said("script")


TWICE = """
import coda

@coda.task
def charge(): ...

@coda.task
def charge(): ...
"""


def test_two_functions_of_one_name_in_one_module_are_refused_with_both_places(folder: Path) -> None:
    (folder / "twice.py").write_text(TWICE)
    text = said("twice")
    assert "two functions are named 'twice.charge'" in text
    assert f"charge at {folder}/twice.py:4, and charge at {folder}/twice.py:7" in text


def test_a_module_may_be_reloaded(folder: Path) -> None:
    import importlib

    (folder / "again.py").write_text("import coda\napp = coda.App('a')\n@coda.task\ndef charge(): ...\n")
    module = load("again")
    (folder / "again.py").write_text("import coda\n\n\napp = coda.App('a')\n@coda.task\ndef charge(): ...\n# longer\n")
    importlib.reload(module)  # type: ignore[arg-type]
