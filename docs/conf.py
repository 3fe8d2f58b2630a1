"""How Sphinx builds the site: `make docs`."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

from limiter import __version__

project = "slotgate"
author = "the founders of slotgate"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
#: Pygments does not know braces within quotes in nginx's language.
suppress_warnings = ["misc.highlighting_failure"]

html_theme = "furo"
html_title = "slotgate"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
copybutton_prompt_text = "$ "

#: Files outside this folder that the pages link to, and the pages that show them.
_SHOWN_BY = {
    "lua/README.md": "lua.md",
    "deploy/README.md": "deploy.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}


def _link_pages(_app: Sphinx, _path: Path, _parent: str, content: list[str]) -> None:
    """Let links of an included file lead to pages of the site."""
    for target, page in _SHOWN_BY.items():
        content[0] = content[0].replace(f"]({target})", f"]({page})")
    for prefix in ("](docs/", "](../docs/"):
        content[0] = content[0].replace(prefix, "](")
    for folder in ("lua/src", "limiter", "bench"):
        content[0] = content[0].replace(f"]({folder}/", f"](path:../{folder}/")


def _link_files(_app: Sphinx, _page: str, content: list[str]) -> None:
    """Let links to files outside this folder lead to their pages or, for measurements, to the files."""
    for target, page in _SHOWN_BY.items():
        content[0] = content[0].replace(f"](../{target})", f"]({page})")
    # Sphinx copies pictures by itself.
    content[0] = re.sub(r"(?<!!)(\[[^\]]*\])\(\.\./bench/", r"\1(path:../bench/", content[0])


def setup(app: Sphinx) -> None:
    """Register the handlers."""
    app.connect("include-read", _link_pages)
    app.connect("source-read", _link_files)
