"""The subjects that policies in shadow mode would have denied: counted, merged, and shown to operators."""

from __future__ import annotations

import asyncio
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from limiter.server import shadow
from limiter.web.subjects import disguised, hashed
from service.demo.servers import HOST, free_port
from tests.cli.support import run
from tests.server.client import Running, under_uvicorn
from tests.server.conftest import Make
from tests.server.serving import serving
from tests.server.test_api import problem
from tests.server.test_serve import ended, pids
from tests.service.support import get, post
from tests.waiting import until

TOKEN = "a-token-of-enough-length"  # noqa: S105
BEARER = {"Authorization": f"Bearer {TOKEN}"}

POLICIES = """
[policies.search]
limits = "2/hour"
shadow = true

[policies.keys]
limits = "1/hour"
key = "api-key"
shadow = true

[policies.strict]
limits = "1/hour"
"""


def check(app: Running, policy: str, key: object, times: int) -> None:
    checks = [{"key": key}] * times
    assert app.client.post(f"/v1/check/{policy}", json={"checks": checks}).status == 200


def report(app: Running) -> dict[str, Any]:
    """Return the entries by policy."""
    answer = app.operators.get("/v1/shadow", headers=BEARER)
    assert answer.status == 200
    return {entry["policy"]: entry for entry in answer.json()["policies"]}


def exact(entry: dict[str, Any]) -> dict[str, int]:
    """Return the numbers by subject, which must all be exact, in their order."""
    for each in entry["subjects"]:
        assert each["at_least"] == each["at_most"]
    return {each["subject"]: each["at_most"] for each in entry["subjects"]}


def until_written(app: Running, loop: asyncio.AbstractEventLoop) -> None:
    """Run the loop until the worker's counts are in its file."""

    def is_written() -> bool:
        loop.run_until_complete(asyncio.sleep(0.01))
        return app.service.metrics.shadow_denials._writing is None

    until(is_written)


def test_denials_in_shadow_mode_are_counted_by_subject(make_by_file: Make) -> None:
    app = make_by_file(POLICIES, ADMIN_TOKEN=TOKEN)
    nothing = report(app)
    assert list(nothing) == ["search", "keys"]
    assert nothing["search"]["first"] is None
    assert [entry["denials"] for entry in nothing.values()] == [0, 0]
    assert app.service.metrics.shadow_denials._counted == {}
    for key, times in (("quiet", 2), ("busy", 9), (("org", "7"), 5)):
        check(app, "search", key, times)
    check(app, "strict", "busy", 4)
    for _ in range(3):
        headers = {"X-Forwarded-For": "203.0.113.9", "X-API-Key": "secret-canary"}
        assert app.client.get("/forward-auth/keys", headers=headers).status == 204
    found = report(app)

    assert found.keys() == nothing.keys()
    assert exact(found["search"]) == {disguised("busy"): 7, disguised(("org", "7")): 3}
    assert found["search"]["denials"] == 10
    assert found["search"]["others_at_most"] == 0
    assert exact(found["keys"]) == {disguised(hashed("api-key", "secret-canary")): 2}
    text = json.dumps(found)
    for subject in ("busy", "org", "canary", hashed("api-key", "secret-canary")):
        assert f'"{subject}' not in text


def test_one_subject_has_one_digest_however_a_program_writes_it(make_by_file: Make) -> None:
    """The store counts 7 and "7" as one subject, so one row must have both."""
    app = make_by_file(POLICIES, ADMIN_TOKEN=TOKEN)
    for key in (7, "7"):
        check(app, "search", key, 2)
    assert exact(report(app)["search"]) == {disguised("7"): 2}
    assert disguised(b"7") == disguised(7) == disguised("7") != disguised(("7",))
    assert disguised(b"\xff") != disguised("\ud800")  # no text is refused


def test_only_operators_with_the_token_see_it(make_by_file: Make, make_app: Make) -> None:
    app = make_by_file(POLICIES, ADMIN_TOKEN=TOKEN)
    problem(app.client.get("/v1/shadow", headers=BEARER), 404)
    problem(app.operators.get("/v1/shadow"), 401)
    without = make_by_file(POLICIES, ADMIN_TOKEN="")
    problem(without.operators.get("/v1/shadow", headers=BEARER), 404)
    one = make_app(POLICIES="", LIMITS="1/hour", ADMIN_TOKEN=TOKEN)
    assert report(one) == {}


