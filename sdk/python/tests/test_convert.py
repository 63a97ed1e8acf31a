"""What arrives is what the parameters are annotated with, as far as Coda makes such things."""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import decimal
import enum
import typing
import uuid
from typing import Any, NamedTuple, NewType, Optional, TypedDict

import coda
import pytest
from coda._convert import Arguments, converter


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Item:
    name: str
    price: decimal.Decimal = decimal.Decimal(1)
    computed: int = dataclasses.field(init=False, default=3)


@dataclasses.dataclass
class Order:
    id: uuid.UUID
    items: list[Item]
    parent: Order | None = None
    colour: Colour = Colour.RED
    notes: dict[str, Item] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Refund:
    order: int


class Typed(TypedDict):
    item: Item
    other: int


class Pair(NamedTuple):
    left: Item
    right: int


OrderId = NewType("OrderId", uuid.UUID)
ITEM = {"name": "a", "price": "2.5"}
U = uuid.UUID(int=1)


@pytest.mark.parametrize(
    ("annotation", "raw", "made"),
    [
        (Item, ITEM, Item("a", decimal.Decimal("2.5"))),
        (Item, {**ITEM, "from_a_newer_version": 1}, Item("a", decimal.Decimal("2.5"))),
        (Optional[Item], None, None),
        (Optional[Item], ITEM, Item("a", decimal.Decimal("2.5"))),
        (list[Item], [{"name": "a"}], [Item("a")]),
        (tuple[Item, int], [{"name": "a"}, 1], (Item("a"), 1)),
        (tuple[int, ...], [1, 2], (1, 2)),
        (set[int], [1, 1], {1}),
        (frozenset[str], ["a"], frozenset("a")),
        (collections.abc.Sequence[Item], [{"name": "a"}], [Item("a")]),
        (dict[str, Item], {"k": {"name": "a"}}, {"k": Item("a")}),
        (dict[uuid.UUID, int], {str(U): 1}, {U: 1}),
        (Colour, "red", Colour.RED),
        (OrderId, str(U), U),
        (typing.Annotated[datetime.date, "x"], "2026-01-02", datetime.date(2026, 1, 2)),
        (datetime.datetime, datetime.datetime(2026, 1, 1), datetime.datetime(2026, 1, 1)),
        (Typed, {"item": {"name": "a"}, "other": 1}, {"item": Item("a"), "other": 1}),
        (Pair, [{"name": "a"}, 2], Pair(Item("a"), 2)),
        (typing.Union[Order, Refund], {"order": 1}, Refund(1)),
        (typing.Union[str, uuid.UUID], "not a uuid", "not a uuid"),
        (
            Order,
            {"id": str(U), "items": [{"name": "a"}], "parent": {"id": str(U), "items": []}},
            Order(U, [Item("a")], Order(U, [])),
        ),
    ],
)
def test_annotations_are_honoured(annotation: Any, raw: Any, made: Any) -> None:
    convert = converter(annotation)
    assert convert is not None
    assert convert(raw) == made


@pytest.mark.parametrize(
    "annotation", [int, str, Any, dict, list, list[int], dict[str, int], int | None, "unknown", object]
)
def test_annotations_that_ask_for_nothing_cost_nothing(annotation: Any) -> None:
    assert converter(annotation) is None


def arguments(fn: Any) -> Arguments:
    return Arguments(fn, fn.__name__)


def test_arguments_are_bound_by_name_where_possible() -> None:
    def named(a: int, b: int = 2, *, c: int = 3) -> None: ...

    def by_position(a: int, /, *rest: int) -> None: ...

    def anything(a: int, **kwargs: Any) -> None: ...

    assert arguments(named).bind([1]) == {"a": 1}
    assert arguments(named).bind({"a": 1, "c": 2}) == {"a": 1, "c": 2}
    assert arguments(by_position).bind([1, 2, 3]) == [1, 2, 3]
    assert arguments(anything).bind({"a": 1, "zzz": 2}) == {"a": 1, "zzz": 2}
    for fn, args in [
        (named, {}),
        (named, {"a": 1, "d": 1}),
        (by_position, {"a": 1}),
        (anything, []),
        (named, 5),
        (named, "a"),
    ]:
        with pytest.raises(TypeError, match=fn.__name__):
            arguments(fn).bind(args)


def test_received_arguments_are_converted_by_name_and_by_position() -> None:
    def fn(item: Item, n: int = 0) -> None: ...

    assert arguments(fn).received({"item": {"name": "a"}, "n": 1}) == ([], {"item": Item("a"), "n": 1})
    assert arguments(fn).received([{"name": "a"}]) == ([Item("a")], {})
    assert arguments(fn).received(None) == ([], {})
    with pytest.raises(coda.CodecError, match="argument `item`"):
        arguments(fn).received({"item": {"price": "1"}})
    with pytest.raises(coda.CodecError, match="neither an object nor a list"):
        arguments(fn).received(7)


def test_annotations_that_cannot_be_resolved_are_left_alone() -> None:
    def fn(a: DoesNotExist) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    assert arguments(fn).received({"a": 1}) == ([], {"a": 1})
