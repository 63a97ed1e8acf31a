"""Mails and pages: formatting, attribute access, imports, objects whose repr is broken too."""

from __future__ import annotations

import importlib
import locale
import string
import textwrap
import weakref
from html.parser import HTMLParser
from typing import Any

import sentry_sdk

from .registry import fault
from .world import World, small_stack


class TemplateError(Exception):
    """Says where in which template; the reason is the cause."""

    def __init__(self, template: str, line: int, message: str) -> None:
        super().__init__(template, line, message)
        self.template = template
        self.line = line

    def __str__(self) -> str:
        return f"{self.args[0]}:{self.line}: {self.args[2]}"


class MissingTranslation(LookupError):
    pass


class Lazy:
    """An object that looks its attributes up in a source that it does not have yet."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)


class Unprintable:
    """Its repr raises: the SDK must survive a local variable like this one."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order

    def __repr__(self) -> str:
        raise RuntimeError("repr is broken")


class Page:
    __slots__ = ("title", "body")

    def __init__(self, title: str, body: str) -> None:
        self.title = title
        self.body = body

    @property
    def summary(self) -> str:
        return textwrap.shorten(self.body, width=10, placeholder="…" * 20)


class StrictHTML(HTMLParser):
    def handle_endtag(self, tag: str) -> None:
        if self.open_tags.pop() != tag:
            raise TemplateError("mail/order.html", self.getpos()[0], f"</{tag}> closes nothing")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open_tags.append(tag)

    def __init__(self) -> None:
        super().__init__()
        self.open_tags: list[str] = []


MAIL = string.Template(
    "Hallo ${name},\n\nIhre Bestellung ${order_id} (${total} ${currency}) ist unterwegs nach ${stadt}. 🚚\n"
)


@fault
def mail_with_a_missing_placeholder(world: World) -> None:
    order = world.order()
    MAIL.substitute(name=order["customer"]["name"], order_id=order["id"], total="12,50", currency="EUR")


@fault
def mail_with_a_bad_placeholder(world: World) -> None:
    string.Template(f"Preis: $€{world.rng.randrange(90)}").substitute()


@fault
def mail_with_too_few_arguments(world: World) -> None:
    "{} → {} ({})".format(world.query(), world.product()["sku"])  # type: ignore[str-format]


@fault
def bad_format_code(world: World) -> None:
    f"{world.product()['title']:.2f}"


@fault
def percent_of_the_wrong_type(world: World) -> None:
    "%d × %s" % (world.product()["title"], world.hex(2))


@fault
def template_error_with_its_cause(world: World) -> None:
    context = {"order": world.order(), "shop": {"name": "Чайная лавка", "languages": ["ru", "de", "日本語"]}}
    source = "{{ order.customer.vorname }}"

    def resolve(path: str) -> Any:
        value: Any = context
        for part in path.split("."):
            value = value[part]
        return value

    try:
        resolve(source.strip("{} "))
    except KeyError as exc:
        raise TemplateError("mail/bestätigung.txt", world.rng.randrange(1, 80), f"no value for {exc}") from exc


@fault
def none_has_no_attributes(world: World) -> None:
    customer = world.customer()
    customer["address"]["geo"].latitude


@fault
def misspelled_attribute(world: World) -> None:
    page = Page(world.query(), world.text(40))
    page.titel = "neu"  # type: ignore[attr-defined]


@fault
def property_that_raises(world: World) -> None:
    Page(world.query(), world.text(400)).summary


@fault
def getattr_without_end(world: World) -> None:
    with small_stack(frames=110):
        Lazy().headline


@fault
def unknown_name(world: World) -> None:
    scope = {"order": world.order(), "__builtins__": {}}
    eval("order['id'] + überschrift", scope)


@fault
def theme_is_not_installed(world: World) -> None:
    importlib.import_module(f"shop_theme_{world.hex(4)}.templates")


@fault
def helper_was_renamed(world: World) -> None:
    exec("from textwrap import dedent_all")


@fault
def unsupported_locale(world: World) -> None:
    locale.setlocale(locale.LC_MONETARY, f"xx_{world.customer()['locale']}.nope")


@fault
def translation_is_missing(world: World) -> None:
    catalogue = {"de": {"cart": "Warenkorb"}, "ja": {"cart": "カート"}, "ar": {"cart": "سلة"}}
    wanted = world.customer()["locale"].partition("-")[0]
    try:
        catalogue[wanted]["checkout"]
    except KeyError as exc:
        raise MissingTranslation(f"{wanted}: ‘checkout’ ist nicht übersetzt") from exc


@fault
def tags_are_not_nested(world: World) -> None:
    StrictHTML().feed(f"<p><b>{world.query()}</p></b>")


@fault
def page_was_collected(world: World) -> None:
    class Node:
        children = world.lines(1, 2)

    node = weakref.proxy(Node())
    node.children


@fault
def order_cannot_be_printed(world: World) -> None:
    unprintable = Unprintable(world.order())
    sentry_sdk.set_context("rendering", {"template": "rechnung.html", "pages": 3, "güte": 0.75})
    int(unprintable)  # type: ignore[call-overload]


@fault
def big_page(world: World) -> None:
    """A page of a few kilobytes in a local variable, and again as the error's message."""
    html = "<html><body>" + "".join(
        f"<li>{line['product']['title']} × {line['quantity']} – {line['note']}</li>" for line in world.lines(60, 240)
    )
    raise TemplateError("katalog.html", html.count("<li>"), f"unclosed <body> in {html[:600]}")
