"""Who answers a request, the life of the service, its health checks, and its log lines."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from limiter.log_throttle import PAUSE, ThrottleFilter
from limiter.server import drain, logs, metrics
from limiter.server.app import Service
from limiter.web.verdict import Verdict
from service.demo.servers import HOST, Server, free_port
from tests.server.conftest import Make

CLIENT = {"X-Forwarded-For": "203.0.113.9"}
ASK = "/forward-auth/default"


@pytest.mark.parametrize(
    ("path", "method", "status", "allow"),
    [
        ("/nothing", "GET", 404, None),
        ("/", "PROPFIND", 404, None),
        ("/healthz/", "GET", 404, None),
        ("/healthz", "POST", 405, {"GET", "HEAD"}),
        ("/v1/check/default", "GET", 405, {"POST"}),
        ("/metrics", "GET", 404, None),
    ],
)
def test_a_request_that_no_route_answers_gets_a_problem(
    make_app: Make, path: str, method: str, status: int, allow: set[str] | None
) -> None:
    answer = make_app().client.ask(method, path)

    assert (answer.status, answer.media_type) == (status, "application/problem+json")
    assert (answer.json()["status"], answer.json()["instance"]) == (status, path)
    assert answer.headers["Cache-Control"] == "no-store"
    if allow is not None:
        assert set(answer.headers["Allow"].split(", ")) == allow


def test_the_port_of_the_socket_decides_who_answers(make_app: Make) -> None:
    """No field of the request does: a client could write it."""
    running = make_app()

    assert running.operators.get("/metrics").status == 200
    for path in (ASK, "/forward-auth", "/healthz", "/v1/openapi.json"):
        assert running.operators.get(path, headers=CLIENT).status == 404, path
    assert running.client.get("/metrics", headers={"Host": "127.0.0.1:8001"}).status == 404
    # A Unix socket has no port.
    by_socket = {"server": ("/run/limiter.sock", None)}
    assert running.client.get("/metrics", scope=by_socket).status == 404
    assert running.client.get("/healthz", scope={"server": None}).status == 200
    running.service.operators_port = None
    assert running.client.get("/metrics", scope=by_socket).status == 404


class Lifespan:
    """A server's messages at the start and at the end, and the application's."""

    def __init__(self, service: Service) -> None:
        self.sent: list[str] = []
        self._told: asyncio.Queue[str] = asyncio.Queue()
        self._news = asyncio.Event()
        self._task = asyncio.ensure_future(service({"type": "lifespan"}, self.receive, self.send))

    async def receive(self) -> Any:
        """Return the server's next message."""
        return {"type": f"lifespan.{await self._told.get()}"}

    async def send(self, message: Any) -> None:
        """Take the application's answer."""
        self.sent.append(message["type"])
        self._news.set()

    async def pass_on(self, event: str) -> None:
        """Send the application an event, and wait for its answer."""
        self._news.clear()
        self._told.put_nowait(event)
        await asyncio.wait_for(self._news.wait(), 10)


def test_the_service_connects_at_the_start_and_closes_at_the_end(
    monkeypatch: pytest.MonkeyPatch, make_app: Make, loop: asyncio.AbstractEventLoop
) -> None:
    running = make_app()
    calls: list[str] = []
    policies: Any = running.service.policies
    for name in ("open", "close"):
        monkeypatch.setattr(policies, name, _noting(calls, name, getattr(policies, name)))

    async def live() -> list[str]:
        lifespan = Lifespan(running.service)
        await lifespan.pass_on("startup")
        assert calls == ["open"]
        await lifespan.pass_on("shutdown")
        return lifespan.sent

    assert loop.run_until_complete(live()) == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert calls == ["open", "close"]


def _noting(calls: list[str], name: str, function: Any) -> Any:
    async def note() -> None:
        calls.append(name)
        await function()

    return note


