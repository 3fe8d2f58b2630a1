"""Common numbers of the tests."""

import os

#: How many schedules run; about a hundred a second. TEST_DEPTH=10 runs ten times as many.
COUNT = 2_000 * int(os.environ.get("TEST_DEPTH", "1"))
