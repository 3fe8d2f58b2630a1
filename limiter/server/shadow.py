"""The subjects that policies in shadow mode would have denied most, over all workers of an instance.

Each worker counts in sketches of bounded size, and knows subjects by the digest of log lines alone. It
writes its sketches to a file of its own, in the folder that workers share for metrics. The worker that
answers an operator reads all of these files. A worker that ends leaves its file, so the counts are those of
the instance.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from hashlib import blake2b
from pathlib import Path
from typing import Any

from limiter.policyfile import AsyncPolicies
from limiter.policyfile.policy import Named
from limiter.server import logs
from limiter.server.one_policy import AnyPolicies
from limiter.server.sketch import Sketch, Summary
from limiter.settings import metrics_folder
from limiter.web.rules import Rule
from limiter.web.subjects import Key, disguised

#: Counters of one policy in one worker; all of them in use take about 0.33 MB.
COUNTERS = 1000

#: Seconds after which a denial is in the worker's file.
WRITE_AFTER = 1.0

#: What is known of one policy, as JSON.
_State = dict[str, Any]


@dataclass
class _Counted:
    """One policy's denials, as long as its text in the file stays the same."""

    rule: Rule
    text: str
    first: float = field(default_factory=time.time)
    sketch: Sketch = field(default_factory=lambda: Sketch(COUNTERS))

    def state(self) -> _State:
        return {"text": self.text, "first": self.first, **self.sketch.summary()._asdict()}


class ShadowDenials:
    """Counts the denials of one worker's policies in shadow mode, and reports those of all workers."""

    def __init__(self, policies: AnyPolicies) -> None:
        self._policies = policies
        self._counted: dict[str, _Counted] = {}
        folder = metrics_folder()
        self._file = Path(folder, f"shadow_{secrets.token_hex(8)}.json") if folder else None
        #: Whether a denial was counted since the file was written, or is being written.
        self._is_changed = False
        self._closing = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None

    def count(self, rule: Rule, subject: Key) -> None:
        """Count a denial by a rule in shadow mode."""
        counted = self._counted.get(rule.name)
        if counted is None or counted.rule is not rule:
            counted = self._begun(rule)
            if counted is None:
                return
        counted.sketch.add(disguised(subject))
        self._is_changed = True
        if self._writing is None and self._file is not None:
            self._writing = asyncio.get_running_loop().create_task(self._write(self._file))

    def _begun(self, rule: Rule) -> _Counted | None:
        """Return the counts for a rule of the file that is in force: new ones if the policy has changed.

        A request that an earlier version of the file decided gets None, since its limits are others.
        """
        named = _in_force(self._policies).get(rule.name)
        if named is None or named.rule is not rule:
            return None
        text, counted = _digest(named), self._counted.get(rule.name)
        if counted is None or counted.text != text:
            self._counted[rule.name] = counted = _Counted(rule, text)
        counted.rule = rule
        return counted

    async def _write(self, file: Path) -> None:
        """Write the counts after a while, and again until none is new."""
        while self._is_changed:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._closing.wait(), WRITE_AFTER)
            self._is_changed = False
            try:  # in a thread, since a disk may be slow
                await asyncio.to_thread(_replace, file, self._states())
            except OSError as error:
                text = "the counts of shadow mode cannot be shared with other workers: %s"
                logs.log.warning(text, error)
        self._writing = None

    async def close(self) -> None:
        """Write the last counts."""
        if self._writing is not None:
            self._closing.set()
            await self._writing

    def _states(self) -> dict[str, _State]:
        return {name: counted.state() for name, counted in self._counted.items()}

    async def report(self) -> list[dict[str, Any]]:
        """Return an entry for each shadow-mode policy, ready for JSON; its most denied subjects first."""
        policies = [named for named in _in_force(self._policies).values() if named.rule.shadow]
        return await asyncio.to_thread(self._reported, policies, self._states())

    def _reported(self, policies: list[Named], own: dict[str, _State]) -> list[dict[str, Any]]:
        workers = [own, *self._of_others()]
        return [
            _entry(named, [each.get(named.rule.name) for each in workers]) for named in policies
        ]

    def _of_others(self) -> list[dict[str, _State]]:
        """Read the other workers' files."""
        if self._file is None:
            return []
        files = [each for each in self._file.parent.glob("shadow_*.json") if each != self._file]
        return [json.loads(file.read_text()) for file in files]


def _in_force(policies: AnyPolicies) -> Mapping[str, Named]:
    """Return the policies of the file; without a file no policy can be in shadow mode."""
    return policies.current.file.policies if isinstance(policies, AsyncPolicies) else {}


def _digest(named: Named) -> str:
    """Return a digest of a policy's text; counts of different texts are never added."""
    return blake2b(json.dumps(named.description).encode(), digest_size=8).hexdigest()


def _replace(file: Path, states: dict[str, _State]) -> None:
    """Replace the file in one step: a reader sees the old text or the new one."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(states))
    part.replace(file)


def _entry(named: Named, states: list[_State | None]) -> dict[str, Any]:
    """Return a policy's entry of the report, from the workers' counts under its present text."""
    text = _digest(named)
    counted = [state for state in states if state is not None and state["text"] == text]
    summary = Summary.merge(
        [Summary(state["total"], state["others"], state["bounds"]) for state in counted]
    )
    first = min((state["first"] for state in counted), default=None)
    return {
        "policy": named.rule.name,
        "limits": named.description["limits"],
        "key": named.description["key"],
        "unidentified": named.rule.unidentified,
        "first": first and datetime.fromtimestamp(first, timezone.utc).isoformat(),
        **_counts(summary),
    }


def _counts(summary: Summary) -> dict[str, Any]:
    """Return the part of an entry that says how often subjects were denied, the most denied first."""
    return {
        "denials": summary.total,
        "subjects": [
            {"subject": subject, "at_least": least, "at_most": most}
            for subject, least, most in summary.ranked()
        ],
        "others_at_most": summary.others,
    }


def add_up(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add up the entries of several instances; those of one policy with other limits stay apart."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        equal = json.dumps([entry[name] for name in ("policy", "limits", "key", "unidentified")])
        groups.setdefault(equal, []).append(entry)
    return [_sum(group) for group in groups.values()]


def _sum(group: list[dict[str, Any]]) -> dict[str, Any]:
    summaries = []
    for entry in group:
        bounds = {
            each["subject"]: (each["at_least"], each["at_most"]) for each in entry["subjects"]
        }
        summaries.append(Summary(entry["denials"], entry["others_at_most"], bounds))
    first = min((entry["first"] for entry in group if entry["first"]), default=None)
    return {**group[0], "first": first, **_counts(Summary.merge(summaries))}