def test_a_changed_policy_begins_anew_and_an_equal_one_goes_on(make_by_file: Make) -> None:
    """Denials by other limits say nothing about the present ones."""
    app = make_by_file(POLICIES, ADMIN_TOKEN=TOKEN)
    path = Path(app.service.policies.path)
    check(app, "search", "a", 4)
    check(app, "keys", "a", 3)
    path.write_text(POLICIES.replace("2/hour", "3/hour"))
    assert app.service.policies.reload()
    assert report(app)["search"]["denials"] == 0
    check(app, "search", "a", 2)  # one more is admitted
    check(app, "keys", "a", 1)
    found = report(app)
    assert (found["search"]["denials"], found["keys"]["denials"]) == (1, 3)
    path.write_text(POLICIES.replace("shadow = true", ""))
    assert app.service.policies.reload()
    assert report(app) == {}


def test_a_decision_by_the_text_before_is_not_counted(make_by_file: Make) -> None:
    app = make_by_file(POLICIES, ADMIN_TOKEN=TOKEN)
    policies, denials = app.service.policies, app.service.metrics.shadow_denials
    old = policies.guard.rules[0]
    Path(policies.path).write_text(POLICIES.replace("2/hour", "3/hour"))
    assert policies.reload()
    denials.count(old, "a")
    assert denials._counted == {}


def test_denials_of_a_fallback_without_numbers_are_left_out(make_by_file: Make) -> None:
    """They say nothing about the limit."""
    gone = f"redis://{HOST}:{free_port()}/0"
    app = make_by_file(POLICIES, ADMIN_TOKEN=TOKEN, STORE=gone, ON_ERROR="deny", TIMEOUT="0.2")
    check(app, "search", "a", 3)
    assert report(app)["search"]["denials"] == 0


def test_workers_are_added_up_with_their_errors(
    make_by_file: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    loop: asyncio.AbstractEventLoop,
) -> None:
    """Three workers with three counters each: every bound holds, also for those that have ended."""
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setattr(shadow, "COUNTERS", 3)
    monkeypatch.setattr(shadow, "metrics_folder", lambda: str(shared))
    workers = [make_by_file(POLICIES, ADMIN_TOKEN=TOKEN) for _ in range(3)]
    true = dict.fromkeys(
        ["every", *(f"u{worker}-{user}" for worker in range(3) for user in range(3))], 0
    )
    for number, worker in enumerate(workers):
        # The last one writes only when it ends.
        monkeypatch.setattr(shadow, "WRITE_AFTER", 3600.0 if number == 2 else 0.0)
        for key, times in [("every", 20), *((f"u{number}-{user}", 2 + user) for user in range(3))]:
            check(worker, "search", f"{key}", times + 2 * (key != "every" or number == 0))
            true[key] += times
        if number < 2:
            until_written(worker, loop)
    loop.run_until_complete(workers[2].service.close())
    entries = [report(worker)["search"] for worker in workers]

    assert entries[0] == entries[1] == entries[2]
    entry = entries[0]
    total = sum(true.values())
    assert entry["denials"] == total
    assert entry["others_at_most"] <= total / 3
    bounds = {each["subject"]: (each["at_least"], each["at_most"]) for each in entry["subjects"]}
    for key, count in true.items():
        least, most = bounds.get(disguised(key), (0, entry["others_at_most"]))
        assert least <= count <= most
        assert most - least <= total / 3
    assert entry["subjects"][0]["subject"] == disguised("every")
    assert not list(shared.glob("*.part"))


def test_a_denial_during_a_write_is_written_too(
    make_by_file: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    loop: asyncio.AbstractEventLoop,
) -> None:
    """Else other workers would see it only after the next denial."""
    monkeypatch.setattr(shadow, "metrics_folder", lambda: str(tmp_path))
    monkeypatch.setattr(shadow, "WRITE_AFTER", 0.0)
    app = make_by_file(POLICIES, ADMIN_TOKEN=TOKEN)
    denials, replace = app.service.metrics.shadow_denials, shadow._replace
    totals = []

    def replace_slowly(file: Path, states: Any) -> None:
        if not totals:
            loop.call_soon_threadsafe(denials.count, app.service.policies.guard.rules[0], "b")
        totals.append(states["search"]["total"])
        replace(file, states)

    monkeypatch.setattr(shadow, "_replace", replace_slowly)
    check(app, "search", "a", 3)
    until_written(app, loop)
    assert totals == [1, 2]


