"""Cache keys: different parts never make the same bytes, and the bytes are those of the Rust SDK."""

from __future__ import annotations

import datetime
import enum
import uuid
from typing import Any

import coda
import pytest
from coda._ids import new_id, parse_id, text_of
from coda._keys import auto_key, explicit_key, fresh_key
from hypothesis import given
from hypothesis import strategies as st


class Colour(enum.Enum):
    RED = 1


class Shade(enum.Enum):
    RED = 1


class Number(enum.IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    ("parts", "hex"),
    [
        # As crates/protocol/src/cache_key.rs encodes them.
        ([], "01"),
        ([None], "0100"),
        ([True], "010101"),
        ([1], "01020000000000000001"),
        ([-1], "0102ffffffffffffffff"),
        ([0.5], "01033fe0000000000000"),
        (["ab"], "0104000000026162"),
        ([b"ab"], "0105000000026162"),
        ([["a"], "b"], "0106000000010400000001610400000001" + "62"),
    ],
)
def test_the_bytes_are_those_of_the_protocol(parts: list[Any], hex: str) -> None:
    assert explicit_key(parts).hex() == hex


def test_keys_of_other_kinds() -> None:
    assert auto_key(258).hex() == "0000000102"
    assert fresh_key(1, 2).hex() == "02" + "0000000000000001" + "00000002"


part = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False).filter(lambda x: x != 0)
    | st.text(max_size=4)
    | st.binary(max_size=4)
    | st.just("$coda")
    | st.sampled_from(["int", "list", "uuid", "00000000000000000000000000000001"])
    | st.just(uuid.UUID(int=1))
    | st.datetimes()
    | st.dates()
    | st.sampled_from([Colour.RED, Shade.RED, Number.ONE]),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)


def typed(value: Any) -> Any:
    """Equality that tells 1, 1.0, True and an enum apart."""
    return [typed(item) for item in value] if isinstance(value, list) else (type(value), value)


@given(st.lists(part, max_size=4), st.lists(part, max_size=4))
def test_different_parts_make_different_keys(a: list[Any], b: list[Any]) -> None:
    assert (explicit_key(a) == explicit_key(b)) == (typed(a) == typed(b))


def test_lists_and_tuples_are_the_same_key() -> None:
    assert explicit_key((1, ("a",))) == explicit_key([1, ["a"]])


@pytest.mark.parametrize("wrong", [object(), {1}, {"a": 1}, datetime.timedelta(1), 1j, bytearray(b"x")])
def test_other_types_are_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="a cache key cannot hold"):
        explicit_key([wrong])


@pytest.mark.parametrize("wrong", ["abc", b"abc", 5, {"a": 1}])
def test_a_key_is_a_list(wrong: Any) -> None:
    with pytest.raises(TypeError, match="must be a list or tuple"):
        explicit_key(wrong)


def test_a_key_over_the_bound_is_refused() -> None:
    with pytest.raises(coda.TooLargeError) as refused:
        explicit_key(["x" * 2_000])
    assert refused.value.code == "CODA2005"


def test_ids_are_uuids_ordered_by_time() -> None:
    ids = [new_id() for _ in range(3)]
    assert all(uuid.UUID(bytes=each).version == 7 for each in ids)
    assert text_of(ids[0]) == str(uuid.UUID(bytes=ids[0]))
    assert parse_id(text_of(ids[0])) == ids[0] == parse_id(uuid.UUID(bytes=ids[0]))
    with pytest.raises(ValueError, match=r"coda\.id_for\('order-17'\)"):
        parse_id("order-17")


def test_derived_ids_are_stable_and_differ_with_their_parts() -> None:
    assert coda.id_for("order", 17) == coda.id_for("order", 17) == "578c7e43-e0a3-5b4c-8171-7a8e56a53c3b"
    assert coda.id_for("order", 18) != coda.id_for("order", 17)
    # Version 8 would be read as an id that carries its slot.
    assert uuid.UUID(coda.id_for("order", 17)).version == 5
