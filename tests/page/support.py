"""A browser that visits the page."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.e2e.support import until

#: Counts the page's simultaneous requests.
_COUNTING = """
{
  const really = fetch;
  let flying = 0;
  window.mostFlying = 0;
  window.fetch = async (...asked) => {
    flying += 1;
    window.mostFlying = Math.max(window.mostFlying, flying);
    try { return await really(...asked); } finally { flying -= 1; }
  };
}
"""


class Browser(Chrome):
    """Chromium without a window, with the size and colours of a test."""

    def __init__(self, chromium: str, driver: str, folder: Path) -> None:
        options = ChromeOptions()
        options.binary_location = chromium
        options.add_argument("--headless=new")
        options.add_argument("--no-proxy-server")
        options.add_argument("--disable-dev-shm-usage")
        options.add_argument(f"--user-data-dir={folder}")
        if os.geteuid() == 0:
            options.add_argument("--no-sandbox")  # Chromium has none for root
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        super().__init__(options=options, service=Service(driver))
        self.execute_cdp_cmd("Network.enable", {})
        self.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _COUNTING})
        self.look(1280)

    def look(self, width: int, scheme: str = "light", motion: str = "no-preference") -> None:
        """Set the width and the preferred colours."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = {"prefers-color-scheme": scheme, "prefers-reduced-motion": motion}
        found = [{"name": name, "value": value} for name, value in features.items()]
        self.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": found})

    def visit(self, url: str, address: str | None = None) -> None:
        """Load the page as a visitor with this address, which is sent in place of a proxy's field."""
        headers = {} if address is None else {"X-Forwarded-For": address}
        self.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": headers})
        self.get_log("browser")  # drops messages of earlier tests
        self.get(url)
        until(lambda: len(self.all("article")) == 7, what=lambda: self.news)

    def all(self, selector: str) -> list[WebElement]:
        """Every element that matches."""
        return self.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        """The first element that matches."""
        return self.find_element(By.CSS_SELECTOR, selector)

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page."""
        return self.execute_script(script, *arguments)

    @property
    def news(self) -> str:
        """The text of the page's status region, which screen readers read aloud."""
        return self.one("#news").text

    def wait_for_news(self, text: str) -> None:
        """Wait until the page shows this news."""
        until(lambda: text in self.news, what=lambda: f"no {text!r} in {self.news!r}")

    def cards(self) -> dict[str, Card]:
        """Return what the page shows of each algorithm."""
        script = """return [...document.querySelectorAll('article')].map(card => {
          const text = name => card.querySelector(name).textContent;
          return [card.querySelector('svg').id, {
            admitted: Number(text('b.admitted')), denied: Number(text('b.denied')),
            dots: card.querySelectorAll('circle').length,
            crosses: card.querySelectorAll('.cross').length,
            said: Object.fromEntries([...card.querySelectorAll('dt')].map(
              dt => [dt.textContent, dt.nextElementSibling.textContent])),
            label: card.querySelector('svg').getAttribute('aria-label'),
          }];
        })"""
        return {name: Card(found) for name, found in self.run(script)}

    def complaints(self) -> list[str]:
        """Return the console's messages, without those that the browser writes for each refusal."""
        expected = re.compile(r"/page/hit\?policy=\w+ .*status of 429")
        return [
            entry["message"]
            for entry in self.get_log("browser")
            if not (entry["source"] == "network" and expected.search(entry["message"]))
        ]


class Card:
    """One algorithm's part of the page."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.admitted: int = found["admitted"]
        self.denied: int = found["denied"]
        self.dots: int = found["dots"]
        self.crosses: int = found["crosses"]
        self.said: dict[str, str] = found["said"]
        self.label: str = found["label"]
