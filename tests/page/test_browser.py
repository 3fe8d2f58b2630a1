"""The page in a real browser, as visitors see, hear and use it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from service.demo.servers import HOST, free_port
from service.page import SHOWN
from tests.e2e.support import Demo, until
from tests.page.support import Browser
from tests.service.support import gunicorn

pytestmark = pytest.mark.slow

#: Buckets, which are refilled by one unit a second during a burst.
REFILLED = {"token_bucket", "gcra", "leaky_bucket"}

#: The browser keeps its connections open, and gunicorn would wait for them.
HASTE = "--graceful-timeout=1"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, store: str) -> Iterator[str]:
    """The page of one instance; each test visits it from an address of its own."""
    folder = tmp_path_factory.mktemp("page")
    variables = {"LIMITER_STORE": store, "LIMITER_PREFIX": "page-tests"}
    variables["LIMITER_KEY_SECRET"] = folder.name + str(free_port())  # keys of this run alone
    with gunicorn(folder / "log", HASTE, app="service.app:create_app('app-1')", **variables) as (
        _,
        found,
    ):
        yield f"{found}/"


def click(browser: Browser, selector: str) -> None:
    browser.one(selector).click()


def asked(browser: Browser) -> list[str]:
    """Return the page's requests since it was loaded."""
    script = "return performance.getEntriesByType('resource').map(one => one.name)"
    return [one for one in browser.run(script) if not one.startswith("data:")]


def check_a_burst_of_30(browser: Browser, instances: set[str]) -> None:
    """Send a burst, and check what the page shows."""
    click(browser, "[data-burst='30']")
    browser.wait_for_news("Burst of 30: admitted by Sliding log 10, Fixed window 10, ")
    cards = browser.cards()

    assert list(cards) == list(SHOWN)
    for name, card in cards.items():
        limit, bound = SHOWN[name].policy.limit, SHOWN[name].bound
        assert card.admitted + card.denied == 30
        if name in REFILLED or name == "concurrency":  # its leases may expire during a slow burst
            assert limit <= card.admitted <= bound + (name == "concurrency") * 25
        else:
            assert card.admitted == limit
        assert (card.dots, card.crosses) == (card.admitted, card.denied)
        most = int(
            card.said["Most at once" if name == "concurrency" else "Most in any 10 s"].split(",")[0]
        )
        assert most <= bound
        assert card.label.endswith(f"{most}, bound {bound}.")
        assert card.said["Last answer"] in ("429 Too Many Requests", "200 OK") or name in REFILLED
        assert card.said["Answered by"] in instances
        assert card.said["RateLimit"].startswith(f'"{name}";r=')
        assert card.said["RateLimit-Policy"].startswith(f'"{name}";q={limit};')
        assert re.fullmatch(rf"\d+ of {limit} left", card.said["Redis holds"])
    denied = cards["fixed_window"]
    assert denied.said["Last answer"] == "429 Too Many Requests"
    assert 1 <= int(denied.said["Retry-After"]) <= 10
    assert denied.said["Redis holds"] == "0 of 10 left"
    assert re.fullmatch(r"in \d+\.\d s", denied.said["Full again"])
    assert browser.run("return mostFlying") <= 7  # six, and one that reads the state
    assert browser.complaints() == []


def test_a_burst_shows_what_each_algorithm_admits(browser: Browser, url: str) -> None:
    browser.visit(url, "203.0.113.1")
    assert "(203.0.113.1)" in browser.one("header").text
    check_a_burst_of_30(browser, {"app-1"})

    assert all(one.startswith(url) for one in asked(browser))


def test_through_traefik_all_instances_answer(browser: Browser, tmp_path: Path, store: str) -> None:
    with Demo(tmp_path, "--store", store) as demo:
        demo.wait_for("Ready")
        browser.visit(f"{demo.url}/")
        assert "(127.0.0.1)" in browser.one("header").text
        check_a_burst_of_30(browser, {"instance-1", "instance-2"})
        click(browser, "[data-burst='1']")
        browser.wait_for_news("One: ")
        by = {card.said["Answered by"] for card in browser.cards().values()}
        assert by == {"instance-1", "instance-2"}
        browser.get("about:blank")


