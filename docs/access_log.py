#!/usr/bin/env python3
"""Make the access log of docs/choose-a-limit.md: one day of an invented shop, in nginx's combined format.

Usage: python docs/access_log.py [--seed 19] | gzip -9n > docs/access.log.gz

The same seed makes the same text; that of docs/access.log.gz is 19. All addresses are from the ranges that
are reserved for documentation.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

SEED = 19
DAY = datetime(2026, 11, 24, tzinfo=timezone.utc)

HOUR = 3600
#: How many of a day's visits begin in each hour.
DAY_CURVE = [2, 1, 1, 1, 1, 2, 4, 8, 12, 14, 15, 16, 18, 16, 15, 14, 15, 17, 20, 22, 20, 14, 8, 4]
PRODUCTS = 120

#: When everything in the shop costs half.
SALE = 20 * HOUR

BROWSERS = [
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 Version/18.6 Safari/604.1",
    "Mozilla/5.0 (Android 16; Mobile; rv:145.0) Gecko/145.0 Firefox/145.0",
]


class Hit(NamedTuple):
    """One request."""

    second: float
    address: str
    method: str
    path: str
    status: int
    size: int
    agent: str


class Shop:
    """Draws the requests of each kind of client."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)

    def start(self) -> float:
        """Draw the second of the day in which a visit begins, by the day's curve."""
        (hour,) = self._draw.choices(range(24), DAY_CURVE)
        return hour * HOUR + self._draw.uniform(0, HOUR)

    def page(self, at: float, address: str, path: str, agent: str) -> Iterator[Hit]:
        """Load a page: the page itself, and what its script then asks for, within a second or two."""
        yield Hit(at, address, "GET", path, 200, 5_200, agent)
        wanted = ["/api/session", "/api/cart", "/api/prices", "/api/recommended"]
        for name in wanted[: 2 + self._draw.randrange(3)]:
            at += self._draw.uniform(0.05, 0.6)
            yield Hit(at, address, "GET", name, 200, 700, agent)

    def visit(self, at: float, address: str, pages: int, pause: float) -> Iterator[Hit]:
        """Look at some products, with pauses for reading, and sometimes buy one."""
        agent = self._draw.choice(BROWSERS)
        yield from self.page(at, address, "/", agent)
        for _ in range(pages):
            at += self._draw.uniform(0.3, 1.7) * pause
            path = f"/products/{1 + self._draw.randrange(PRODUCTS)}"
            yield from self.page(at, address, path, agent)
        if self._draw.random() < 0.25:
            for path in ("/api/cart", "/api/checkout"):
                at += self._draw.uniform(0.3, 1.7) * pause
                yield Hit(at, address, "POST", path, 201, 300, agent)

    def users(self) -> Iterator[Hit]:
        """Ordinary users through the day; one in six comes by IPv6, and a few compare many products."""
        for user in range(900):
            address = f"198.51.100.{1 + user % 200}"
            if user % 6 == 0:
                address = f"2001:db8:{user:x}::{1 + self._draw.randrange(9)}"
            quick = user % 40 == 7
            pages, pause = (14, 4.0) if quick else (1 + self._draw.randrange(5), 25.0)
            yield from self.visit(self.start(), address, pages, pause)

    def office(self) -> Iterator[Hit]:
        """Twelve people behind one address, in their lunch break."""
        for _ in range(12):
            yield from self.visit(
                12.2 * HOUR + self._draw.uniform(0, 900), "203.0.113.200", 4, 20.0
            )

    def sale(self) -> Iterator[Hit]:
        """Many ordinary users within ten minutes, each in more of a hurry than usual."""
        for user in range(220):
            at = SALE + 600 * self._draw.random() * self._draw.random()
            yield from self.visit(
                at, f"2001:db8:5a1e:{user:x}::1", 2 + self._draw.randrange(3), 8.0
            )

    def scrapers(self) -> Iterator[Hit]:
        """Two bots that read every product's price without a break, each at its own steady rate."""
        for address, begin, pause, requests in (
            ("203.0.113.66", 2 * HOUR, 2.0, 1_500),
            ("203.0.113.67", 14 * HOUR, 0.7, 1_500),
        ):
            for number in range(requests):
                path = f"/products/{1 + number % PRODUCTS}"
                at = begin + number * pause + self._draw.uniform(0, 0.2)
                yield Hit(at, address, "GET", path, 200, 5_200, "python-requests/2.32.5")

    def burst_bot(self) -> Iterator[Hit]:
        """A bot that tries passwords for half a minute."""
        at = 3.2 * HOUR
        for _ in range(900):
            at += self._draw.uniform(0, 0.066)
            yield Hit(at, "203.0.113.99", "POST", "/api/login", 401, 90, "curl/8.16.0")

    def devices(self) -> Iterator[Hit]:
        """Price displays: their cron asks at the full minute, all at once, each quarter of an hour."""
        for quarter in range(96):
            for device in range(30):
                at = quarter * 900 + self._draw.uniform(0, 0.9)
                yield Hit(
                    at, f"192.0.2.{100 + device}", "GET", "/api/prices", 200, 700, "display/1.4"
                )

    def partner(self) -> Iterator[Hit]:
        """A partner with a contract, who reads the whole catalogue in the morning, from two addresses."""
        for number in range(5_400):
            at = 9 * HOUR + number * 0.333
            path = f"/api/products/{1 + number // 2 % 2_000}"
            yield Hit(at, f"192.0.2.{10 + number % 2}", "GET", path, 200, 900, "partner-sync/3.1")

    def hits(self) -> list[Hit]:
        """Return all requests of the day, in their order."""
        users = (self.users, self.office, self.sale)
        kinds = (*users, self.scrapers, self.burst_bot, self.devices, self.partner)
        return sorted(hit for kind in kinds for hit in kind() if hit.second < 24 * HOUR)


def lines(seed: int = SEED) -> Iterator[str]:
    """Return the lines of the log; three of them are no requests, as in every log of a public server."""
    hits = Shop(seed).hits()
    broken = {len(hits) * part // 4: part for part in (1, 2, 3)}
    for number, hit in enumerate(hits):
        time = (DAY + timedelta(seconds=int(hit.second))).strftime("%d/%b/%Y:%H:%M:%S +0000")
        if number in broken:
            address = f"203.0.113.{40 + broken[number]}"
            yield f'{address} - - [{time}] "\\x16\\x03\\x01\\x05\\xA8\\x01" 400 157 "-" "-"'
        yield (
            f'{hit.address} - - [{time}] "{hit.method} {hit.path} HTTP/1.1" {hit.status} {hit.size} "-" '
            f'"{hit.agent}"'
        )


def main() -> None:
    """Print the log."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--seed", type=int, default=SEED)
    for line in lines(parser.parse_args().seed):
        print(line)


if __name__ == "__main__":
    main()
