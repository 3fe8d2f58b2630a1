"""The page of a simulation in a browser, and the picture."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from unittest.mock import patch

import pytest

from limiter.policies import GCRA, FixedWindow, Policy, SlidingLog, TokenBucket
from limiter.simulate import page
from limiter.simulate.curves import LimitCurves, limit_curves, worst_subjects
from limiter.simulate.demand import Demand
from limiter.simulate.plots import Mark
from limiter.simulate.report import PolicyReport, Report, Timeline
from limiter.simulate.suggest import read_share, suggest
from limiter.units import SECOND_US
from tests.cli.support import run
from tests.page.conftest import browser
from tests.page.support import Browser

__all__ = ["browser"]

pytestmark = pytest.mark.slow

#: A key that would run a script, send a request, end each kind of element, and turn the text around.
HOSTILE = (
    "</bdi></title></svg></style>--><script>document.title='hacked'</script>"
    "<img src=http://192.0.2.1/x onerror=\"document.title='hacked'\">&lt;'\u202e${title}"
)
_POLICIES = """
[policies.api]
limits = "3/10s"
algorithm = "sliding_window"
key = "header:X-Api-Key"

[policies.api.plans.big]
limits = "5/10s"
keys = ["big"]

[policies.second]
limits = "100/minute burst 20"
algorithm = "gcra"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log, policies, and the report of their simulation in each form."""
    folder = tmp_path_factory.mktemp("simulate")
    (folder / "policies.toml").write_text(_POLICIES)
    keys = [("greedy", 3, 1), ("big", 1, 1), ("small", 1, 5), ("other", 1, 7)]
    lines = [
        json.dumps(
            {
                "time": 1_800_000_000 + second,
                "method": "GET",
                "host": "a.example",
                "path": "/",
                "address": "192.0.2.1",
                "headers": {"X-Api-Key": key},
            }
        )
        for second in range(20)
        for key, times, every in keys
        if second % every == 0
        for _ in range(times)
    ]
    (folder / "log.json").write_text("\n".join(lines))
    words = shlex.join([f"{folder}/log.json", f"{folder}/policies.toml"])
    result = run(
        f"simulate {words} --suggest 50% --json --html {folder}/page.html --png {folder}/plots.png"
    )
    assert result.exit_code == 0, result.output
    (folder / "report.json").write_text(result.stdout)
    return folder


def test_the_page_shows_hostile_text_as_text_and_asks_no_network(
    browser: Browser, tmp_path: Path
) -> None:
    policy, timeline = SlidingLog(2, 10), Timeline()
    with Demand() as demand:
        for second in range(20):
            demand.add("a", (1_800_000_000 + second) * SECOND_US, 1, second % 10 > 1)
            timeline.add((1_800_000_000 + second) * SECOND_US, second % 10 < 2, second % 10 > 1)
        drawn = page.Drawn(
            PolicyReport("api", (policy,), HOSTILE, HOSTILE, requests=20, timeline=timeline),
            [limit_curves(policy, demand)],
            worst_subjects(demand),
            [suggest(demand, read_share("50%"), 10 * SECOND_US, "api", policy)],
        )
    report = Report([HOSTILE], warnings=[HOSTILE], policies=[drawn.report])
    text = page.html(report, [drawn], show=lambda _: HOSTILE)
    (tmp_path / "page.html").write_text(text, "utf-8")
    shown_text = HOSTILE.replace("\u202e", "\\u202e")

    browser.get_log("browser")
    for width, scheme, ground in (
        (1280, "light", "rgb(255, 255, 255)"),
        (360, "dark", "rgb(20, 23, 26)"),
    ):
        browser.look(width, scheme)
        browser.get((tmp_path / "page.html").as_uri())
        shown = browser.run(
            """const plots = [...document.querySelectorAll('svg')].filter(svg => svg.checkVisibility());
            return {
              texts: ['title', '.worst bdi', '.warnings li', '.key'].map(
                place => document.querySelector(place).textContent.replace('Simulation of ', '')),
              active: document.querySelectorAll('script, img, link, iframe, [onerror]').length,
              loaded: performance.getEntriesByType('resource').length,
              ground: getComputedStyle(document.body).backgroundColor,
              isWider: document.documentElement.scrollWidth > innerWidth,
              plots: plots.length,
              cut: plots.filter(svg => svg.getBoundingClientRect().right > innerWidth).length,
              fill: getComputedStyle(plots[0].querySelector('.mark-area path')).fill,
            }"""
        )
        assert set(shown["texts"]) == {shown_text}
        assert (shown["active"], shown["loaded"], shown["cut"]) == (0, 0, 0)
        assert (shown["ground"], shown["isWider"], shown["plots"]) == (ground, False, 4)
        assert shown["fill"] == ("rgb(0, 98, 155)" if scheme == "light" else "rgb(91, 184, 240)")
    assert browser.get_log("browser") == []
    browser.look(1280)
    assert "\u202e" not in re.sub("<svg.*?</svg>", "", text)  # a plot has the unit as it is
    assert "default-src 'none'" in text
    assert len(text) < 200_000


def test_the_page_has_the_figures_of_the_report(folder: Path) -> None:
    text = (folder / "page.html").read_text("utf-8")
    report = json.loads((folder / "report.json").read_text())

    api = report["policies"][0]
    assert f"<dt>requests</dt><dd>{api['requests']:,}</dd>" in text
    assert (
        f"<dt>denied</dt><dd>{api['denied']:,} ({api['denied'] / api['requests']:.2%})</dd>" in text
    )
    for warning in report["warnings"]:
        assert warning.partition(":")[0] in text


def test_subjects_of_a_plan_have_no_part_in_a_suggestion(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    api, second = report["suggestions"]

    assert (api["name"], api["subjects"], api["present"]["limit"]) == ("api", 3, 3)
    assert {trial["algorithm"]: trial["limit"] for trial in api["limits"]}["sliding_log"] == 2
    assert all(trial["holds"] for trial in [*api["limits"], *api["bursts"]])
    assert (second["subjects"], second["period"]) == (1, 60)


def test_a_policy_whose_subjects_all_have_a_plan_has_no_curves(folder: Path) -> None:
    """Nothing is known of its own limits; the page and the terminal say so."""
    policies = _POLICIES.replace('["big"]', '["big", "greedy", "small", "other"]')
    (folder / "planned.toml").write_text(policies)
    page = folder / "planned.html"
    result = run(f"simulate {folder}/log.json {folder}/planned.toml --suggest 50% --html {page}")

    assert result.exit_code == 0
    note = "No subject counts by api's own limit per 10 seconds: nothing is suggested for it."
    assert note in result.stdout.splitlines()
    assert note in page.read_text().replace("&#x27;", "'")
    assert page.read_text().count("<h3>Denied by other limits (") == 1


def test_the_picture_is_a_png_of_the_plots_of_all_policies(folder: Path) -> None:
    data = (folder / "plots.png").read_bytes()

    assert data.startswith(b"\x89PNG\r\n")
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    assert width > 1_500
    assert height > 2 * 3 * 220 * 2


def test_subjects_are_hashed_on_request(folder: Path) -> None:
    words = shlex.join([f"{folder}/log.json", "--limits", "2/10s", "--key", "header:X-Api-Key"])
    result = run(f"simulate {words} --hash --html {folder}/hashed.html")

    assert result.exit_code == 0
    text = (folder / "hashed.html").read_text("utf-8")
    assert "greedy" not in text
    worst = json.loads(run(f"simulate {words} --hash --json").stdout)["policies"][0]["worst"][0]
    assert f"<bdi>{worst['subject']}</bdi>" in text


def test_what_cannot_be_drawn_or_written_is_an_error(folder: Path) -> None:
    line = shlex.join(["simulate", f"{folder}/log.json", f"{folder}/policies.toml"])

    result = run(f"{line} --suggest 101%")
    assert (result.exit_code, "up to 100%" in result.stderr) == (2, True)
    result = run(f"{line} --html {folder}/missing/page.html")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "page.html does not exist: create it first" in result.stderr
    result = run(f"{line} --html /dev/full")
    assert result.exit_code == 1
    assert result.stderr.endswith("/dev/full cannot be written: No space left on device\n")
    (folder / "empty").touch()
    result = run(
        f"simulate {folder}/empty --limits 1/minute --html {folder}/empty.html --png {folder}/1.png"
    )
    assert result.exit_code == 1
    assert (folder / "empty.html").exists()
    assert result.stderr.endswith("1.png is not written: there are no requests to draw\n")
    with patch("limiter.cli.simulate.find_spec", return_value=None):
        result = run(f"{line} --png {folder}/plots.png")
    assert result.exit_code == 2
    assert "pip install '.[simulate]'" in result.stderr


def test_the_terminal_has_tables_of_the_suggestion(folder: Path) -> None:
    words = shlex.join(
        [f"{folder}/log.json", "--limits", "2/10s; 4/second", "--key", "header:X-Api-Key"]
    )
    lines = run(f"simulate {words} --suggest 50%").stdout.splitlines()

    titles = [line for line in lines if line.startswith("default: the smallest")]
    assert titles == [
        "default: the smallest limits per 10 seconds that never deny 50% of 4 subjects",
        "default: the smallest burst of a token bucket at each rate that never denies 50% of 4 subjects",
        "default: the smallest limits per second that never deny 50% of 4 subjects",
        "default: the smallest burst of a token bucket at each rate that never denies 50% of 4 subjects",
    ]
    (present, *_) = [line.split() for line in lines if line.startswith("present")]
    assert present[:4] == ["present", "sliding_log", "2", "50.00%"]


def test_a_policy_without_requests_has_no_plots() -> None:
    report = PolicyReport("idle", (SlidingLog(1, 1),), ["host", "address"])
    suggestion = suggest(Demand(), read_share("100%"), SECOND_US)
    text = page.html(Report(lines=3), [page.Drawn(report, suggestions=[suggestion])])

    assert "3 lines, no requests." in text
    assert "host, address" in text
    assert "<svg" not in text


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (SlidingLog(3, 10), [5]),
        (SlidingLog(5, 10), []),
        (SlidingLog(3, 60), []),
        (FixedWindow(3, 10, align=True), [5]),
        (GCRA(3, 10), [5]),
        (TokenBucket(3, 10, burst=2), []),
    ],
)
def test_the_suggested_limit_is_drawn_beside_the_present_one(
    present: Policy, expected: list[int]
) -> None:
    with Demand() as demand:
        for _ in range(5):
            demand.add("a", 1_800_000_000 * SECOND_US, 1)
        suggestion = suggest(demand, read_share("100%"), 10 * SECOND_US)
    drawn = page.Drawn(PolicyReport("api", (present,), "address"), suggestions=[suggestion])

    first, *others = drawn.marks(LimitCurves(present))

    more = drawn.marks_of_peaks(LimitCurves(present))[1 + len(others) :]
    assert more == [Mark("burst", 2, True)] * (present.capacity == 2)
    assert first == Mark("limit", present.limit)
    assert others == [Mark("suggested", limit, True) for limit in expected]


def test_a_timeline_of_any_length_is_drawn() -> None:
    for length_s in (1, 3_000, 86_400, 86_400 * 3, 86_400 * 40, 86_400 * 800):
        timeline = Timeline()
        for second in {0, length_s - 1}:
            timeline.add((1_800_000_000 + second) * SECOND_US, 1, 0)
        assert page.plots.over_time(timeline, page.WIDE)["data"]["values"][0]["rate"] > 0