def test_a_folder_that_cannot_be_written_is_logged(
    make_by_file: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    loop: asyncio.AbstractEventLoop,
) -> None:
    monkeypatch.setattr(shadow, "metrics_folder", lambda: str(tmp_path / "missing"))
    monkeypatch.setattr(shadow, "WRITE_AFTER", 0.0)
    app = make_by_file(POLICIES, ADMIN_TOKEN=TOKEN)
    check(app, "search", "a", 3)

    def is_logged() -> bool:
        loop.run_until_complete(asyncio.sleep(0.01))
        return "cannot be shared" in caplog.text

    until(is_logged)
    assert report(app)["search"]["denials"] == 1


@pytest.mark.slow
def test_the_command_shows_all_workers_of_a_real_service(
    tmp_path: Path, store: str, subject: str
) -> None:
    """Also after SIGHUP has replaced the workers."""
    policies = tmp_path / "policies.toml"
    policies.write_text(f"[policies.{subject}]\nlimits = '2/hour'\nshadow = true\n")
    address = f"{HOST}:{free_port()}"
    with serving(
        tmp_path / "log",
        "--workers=2",
        f"--operators={address}",
        LIMITER_STORE=store,
        LIMITER_POLICIES=str(policies),
        LIMITER_TIMEOUT="5",
        LIMITER_ADMIN_TOKEN=TOKEN,
    ) as (child, url):
        for number in range(30):  # each on a connection of its own, so that both workers get some
            body = {"checks": [{"key": f"u{number % 3}"}] * (number % 3 + 1)}
            assert post(f"{url}/v1/check/{subject}", body).status == 200

        def shown(line: str = "") -> Any:
            done = run(f"shadow {address} --json {line}", LIMITER_ADMIN_TOKEN=TOKEN)
            assert done.exit_code == 0, done.output
            (policy,) = json.loads(done.stdout)["policies"]
            return policy

        def numbers() -> dict[str, int]:
            return {each["subject"]: each["at_least"] for each in shown()["subjects"]}

        expected = {disguised(f"u{number}"): 10 * (number + 1) - 2 for number in (2, 1, 0)}
        until(lambda: numbers() == expected, what=lambda: str(numbers()))
        child.process.send_signal(1)  # SIGHUP
        until(lambda: len(pids(tmp_path / "log")) == 4)
        until(lambda: ended(tmp_path / "log") == 2)
        assert numbers() == expected
        assert shown("--key u1")["subjects"][0]["place"] == [2, 2]
        assert get(f"{url}/v1/shadow", BEARER).status == 404


def test_instances_with_different_limits_stay_apart() -> None:
    """In the middle of a roll-out they have different texts."""

    def entry(limit: int, first: str | None, **subjects: int) -> dict[str, Any]:
        rows = [
            {"subject": name, "at_least": number, "at_most": number}
            for name, number in subjects.items()
        ]
        return {
            "policy": "search",
            "limits": [{"limit": limit}],
            "key": "address",
            "unidentified": "refuse",
            "first": first,
            "denials": sum(subjects.values()),
            "subjects": rows,
            "others_at_most": 0,
        }

    old, new = (
        entry(2, "2026-11-29T09:00:00+00:00", a=3),
        entry(3, "2026-11-29T08:00:00+00:00", a=2, b=5),
    )
    empty, later = entry(3, None), entry(3, "2026-11-29T10:00:00+00:00", a=4)
    both = entry(3, "2026-11-29T08:00:00+00:00", a=6, b=5)
    assert shadow.add_up([old, empty, new, later]) == [old, both]


def command(url: str, *words: str, token: str = TOKEN) -> tuple[int, str]:
    """Run the command; return its exit code, and what it prints."""
    done = run(shlex.join(["shadow", url, *words]), LIMITER_ADMIN_TOKEN=token)
    return done.exit_code, done.output


