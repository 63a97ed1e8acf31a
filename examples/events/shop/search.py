"""Search and the category tree: recursion, regular expressions, indexes, generators."""

from __future__ import annotations

import array
import graphlib
import heapq
import logging
import re
from abc import ABC, abstractmethod
from collections import ChainMap, deque
from collections.abc import Iterator
from typing import Any

import sentry_sdk

from .registry import fault
from .world import World, small_stack

log = logging.getLogger("shop.search")


class QuerySyntaxError(SyntaxError):
    """The customer's query cannot be parsed. Not the interpreter's fault, despite its base class."""


class IndexCorrupted(RuntimeError):
    pass


class Ranker(ABC):
    @abstractmethod
    def score(self, document: dict[str, Any]) -> float: ...


class PopularityRanker(Ranker):
    """Abstract by accident: somebody renamed `score` in the base class."""

    def rank(self, document: dict[str, Any]) -> float:
        return float(document["stock"])


class Category:
    def __init__(self, name: str, parent: Category | None = None) -> None:
        self.name = name
        self.parent = parent

    def path(self) -> str:
        return self.name if self.parent is None else f"{self.parent.path()} › {self.name}"

    def __repr__(self) -> str:
        return f"<Category {self.name}>"


@fault
def category_is_its_own_parent(world: World) -> None:
    """Deep recursion: over a hundred frames in one traceback."""
    root = Category("чай")
    root.parent = Category("напитки", root)
    with small_stack(frames=130):
        Category(world.query(), root).path()


def parse_expression(tokens: deque[str], depth: int = 0) -> list[Any]:
    tree: list[Any] = []
    while tokens:
        token = tokens.popleft()
        if token == "(":
            tree.append(parse_expression(tokens, depth + 1))
        elif token == ")":
            if depth == 0:
                raise QuerySyntaxError("‘)’ without ‘(’", ("<query>", 1, len(tree) + 1, " ".join(map(str, tree))))
            return tree
        else:
            tree.append(token)
    if depth:
        raise QuerySyntaxError(f"{depth} ‘(’ are never closed")
    return tree


@fault
def unbalanced_query(world: World) -> None:
    """Twenty to forty frames of honest recursive descent."""
    tokens = deque("( " * world.rng.randrange(20, 40) + world.query(), maxlen=200)
    parse_expression(deque(token for token in tokens if token != " "))


@fault
def unbalanced_query_the_other_way(world: World) -> None:
    parse_expression(deque([*world.query().split(), ")", ")"]))


@fault
def bad_regular_expression(world: World) -> None:
    pattern = f"(?P<wort>{world.query()}"
    re.compile(pattern)


@fault
def bad_group_reference(world: World) -> None:
    re.sub(r"(\w+) (\w+)", r"\3 \1", world.text(5))


@fault
def index_changes_while_iterated(world: World) -> None:
    index: dict[str, set[str]] = {token: set() for token in world.text(30).split()}
    for token in index:
        index[token + "·stem"] = {token}


@fault
def ranker_is_abstract(world: World) -> None:
    PopularityRanker().score(world.product())  # type: ignore[abstract]


@fault
def ranker_is_not_written_yet(world: World) -> None:
    def semantic_score(query: str, documents: list[dict[str, Any]]) -> float:
        raise NotImplementedError(f"semantic ranking of {query!r} over {len(documents)} documents")

    semantic_score(world.query(), [world.product() for _ in range(12)])


@fault
def heap_of_things_that_do_not_compare(world: World) -> None:
    heap: list[tuple[int, dict[str, Any]]] = []
    for _ in range(5):
        heapq.heappush(heap, (1, world.product()))


@fault
def stop_iteration_in_a_generator(world: World) -> None:
    """PEP 479: StopIteration inside a generator becomes a RuntimeError with a cause."""

    def hits() -> Iterator[dict[str, Any]]:
        documents = iter(world.lines(2, 3))
        while True:
            yield next(documents)

    for hit in hits():
        sentry_sdk.add_breadcrumb(category="search.hit", message=hit["product"]["title"], data=hit)


@fault
def next_of_nothing(world: World) -> None:
    next(hit for hit in world.lines() if hit["quantity"] > 1_000)


@fault
def synonym_circle(world: World) -> None:
    order = graphlib.TopologicalSorter({"tee": {"chai"}, "chai": {"чай"}, "чай": {"tee", world.query()}})
    list(order.static_order())


@fault
def unknown_codec(world: World) -> None:
    world.query().encode(f"utf-{world.rng.randrange(40, 90)}")


@fault
def variable_before_assignment(world: World) -> None:
    for word in world.query().split():
        if len(word) > 1_000:
            longest = word
    print(longest)


@fault
def free_variable_before_assignment(world: World) -> None:
    def weigh() -> float:
        return boost * 2.0

    if world.product()["stock"] >= 0:
        weigh()
    boost = 1.5


@fault
def postings_do_not_fit(world: World) -> None:
    postings = array.array("B", range(200))
    postings.append(world.rng.randrange(256, 70_000))


@fault
def postings_grow_under_a_view(world: World) -> None:
    postings = bytearray(world.text(20).encode())
    with memoryview(postings):
        postings.extend(b"more")


@fault
def postings_are_too_large(world: World) -> None:
    bytearray(2**62)


@fault
def index_is_corrupted_deep_down(world: World) -> None:
    """Deeply nested locals, each level with its own types, sets and tuples."""
    shard: dict[str, Any] = {"id": world.rng.randrange(64), "segments": []}
    for number in range(4):
        shard["segments"].append(
            {
                "number": number,
                "tokens": {
                    token: {"postings": tuple(range(number + 3)), "weights": {0.5, 0.25}}
                    for token in world.text(8).split()
                },
                "meta": {"created": {"by": {"host": {"name": "индекс-1", "rack": {"row": "Ä", "slot": number}}}}},
            }
        )
    overrides: ChainMap[str, Any] = ChainMap({"checksum": world.hex(8)}, {"checksum": world.hex(8), "shard": shard})
    raise IndexCorrupted(f"checksum {overrides['checksum']} of shard {shard['id']}")


@fault
def logged_with_logging_exception(world: World) -> None:
    """Reported by the SDK's logging integration, not by the caller: nothing is raised here."""
    query = world.query()
    log.info("searching for %s", query)
    try:
        float(query)
    except ValueError:
        log.exception("query %r from shard %d is no price", query, world.rng.randrange(16))


@fault
def logged_without_an_exception(world: World) -> None:
    log.error("index %s lags behind by %d documents ⏳", world.hex(4), world.rng.randrange(1_000, 90_000))


@fault
def logged_as_critical(world: World) -> None:
    try:
        raise IndexCorrupted(f"segment {world.hex(6)} fehlt")
    except IndexCorrupted as exc:
        log.critical("search is down: %s", exc, exc_info=True, extra={"shards": list(range(8)), "сервер": "s-3"})
