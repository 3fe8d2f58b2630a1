"""The examples of docs/service.md and docs/forward-auth.md do what the pages show."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from service.demo.servers import HOST, Server, free_port
from service.upstream import passing_on
from tests.cli.support import shell
from tests.proxies.support import block
from tests.server.serving import serving
from tests.service.support import ROOT

SERVICE = (ROOT / "docs/service.md").read_text()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
def test_every_example_prints_what_the_page_shows(tmp_path: Path) -> None:
    (command,) = re.findall(r"^```sh\n(.*?)^```$", SERVICE, re.M | re.S)
    variables = dict(re.findall(r"(LIMITER_\w+)=(\S+)", command))
    second = free_port()
    with Server() as server:
        variables["LIMITER_STORE"] = server.url
        operators = f"--operators={HOST}:{second}"
        with serving(tmp_path / "log", operators, **variables) as (_, url):
            for console in re.findall(r"^```console\n(.*?)^```$", SERVICE, re.M | re.S):
                for example in re.split(r"^\$ ", console, flags=re.M)[1:]:
                    words, *shown = example.splitlines()
                    words = words.replace("http://127.0.0.1:8000", url)
                    words = words.replace(":8001", f":{second}")
                    done = shell(words, **variables)
                    assert done.returncode == 0, (words, done.stderr)
                    printed = done.stdout.splitlines()
                    for line in map(_general, shown):
                        assert line in map(_general, printed), (words, line, printed)


def _general(line: str) -> str:
    """Replace the remaining seconds, and a time, in a line."""
    line = re.sub(r"(t=|retry-after: )\d+", r"\g<1>N", line.rstrip())
    return re.sub(r"since 20\d\d-.* UTC", "since T", line)


def test_the_middleware_on_the_page_works_like_the_service_s_own() -> None:
    shown: dict[str, Any] = {}
    exec(compile(block("python"), "docs/forward-auth.md", "exec"), shown)  # noqa: S102

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("404 Not Found", [("X", "y")])
        return [b"z"]

    for wrap in (shown["passing_on"], passing_on):
        sent = {"HTTP_RATELIMIT": '"a";r=1', "HTTP_RATELIMIT_POLICY": '"a";q=2'}
        fields = [("X", "y"), ("RateLimit-Policy", '"a";q=2'), ("RateLimit", '"a";r=1')]
        assert _called(wrap(app), sent) == [("404 Not Found", fields), [b"z"]]
        assert _called(wrap(app), {}) == [("404 Not Found", [("X", "y")]), [b"z"]]


def _called(app: Any, environ: dict[str, Any]) -> list[Any]:
    """Return the start of an application's response, and its body."""
    started: list[Any] = []
    body = app(environ, lambda *words: started.append(words))
    return [*started, list(body)]
