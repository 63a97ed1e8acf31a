"""Payments: exception chains, groups, retries, sockets that nobody answers.

No packet leaves the process: the sockets are socket pairs, and the certificates are nonsense.
"""

from __future__ import annotations

import binascii
import contextlib
import functools
import hashlib
import hmac
import os
import select
import socket
import ssl
import struct
import tempfile
import uuid
from base64 import b64decode
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import sentry_sdk

from .registry import fault
from .world import World

P = ParamSpec("P")
T = TypeVar("T")


class PaymentError(Exception):
    """The root of what can go wrong with money."""

    code = "payment_error"


class CardDeclined(PaymentError):
    code = "card_declined"

    def __init__(self, reason: str, *, retryable: bool) -> None:
        super().__init__(reason)
        self.retryable = retryable
        self.add_note(f"decline code: {self.code}, retryable: {retryable}")


class GatewayUnavailable(PaymentError):
    code = "gateway_unavailable"


class FraudSuspected(PaymentError):
    code = "fraud_suspected"


class WebhookSignatureMismatch(PaymentError):
    code = "bad_signature"


class RefundFailed(PaymentError):
    pass


def attempts(count: int) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Retry on PaymentError, as everybody's home-made decorator does; adds its own frame to the trace."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
            for attempt in range(1, count + 1):
                try:
                    return function(*args, **kwargs)
                except PaymentError as exc:
                    sentry_sdk.add_breadcrumb(
                        category="payment.retry", level="warning", message=str(exc), data={"attempt": attempt}
                    )
                    if attempt == count:
                        raise
            raise AssertionError("unreachable: the last attempt raises or returns")

        return wrapper

    return decorate


@contextlib.contextmanager
def gateway_session(merchant: str) -> Iterator[dict[str, Any]]:
    session = {"merchant": merchant, "open": True, "requests": []}
    try:
        yield session
    except OSError as exc:
        raise GatewayUnavailable(f"gateway of {merchant} does not answer: {exc}") from exc
    finally:
        session["open"] = False


@attempts(3)
def authorize(order: dict[str, Any]) -> None:
    raise CardDeclined(f"Karte abgelehnt – 残高不足 ({order['payment']['currency']})", retryable=True)


@fault
def card_declined_three_times(world: World) -> None:
    order = world.order()
    sentry_sdk.set_tag("payment.method", order["payment"]["method"])
    authorize(order)


@fault
def gateway_times_out(world: World) -> None:
    """A real socket timeout, wrapped by a context manager into the shop's own error."""
    with gateway_session(f"merchant-{world.hex(6)}") as session:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.settimeout(0.001)
            session["requests"].append("POST /v1/charges")
            ours.recv(1024)


@fault
def gateway_hangs_up(world: World) -> None:
    payload = world.hex(64).encode()
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        for _ in range(3):
            ours.sendall(payload)


@fault
def gateway_resets_three_layers_down(world: World) -> None:
    """Three links of `raise … from …`: what the user sees, what the client saw, what the kernel said."""
    order = world.order()

    def charge() -> None:
        try:
            raise ConnectionResetError(104, "Connection reset by peer")
        except ConnectionResetError as exc:
            raise GatewayUnavailable("POST /v1/charges: соединение сброшено") from exc

    try:
        charge()
    except GatewayUnavailable as exc:
        raise RefundFailed(f"could not refund {order['id']}") from exc


@fault
def refund_fails_while_refunding(world: World) -> None:
    """An implicit chain: the error handler itself fails (`__context__`, not `__cause__`)."""
    order = world.order()
    try:
        Decimal(order["lines"][0]["product"]["price"]) / Decimal(0)
    except ArithmeticError:
        order["refund"]["reason"] = "price was zero"


@fault
def split_payment(world: World) -> None:
    """Several independent failures reported together."""
    failures: list[Exception] = []
    for method in ("card", "wallet", "gift-card", "sepa"):
        try:
            if method == "wallet":
                raise GatewayUnavailable("wallet 📴 offline")
            if method == "sepa":
                int("DE02 1203 0000 0000 2020 51")
            raise CardDeclined(f"{method}: недостаточно средств", retryable=False)
        except (PaymentError, ValueError) as exc:
            failures.append(exc)
    raise ExceptionGroup(f"{len(failures)} of 4 payment methods failed", failures)


@fault
def nested_groups(world: World) -> None:
    def part(number: int) -> ExceptionGroup[Exception]:
        return ExceptionGroup(f"batch {number}", [KeyError(world.hex(8)), TimeoutError("après 30 s")])

    try:
        raise part(0)
    except* KeyError as group:
        raise ExceptionGroup("settlement", [part(1), FraudSuspected("κάρτα"), group]) from None


@fault
def bad_certificate(world: World) -> None:
    pem = f"-----BEGIN CERTIFICATE-----\n{world.hex(60)}\n-----END CERTIFICATE-----\n"
    ssl.create_default_context().load_verify_locations(cadata=pem)


@fault
def webhook_signature(world: World) -> None:
    body = world.text(40).encode()
    expected = hmac.new(b"whsec", body, hashlib.sha256).hexdigest()
    received = world.hex(64)
    if not hmac.compare_digest(expected, received):
        raise WebhookSignatureMismatch(f"signature {received[:12]}… does not match")


@fault
def truncated_frame(world: World) -> None:
    frame = struct.pack("!HI", 7, world.rng.randrange(2**32))
    struct.unpack("!HIQ", frame)


@fault
def token_is_not_base64(world: World) -> None:
    b64decode("tok_" + world.hex(8) + "=", validate=True)


@fault
def odd_hex_digest(world: World) -> None:
    binascii.unhexlify(world.hex(9))


@fault
def idempotency_key_is_not_a_uuid(world: World) -> None:
    key = f"order-{world.hex(6)}"
    uuid.UUID(key)


@fault
def key_file_is_missing(world: World) -> None:
    with open(f"/nonexistent/coda-shop/keys/{world.hex(4)}-clé.pem", "rb") as key_file:
        key_file.read()


@fault
def key_file_is_a_directory(world: World) -> None:
    with tempfile.TemporaryDirectory() as keys:
        Path(keys).read_bytes()


@fault
def key_file_is_not_a_directory(world: World) -> None:
    with tempfile.NamedTemporaryFile() as key_file:
        Path(key_file.name, "private.pem").read_bytes()


@fault
def key_directory_exists(world: World) -> None:
    with tempfile.TemporaryDirectory() as keys:
        os.mkdir(keys)


@fault
def no_such_gateway_process(world: World) -> None:
    # Signal 0 asks only whether the process exists, and this pid is far above any kernel's limit.
    os.kill(2**22 + 2**20 + world.rng.randrange(1_000), 0)


@fault
def poll_of_a_closed_socket(world: World) -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    theirs.close()
    select.select([ours], [], [], 0)


@fault
def would_block(world: World) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        ours.recv(16)


@fault
def declined_with_the_cause_hidden(world: World) -> None:
    try:
        dict[str, str]()["iban"]
    except KeyError:
        raise CardDeclined("IBAN fehlt 🏦", retryable=False) from None
