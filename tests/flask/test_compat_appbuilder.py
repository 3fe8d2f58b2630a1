"""A Flask-AppBuilder application whose limiter is replaced by overriding one method."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, Response

from tests.flask.support import statuses
from tests.flask.test_guide import GUIDE

(BLOCK,) = re.findall(r"^```python\n(from flask_appbuilder.*?)^```$", GUIDE, re.M | re.S)

pytestmark = pytest.mark.filterwarnings("ignore")  # of SQLAlchemy, Flask-Babel and others


@pytest.fixture
def app() -> Iterator[Flask]:
    """A login that Flask-AppBuilder limits, and a view with a limit of each of two kinds."""
    pytest.importorskip("flask_appbuilder", reason="flask-appbuilder is not installed")
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from flask_appbuilder import AppBuilder, BaseView, expose
        from flask_appbuilder.security.decorators import limit
        from flask_appbuilder.utils.legacy import get_sqla_class
        from flask_appbuilder.utils.limit import Limit

        exec(BLOCK, names)  # noqa: S102
        get_remote_address = names["get_remote_address"]

        class Reports(BaseView):
            route_base = "/reports"

            @expose("/one/")
            @limit("3/minute", on_breach=lambda _: Response("later", 429))
            def one(self) -> str:
                return "one"

        class Files(BaseView):
            route_base = "/files"
            limits = (Limit("1/minute", key_func=lambda: "all", methods=("GET",)),)

            @expose("/one/")
            def one(self) -> str:
                return "one"

        app = Flask("shop")
        app.config.update(
            SECRET_KEY="a key of forty letters for tests alone...",  # noqa: S106
            SQLALCHEMY_DATABASE_URI="sqlite://",
            WTF_CSRF_ENABLED=False,
            FAB_ADD_SECURITY_API=False,
            RATELIMIT_ENABLED=True,
            RATELIMIT_STORAGE_URI="memory://",
            RATELIMIT_KEY_FUNC=get_remote_address,
            AUTH_RATE_LIMITED=True,
            AUTH_RATE_LIMIT="2 per minute",
        )
        database = get_sqla_class()()
        logging.disable(logging.WARNING)  # it logs what it makes
        try:
            with app.app_context():
                database.init_app(app)
                builder = AppBuilder(app, database.session, security_manager_class=names["Manager"])
                builder.add_view_no_menu(Reports)
                builder.add_view_no_menu(Files)
                yield app
                database.session.remove()
                database.engine.dispose()
        finally:
            logging.disable(logging.NOTSET)


@pytest.mark.slow
def test_an_application_of_flask_appbuilder(app: Flask) -> None:
    """Its login, and the limits of its views."""
    assert statuses(app, *["POST /login/"] * 3, "/login/") == [200, 200, 429, 200]
    assert statuses(app, *["/reports/one/"] * 4) == [200, 200, 200, 429]
    assert statuses(app, "/files/one/") == [200]
    assert statuses(app, "/files/one/", address="203.0.113.2") == [429]
    assert statuses(app, "POST /login/", address="203.0.113.2") == [200]
    assert len(app.extensions["limiter"]) == 1