def test_the_service_starts_without_the_store(
    make_app: Make, loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    running = make_app(STORE=f"redis://{HOST}:{free_port()}/0", TIMEOUT="0.2")

    async def start() -> list[str]:
        lifespan = Lifespan(running.service)
        await lifespan.pass_on("startup")
        await lifespan.pass_on("shutdown")
        return lifespan.sent

    assert loop.run_until_complete(start())[0] == "lifespan.startup.complete"
    assert "started without the store" in caplog.text
    assert running.client.get(ASK, headers=CLIENT).status == 204


def test_a_websocket_is_refused(make_app: Make, loop: asyncio.AbstractEventLoop) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    service = make_app().service
    loop.run_until_complete(service({"type": "websocket", "path": ASK}, receive, send))
    assert sent == [{"type": "websocket.close"}]


def test_an_invalid_variable_is_named(make_app: Make) -> None:
    with pytest.raises(ValueError, match="LIMITER_LIMITS"):
        make_app(LIMITS="many")


def test_the_default_is_100_a_minute(make_app: Make) -> None:
    answer = make_app(LIMITS="").client.get(ASK, headers=CLIENT)

    assert answer.headers["RateLimit-Policy"].endswith(";q=100;w=60")


def test_instances_share_a_limit_and_refuse_in_the_same_words(make_app: Make) -> None:
    instances = [make_app(LIMITS="3/minute").client for _ in range(2)]
    answers = [instances[number % 2].get(ASK, headers=CLIENT) for number in range(5)]

    assert [answer.status for answer in answers] == [204, 204, 204, 429, 429]
    assert len({answer.body for answer in answers[3:]}) == 1


def test_health_checks_take_nothing(make_app: Make) -> None:
    client = make_app(LIMITS="1/minute").client
    for path, text in (("/healthz", "alive\n"), ("/readyz", "ready\n")):
        answers = [client.get(path) for _ in range(3)]
        assert {(answer.status, answer.text) for answer in answers} == {(200, text)}
        assert "RateLimit" not in answers[0].headers
        assert answers[0].media_type == "text/plain"

    assert client.get(ASK, headers=CLIENT).status == 204


def test_a_service_that_drains_is_alive_and_not_ready(
    make_app: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on to answer what load balancers still send."""
    client = make_app().client
    monkeypatch.setattr(drain, "_shared", b"\x01")
    ready = client.get("/readyz")

    assert (ready.status, ready.text) == (
        503,
        "the service is about to stop: send no new requests\n",
    )
    assert client.get("/healthz").status == 200
    assert client.get(ASK, headers=CLIENT).status == 204


@pytest.mark.parametrize(("on_error", "status"), [("allow", 204), ("deny", 503), ("raise", 503)])
def test_a_store_that_is_gone(make_app: Make, on_error: str, status: int) -> None:
    """The response has no header fields of the limit, since its state is unknown."""
    gone = f"redis://{HOST}:{free_port()}/0"
    client = make_app(STORE=gone, ON_ERROR=on_error, TIMEOUT="0.2").client
    answer = client.get(ASK, headers=CLIENT)

    assert answer.status == status
    for field in ("RateLimit", "RateLimit-Policy", "Retry-After"):
        assert field not in answer.headers
    if status == 503:
        assert answer.json()["type"].endswith("#temporary-reduced-capacity")
    assert client.get("/healthz").status == 200
    ready = client.get("/readyz")
    assert ready.status == 200  # the fallback decides, as configured
    assert ready.text.startswith("ready; the store does not decide")
    assert ready.text.endswith(f": {on_error}\n")


def test_without_a_store_each_process_decides_for_its_share(make_app: Make) -> None:
    """The fields and the 429 are the same; ``/readyz`` reports the fallback."""
    gone = f"redis://{HOST}:{free_port()}/0"
    client = make_app(STORE=gone, LIMITS="6/minute", LOCAL_SHARE="2", TIMEOUT="0.2").client
    answers = [client.get(ASK, headers=CLIENT) for _ in range(4)]

    assert [answer.status for answer in answers] == [204, 204, 204, 429]
    assert answers[0].headers["RateLimit-Policy"] == '"default";q=3;w=60'
    assert answers[3].headers["Retry-After"] == "60"
    ready = client.get("/readyz")
    assert (ready.status, ready.text.rpartition(": ")[2]) == (200, "local\n")


def test_a_store_that_refuses_is_an_error_whatever_the_fallback(
    make_app: Make, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    """Operators must see it: an error is logged, but not for every request."""
    request.addfinalizer(logs.calm())
    with Server(password="secret") as server:  # noqa: S106
        client = make_app(STORE=f"redis://{HOST}:{server.port}/0", ON_ERROR="allow").client
        with caplog.at_level(logging.ERROR):
            answers = [client.get(ASK, headers=CLIENT) for _ in range(20)]
        ready = client.get("/readyz")

    assert {answer.status for answer in answers} == {503}
    assert len([record for record in caplog.records if "StoreRefused" in record.message]) == 1
    assert ready.status == 503


def test_repeated_lines_are_counted_while_they_are_withheld(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("limiter.log_throttle.monotonic", lambda: now)
    ours = logging.getLogger("ours")
    throttle = ThrottleFilter()
    ours.addFilter(throttle)

    for _ in range(3):
        ours.error("%s: x", "ValueError")
    ours.error("something else")
    now += PAUSE
    ours.error("%s: x", "ValueError")
    ours.removeFilter(throttle)

    assert caplog.messages == ["ValueError: x", "something else", "ValueError: x (and 2 like it)"]


def test_denials_that_are_not_logged_are_counted_and_cost_no_digest(
    make_app: Make,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    now, digests = 100.0, []
    monkeypatch.setattr("limiter.log_throttle.monotonic", lambda: now)
    monkeypatch.setattr(logs, "disguised", lambda subject: digests.append(subject) or "digest")
    request.addfinalizer(logs.calm())
    client = make_app(LIMITS="1/minute").client
    with caplog.at_level(logging.INFO, "limiter"):
        for _ in range(6):
            client.get(ASK, headers=CLIENT)
        now += PAUSE
        client.get(ASK, headers=CLIENT)
    with caplog.at_level(logging.WARNING, "limiter"):
        now += PAUSE
        client.get(ASK, headers=CLIENT)

    assert caplog.messages == ["a limit denied", "a limit denied (and 4 like it)"]
    assert len(digests) == 2


def test_servers_write_lines_of_json_too(request: pytest.FixtureRequest) -> None:
    logger = logging.getLogger("uvicorn.error")
    handler = logging.StreamHandler()
    logger.addHandler(handler)
    request.addfinalizer(lambda: logger.removeHandler(handler))
    logs.write_json(logger)
    extra = {"color_message": "\x1b[36m%d\x1b[0m"}
    record = logger.makeRecord(
        logger.name, logging.INFO, "f", 1, "Started %d", (7,), None, extra=extra
    )

    line = json.loads(handler.format(record))
    assert line.pop("time").endswith("+00:00")
    assert line == {"level": "info", "logger": "uvicorn.error", "message": "Started 7"}


def test_counts_reach_the_counters_by_a_timer_and_at_the_end(
    make_app: Make, monkeypatch: pytest.MonkeyPatch, loop: asyncio.AbstractEventLoop
) -> None:
    """Other workers read the counters: a count must not wait for a scrape of this one."""
    monkeypatch.setattr(metrics, "FLUSH_AFTER", 0.001)
    running = make_app()
    counters = running.service.metrics
    labels = {"policy": "default", "outcome": "allowed"}

    def counted() -> float | None:
        return counters._registry.get_sample_value("limiter_decisions_total", labels)

    running.client.get(ASK, headers=CLIENT)
    loop.run_until_complete(asyncio.sleep(0.05))  # longer than FLUSH_AFTER
    assert counted() == 1
    assert counters._registry.get_sample_value("limiter_decision_seconds_count") == 1
    monkeypatch.setattr(metrics, "FLUSH_AFTER", 3_600)
    running.client.get(ASK, headers=CLIENT)
    assert counted() == 1
    loop.run_until_complete(running.service.close())
    assert counted() == 2
    assert counters._registry.get_sample_value("limiter_decision_seconds_count") == 2


def test_durations_are_in_their_buckets(make_app: Make, loop: asyncio.AbstractEventLoop) -> None:
    counters = make_app().service.metrics

    async def count() -> None:
        for seconds in (0.0, 0.0005, 0.0006, 0.3, 2.5, 9.0):
            counters.count(Verdict(), seconds)

    loop.run_until_complete(count())
    text = loop.run_until_complete(counters.rendered()).decode()
    for bucket, number in (("0.0005", 2), ("0.001", 3), ("0.25", 3), ("0.5", 4), ("2.5", 5)):
        assert f'limiter_decision_seconds_bucket{{le="{bucket}"}} {number}.0' in text
    assert 'limiter_decision_seconds_bucket{le="+Inf"} 6.0' in text
    assert "limiter_decision_seconds_sum 11.8011" in text


def test_spans_cost_nothing_until_a_provider_is_set(
    make_app: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API alone records no span. With a provider, the span of a decision is the current one."""
    trace = pytest.importorskip("opentelemetry.trace")
    spans: list[str] = []

    class Provider(trace.NoOpTracerProvider):
        def get_tracer(self, *_: Any, **__: Any) -> Any:
            return Tracer()

    class Tracer(trace.NoOpTracer):
        def start_as_current_span(self, name: str, *_: Any, **__: Any) -> Any:
            spans.append(name)
            return super().start_as_current_span(name)

    client = make_app().client
    assert client.get(ASK, headers=CLIENT).status == 204
    assert spans == []
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", Provider())
    client = make_app().client
    assert client.get(ASK, headers=CLIENT).status == 204
    assert spans == ["limiter.decision"]