def test_it_sends_no_request_before_the_visitor_does(browser: Browser, url: str) -> None:
    browser.visit(url, "203.0.113.2")
    assert len(asked(browser)) == 1
    browser.execute_async_script("setTimeout(arguments[0], 1500)")

    assert len(asked(browser)) == 1
    assert all(card.said["Redis holds"].endswith(" left") for card in browser.cards().values())
    assert all(card.said["Full again"] == "it is" for card in browser.cards().values())


def test_it_works_by_keyboard(browser: Browser, url: str) -> None:
    browser.visit(url, "203.0.113.3")
    press = ActionChains(browser)

    def focused() -> str:
        script = "const e = document.activeElement; return e.ariaLabel || e.id || e.textContent"
        return str(browser.run(script))

    order = []
    for _ in range(12):
        press.send_keys(Keys.TAB).perform()
        order.append(focused())
        outline = "return getComputedStyle(document.activeElement).outlineStyle"
        assert browser.run(outline) == "solid", order
    fire_at = [f"Send to {title.text}" for title in browser.all("article h2")]
    assert order == ["One", "Ten", "Burst of 30", "seam", "rate", *fire_at]

    press.send_keys(Keys.SPACE).perform()  # not the last of them
    browser.run("document.querySelector('[data-burst]').focus()")
    press.send_keys(Keys.ENTER).perform()
    browser.wait_for_news("One: admitted by Sliding log 1, ")
    assert [card.admitted for card in browser.cards().values()] == [1, 1, 1, 1, 1, 1, 0]

    browser.run("document.getElementById('rate').focus()")
    press.send_keys(Keys.END).perform()
    assert browser.one("#rate-said").text == "5.0 a second"
    assert browser.one("#rate").get_attribute("aria-valuetext") == "5.0 a second"
    until(lambda: browser.cards()["sliding_log"].denied >= 3, what=lambda: browser.news)
    press.send_keys(Keys.HOME).perform()
    assert browser.one("#rate-said").text == "off"
    card = browser.cards()["sliding_log"]
    assert (card.admitted, card.dots) == (10, 10)
    assert browser.cards()["concurrency"].admitted == 0


def test_everything_has_a_name_and_a_place_for_a_finger(browser: Browser, url: str) -> None:
    browser.look(375)
    browser.visit(url, "203.0.113.4")
    for control in browser.all("button, input"):
        assert control.accessible_name
        label = browser.run("return arguments[0].labels?.[0] ?? arguments[0]", control)
        assert label.size["height"] >= 24, control.accessible_name
    for button in browser.all("button, #rate"):
        assert button.size["height"] >= 44
    assert all(one.aria_role in ("img", "image") for one in browser.all("svg"))
    assert browser.one("#news").get_attribute("aria-live") == "polite"
    assert browser.one("html").get_attribute("lang") == "en"
    assert [one.aria_role for one in browser.all("header, main, footer")] == [
        "banner",
        "main",
        "contentinfo",
    ]


#: The contrast ratio of a text and its background (WCAG 2.2).
_CONTRAST = """
const css = getComputedStyle(document.documentElement);
const light = (name) => {
  const hex = css.getPropertyValue(name).trim().slice(1);
  const [r, g, b] = (hex.length === 3 ? [...hex].map((one) => one + one) : hex.match(/../g))
    .map((two) => parseInt(two, 16) / 255)
    .map((one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const [one, other] = [...arguments].map(light);
return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
"""

