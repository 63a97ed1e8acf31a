"""Supplier feeds: every format there is, and each of them broken."""

from __future__ import annotations

import ast
import configparser
import csv
import gzip
import io
import json
import lzma
import pickle
import sqlite3
import tarfile
import tomllib
import zipfile
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

import sentry_sdk

from .registry import fault
from .world import World


class ImportFailed(Exception):
    """A feed could not be imported; the parser's own error is the cause."""


def big_feed(world: World, rows: int) -> str:
    return json.dumps([world.product() | {"row": row} for row in range(rows)], ensure_ascii=False, indent=1)


@fault
def json_feed_is_cut_off(world: World) -> None:
    """The local variable is the whole feed: these are the big events."""
    feed = big_feed(world, world.rng.randrange(10, 60))
    cut = feed[: len(feed) - world.rng.randrange(5, 60)]
    sentry_sdk.set_extra("feed_bytes", len(feed.encode()))
    json.loads(cut)


@fault
def json_feed_with_a_comma_too_many(world: World) -> None:
    document = '{"sku": "%s", "título": "Té",, "price": 3}' % world.product()["sku"]
    try:
        json.loads(document)
    except json.JSONDecodeError as exc:
        raise ImportFailed(f"line {exc.lineno} column {exc.colno}: {exc.msg}") from exc


@fault
def json_of_a_set(world: World) -> None:
    json.dumps({"skus": {line["product"]["sku"] for line in world.lines()}})


@fault
def json_of_a_cycle(world: World) -> None:
    category: dict[str, Any] = {"name": "чай", "products": world.lines()}
    category["parent"] = {"name": "все", "children": [category]}
    json.dumps(category)


@fault
def latin1_feed_read_as_utf8(world: World) -> None:
    raw = "; ".join(["Crème brûlée", "Thé à la menthe", world.hex(6)]).encode("latin-1")
    raw.decode("utf-8")


@fault
def feed_for_a_terminal_that_cannot(world: World) -> None:
    world.query().join(["„", "“ — ☕"]).encode("cp1252")


@fault
def lone_surrogate(world: World) -> None:
    title = "broken \ud83d emoji " + world.hex(4)
    title.encode("utf-8")


@fault
def csv_with_a_huge_field(world: World) -> None:
    rows = csv.reader(["sku;beschreibung", "A;" + "x" * (csv.field_size_limit() + 1)], delimiter=";")
    for row in rows:
        row[0]


@fault
def xml_with_the_wrong_closing_tag(world: World) -> None:
    ElementTree.fromstring(f"<катал><item sku='{world.hex(4)}'>☕</item></каталог>")


@fault
def toml_with_a_duplicate_key(world: World) -> None:
    tomllib.loads(f'name = "фид"\nlimit = {world.rng.randrange(9)}\nname = "feed"\n')


@fault
def ini_without_a_section(world: World) -> None:
    configparser.ConfigParser().read_string("url = https://feeds.shop.example/x\n", source="поставщик.ini")


@fault
def ini_with_a_circle(world: World) -> None:
    parser = configparser.ConfigParser()
    parser.read_string("[feed]\na = %(b)s\nb = %(a)s\n")
    parser.get("feed", "a")


@fault
def zip_that_is_not(world: World) -> None:
    archive = io.BytesIO(world.text(200).encode())
    zipfile.ZipFile(archive)


@fault
def gzip_that_is_not(world: World) -> None:
    gzip.decompress(b"PK\x03\x04" + bytes.fromhex(world.hex(64)))


@fault
def gzip_that_ends_early(world: World) -> None:
    compressed = gzip.compress(world.text(500).encode())
    gzip.decompress(compressed[: len(compressed) // 2])


@fault
def zlib_with_flipped_bits(world: World) -> None:
    compressed = bytearray(zlib.compress(world.text(300).encode()))
    compressed[len(compressed) // 2] ^= 0xFF
    zlib.decompress(bytes(compressed[:-4]) + b"\0\0\0\0")


@fault
def lzma_of_garbage(world: World) -> None:
    lzma.decompress(bytes.fromhex(world.hex(80)))


@fault
def tar_of_garbage(world: World) -> None:
    tarfile.open(fileobj=io.BytesIO(world.text(900).encode()))


def warehouse() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE produkte (sku TEXT PRIMARY KEY, preis INTEGER NOT NULL CHECK (preis > 0))")
    return connection


@fault
def product_imported_twice(world: World) -> None:
    product = world.product()
    with warehouse() as connection:
        for _ in range(2):
            connection.execute("INSERT INTO produkte VALUES (?, ?)", (product["sku"], 100))


@fault
def column_that_is_not_there(world: World) -> None:
    warehouse().execute("SELECT sku, größe FROM produkte WHERE sku = ?", (world.product()["sku"],))


@fault
def statement_with_missing_bindings(world: World) -> None:
    warehouse().execute("INSERT INTO produkte VALUES (?, ?)", (world.product()["sku"],))


@fault
def day_that_does_not_exist(world: World) -> None:
    datetime(2026, 2, 29 + world.rng.randrange(2), tzinfo=UTC)


@fault
def time_zone_that_does_not_exist(world: World) -> None:
    customer = world.customer()
    ZoneInfo(f"Europe/{customer['address']['city']}")


@fault
def naive_meets_aware(world: World) -> None:
    seen = {"supplier": datetime(2026, 1, world.rng.randrange(1, 28)), "shop": datetime.now(UTC)}
    max(seen.values())


@fault
def formula_with_a_syntax_error(world: World) -> None:
    compile(f"price * (1 + {world.rng.randrange(5, 25)}%", "<формула>", "eval")


@fault
def formula_with_bad_indentation(world: World) -> None:
    ast.parse("def preis(x):\nreturn x * 2\n", filename="<формула>")


@fault
def literal_that_calls(world: World) -> None:
    ast.literal_eval(f"open('{world.hex(4)}')")


@fault
def pickle_that_ends_early(world: World) -> None:
    pickle.loads(pickle.dumps(world.order())[:-20])


@fault
def pickle_of_nothing(world: World) -> None:
    pickle.load(io.BytesIO())


@fault
def pickle_of_a_lambda(world: World) -> None:
    handlers = {"on_import": lambda row: row}
    pickle.dumps(handlers)


def checked_rows(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A generator pipeline: the error surfaces in the consumer, three generators away."""
    for number, row in enumerate(rows):
        if "ean" not in row:
            raise ImportFailed(f"row {number} ({row['title']}) has no EAN")
        yield row


def priced_rows(rows: Iterator[dict[str, Any]]) -> Iterator[tuple[str, float]]:
    for row in rows:
        yield row["sku"], float(row["price"])


@fault
def generator_pipeline(world: World) -> None:
    products = [world.product() | {"ean": world.hex(13)} for _ in range(world.rng.randrange(2, 9))]
    products.append(world.product())
    dict(priced_rows(checked_rows(products)))


@fault
def file_that_was_closed(world: World) -> None:
    with io.StringIO(big_feed(world, 3)) as feed:
        pass
    feed.readline()


@fault
def write_to_a_reader(world: World) -> None:
    io.BufferedReader(io.BytesIO(world.text(4).encode())).write(b"x")
