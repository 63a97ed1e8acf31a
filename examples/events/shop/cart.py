"""The shopping cart: prices, discounts, stock. Arithmetic, types and dataclasses go wrong here."""

from __future__ import annotations

import decimal
import fractions
import math
import statistics
from collections import OrderedDict
from dataclasses import FrozenInstanceError, dataclass, field, replace
from decimal import Decimal
from typing import Any, NamedTuple

import sentry_sdk

from .registry import fault
from .world import PRODUCTS, World


class CartError(Exception):
    """Anything that is wrong with a cart."""


class OutOfStock(CartError):
    """More was ordered than there is; carries the numbers so that the message need not be parsed."""

    def __init__(self, sku: str, wanted: int, available: int) -> None:
        super().__init__(f"only {available} of {sku} left, {wanted} wanted")
        self.sku = sku
        self.wanted = wanted
        self.available = available


class CouponRejected(CartError):
    pass


@dataclass(frozen=True)
class Money:
    amount: Decimal
    currency: str = "EUR"

    def __add__(self, other: Money) -> Money:
        if self.currency != other.currency:
            raise TypeError(f"cannot add {other.currency} to {self.currency}")
        return replace(self, amount=self.amount + other.amount)


@dataclass
class Line:
    sku: str
    quantity: int
    unit_price: Money
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.quantity <= 0:
            raise ValueError(f"quantity of {self.sku} must be positive, not {self.quantity}")


@dataclass
class Cart:
    lines: list[Line] = field(default_factory=list)
    coupon: str | None = None

    @classmethod
    def of(cls, order: dict[str, Any]) -> Cart:
        currency = order["payment"]["currency"]
        return cls(
            lines=[
                Line(line["product"]["sku"], line["quantity"], Money(Decimal(line["product"]["price"]), currency))
                for line in order["lines"]
            ],
            coupon=order["coupon"],
        )

    @property
    def total(self) -> Money:
        total = Money(Decimal(0))
        for line in self.lines:
            total = total + Money(line.unit_price.amount * line.quantity, line.unit_price.currency)
        return total


class Parcel(NamedTuple):
    width_cm: int
    height_cm: int
    weight_g: int


def share_discount(discount_cents: int, weights: list[int]) -> list[int]:
    whole = sum(weights)
    return [discount_cents * weight // whole for weight in weights]


@fault
def discount_without_weights(world: World) -> None:
    """The classic: a division by the number of things there are none of."""
    order = world.order()
    weights = [0 for _ in order["lines"]]
    share_discount(discount_cents=world.rng.randrange(100, 900), weights=weights)


def tax_rate(rates: dict[str, dict[str, dict[str, float]]], country: str, category: str) -> float:
    return rates["europe"][country][category]


def tax_of(order: dict[str, Any], rates: dict[str, dict[str, dict[str, float]]]) -> float:
    country = order["customer"]["locale"].partition("-")[2]

    def of_line(line: dict[str, Any]) -> float:
        return tax_rate(rates, country, "food") * int(line["quantity"])

    return sum(of_line(line) for line in order["lines"])


@fault
def tax_for_unknown_country(world: World) -> None:
    """A KeyError four calls deep, through a closure and a generator expression."""
    rates = {"europe": {code: {"food": 0.07, "other": 0.19} for code in ("AT", "NL", "BE", "LU", "PT")}}
    tax_of(world.order(), rates)


@fault
def mixed_currencies(world: World) -> None:
    order = world.order()
    order["payment"]["currency"] = "JPY"
    Cart.of(order).total


@fault
def price_is_not_a_number(world: World) -> None:
    product = world.product() | {"price": "12,50 €"}
    Money(Decimal(product["price"]))


@fault
def negative_quantity(world: World) -> None:
    order = world.order()
    order["lines"][-1]["quantity"] = -world.rng.randrange(1, 9)
    Cart.of(order)


@fault
def frozen_price(world: World) -> None:
    price = Money(Decimal(world.product()["price"]))
    try:
        price.amount *= 2  # type: ignore[misc]
    except FrozenInstanceError:
        sentry_sdk.set_context("price", {"amount": str(price.amount), "currency": price.currency})
        raise


@fault
def out_of_stock(world: World) -> None:
    reservations: OrderedDict[str, int] = OrderedDict()
    shelf = {sku: world.rng.randrange(0, 3) for sku, _, _ in PRODUCTS}
    for line in [*world.lines(4, 8), {"product": world.product(), "quantity": 500}]:
        sku = line["product"]["sku"]
        reservations[sku] = reservations.get(sku, 0) + line["quantity"]
        if reservations[sku] > shelf[sku]:
            raise OutOfStock(sku, reservations[sku], shelf[sku])


@fault
def coupon_in_the_wrong_script(world: World) -> None:
    order = world.order()
    coupon = order["coupon"] or "ＦＵＬＬＷＩＤＴＨ"
    try:
        coupon.encode("ascii")
        raise CouponRejected(f"coupon {coupon!r} has expired")
    except UnicodeEncodeError as exc:
        raise CouponRejected(f"coupon {coupon!r} (order {order['id']}) is not plain ASCII") from exc


@fault
def loyalty_points_overflow(world: World) -> None:
    growth = [math.exp(rate) for rate in (1.0, 10.0, 100.0, 800.0 + world.rng.random())]
    sum(growth)


@fault
def last_line_of_an_empty_cart(world: World) -> None:
    cart = Cart(coupon=world.order()["coupon"])
    cart.lines[-1].quantity += 1


@fault
def median_price_of_nothing(world: World) -> None:
    prices = [Decimal(line["product"]["price"]) for line in world.lines() if line["quantity"] > 100]
    statistics.median(prices)


@fault
def signal_in_a_strict_context(world: World) -> None:
    with decimal.localcontext() as context:
        context.traps[decimal.Inexact] = True
        Decimal(7 * world.rng.randrange(1, 100) + 1) / Decimal(7)


@fault
def ratio_of_infinity(world: World) -> None:
    fill_rate = world.rng.randrange(1, 9) * math.inf
    fractions.Fraction(fill_rate)


@fault
def total_is_checked(world: World) -> None:
    order = world.order()
    expected = sum(Decimal(line["product"]["price"]) * line["quantity"] for line in order["lines"])
    charged = expected + Decimal("0.01")
    assert charged == expected, f"charged {charged}, expected {expected} for {order['id']} ✗"


@fault
def string_plus_number_in_a_comprehension(world: World) -> None:
    [line["product"]["price"] + line["quantity"] for line in world.lines()]


@fault
def parcel_has_no_depth(world: World) -> None:
    parcel = Parcel(world.rng.randrange(5, 50), world.rng.randrange(5, 50), 900)
    parcel.width_cm * parcel.height_cm * parcel.depth_cm  # type: ignore[attr-defined]


@fault
def too_many_values(world: World) -> None:
    sku, price = (world.product()[key] for key in ("sku", "title", "price"))
    print(sku, price)


@fault
def shelf_position_is_a_float(world: World) -> None:
    shelf = [world.product() for _ in range(6)]
    shelf[len(shelf) / 2]  # type: ignore[call-overload]
