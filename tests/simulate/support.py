"""Entries of an invented log, and a policy file that uses all that a simulation replays."""

from __future__ import annotations

import random
from collections.abc import Iterator

from limiter.policies import ALGORITHMS
from limiter.simulate.entry import Entry

BEGIN_US = 1_790_000_000_123_456

#: Every algorithm, and everything that decides which policies, limits and costs hold for a request.
POLICIES = """
[policies.default]
limits = "30/20s; 300/hour"
exempt = {networks = ["192.0.2.250/32"], paths = ["/static/**"]}

[policies.api]
key = "api-key"
limits = [
    {algorithm = "token_bucket", limit = 7, per = 3, burst = 20},
    {algorithm = "sliding_window", limit = 200, per = "minute"},
]
match = {paths = ["/api/**"]}
unidentified = "address"
plan = {header = "X-Plan"}
overrides = {key-3 = "3/3s burst 9; 60/minute", key-4 = "100/3s burst 200; 100000/minute"}
exempt = {keys = ["key-9"]}

[policies.api.plans.gold]
limits = "70/3s burst 40; 2000/minute"
key_prefix = "key-1"

[policies.orders]
key = ["path:org", "address"]
limits = "5/10s"
algorithm = "gcra"
match = {paths = ["/api/orgs/{org}/*"], methods = ["GET", "POST"]}
percent = 60
cost = {body = "1KiB"}
cap = true

[policies.logins]
limits = {algorithm = "fixed_window", limit = 1, per = 15, align = true}
match = {paths = ["/login"], methods = ["POST"]}
refund_unless = ["401"]

[policies.tried]
limits = "12/5s"
algorithm = "leaky_bucket"
shadow = true
match = {hosts = ["shop.example.com", "*.example.org"]}
class = {header = "X-Class", low = 0.5, high = 1.0}
"""
#: Each algorithm by itself for all requests.
POLICIES += "".join(
    f"""
[policies.{name}]
limits = "20/10s"
algorithm = "{name}"
shadow = true
"""
    for name in ALGORITHMS
)


def entries(count: int, seed: int = 19) -> Iterator[Entry]:
    """Yield requests of some clients, of which a few send most of them; in order, some at the same time."""
    draw = random.Random(seed)
    time_us = BEGIN_US
    addresses = ["127.0.0.1", "192.0.2.250", "2001:db8:1:2::5", "2001:db8:1:2::6"]
    addresses += [f"198.51.100.{number}" for number in range(40)]
    targets = ["/", "/login", "/static/app.js", "/API/x", "/api/items?page=1", "/api/items?page=2"]
    targets += [f"/api/orgs/{org}/{name}" for org in "abc" for name in ("x", "y%2fz")]
    for _ in range(count):
        if draw.random() < 0.8:
            time_us += int(draw.expovariate(1 / 40_000))
        headers = {}
        if draw.random() < 0.6:
            headers["x-api-key"] = f"key-{int(15 * draw.random() ** 2)}"
        if draw.random() < 0.2:
            headers["x-forwarded-for"] = f"203.0.113.{draw.randrange(5)}"
        if draw.random() < 0.2:
            headers |= {"x-plan": draw.choice(["gold", "none"]), "x-class": "high"}
        if draw.random() < 0.3:
            headers["content-length"] = str(draw.randrange(0, 9_000, 1_500))
        yield Entry(
            time_us,
            draw.choice(["GET", "GET", "POST", "HEAD", "OPTIONS"]),
            draw.choice(["shop.example.com:443", "a.example.org", "example.net"]),
            draw.choice(targets),
            addresses[int(len(addresses) * draw.random() ** 3)],
            headers,
            draw.choice([200, 401, 429]),
        )
