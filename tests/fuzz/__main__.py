"""``make fuzz``: fuzz all targets for some minutes, show the progress, and write inputs that show faults.

``make fuzz FUZZ="--minutes 10 --only paths"`` takes longer for one target. Inputs that reach new code are
kept in ``.fuzz``, so that the next run goes on with them; ``--keep`` also puts those of them that reach
more code into the repository. ``--replay FILE`` checks one input again, without atheris.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from coverage import Coverage

from tests.fuzz import corpus, targets

FOLDER = Path(".fuzz")
#: Seconds that one input may take: each takes milliseconds, but a busy machine may stop for some seconds.
_TIMEOUT = 20
#: The longest input: faults do not need more, and each takes longer.
_LONGEST = 2_048
#: A line of libFuzzer's progress.
_LINE = re.compile(r"#(\d+)\t\w+ +cov: (\d+) ft: (\d+) corp: (\d+)/")
#: Seconds between two lines of progress.
_EVERY = 10.0


class Run:
    """One target under atheris, in a process of its own."""

    def __init__(self, name: str, limit: Sequence[str], folder: Path = FOLDER) -> None:
        self.name = name
        self._crashes = folder / "crashes"
        self._found = folder / name
        for each in (self._crashes, self._found):
            each.mkdir(parents=True, exist_ok=True)
        corpus.unpack(name, self._found)
        words = folder / f"{name}.words"
        words.write_text("".join(f'"{_quoted(word)}"\n' for word in targets.load(name).WORDS))
        self.log = folder / f"{name}.log"
        self._before = set(self._crashes.iterdir())
        command = [
            *(*ENGINE, name, str(self._found), f"-dict={words}", f"-timeout={_TIMEOUT}"),
            *(f"-artifact_prefix={self._crashes}/{name}-", f"-max_len={_LONGEST}"),
            *("-rss_limit_mb=2048", "-reload=0", *limit),
        ]
        with self.log.open("w") as log:
            self._process = subprocess.Popen(command, stderr=log, stdout=log, env=environment())

    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def progress(self) -> str:
        """What libFuzzer last reported."""
        lines = _LINE.findall(self.log.read_text(errors="replace")) or [(0, 0, 0, 0)]
        count, branches, _, size = map(int, lines[-1])
        return f"{self.name}: {count:,} executions, {branches:,} branches, {size:,} inputs"

    def faults(self) -> list[str]:
        """What to print if the process found a fault, or failed."""
        if self._process.wait() == 0:
            return []
        crashes = sorted({*self._crashes.iterdir()} - self._before)
        if not crashes:
            tail = self.log.read_text(errors="replace")[-2_000:]
            return [f"{self.name}: the fuzzer failed, see {self.log}:\n{tail}"]
        replay = "python -m tests.fuzz --replay"
        return [f"{self.name}: a fault, shown by: {replay} {crash}" for crash in crashes]


ENGINE = [sys.executable, "-m", "tests.fuzz.engine"]


def environment() -> dict[str, str]:
    """Return the variables of a process of atheris: without those that measure the tests' coverage."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    return {"PYTHONHASHSEED": "0", **own}  # a run with the same seed tries the same inputs


def run(names: Sequence[str], limit: Sequence[str], jobs: int, folder: Path = FOLDER) -> list[str]:
    """Fuzz each target up to a limit of libFuzzer, some at a time; return the faults."""
    waiting, runs, faults = list(names), list[Run](), list[str]()
    shown = time.monotonic()
    try:
        while waiting or runs:
            while waiting and len(runs) < jobs:
                runs.append(Run(waiting.pop(0), limit, folder))
            time.sleep(0.1)  # libFuzzer sends no signal when it has found something
            for each in [each for each in runs if each.ended()]:
                runs.remove(each)
                print(each.progress(), flush=True)
                faults += each.faults()
            if time.monotonic() - shown >= _EVERY:
                shown = time.monotonic()
                print(*(f"... {each.progress()}" for each in runs), sep="\n", flush=True)
    finally:
        for each in runs:
            each.stop()
    return faults


def keep(name: str, folder: Path = FOLDER) -> int:
    """Add the inputs that reach more code to the repository, the shortest first; return their number."""
    check = targets.load(name).check
    kept = corpus.inputs(name)
    found = [file.read_bytes() for file in (folder / name).iterdir()]
    reached = set[tuple[str, int, int]]()
    number = len(kept)
    for data in (*kept, *sorted(found, key=lambda data: (len(data), data))):
        steps = _steps(check, data)
        if not steps <= reached and data not in kept:
            kept.append(data)
        reached |= steps
    corpus.keep(name, kept)
    return len(kept) - number


def _steps(check: Callable[[bytes], None], data: bytes) -> set[tuple[str, int, int]]:
    """Return each step from one line of the code to another that an input causes."""
    measured = Coverage(data_file=None, config_file=False, branch=True, source_pkgs=["limiter"])
    with measured.collect():
        check(data)
    steps = measured.get_data()
    files = steps.measured_files()
    return {(file, *step) for file in files for step in steps.arcs(file) or ()}


def replay(file: Path) -> None:
    """Check one input again; its fault is raised."""
    targets.load(file.name.partition("-")[0]).check(file.read_bytes())
    print(f"{file}: no fault")


def _quoted(word: str) -> str:
    """Write a word as libFuzzer's dictionaries do."""
    return "".join(
        chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else f"\\x{byte:02X}"
        for byte in word.encode("utf-8", "surrogateescape")
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="in all (default 5)")
    parser.add_argument("--only", action="append", choices=[*targets.CODE], help="these targets")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="targets at a time")
    parser.add_argument("--keep", action="store_true", help="keep the inputs in the repository")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="check one input again")
    options = parser.parse_args(arguments)
    if options.replay:
        replay(options.replay)
        return 0
    names = options.only or [*targets.CODE]
    jobs = min(options.jobs, len(names))
    seconds = max(1, round(options.minutes * 60 * jobs / len(names)))
    print(f"{len(names)} targets, {seconds} seconds each, {jobs} at a time", flush=True)
    faults = run(names, [f"-max_total_time={seconds}"], jobs)
    print(*faults, sep="\n")
    if options.keep and not faults:
        for name in names:
            print(f"{name}: {keep(name)} more inputs in {corpus.path_of(name)}", flush=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
