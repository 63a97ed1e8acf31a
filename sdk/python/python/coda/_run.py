"""A run that this worker executes: its memo, the steps it has spawned, and what it still waits for.

lease ──▶ EXECUTING ──function returns or raises──▶ complete ──▶ over
             │  ▲
    only waits  │ not idle
             ▼  │
           PARKING ──▶ over (cancelled here; runs again from the top when a step ends)

lost or released: over, cancelled at once; whatever it still asks for, or waits for, raises LeaseLostError
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakSet

from ._codec import JSON, decode_payload, encode_payload
from ._context import CURRENT_RUN, CURRENT_TASK
from ._definitions import Definition, Task, Workflow, check_name
from ._errors import CodaError, LeaseLostError, Rejected, RunFailed, TaskFailed
from ._failure import failure_of
from ._handle import Handle, Step, only_waits_for_steps
from ._host import Host
from ._ids import text_of
from ._keys import NoCache, auto_key, explicit_key, fresh_key
from ._native import SPAWN_BYTES_MAX, SPAWN_STEPS_MAX
from ._options import Args, CacheKey, SpawnOptions, resolve
from ._wire import (
    COMPLETE_RUN,
    PARK_RUN,
    RECORD_STEP,
    RELEASE,
    SPAWN,
    STEP_INLINE,
    STEP_WORKFLOW,
    TASK,
    WORK_RUN,
    Event,
    Outcome,
    Payload,
    StepKey,
)

__all__: list[str] = []

log = logging.getLogger("coda.worker")

# A timer that is due takes a moment to have its effect.
_TIMER_SLACK_SECONDS = 0.1


class Run:
    """One execution of one run. `on_over` is called once, when the lease is no longer this worker's to keep."""

    def __init__(
        self,
        event: Event,
        definition: Workflow[..., Any],
        host: Host,
        on_over: Callable[[Run], None],
    ) -> None:
        self.id: bytes
        self.lease: int
        self.queue: str
        self.workflow: str
        self.attempt: int
        #: The largest number of ended steps that this execution knows of.
        self.seen: int
        _, self.id, self.lease, self.queue, self.workflow, self._input, self.attempt, self.seen, memo = event
        self.loop = host.loop
        self.over = False
        self.waiting_since = host.loop.time()
        self.cancelled_at = 0.0
        self._definition = definition
        self._host = host
        self._channel = host.channel
        self._on_over = on_over
        self._thread = threading.get_ident()
        self._memo: dict[StepKey, Outcome] = {(kind, name, key): outcome for kind, name, key, outcome in memo}
        self._steps: dict[StepKey, Step] = {}
        self._calls: dict[tuple[int, str], int] = {}
        self._fresh = 0
        self._batch: list[tuple[Step, tuple[Any, ...]]] = []
        #: Spawns and inline steps that are under way: what makes a run more than a wait.
        self._busy = 0
        self._inline_tasks: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        #: What is to be done when a stopped execution has ended.
        self._then: Callable[[], None] | None = None
        #: What the workflow function has started beside itself.
        self._tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        #: No timer of this run is due after this moment, in loop time.
        self._timers_until = 0.0

    # Execution

    def start(self) -> None:
        self._task = self.loop.create_task(self._execute())

    async def _execute(self) -> None:
        CURRENT_RUN.set(self)
        outcome: Outcome
        try:
            positional, named = self._definition.arguments.received(decode_payload(self._input))
            result = await self._definition.fn(*positional, **named)
            outcome = self._definition.encode_result(result)
        except BaseException as error:
            # Cancelled from outside, or the code has noticed that the lease is gone: nobody asks for its outcome.
            if self.over:
                return
            if self._host.interrupts(error):
                self._hand_back()
                raise
            outcome = failure_of(error, self._definition.retries.retryable(error))
        if not self.over:
            self._complete(outcome)

    def _complete(self, outcome: Outcome) -> None:
        self.over = True
        self._pack()
        self._channel.ask(lambda _, error: self._completed(outcome, error), COMPLETE_RUN, self.id, self.lease, outcome)
        self._on_over(self)

    def _completed(self, outcome: Outcome, error: CodaError | None) -> None:
        if isinstance(error, Rejected) and len(outcome) == 2:
            # The result cannot be recorded. Say so in its place.
            return self._complete(failure_of(error, False))
        if error is not None:
            log.warning("the outcome of run %s was not recorded: %s", text_of(self.id), error)
            self._channel.port.abandon(WORK_RUN, self.id, self.lease)

    def stop(self, then: Callable[[], None]) -> None:
        """Cancels the execution, whose outcome nobody wants any more. `then` is called when it has stopped."""
        if self.over:
            return
        self.over = True
        self._then = then
        if self._task is None or self._task.done():
            return self.stopped()
        self._task.add_done_callback(self.stopped)
        self.cancel()
        # Whoever catches the cancellation and goes on waits in vain.
        error = self._superseded()
        for step in list(self._steps.values()):
            step.refuse(error)

    def cancel(self) -> None:
        self.cancelled_at = self.loop.time()
        for task in (*self._inline_tasks, *self._tasks, self._task):
            if task is not None:
                task.cancel()

    def stopped(self, _: object = None) -> None:
        """The execution has stopped, or is not waited for any longer."""
        then, self._then = self._then, None
        if then is not None:
            then()
            self._on_over(self)

    def _hand_back(self) -> None:
        """The loop is being torn down around it: that is no failure of the run."""
        self.over = True
        self._channel.ask(lambda *_: None, RELEASE, WORK_RUN, self.id, self.lease)
        self._on_over(self)

    # Steps

    def spawn(
        self,
        kind: int,
        target: Definition[Any] | str,
        args: Args | None,
        options: SpawnOptions,
    ) -> Handle[Any]:
        self._check_usable()
        definition = self._host.app.definition(target, Workflow if kind == STEP_WORKFLOW else Task)
        name = check_name(target, "task") if isinstance(target, str) else target.name
        key = self._key(kind, name, options.pop("cache_key", None))
        decode = definition.decode_result if definition else decode_payload
        failed = RunFailed if kind == STEP_WORKFLOW else TaskFailed
        # What is wrong with a call is wrong on every execution, also when the result is known.
        bound = args if definition is None else definition.arguments.bind(args)
        rest = resolve(options, definition)
        step = self._steps.get(key)
        if step is None:
            step = self._steps[key] = Step(key)
            known = self._memo.pop(key, None)
            if known is not None:
                step.end(known)
            else:
                payload = definition.encode_args(bound) if definition else encode_untyped(name, bound)
                queue, priority, policy, delay = rest
                if not self._batch:
                    self._channel.pack_later(self._pack)
                self._batch.append((step, (*key, queue, payload, priority, policy, delay)))
        return Handle(step, decode, failed, loop=self.loop)

    def _key(self, kind: int, name: str, cache_key: CacheKey | None) -> StepKey:
        if cache_key is None:
            n = self._calls.get((kind, name), 0)
            self._calls[kind, name] = n + 1
            return kind, name, auto_key(n)
        if isinstance(cache_key, NoCache):
            self._fresh += 1
            return kind, name, fresh_key(self.lease, self._fresh)
        return kind, name, explicit_key(cache_key)

    def _check_usable(self) -> None:
        if self.over:
            raise self._superseded()
        if threading.get_ident() != self._thread:
            raise RuntimeError(
                "coda.context was used in another thread: spawn steps from the workflow function itself, "
                "and do blocking work in a task"
            )

    def _superseded(self) -> LeaseLostError:
        return LeaseLostError(
            "this execution of the run is over: another one has superseded it, or its function has returned",
            code="CODA2014",
        )

    def _pack(self) -> None:
        """Sends what was spawned since the last batch, in as few requests as the limits allow."""
        steps: list[tuple[Step, tuple[Any, ...]]] = []
        size = 0
        batch, self._batch = self._batch, []
        for item in batch:
            length = len(item[1][4][1])
            if steps and (len(steps) == SPAWN_STEPS_MAX or size + length > SPAWN_BYTES_MAX):
                self._ask_spawn(steps)
                steps, size = [], 0
            steps.append(item)
            size += length
        if steps:
            self._ask_spawn(steps)

    def _ask_spawn(self, batch: list[tuple[Step, tuple[Any, ...]]]) -> None:
        self._busy += 1
        self._channel.ask(
            lambda states, error: self._spawned(batch, states, error),
            SPAWN,
            self.id,
            self.lease,
            [wire for _, wire in batch],
        )

    def _spawned(
        self, batch: list[tuple[Step, tuple[Any, ...]]], states: list[Outcome | None], error: CodaError | None
    ) -> None:
        self._not_busy()
        if error is None:
            for (step, _), outcome in zip(batch, states, strict=True):
                if outcome is not None:
                    self.step_ended(step.key, outcome, 0)
        elif isinstance(error, LeaseLostError):
            # The link tells of the loss itself; until then nothing more happens here.
            return
        elif len(batch) > 1 and not self.over:
            # One of them is refused. Its neighbours should not suffer.
            for item in batch:
                self._ask_spawn([item])
        else:
            batch[0][0].refuse(error)
            if self.over:
                log.warning("run %s: the spawn of %s was refused: %s", text_of(self.id), batch[0][0].key[1], error)

    def step_ended(self, key: StepKey, outcome: Outcome, steps_ended: int) -> None:
        self.steps_seen(steps_ended)
        step = self._steps.get(key)
        if step is None:
            self._memo[key] = outcome
        else:
            self.waiting_since = self.loop.time()
            step.end(outcome)

    def steps_seen(self, steps_ended: int) -> None:
        if steps_ended > self.seen:
            self.seen = steps_ended

    # Inline steps

    def inline(
        self,
        task: Task[..., Any, Any],
        args: Args | None,
        cache_key: CacheKey | None,
    ) -> Handle[Any]:
        self._check_usable()
        bound = task.arguments.bind(args)
        key = self._key(STEP_INLINE, task.name, cache_key)
        step = self._steps.get(key)
        if step is None:
            step = self._steps[key] = Step(key)
            known = self._memo.pop(key, None)
            if known is not None:
                step.end(known)
            else:
                self._busy += 1
                running = self.loop.create_task(self._run_inline(step, task, bound))
                self._inline_tasks.add(running)
                running.add_done_callback(self._inline_tasks.discard)
        return Handle(step, task.decode_result, TaskFailed, loop=self.loop)

    async def _run_inline(self, step: Step, task: Task[..., Any, Any], args: Any) -> None:
        CURRENT_RUN.set(None)
        positional, named = ([], args) if isinstance(args, Mapping) else (args, {})
        max_retries = task.retries.max_retries
        retry = 0
        while True:
            CURRENT_TASK.set((TASK, None, 0, self.queue, task.name, None, retry + 1, max_retries - retry, self.id))
            try:
                if task.executor == "loop":
                    result = await task.fn(*positional, **named)
                else:
                    result = await self._in_thread(lambda: task.fn(*positional, **named))
                payload = task.encode_result(result)
            except BaseException as error:
                if self._host.interrupts(error):
                    raise
                if self.over:
                    # Stopped: whatever it led to is nobody's to hear of.
                    return
                retry += 1
                if retry > max_retries or not task.retries.retryable(error):
                    self._not_busy()
                    return step.end(failure_of(error, False), error)
                await asyncio.sleep(task.retries.backoff.delay(retry, random.random()))
            else:
                break
        if not self.over:
            self._record(step, payload)

    def _not_busy(self) -> None:
        self._busy -= 1
        self.waiting_since = self.loop.time()

    def _in_thread(self, call: Callable[[], Any]) -> asyncio.Future[Any]:
        done: asyncio.Future[Any] = self.loop.create_future()

        def then(result: Any, error: BaseException | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(result)
            elif isinstance(error, StopIteration):
                # The one exception that a future refuses.
                done.set_exception(RuntimeError(f"the function raised {error!r}"))
            else:
                done.set_exception(error)

        self._host.threads.run(call, then)
        return done

    def _record(self, step: Step, payload: Payload) -> None:
        def recorded(result: Payload, error: CodaError | None) -> None:
            self._not_busy()
            # The recorded result, which is another execution's if that came first.
            if error is None:
                step.end(result)
            elif not isinstance(error, LeaseLostError):
                step.refuse(error)

        _, name, key = step.key
        self._channel.ask(recorded, RECORD_STEP, self.id, self.lease, name, key, payload)

    # Parking

    def only_waits(self) -> bool:
        """Whether nothing but the end of a step can make this run go on, and another execution would find that end."""
        if self.over or self._busy or self._batch or self._task is None:
            return False
        if self.loop.time() < self._timers_until + _TIMER_SLACK_SECONDS:
            return False
        pending = [step for step in self._steps.values() if not step.ended]
        # The next execution would run a step without caching again, and might never get further than this one.
        if not pending or any(step.is_fresh for step in pending):
            return False
        return all(task.done() or only_waits_for_steps(task) for task in (self._task, *self._tasks))

    def note_timer(self, when: float) -> None:
        self._timers_until = max(self._timers_until, when)

    def note_task(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)

    def park_if_idle(self, idle_seconds: float) -> None:
        """Gives up the slot of a run that has only waited for so long."""
        if self.loop.time() - self.waiting_since < idle_seconds or not self.only_waits():
            return
        # Counted as busy, so that it is asked once at a time.
        self._busy += 1
        self._channel.ask(self._parked, PARK_RUN, self.id, self.lease, self.seen)

    def _parked(self, _: None, error: CodaError | None) -> None:
        self._not_busy()
        if error is None:
            self.stop(lambda: None)
        elif not isinstance(error, Rejected | LeaseLostError):
            log.debug("run %s was not parked: %s", text_of(self.id), error)


def encode_untyped(name: str, args: Args | None) -> Payload:
    if isinstance(args, str | bytes) or not (args is None or isinstance(args, Mapping | list | tuple)):
        raise TypeError(f"{name}: args must be a mapping of names, or a list of values, not {args!r}")
    plain = {} if args is None else dict(args) if isinstance(args, Mapping) else list(args)
    return encode_payload(JSON, plain, f"the arguments of {name}")