def test_the_command_prints_a_table(make_by_file: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "COUNTERS", 4)
    app = make_by_file(POLICIES, ADMIN_TOKEN=TOKEN)
    with under_uvicorn(app.service) as (public, operators):

        def checks(policy: str, key: str, times: int) -> None:
            post(f"{public}/v1/check/{policy}", {"checks": [{"key": key}] * times})

        assert command(operators) == (
            0,
            "search: 2 per 3600 s, sliding_log: would have denied no request\n"
            "keys: 1 per 3600 s, sliding_log: would have denied no request\n",
        )
        for key, times in (("a", 100), ("b", 32), ("c", 7), ("d", 4)):
            checks("search", key, times)
        checks("keys", hashed("api-key", "canary"), 2)
        code, printed = command(operators, "--top=2")
        assert code == 0
        lines = printed.splitlines()
        assert lines[0].startswith(
            "search: 2 per 3600 s, sliding_log: would have denied 135 requests since 20"
        )
        assert lines[1:5] == [
            "  denials   share  subject",
            f"       98   72.6%  {disguised('a')}",
            f"       30   22.2%  {disguised('b')}",
            "  each other subject: 5 at most",
        ]
        assert "would have denied 1 request since" in lines[5]
        checks("search", "e", 4)  # takes over the counter of d, and may have been denied as often
        _, printed = command(operators)
        assert "   3 to 4" not in printed
        assert f"   2 to 4    2.9%  {disguised('e')}" in printed
        for words, expected in (
            (["--key=a"], "  98 denials (71.5%), place 1"),
            (["--key=e"], f"  logged as {disguised('e')}\n  2 to 4 denials (2.9%), place 4"),
            (["--key=nobody"], "  4 denials at most"),
            (["--key=canary"], "  1 denials (100.0%), place 1"),
        ):
            code, printed = command(operators, *words)
            assert code == 0
            assert expected in printed, printed
        code, printed = command(operators, "--json", "--top=1")
        assert [len(each["subjects"]) for each in json.loads(printed)["policies"]] == [1, 1]
        assert "canary" not in printed

        code, printed = command(operators, operators, "--top=1")
        assert code == 0
        assert "would have denied 274 requests" in printed
        assert f"      196   71.5%  {disguised('a')}\n  each other subject: 60 at most" in printed

        code, printed = command(public)
        assert code == 4
        assert "ask the operators' address, that of limiter serve --operators" in printed
        code, printed = command(operators, token="another-token-of-length")  # noqa: S106
        assert code == 4
        assert "LIMITER_ADMIN_TOKEN is not the token of this service" in printed
        for _ in range(12):
            code, printed = command(operators, token="another-token-of-length")  # noqa: S106
        assert code == 4
        assert "too many wrong tokens came from this machine; wait" in printed


@pytest.mark.parametrize(
    ("url", "token", "code", "said"),
    [
        ("http://127.0.0.1:1", TOKEN, 3, "did not answer as a decision service does"),
        ("127.0.0.1:1", TOKEN, 3, "refused"),
        ("ftp://127.0.0.1:1", TOKEN, 2, "expected an address like http://127.0.0.1:8001"),
        ("http://", TOKEN, 2, "expected an address"),
        ("http://[::1", TOKEN, 2, "expected an address"),
        ("http://127.0.0.1:none", TOKEN, 2, "expected an address"),
        ("http://127.0.0.1:1", "", 2, "LIMITER_ADMIN_TOKEN is not set"),
        ("http://127.0.0.1:1", "short", 2, "LIMITER_ADMIN_TOKEN is set to 5 characters"),
    ],
)
def test_what_the_command_says_if_it_cannot_ask(url: str, token: str, code: int, said: str) -> None:
    found, printed = command(url, token=token)
    assert (found, said in printed) == (code, True), printed


def test_the_command_without_shadow_mode_says_how_to_get_it(make_app: Make) -> None:
    app = make_app(POLICIES="", LIMITS="1/hour", ADMIN_TOKEN=TOKEN)
    with under_uvicorn(app.service) as (_, operators):
        code, printed = command(operators)
    assert (code, printed) == (
        0,
        "no policy is in shadow mode: set shadow = true in the policy file\n",
    )
