"""The series that an expression of Prometheus asks for, and those of a service.

A simple reader, for the expressions in deploy/; promtool checks their grammar.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

#: What Prometheus adds to all series of a target.
OF_TARGETS = {"job": "limiter", "instance": "127.0.0.1:8001"}

_SELECTOR = re.compile(r"\b(limiter_\w+|up)\b(?:\{(.*?)\})?")
_MATCHER = re.compile(r'(\w+)(=~|!=|!~|=)"((?:[^"\\]|\\.)*)"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring) ?\((.*?)\)")


class Series(NamedTuple):
    """One series: its name and its labels."""

    name: str
    labels: Mapping[str, str]

    def __str__(self) -> str:
        """As promtool reads it."""
        labels = ",".join(f'{label}="{value}"' for label, value in self.labels.items())
        return f"{self.name}{{{labels}}}"


def read(metrics: str) -> list[Series]:
    """The series that Prometheus stores for a service with these metrics."""
    return [
        Series("up", OF_TARGETS),
        *(
            Series(sample.name, {**sample.labels, **OF_TARGETS})
            for family in text_string_to_metric_families(metrics)
            for sample in family.samples
        ),
    ]


def missing(expression: str, series: list[Series]) -> list[str]:
    """The selectors and labels of an expression that no series has."""
    selectors = _SELECTOR.findall(expression)
    assert selectors, expression
    lacking = []
    known: set[str] = set()
    for name, matchers in selectors:
        found = [each for each in series if each.name == name and _fits(each, matchers)]
        for each in found:
            known |= each.labels.keys()
        if not found:
            lacking.append(f"{name}{{{matchers}}}")
    for labels in _GROUPING.findall(expression):
        lacking += [label for label in labels.split(", ") if label not in known]
    return lacking


def _fits(series: Series, matchers: str) -> bool:
    """Whether a series has all labels of the matchers, with a value that fits."""
    for label, operator, text in _MATCHER.findall(matchers):
        value = series.labels.get(label, "")
        matches = value == text if operator[-1] == "=" else bool(re.fullmatch(text, value))
        if label not in series.labels or matches == operator.startswith("!"):
            return False
    return True
