"""Each way of forwardAuth is measured on a real Traefik."""

from __future__ import annotations

import re
import shutil

import pytest
from click.testing import CliRunner

from bench.forward_auth import KINDS, forward_auth


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ab") is None, reason="ab is not installed")
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_each_way_is_measured_and_http2_leaves_no_socket_waiting() -> None:
    done = CliRunner().invoke(forward_auth, ["--repetitions=1", "--requests=300"])

    assert done.exit_code == 0, done.exception
    rows = dict(re.findall(r"^\| ([a-z0-9-]+) \| [^|]+ \| ([\d,]+) \|$", done.output, re.M))
    assert set(rows) == {"bare", *KINDS}
    assert rows["http2"] == "0"
    assert rows["http1-closing"] != "0"