#: Elements whose content does not fit.
_CUT_OFF = """
return [...document.querySelectorAll('article *:not(svg *)')]
  .filter((one) => one.scrollWidth > one.clientWidth + 1 && getComputedStyle(one).display !== 'inline')
  .length"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 768, 1920])
def test_it_is_legible(browser: Browser, url: str, tmp_path: Path, scheme: str, width: int) -> None:
    """At every width no text is cut off, and in both schemes every text has enough contrast."""
    browser.look(width, scheme)
    browser.visit(url, "203.0.113.5")
    click(browser, "[data-burst='1']")
    browser.wait_for_news("One: ")
    browser.save_screenshot(str(tmp_path / f"{width}-{scheme}.png"))

    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.run(_CUT_OFF) == 0
    for ground in ("--ground", "--card"):
        for text in ("--text", "--quiet", "--admitted", "--denied", "--bound"):
            assert browser.run(_CONTRAST, text, ground) >= 4.5, (text, ground)
    dark = (
        browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    )
    assert dark == (scheme == "dark")
    assert browser.complaints() == []
    browser.look(1280)


def test_reduced_motion_is_respected(browser: Browser, url: str) -> None:
    browser.look(1280, motion="reduce")
    browser.visit(url, "203.0.113.6")
    click(browser, "[data-burst='1']")
    browser.wait_for_news("One: ")
    count = """const done = arguments[0], seen = new Set();
      const moving = document.querySelector('.moving');
      const look = setInterval(() => seen.add(moving.getAttribute('transform')), 50);
      setTimeout(() => { clearInterval(look); done(seen.size); }, 2500);"""

    assert 2 <= browser.execute_async_script(count) <= 4
    browser.look(1280)


def test_too_many_requests_are_refused_with_a_reason(
    browser: Browser, tmp_path: Path, store: str, subject: str
) -> None:
    variables = {"LIMITER_STORE": store, "LIMITER_PREFIX": subject}
    app = "tests.page.few_requests:create_app()"
    with gunicorn(tmp_path / "log", HASTE, app=app, **variables) as (_, found):
        browser.visit(f"{found}/")
        click(browser, "[data-burst='30']")
        browser.wait_for_news("This page's own limit denied a request.")

        cards = browser.cards().values()
        decided = sum(card.admitted + card.denied for card in cards)
        assert decided < 30 * len(cards)  # the rest is not sent
        assert browser.run("return mostFlying") <= 7
        browser.get("about:blank")


def test_a_store_that_does_not_answer_is_shown(browser: Browser, tmp_path: Path) -> None:
    store = f"redis://{HOST}:{free_port()}/0"
    with gunicorn(tmp_path / "log", HASTE, LIMITER_STORE=store, LIMITER_TIMEOUT="0.2") as (_, url):
        browser.visit(f"{url}/")
        click(browser, "[data-burst='1']")
        browser.wait_for_news(
            "503 Service Unavailable: The rate limit cannot be checked right now."
        )

        for card in browser.cards().values():
            assert card.said["Redis holds"] == "it does not answer"
            assert (card.admitted, card.dots, card.crosses) == (0, 0, 0)
        browser.get("about:blank")


def test_the_window_s_end_is_sent_in_three_steps(browser: Browser, url: str) -> None:
    browser.visit(url, "203.0.113.8")
    # The waits of seconds are shortened here: other tests show what the service decides in real time.
    browser.run("""const really = setTimeout;
      window.setTimeout = (call, wait) => really(call, wait > 5000 ? wait / 10 : wait);
      window.steps = [];
      const fetched = fetch;
      window.fetch = (to, ...more) => {
        if (to.includes('sliding_log')) steps.push(performance.now());
        return fetched(to, ...more);
      };""")
    click(browser, "#seam")
    assert browser.news.startswith("Window's end: one request opens a window ")
    assert not browser.one("#seam").is_enabled()
    browser.wait_for_news("Ten just after the window's end: admitted by Sliding log ")
    until(lambda: browser.one("#seam").is_enabled(), what=lambda: "it stays disabled")
    steps = browser.run("return steps.map((at) => at - steps[0])")

    assert [card.admitted + card.denied for card in browser.cards().values()] == [20] * 7
    assert (len(steps), steps[0]) == (20, 0)
    assert steps[1] >= 880
    assert steps[10] >= 1000


def test_the_countdown_of_the_window_s_end_moves(browser: Browser, url: str) -> None:
    """It counts until the limits are full again, and until each step."""
    browser.visit(url, "203.0.113.10")
    click(browser, "[data-burst='1']")
    browser.wait_for_news("One: ")
    click(browser, "#seam")
    said: list[str] = []

    def three_values() -> bool:
        text = browser.one("#countdown").text
        said.extend([text] if text and text not in said else [])
        return len(said) == 3

    until(three_values, what=lambda: f"{said}")
    left = [int(match[1]) for text in said if (match := re.fullmatch(r"One in (\d+) s\.", text))]
    assert left[0] > left[1] > left[2]
    assert (
        browser.one("#countdown").get_attribute("role") == "timer"
    )  # screen readers do not read it aloud


#: Labels that another element could cross. All but those of the axis need a background of their own, which
#: is drawn over the moving elements, and where no line begins.
_CROSSED = """
return [...document.querySelectorAll('svg[role=img]')].flatMap((picture) => {
  const ground = picture.querySelector('.gutter'), box = ground?.getBoundingClientRect();
  const card = getComputedStyle(picture.closest('article')).backgroundColor;
  const covers = ground && getComputedStyle(ground).fill === card
    && [...picture.querySelectorAll('.moving')].every(
      (one) => one.compareDocumentPosition(ground) & Node.DOCUMENT_POSITION_FOLLOWING);
  const lines = [...picture.querySelectorAll('line')].map((one) => one.getBoundingClientRect().left);
  return [...picture.querySelectorAll('.labels text:not([text-anchor])')].filter((label) => {
    const { right } = label.getBoundingClientRect();
    return !covers || right > box.right || lines.some((left) => left < right);
  }).map((label) => `${picture.id}: ${label.textContent}`);
})"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_no_element_crosses_a_label(browser: Browser, url: str, width: int, scheme: str) -> None:
    browser.look(width, scheme)
    browser.visit(url, "203.0.113.5")
    labels = browser.run(
        "return [...document.querySelectorAll('#sliding_window .labels text')].map((e) => e.textContent)"
    )

    assert labels[:4] == ["limit 10", "bound 18", "admitted", "denied"]
    assert browser.run(_CROSSED) == []
    browser.look(1280)


