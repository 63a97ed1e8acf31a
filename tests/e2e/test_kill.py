"""Kills at random moments: workers, the node, and both. Every run completes, and no result is ever made twice.

The seed is printed; `CODA_E2E_SEED` repeats the kills' moments and victims. `CODA_E2E_KILLS` is how many of each kind:
10 by default, 100 for an acceptance run.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import coda
import pytest

from .harness import Node, Project, Workers, kill_9, number_from_env, wait_for
from .programs import chaos

KILLS = number_from_env("CODA_E2E_KILLS", 10)
RUNS_MIN = 200
#: Runs in progress while there are kills to come.
RUNS_OPEN = 50
SEED = number_from_env("CODA_E2E_SEED", random.SystemRandom().randrange(1_000_000))
#: Between kills. A restart takes longer than the shorter ones.
PAUSE_S_MAX = 0.6

pytestmark = pytest.mark.timeout(120 + KILLS * 12)

Kill = Callable[[], None]


class Killer:
    """Kills at random, restarts what must be restarted by hand, and remembers when."""

    def __init__(self, node: Node, workers: Workers, chance: random.Random) -> None:
        self.node, self.workers, self.chance = node, workers, chance
        self.kills: list[tuple[float, str]] = []

    def _did(self, what: str) -> None:
        self.kills.append((time.time(), what))

    def worker(self) -> None:
        """One process of the workers. Their supervisor starts it again, and tells the node of its end."""
        if not self.workers.children():
            # All wait for their next start, ever longer. A new supervisor does not know how often they have died.
            self.workers.kill_all()
            self.workers.spawn()
        children = wait_for("a worker to kill", self.workers.children, explain=self.workers.tail)
        kill_9(self.chance.choice(children))
        self._did("worker")

    def node_(self) -> None:
        self.node.kill()
        self._did("node")
        # Sometimes it is away for a while.
        time.sleep(self.chance.choice([0.0, 0.0, 0.3]))
        self.node.start()

    def both(self) -> None:
        """In either order, and with the supervisor in one of three cases: then nobody tells the node."""
        whole = self.chance.random() < 0.3

        def workers() -> None:
            if whole:
                self.workers.kill_all()
                self._did("all workers")
            else:
                self.worker()

        for kill in self.chance.sample([workers, self.node.kill], 2):
            kill()
        self._did("node")
        self.node.start()
        if whole:
            self.workers.spawn()


@pytest.mark.parametrize("kind", ["worker", "node", "both"])
def test_kills_lose_nothing_and_repeat_nothing(project: Project, kind: str) -> None:
    print(f"CODA_E2E_SEED={SEED} CODA_E2E_KILLS={KILLS}")
    chance = random.Random(f"{SEED}/{kind}")
    node = project.node()
    # Not by `coda-worker -n 2`, which gives up after ten deaths within a minute.
    workers = project.supervised_workers("chaos", "--max-restarts", "1000000", n=2)
    killer = Killer(node, workers, chance)
    kill = {"worker": killer.worker, "node": killer.node_, "both": killer.both}[kind]
    started = time.monotonic()
    results = asyncio.run(asyncio.wait_for(_run(node, kill, chance), 60 + KILLS * 12))
    seconds = time.monotonic() - started
    print(f"{kind}: {len(killer.kills)} kills, {len(results)} runs, {seconds:.1f} s")

    History(project.noted("begin", "made", "read"), results).check()
    wait_for("nothing to be left in any queue", lambda: not any(project.left_in_queues().values()), timeout=30)
    summary = project.command("coda-admin", "queue", "describe", "default", "-o", "json").json()
    assert (summary["ready"], summary["leased"], summary["delayed"]) == (0, 0, 0)


async def _run(node: Node, kill: Kill, chance: random.Random) -> dict[int, dict[str, str]]:
    """Keeps runs in progress until all kills have happened and enough runs have ended."""
    results: dict[int, dict[str, str]] = {}
    killed = asyncio.Event()

    async with node.async_client(connect_timeout=60.0) as client:

        async def keep_busy(first: int) -> None:
            number = first
            while number < RUNS_MIN or not killed.is_set():
                results[number] = await client.run(chaos.chaos, {"number": number}, run_id=coda.id_for("chaos", number))
                number += RUNS_OPEN

        async def keep_killing() -> None:
            for _ in range(KILLS):
                await asyncio.sleep(chance.random() * PAUSE_S_MAX)
                await asyncio.to_thread(kill)
            killed.set()

        # A failure of one ends all.
        async with asyncio.TaskGroup() as group:
            group.create_task(keep_killing())
            for first in range(RUNS_OPEN):
                group.create_task(keep_busy(first))
    return results


class History:
    """What happened, in order, and what must be true of it."""

    def __init__(self, notes: list[dict[str, Any]], results: dict[int, dict[str, str]]) -> None:
        self.results = results
        self.begins: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
        self.made: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
        self.reads: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
        for at, note in enumerate(notes):
            step = note["run"], note["step"]
            match note["kind"]:
                case "begin":
                    self.begins[step].append((at, note["attempt"]))
                case "made":
                    self.made[step][note["value"]] = note["attempt"]
                case "read":
                    self.reads[step].append((at, note["value"]))

    def check(self) -> None:
        problems = [*self._incomplete(), *self._contradictions(), *self._repetitions()]
        assert not problems, f"{len(problems)} problems, seed {SEED}:\n" + "\n".join(problems[:30])
        again = sum(len(begins) - 1 for begins in self.begins.values())
        rereads = sum(len(reads) - 1 for reads in self.reads.values())
        print(f"{len(self.begins)} steps, {again} bodies ran again unrecorded, {rereads} results were read again")

    def _incomplete(self) -> list[str]:
        return [
            f"run {number} returned {sorted(seen)}" for number, seen in self.results.items() if set(seen) != chaos.STEPS
        ]

    def _contradictions(self) -> list[str]:
        """One value per key: what anyone ever read is what the run returned, and a body made it."""
        problems = []
        for (run, step), reads in self.reads.items():
            values = {value for _, value in reads}
            number = int(run.removeprefix("run-"))
            if step in chaos.STEPS:
                values.add(self.results[number][step])
            if len(values) != 1:
                problems.append(f"{run} {step}: readers saw {sorted(values)}")
            # A child's result is its task's.
            makers = self.made.get((run, step)) or self.made[run, f"{step}/task"]
            if not values <= set(makers):
                problems.append(f"{run} {step}: {sorted(values)} was read, but bodies made {sorted(makers)}")
        return problems

    def _repetitions(self) -> list[str]:
        """After a result was read, and so had been recorded, its body never starts again. An attempt starts once."""
        problems = []
        for step, begins in self.begins.items():
            reads = self.reads[step]
            late = [attempt for at, attempt in begins if reads and at > reads[0][0]]
            if late:
                recorded = self.made[step][reads[0][1]]
                problems.append(f"{step}: attempts {late} started after the result of attempt {recorded} was read")
            attempts = [attempt for _, attempt in begins if attempt > 0]
            if len(set(attempts)) != len(attempts):
                problems.append(f"{step}: one attempt started twice: {attempts}")
        return problems


# The check itself


def _notes(*notes: tuple[object, ...]) -> list[dict[str, Any]]:
    fields = ("kind", "run", "step", "attempt", "value")
    return [dict(zip(fields, (kind, "run-1", "first", attempt, value), strict=True)) for kind, attempt, value in notes]


GOOD = [("begin", 1, None), ("begin", 2, None), ("made", 2, "b"), ("read", None, "b"), ("read", None, "b")]


@pytest.mark.parametrize(
    ("notes", "result", "complaint"),
    [
        (GOOD, "b", None),
        ([*GOOD, ("read", None, "c")], "b", "readers saw"),
        (GOOD, "c", "readers saw"),
        ([("begin", 1, None), ("read", None, "b")], "b", "but bodies made"),
        ([*GOOD, ("begin", 3, None)], "b", "attempts \\[3\\] started after the result of attempt 2 was read"),
        ([("begin", 2, None), *GOOD], "b", "one attempt started twice"),
    ],
)
def test_the_check_finds_what_must_not_be(notes: list[Any], result: str, complaint: str | None) -> None:
    seen = dict.fromkeys(chaos.STEPS, "")
    history = History(_notes(*notes), {1: {**seen, "first": result}})
    if complaint is None:
        history.check()
    else:
        with pytest.raises(AssertionError, match=complaint):
            history.check()
    history.results[1].pop("last")
    assert history._incomplete()
