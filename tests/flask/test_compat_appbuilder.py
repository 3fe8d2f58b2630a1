"""An application of Flask-AppBuilder, whose limits are ours by the one method that makes its limiter."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, Response

from tests.flask.support import statuses

pytestmark = pytest.mark.filterwarnings("ignore")  # of SQLAlchemy, Flask-Babel and others


@pytest.fixture(scope="module", params=["limiter.compat.flask_limiter", "flask_limiter"])
def app(request: pytest.FixtureRequest) -> Iterator[Flask]:
    """A login that Flask-AppBuilder limits, and a view with a limit of each of its two kinds."""
    pytest.importorskip("flask_appbuilder", reason="flask-appbuilder is not installed")
    library: Any = importlib.import_module(request.param)
    get_remote_address = importlib.import_module(f"{request.param}.util").get_remote_address
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from flask_appbuilder import AppBuilder, BaseView, expose
        from flask_appbuilder.security.decorators import limit
        from flask_appbuilder.security.sqla.manager import SecurityManager
        from flask_appbuilder.utils.legacy import get_sqla_class
        from flask_appbuilder.utils.limit import Limit

        class Manager(SecurityManager):
            """Makes the limiter as its base does, from another import."""

            def create_limiter(self, app: Flask) -> Any:
                limiter = library.Limiter(
                    key_func=app.config.get("RATELIMIT_KEY_FUNC", get_remote_address)
                )
                limiter.init_app(app)
                return limiter

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
                builder = AppBuilder(app, database.session, security_manager_class=Manager)
                builder.add_view_no_menu(Reports)
                builder.add_view_no_menu(Files)
                yield app
                database.session.remove()
                database.engine.dispose()
        finally:
            logging.disable(logging.NOTSET)


def test_an_application_of_flask_appbuilder(app: Flask) -> None:
    """Its login, and the limits of its views, with both libraries."""
    assert statuses(app, *["POST /login/"] * 3, "/login/") == [200, 200, 429, 200]
    assert statuses(app, *["/reports/one/"] * 4) == [200, 200, 200, 429]
    assert statuses(app, "/files/one/") == [200]
    assert statuses(app, "/files/one/", address="203.0.113.2") == [429]
    assert statuses(app, "POST /login/", address="203.0.113.2") == [200]
    assert len(app.extensions["limiter"]) == 1
