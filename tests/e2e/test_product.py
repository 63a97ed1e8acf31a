"""The program of the documentation, word for word, and running."""

from __future__ import annotations

from pathlib import Path

import pytest

from .harness import REPOSITORY, Node, Project, wait_for
from .test_docs import blocks

PROGRAM = (Path(__file__).parent / "programs" / "product_program.py").read_text()
#: The design that it comes from lies outside of the repository, beside some checkouts.
DESIGN = REPOSITORY.parent / "shared" / "design" / "product.md"


@pytest.mark.parametrize("place", ["README.md", "examples/events/app.py", DESIGN])
def test_the_program_is_the_same_everywhere(place: str | Path) -> None:
    path = REPOSITORY / place
    if path == DESIGN and not path.exists():
        pytest.skip("the design is not here")
    text = path.read_text()
    texts = [text] if path.suffix == ".py" else [block.text for block in blocks(path.name, text)]
    assert PROGRAM in texts


def test_it_runs_unchanged(project: Project, node: Node) -> None:
    workers = project.workers("product_program")
    event = {"event_id": "e-1", "title": "  Boom  "}
    with node.client() as client:
        run = client.start(
            "e2e.programs.product_program.process_event", {"project_id": 7, "event_data": event, "source": "extra"}
        )
        assert run.result(60) is None
        steps = {step.name.rpartition(".")[2]: step for step in run.describe().steps}
    assert {name: (step.state, step.attempts) for name, step in steps.items()} == {
        "normalize_event": ("succeeded", 1),
        "store_event": ("succeeded", 2),
    }
    wait_for("the print", lambda: "Workflow finished with result 7/e-1/boom" in workers.out.read_text())
    stored = [note["data"] for note in project.noted("store")]
    assert stored == [{"event_id": "e-1", "title": "boom", "project": 7}] * 2
