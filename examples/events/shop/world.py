"""Customers, products and orders, drawn from one seeded generator.

The names are in many scripts on purpose: an event pipeline that has only seen ASCII has not been
tested.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

PEOPLE = [
    ("Zoë Müller", "Köln", "de-DE"),
    ("Łukasz Żółć", "Łódź", "pl-PL"),
    ("Mária Kováčová", "Košice", "sk-SK"),
    ("山田 花子", "横浜市", "ja-JP"),
    ("Nguyễn Thị Ánh", "Huế", "vi-VN"),
    ("Σωκράτης Παπαδόπουλος", "Θεσσαλονίκη", "el-GR"),
    ("Алёна Ёлкина", "Орёл", "ru-RU"),
    ("محمد الفاسي", "فاس", "ar-MA"),
    ("שירה כהן", "חיפה", "he-IL"),
    ("김하늘", "부산", "ko-KR"),
    ("Renée O’Connor", "Montréal", "fr-CA"),
    ("सुनीता शर्मा", "जयपुर", "hi-IN"),
    ("Søren Ærø", "Århus", "da-DK"),
    ("Bob Smith", "Springfield", "en-US"),
]

PRODUCTS = [
    ("SKU-TEA-001", "Sencha 煎茶, 100 g", "12.50"),
    ("SKU-TEA-002", "Earl Grey «Été», 250 g", "18.90"),
    ("SKU-MUG-014", "Mug “Grüß Gott” ☕", "9.95"),
    ("SKU-KET-100", "Kettle 1.7 ℓ, 230 V~", "49.00"),
    ("SKU-BIS-007", "Biscuits 🍪 × 24", "4.20"),
    ("SKU-SPO-003", "Teaspoon, argenté", "2.75"),
    ("SKU-STR-042", "Strainer Ø 7 cm", "6.60"),
    ("SKU-GFT-999", "Gift card / Подарочная карта", "25.00"),
]

QUERIES = ["煎茶 急須", "grüner tee", "чай с бергамотом", "☕ mug", "théière émaillée", "kettle 1.7l", "차 선물"]

COUPONS = ["WELCOME10", "ÉTÉ-2026", "ЧАЙ50", "FREESHIP", "ＦＵＬＬＷＩＤＴＨ"]

CURRENCIES = ["EUR", "PLN", "JPY", "VND", "GBP", "CAD"]


@dataclass
class World:
    """Where the shop's make-believe data comes from. The same seed gives the same shop."""

    rng: random.Random = field(repr=False)

    def hex(self, digits: int) -> str:
        return f"{self.rng.getrandbits(4 * digits):0{digits}x}"

    def customer(self) -> dict[str, Any]:
        name, city, locale = self.rng.choice(PEOPLE)
        number = self.rng.randrange(1, 5_000)
        return {
            "id": f"cus_{number:05d}",
            "name": name,
            "email": f"customer{number}@shop.example",
            "locale": locale,
            "address": {"city": city, "street": f"№ {self.rng.randrange(1, 99)}, Main Street", "geo": None},
            "preferences": {
                "newsletter": self.rng.random() < 0.5,
                "tags": self.rng.sample(["vip", "früh", "新規", "b2b", "♥ tea"], k=self.rng.randrange(0, 4)),
            },
        }

    def product(self) -> dict[str, Any]:
        sku, title, price = self.rng.choice(PRODUCTS)
        return {"sku": sku, "title": title, "price": price, "stock": self.rng.randrange(0, 40)}

    def lines(self, least: int = 1, most: int = 8) -> list[dict[str, Any]]:
        return [
            {"product": self.product(), "quantity": self.rng.randrange(1, 6), "note": self.rng.choice(QUERIES)}
            for _ in range(self.rng.randint(least, most))
        ]

    def order(self) -> dict[str, Any]:
        return {
            "id": f"ord_{self.hex(12)}",
            "customer": self.customer(),
            "lines": self.lines(),
            "coupon": self.rng.choice([None, *COUPONS]),
            "payment": {
                "method": self.rng.choice(["card", "sepa", "wallet"]),
                "currency": self.rng.choice(CURRENCIES),
                "history": [
                    {"step": step, "ok": self.rng.random() < 0.8, "ms": self.rng.randrange(3, 900)}
                    for step in ("authorize", "3ds", "capture")
                ],
            },
        }

    def query(self) -> str:
        return self.rng.choice(QUERIES)

    def text(self, words: int) -> str:
        vocabulary = ["tea", "чай", "茶", "thé", "Tee", "té", "차", "चाय", "τσάι", "hot", "cup", "🍵", "order", "late"]
        return " ".join(self.rng.choices(vocabulary, k=words))


@contextlib.contextmanager
def small_stack(frames: int) -> Iterator[None]:
    """Leave room for so many more calls only: a full-size RecursionError makes an event of 300 KB."""
    depth, frame = 0, sys._getframe()
    while frame.f_back is not None:
        depth, frame = depth + 1, frame.f_back
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(depth + frames)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)
