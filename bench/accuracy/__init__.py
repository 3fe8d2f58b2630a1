"""How exact the algorithms are, and those of other libraries beside them: ``python -m bench.accuracy``."""
