"""Customers' accounts: permissions, sessions, validation, messages without an exception."""

from __future__ import annotations

import enum
import ipaddress
import secrets
import urllib.request
import warnings
from collections.abc import Callable
from email.errors import HeaderParseError
from email.headerregistry import Address
from functools import singledispatchmethod, wraps
from typing import Any, TypeVar
from urllib.parse import urlsplit

import sentry_sdk

from .registry import fault
from .world import World

F = TypeVar("F", bound=Callable[..., Any])


class PermissionDenied(Exception):
    def __init__(self, user: dict[str, Any], permission: str) -> None:
        super().__init__(f"{user['name']} may not {permission}")
        self.user = user
        self.permission = permission


class SessionExpired(Exception):
    pass


class ValidationFailed(ValueError):
    """Carries the errors by field: a nested value in the exception itself."""

    def __init__(self, errors: dict[str, list[str]]) -> None:
        super().__init__(errors)
        self.errors = errors


class PasswordResetThrottled(Exception):
    pass


class Role(enum.Enum):
    CUSTOMER = "customer"
    CLERK = "clerk"
    OWNER = "владелец"


def requires(permission: str) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        @wraps(function)
        def guarded(user: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            if permission not in user.get("permissions", ()):
                raise PermissionDenied(user, permission)
            return function(user, *args, **kwargs)

        return guarded  # type: ignore[return-value]

    return decorate


@requires("refund orders 💶")
def refund(user: dict[str, Any], order: dict[str, Any]) -> None:
    order["refunded_by"] = user["id"]


@fault
def permission_denied_by_a_decorator(world: World) -> None:
    refund(world.customer(), world.order())


@fault
def unknown_role(world: World) -> None:
    Role(world.rng.choice(["admin", "кассир", "店長"]))


@fault
def unknown_role_by_name(world: World) -> None:
    Role["СУПЕР" + world.hex(2).upper()]


@fault
def bad_address_of_the_client(world: World) -> None:
    ipaddress.ip_address(f"10.0.{world.rng.randrange(256, 999)}.1")


@fault
def bad_netmask(world: World) -> None:
    ipaddress.IPv4Network(f"10.{world.rng.randrange(9)}.0.0/{world.rng.randrange(33, 99)}")


@fault
def bad_ipv4(world: World) -> None:
    ipaddress.IPv4Address(f"192.168.1.1.{world.rng.randrange(9)}")


@fault
def bad_callback_url(world: World) -> None:
    urlsplit(f"https://[{world.hex(6)}/callback").hostname


@fault
def unknown_url_scheme(world: World) -> None:
    """Decided before any connection is made."""
    urllib.request.urlopen(f"gopher+{world.hex(3)}://shop.example/выход")


@fault
def bad_mail_address(world: World) -> None:
    customer = world.customer()
    Address(addr_spec=f"{customer['name']} at shop.example")


@fault
def bad_mail_header(world: World) -> None:
    raise HeaderParseError(f"expected atom at ‘{world.query()}’")


@fault
def form_with_many_errors(world: World) -> None:
    form = world.customer() | {"birthday": "31.02.1990", "phone": "☎", "password": "hunter2"}
    errors: dict[str, list[str]] = {}
    for name, value in form.items():
        if isinstance(value, str) and not value.isascii():
            errors.setdefault(name, []).append(f"unexpected characters in {value!r}")
        if name in ("birthday", "phone"):
            errors.setdefault(name, []).extend(["неверный формат", "形式が正しくありません"])
    raise ValidationFailed(errors)


@fault
def deprecated_hash(world: World) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.warn(f"hash version {world.rng.randrange(3)} läuft aus", DeprecationWarning, stacklevel=1)


@fault
def session_expired(world: World) -> None:
    session = {"id": world.hex(32), "cookies": {"csrftoken": secrets.token_hex(4)}, "age_s": world.rng.randrange(9_999)}
    error = SessionExpired(f"session is {session['age_s']} s old")
    error.add_note("the customer was sent to /войти")
    raise error


@fault
def throttled_with_a_fingerprint(world: World) -> None:
    """Grouping chosen by hand: normalize_event has to respect it."""
    sentry_sdk.get_isolation_scope().fingerprint = ["password-reset", "{{ default }}"]
    raise PasswordResetThrottled(f"{world.rng.randrange(6, 40)} resets in one minute")


@fault
def message_without_an_exception(world: World) -> None:
    sentry_sdk.capture_message(f"Anmeldung aus neuem Land: {world.customer()['address']['city']} 🌍", level="warning")


@fault
def message_at_info_level(world: World) -> None:
    sentry_sdk.capture_message("customer exported their data", level="info")


@fault
def exit_from_a_request(world: World) -> None:
    raise SystemExit(f"config of {world.customer()['locale']} is invalid")


class Exporter:
    @singledispatchmethod
    def export(self, value: Any) -> str:
        raise TypeError(f"no exporter for {type(value).__name__}")

    @export.register
    def _(self, value: dict) -> str:  # type: ignore[type-arg]
        return "{" + ", ".join(f"{key}: {self.export(part)}" for key, part in value.items()) + "}"

    @export.register
    def _(self, value: str) -> str:
        return value


@fault
def export_of_an_unknown_type(world: World) -> None:
    Exporter().export({"customer": world.customer()})


class Registry(type):
    """A metaclass with an opinion."""

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> Registry:
        if not name.isascii():
            raise NameError(f"class name {name!r} is not ASCII")
        return super().__new__(mcs, name, bases, namespace)


@fault
def class_cannot_be_created(world: World) -> None:
    Registry(f"Käufer{world.rng.randrange(9)}", (), {})


@fault
def bases_do_not_line_up(world: World) -> None:
    class First:
        pass

    class Second(First):
        pass

    type("Third", (First, Second), {"batch": world.hex(3)})