@pytest.mark.parametrize("width", [320, 768, 1100, 1280, 1920])
def test_no_card_is_alone_in_a_row(browser: Browser, url: str, width: int) -> None:
    browser.look(width)
    browser.visit(url, "203.0.113.5")
    rows: dict[float, float] = {}
    for box in browser.run(
        "return [...document.querySelectorAll('#cards > *')].map((e) => e.getBoundingClientRect())"
    ):
        rows[box["y"]] = max(rows.get(box["y"], 0), box["right"])

    assert len(set(rows.values())) == 1, rows  # each row reaches the right edge
    browser.look(1280)


def test_a_hidden_page_sends_no_request(browser: Browser, url: str) -> None:
    browser.visit(url, "203.0.113.9")
    browser.run("""const rate = document.getElementById('rate');
      rate.value = 5; rate.dispatchEvent(new Event('input'));""")
    until(lambda: browser.cards()["gcra"].admitted >= 2, what=lambda: browser.news)
    browser.run("""Object.defineProperty(document, 'hidden', {value: true});
      document.dispatchEvent(new Event('visibilitychange'));""")

    browser.wait_for_news("The steady requests have stopped: the page was hidden.")
    assert browser.one("#rate").get_attribute("value") == "0"
    browser.execute_async_script("setTimeout(arguments[0], 300)")  # pending requests are answered
    count = len(asked(browser))
    browser.execute_async_script("setTimeout(arguments[0], 1200)")
    assert len(asked(browser)) == count
