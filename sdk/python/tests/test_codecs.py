"""Codecs: what goes in comes out, nothing is guessed, and nothing that is read runs code."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import io
import json
import math
import uuid
from collections import OrderedDict
from pathlib import Path
from typing import Any

import coda
import pytest
from coda._codec import JSON, decode_payload, encode_payload
from hypothesis import given, settings
from hypothesis import strategies as st


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    y: Any


def round_trip(value: Any) -> Any:
    return JSON.decode(JSON.encode(value))


atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.uuids()
    | st.datetimes()
    | st.datetimes(timezones=st.just(datetime.timezone.utc))
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
)
keys = st.text() | st.just("$coda") | st.sampled_from(["v", "t"])
hashable = st.integers() | st.text() | st.binary() | st.tuples(st.integers(), st.text())
values = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(keys, inner)
        | st.dictionaries(hashable, inner)
        | st.lists(inner).map(tuple)
        | st.sets(hashable)
        | st.frozensets(hashable)
    ),
    max_leaves=20,
)


@settings(deadline=None)
@given(values)
def test_every_supported_value_survives(value: Any) -> None:
    assert round_trip(value) == value
    assert same_types(round_trip(value), value)


def same_types(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return all(same_types(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return all(same_types(x, y) for x, y in zip(a, b, strict=True))
    return True


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda i: st.lists(i) | st.dictionaries(st.text(), i)
    )
)
def test_plain_json_is_written_as_plain_json(value: Any) -> None:
    if "$coda" not in json.dumps(value):
        assert json.loads(JSON.encode(value)) == value


@pytest.mark.parametrize(
    "value", [{"$coda": "uuid", "v": "x"}, {"$coda": 1}, [{"$coda": None}], {"a": {"$coda": "tuple", "v": []}}]
)
def test_a_users_tag_is_not_taken_for_ours(value: Any) -> None:
    assert round_trip(value) == value


def test_floats_that_are_no_numbers() -> None:
    assert math.isnan(round_trip(math.nan))
    assert round_trip([math.inf, -math.inf]) == [math.inf, -math.inf]
    assert json.loads(JSON.encode(1e400)) == {"$coda": "float", "v": "inf"}


def test_lone_surrogates_survive() -> None:
    assert round_trip({"a": "\ud800"}) == {"a": "\ud800"}


def test_an_enum_travels_as_its_value_and_a_dataclass_as_its_fields() -> None:
    assert round_trip(Colour.RED) == "red"
    assert round_trip(Point(1, Point(2, {3}))) == {"x": 1, "y": {"x": 2, "y": {3}}}
    assert round_trip(OrderedDict(a=1)) == {"a": 1}


def test_what_cannot_be_encoded_is_refused_with_its_place() -> None:
    with pytest.raises(coda.CodecError, match=r"`orders\[1\]\.x` is of type object, which JSON cannot carry"):
        JSON.encode({"orders": [1, Point(object(), 1)]})
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(coda.CodecError, match="contains itself"):
        JSON.encode(loop)


class Model:
    def model_dump(self) -> dict[str, int]:
        return {}


class Array:
    def tolist(self) -> list[int]:
        return []


async def never() -> None: ...


@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (object, "make its class a dataclass"),
        (lambda: Path("/tmp"), r"str\(\.\.\.\)"),
        (lambda: io.StringIO("x"), "what it holds"),
        (lambda: iter([1]), "a list of its items"),
        (lambda: ValueError("x"), r"str\(\.\.\.\)"),
        (Model, r"model_dump\(\)"),
        (Array, r"tolist\(\)"),
        (lambda: print, "pass its name"),
    ],
)
def test_the_error_names_the_argument_and_the_way_out(app: coda.App, make: Any, advice: str) -> None:
    @app.task(name="charge")
    def charge(order: Any, **more: Any) -> None: ...

    place = r"the arguments of charge: `order\.items\[1\]` is of type "
    with pytest.raises(coda.CodecError, match=f"{place}.*: .*{advice}"):
        charge.encode_args({"order": {"items": [1, make()]}})


def test_an_awaitable_is_to_be_awaited_first() -> None:
    coroutine = never()
    with pytest.raises(coda.CodecError, match="await it first"):
        JSON.encode({"a": coroutine})
    coroutine.close()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff",
        b'{"$coda":"os.system","v":"true"}',
        b'{"$coda":"uuid"}',
        b'{"$coda":"uuid","v":"nope"}',
        b'{"$coda":"bytes","v":1}',
        b'{"$coda":"set","v":[[]]}',
        b'{"\\u0024coda":"date","v":"x"}',
        b"[" * 100_000,
    ],
)
def test_bytes_that_are_no_payload_are_a_codec_error(data: bytes) -> None:
    with pytest.raises(coda.CodecError):
        JSON.decode(data)


def test_a_payload_over_the_limit_is_refused_before_it_is_sent() -> None:
    with pytest.raises(coda.TooLargeError, match="store it elsewhere") as refused:
        encode_payload(JSON, "x" * (4 << 20), "the arguments of f")
    assert refused.value.code == "CODA2003"


def test_codecs_are_found_by_name() -> None:
    class Upper:
        name = "upper"

        def encode(self, value: Any) -> bytes:
            return str(value).upper().encode()

        def decode(self, data: bytes) -> Any:
            return data.decode().lower()

    with pytest.raises(coda.CodecError, match=r"coda\.register_codec"):
        decode_payload(("upper", b"X"))
    coda.register_codec(Upper())
    assert decode_payload(("upper", b"X")) == "x"
    app = coda.App("codecs")

    @app.task(codec="upper")
    def shout(text: str) -> str:
        return text

    assert shout.encode_result("hey") == ("upper", b"HEY")
    with pytest.raises(ValueError, match="no codec 'nope'"):
        app.task(codec="nope")(lambda: None)
    for name in ("json", "", "x" * 33):
        wrong = Upper()
        wrong.name = name
        with pytest.raises(ValueError, match="name"):
            coda.register_codec(wrong)


def test_decimals_and_ids_keep_their_precision() -> None:
    assert str(round_trip(decimal.Decimal("1.10"))) == "1.10"
    assert round_trip(uuid.UUID(int=7)) == uuid.UUID(int=7)
