"""Which limits apply to a request, and that they are one decision."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import pytest
from flask import Blueprint, Flask, request
from flask.views import MethodView, View

from limiter import FixedWindow, InvalidCost, InvalidPolicy, InvalidSetting, Limiter, TokenBucket
from limiter.flask import FlaskLimiter, LimitExceeded
from limiter.flask.dynamic import MOST_KEPT
from limiter.flask.limits import ViewRule
from limiter.wsgi import LimiterMiddleware
from service.demo.servers import Server
from tests.flask.conftest import Make
from tests.flask.support import ask, statuses
from tests.ids import plain
from tests.transport.support import scripts_run


def hello() -> str:
    return "hello"


def local(default: Any = None, **settings: Any) -> tuple[Flask, FlaskLimiter]:
    """An application whose limits are counted in this process."""
    app = Flask("app", static_folder=None)
    return app, FlaskLimiter(app, default, store="memory://", **settings)


def test_the_default_is_each_route_s_own(make: Make) -> None:
    app, _ = make("2/minute")
    app.add_url_rule("/a", "a", hello)
    app.add_url_rule("/b", "b", hello)

    assert statuses(app, "/a", "/a", "/a", "/b", "HEAD /b", "/b") == [200, 200, 429, 200, 200, 429]


def test_requests_without_a_route_share_the_default(make: Make) -> None:
    """Also with a method that no route accepts: a scanner does not get a count for each path."""
    app, _ = make("2/minute")
    app.add_url_rule("/a", "a", hello)

    assert statuses(app, "/x", "POST /a", "/y", "/a") == [404, 405, 429, 200]


def test_limits_of_the_application_apply_everywhere(make: Make) -> None:
    app, limits = make(None, application="3/minute")
    app.add_url_rule("/a", "a", limits.limit("100/minute")(hello))
    app.add_url_rule("/b", "b", hello)

    assert statuses(app, "/a", "/b", "/none", "/a", "/b", "/none") == [200, 200, 404, 429, 429, 429]


def test_a_route_s_own_limit_replaces_the_default(make: Make) -> None:
    app, limits = make("1/minute")
    app.add_url_rule("/own", "own", limits.limit("2/minute")(hello))
    beside = limits.limit("2/minute", override_defaults=False)
    app.add_url_rule("/beside", "beside", beside(hello))

    assert statuses(app, "/own", "/own", "/own") == [200, 200, 429]
    assert statuses(app, "/beside", "/beside") == [200, 429]


def test_limits_may_be_declared_before_init_app(store: str, subject: str) -> None:
    limits = FlaskLimiter(default=None, store=store, prefix=subject, timeout=5.0)
    limited = limits.limit("1/minute")(hello)
    app = Flask("app")
    app.add_url_rule("/a", "a", limited)
    limits.init_app(app)
    limits.open()

    assert statuses(app, "/a", "/a") == [200, 429]
    limits.close()
    with pytest.raises(InvalidSetting, match="already enforces"):
        limits.init_app(app)


def test_one_extension_serves_several_applications(store: str, subject: str) -> None:
    """They share counts, since they share a name and a store."""
    limits = FlaskLimiter(default="2/minute", store=store, prefix=subject, timeout=5.0)
    apps = [Flask("one"), Flask("two")]
    for app in apps:
        limits.init_app(app)
        app.add_url_rule("/a", "a", hello)

    assert [statuses(app, "/a") for app in (*apps, *apps)] == [[200], [200], [429], [429]]


def test_settings_come_from_the_configuration_and_the_environment(
    store: str, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program first, then app.config, then the environment."""
    monkeypatch.setenv("LIMITER_STORE", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("LIMITER_LIMITS", "2/minute")
    monkeypatch.setenv("LIMITER_ALGORITHM", "fixed_window")
    app = Flask("app")
    app.config.update(LIMITER_STORE=store, LIMITER_PREFIX=subject, LIMITER_TIMEOUT=5)
    limits = FlaskLimiter(app, name="api")
    app.add_url_rule("/a", "a", hello)

    assert statuses(app, "/a", "/a", "/a") == [200, 200, 429]
    with app.app_context():
        (rule,) = limits.rules("a")
    assert rule.limiter.policies == (FixedWindow(2, "minute"),)
    assert rule.limiter.name == "api-default.a"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LIMITER_STORE", ""),
        ("LIMITER_STORE", "http://x"),
        ("LIMITER_LIMITS", "many"),
        ("LIMITER_ALGORITHM", "magic"),
        ("LIMITER_ON_ERROR", "shrug"),
        ("LIMITER_TRUSTED_PROXIES", "everybody"),
    ],
)
def test_a_wrong_setting_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv("LIMITER_STORE", "memory://")
    monkeypatch.setenv(variable, value)

    with pytest.raises(InvalidSetting, match=variable):
        FlaskLimiter(Flask("app"))


def test_a_policy_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """If LIMITER_POLICIES is set, no other limit replaces it silently."""
    monkeypatch.setenv("LIMITER_STORE", "memory://")
    monkeypatch.setenv("LIMITER_POLICIES", "policies.toml")

    with pytest.raises(InvalidSetting, match=r"LIMITER_POLICIES is 'policies\.toml'"):
        FlaskLimiter(Flask("app"))
    with pytest.raises(InvalidSetting, match=r"LIMITER_POLICIES.*Policies.from_env"):
        LimiterMiddleware(Flask("app"))
    FlaskLimiter(Flask("app"), "5/minute")
    FlaskLimiter(Flask("app"), None)


@pytest.mark.parametrize(
    "more",
    [
        {"headers": "loud"},
        {"trusted": ["everybody"]},
        {"trusted": 5},
        {"observe": 5},
        {"on_denied": 5},
        {"enabled": "false"},
        {"algorithm": "magic"},
    ],
)
def test_a_wrong_argument_stops_the_start(more: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting):
        FlaskLimiter(Flask("app"), store="memory://", **more)


def test_an_unknown_argument_is_an_error_at_once() -> None:
    with pytest.raises(TypeError, match="'stoer'"):
        FlaskLimiter(stoer="memory://")  # type: ignore[call-arg]
    limits = FlaskLimiter(default=None, store="memory://")
    for declare in (limits.limit, partial(limits.shared_limit, scope="s")):
        with pytest.raises(TypeError, match="'message'"):
            declare("1/minute", message="slower")


@pytest.mark.parametrize(
    ("limits", "more", "error"),
    [
        (5, {}, InvalidPolicy),
        ("5/minute", {"cost": -1}, ValueError),
        ("5/minute", {"cost": True}, ValueError),
        ("5/minute", {"cost": 6}, InvalidCost),
        ("5/minute; 9/hour", {"cost": 6}, InvalidCost),
        ("5/minute", {"methods": "POST"}, InvalidSetting),
        ("5/minute", {"methods": ["FOO BAR"]}, InvalidSetting),
        ("5/minute", {"methods": 5}, InvalidSetting),
        ("5/minute", {"shadow": "no"}, InvalidSetting),
        ("5/minute", {"unidentified": "guess"}, InvalidSetting),
        ("5/minute", {"percent": "50"}, InvalidSetting),
        ("5/minute", {"percent": -1}, InvalidSetting),
        ("5/minute", {"percent": 101}, InvalidSetting),
        ("5/minute", {"percent": float("nan")}, InvalidSetting),
        ([], {}, InvalidPolicy),
        (["5/minute"], {}, InvalidPolicy),
    ],
)
def test_a_wrong_limit_is_refused_where_it_is_declared(
    make: Make, limits: Any, more: dict[str, Any], error: type[Exception]
) -> None:
    _, extension = make()
    with pytest.raises(error):
        extension.limit(limits, **more)
    with pytest.raises((InvalidSetting, TypeError)):
        extension.shared_limit("5/minute", "")
    with pytest.raises(TypeError):
        extension.limit("5/minute")(3)
    with pytest.raises(TypeError):
        extension.exempt(3)


@pytest.mark.parametrize(
    ("limits", "more"),
    [
        ("20000/hour", {}),
        ("4/minute burst 6", {"algorithm": "fixed_window"}),
        ("4/minute; 6/minute", {"algorithm": "fixed_window"}),
        ([FixedWindow(4, "minute"), FixedWindow(6, "minute")], {}),
    ],
    ids=plain,
)
def test_a_limit_above_its_algorithm_is_an_error_before_a_request(
    limits: Any, more: dict[str, Any]
) -> None:
    """The declaration raises it, or ``init_app`` if the algorithm is known only there."""
    extension = FlaskLimiter(default=None, store="memory://", **more)
    limited = extension.limit(limits)(hello)
    with pytest.raises(InvalidPolicy):
        extension.init_app(Flask("app"))
    assert limited.__name__ == "hello"
    app = Flask("app")  # kept alive: the extension holds it weakly
    extension = FlaskLimiter(app, None, store="memory://", **more)
    with pytest.raises(InvalidPolicy):
        extension.limit(limits)
    assert app.config is not None


def test_several_limits_are_one_call_and_one_charge(server: Server, make: Make) -> None:
    """The application's, two decorators' and a shared one: if one denies, none is charged."""
    app, limits = make(None, application="100/minute", algorithm="fixed_window", denial_cache=0)
    view = limits.limit("2/minute")(limits.limit("50/hour")(hello))
    view = limits.shared_limit("70/hour", "all")(view)
    app.add_url_rule("/a", "a", view)
    ask(app, "/a", address="203.0.113.9")  # the scripts are loaded

    with server.client() as client:
        before = scripts_run(client)
        answers = ask(app, "/a", "/a", "/a", "/a")
        assert scripts_run(client) - before == len(answers)

    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
    assert answers[-1].headers["RateLimit-Policy"] == (
        '"application";q=100;w=60, "a";q=50;w=3600, "a-2";q=2;w=60, "all";q=70;w=3600'
    )
    parts = answers[-1].headers["RateLimit"].split(", ")
    left = [part.split("r=")[1].split(";")[0] for part in parts]
    assert left == ["98", "48", "0", "68"]


def test_a_limiter_is_one_count_for_its_routes_and_for_other_programs() -> None:
    """Its name is in the header fields, and other limits of a route are charged in the same call."""
    limiter = Limiter("3/minute", store="memory://", name="work")
    app = Flask("app", static_folder=None)
    limits = FlaskLimiter(app, None, application="100/minute", store=limiter)
    app.add_url_rule("/a", "a", limits.limit(limiter)(hello))
    app.add_url_rule(
        "/b", "work", limits.limit(limiter, shadow=True)(limits.limit("9/hour")(hello))
    )

    assert statuses(app, "/a", "/b") == [200, 200]
    assert limiter.hit("203.0.113.1").remaining == 0
    (answer,) = ask(app, "/a")
    assert answer.status_code == 429
    assert answer.headers["RateLimit-Policy"] == '"application";q=100;w=60, "work";q=3;w=60'
    assert statuses(app, "/b") == [200]


def test_a_limiter_has_no_further_counts() -> None:
    app, limits = local()
    limiter = Limiter("3/minute", store="memory://")
    with pytest.raises(InvalidSetting, match="scope cannot be combined with a Limiter"):
        limits.shared_limit(limiter, "all")
    with pytest.raises(InvalidSetting, match="per_method cannot be combined with a Limiter"):
        limits.limit(limiter, per_method=True)
    assert app.config is not None


def test_a_shared_limit_counts_its_routes_together(make: Make) -> None:
    """Its name may be in several calls; its scope may be a function of the endpoint."""
    app, limits = make()
    database = limits.shared_limit("3/minute", scope="database")
    app.add_url_rule("/a", "a", database(hello))
    app.add_url_rule("/b", "b", database(lambda: "b"))
    app.add_url_rule("/c", "c", limits.shared_limit("3/minute", scope="database")(lambda: "c"))
    by_letter = limits.shared_limit("1/minute", scope=lambda endpoint: endpoint[0])
    app.add_url_rule("/x1", "x1", by_letter(lambda: "x1"))
    app.add_url_rule("/x2", "x2", by_letter(lambda: "x2"))

    assert statuses(app, "/a", "/b", "/c", "/a", "/c") == [200, 200, 200, 429, 429]
    assert statuses(app, "/x1", "/x2") == [200, 429]


def test_a_scope_may_be_a_function_of_the_request() -> None:
    """It is a part of the subject: a client that makes up scopes creates no limiters."""
    app, limits = local()
    by_host = limits.shared_limit("1/minute", scope=lambda _: request.host)
    app.add_url_rule("/a", "a", by_host(hello))
    app.add_url_rule("/b", "b", by_host(lambda: "b"))

    assert statuses(app, "/a", host="one") + statuses(app, "/a", host="two") == [200, 200]
    assert statuses(app, "/b", host="one") == [429]
    with app.app_context():
        names = {rule.limiter.name for path in "ab" for rule in limits.rules(path)}
    assert len(names) == 1


@pytest.mark.parametrize("returned", ["", None, 0, 7, b"seven"])
def test_a_scope_may_be_of_every_type_of_a_subject(returned: Any) -> None:
    """An empty one is the endpoint."""
    app, limits = local()
    scoped = limits.shared_limit("1/minute", scope=lambda _: returned)
    app.add_url_rule("/a", "a", scoped(hello))
    app.add_url_rule("/b", "b", scoped(lambda: "b"))

    assert statuses(app, "/a", "/a", "/b") == [200, 429, 429 if returned else 200]


def test_one_scope_twice_on_a_route_is_an_error(make: Make) -> None:
    """One request would count twice in one place; no request passes until it is fixed."""
    app, limits = make()
    view = limits.shared_limit("3/minute", "s")(limits.shared_limit("5/minute", "s")(hello))
    app.add_url_rule("/a", "a", view)

    assert statuses(app, "/a") == [500]


def test_methods_and_counts_by_method(make: Make) -> None:
    app, limits = make("3/minute")
    posts = limits.limit("1/minute", methods=["post"])
    app.add_url_rule("/a", "a", posts(hello), methods=["GET", "POST"])
    each = limits.limit("1/minute", per_method=True)
    app.add_url_rule("/b", "b", each(lambda: "b"), methods=["GET", "POST"])

    assert statuses(app, "POST /a", "POST /a", *["/a"] * 4) == [200, 429, 200, 200, 200, 429]
    assert statuses(app, "/b", "POST /b", "/b", "POST /b") == [200, 200, 429, 429]


def test_a_limit_of_get_applies_to_head() -> None:
    """A view serves both: HEAD is no way around the limit of GET."""
    app, limits = local()
    gets = limits.limit("1/minute", methods=["get"])
    app.add_url_rule("/a", "a", gets(hello), methods=["GET", "POST"])

    assert statuses(app, "HEAD /a", "/a", "HEAD /a", "POST /a") == [200, 429, 429, 200]


def test_blueprints(make: Make) -> None:
    """Each route has a count; its own limit replaces the blueprint's; one limit may be shared."""
    app, limits = make("1/minute")
    blueprint = Blueprint("shop", "shop", url_prefix="/shop")
    blueprint.add_url_rule("/a", "a", hello)
    blueprint.add_url_rule("/b", "b", lambda: "b")
    blueprint.add_url_rule("/own", "own", limits.limit("3/minute")(lambda: "own"))
    limits.limit("2/minute")(blueprint)
    together = Blueprint("together", "together", url_prefix="/together")
    together.add_url_rule("/a", "a", lambda: "a")
    together.add_url_rule("/b", "b", lambda: "b")
    limits.shared_limit("2/minute", "together")(together)
    app.register_blueprint(blueprint)
    app.register_blueprint(blueprint, name="again", url_prefix="/again")
    app.register_blueprint(together)

    assert statuses(app, *["/shop/a"] * 3, "/shop/b", "/again/a") == [200, 200, 429, 200, 200]
    assert statuses(app, *["/shop/own"] * 4) == [200, 200, 200, 429]
    assert statuses(app, "/together/a", "/together/b", "/together/a") == [200, 200, 429]


def test_nested_blueprints(make: Make) -> None:
    """The nearest limit applies, and outer ones only if it does not override them."""
    app, limits = make("1/minute")
    outer, inner, quiet = (
        Blueprint(name, name, url_prefix=f"/{name}") for name in ("outer", "inner", "quiet")
    )
    for blueprint in (outer, inner, quiet):
        blueprint.add_url_rule("/a", "a", hello)
    limits.limit("2/minute")(outer)
    limits.limit("3/minute", override_defaults=False)(inner)
    outer.register_blueprint(inner)
    outer.register_blueprint(quiet)
    app.register_blueprint(outer)

    assert statuses(app, *["/outer/a"] * 3) == [200, 200, 429]
    assert statuses(app, *["/outer/inner/a"] * 3) == [200, 200, 429]
    assert statuses(app, *["/outer/quiet/a"] * 3) == [200, 200, 429]


def test_classes_of_views(make: Make) -> None:
    """As a decorator of the class, in its list of decorators, and on a method."""
    app, limits = make("2/minute")

    @limits.limit("1/minute")
    class Plain(View):
        def dispatch_request(self) -> str:
            return "plain"

    class Listed(MethodView):
        decorators = [limits.limit("1/minute")]  # noqa: RUF012

        def get(self) -> str:
            return "get"

        def post(self) -> str:
            return "post"

    class OnMethods(MethodView):
        @limits.limit("1/minute")
        def get(self) -> str:
            return "get"

        def post(self) -> str:
            return "post"

    app.add_url_rule("/plain", view_func=Plain.as_view("plain"))
    app.add_url_rule("/listed", view_func=Listed.as_view("listed"))
    app.add_url_rule("/methods", view_func=OnMethods.as_view("methods"))

    assert statuses(app, "/plain", "/plain") == [200, 429]
    assert statuses(app, "/listed", "POST /listed") == [200, 429]
    assert statuses(app, "/methods", "HEAD /methods", "/methods") == [200, 429, 429]
    assert statuses(app, *["POST /methods"] * 3) == [200, 200, 429]


def test_exemptions(make: Make) -> None:
    app, limits = make("1/minute", application="4/minute")
    blueprint = Blueprint("free", "free")
    blueprint.add_url_rule("/free", "a", hello)
    blueprint.add_url_rule("/own", "own", limits.limit("2/minute")(lambda: "own"))
    limits.exempt(blueprint)
    app.register_blueprint(blueprint)
    app.add_url_rule("/all", "all", limits.exempt(lambda: "all"))
    limited = Blueprint("limited", "limited", url_prefix="/limited")
    limited.add_url_rule("/all", "all", limits.exempt(lambda: "all"))
    limits.limit("1/minute")(limited)
    app.register_blueprint(limited)
    most = limits.exempt(application=False)
    app.add_url_rule("/most", "most", most(limits.limit("1/minute")(lambda: "most")))

    assert statuses(app, *["/free"] * 9, *["/all"] * 9) == [200] * 18
    assert statuses(app, *["/limited/all"] * 3) == [200] * 3
    assert statuses(app, *["/own"] * 3) == [200, 200, 429]
    assert statuses(app, *["/most"] * 5) == [200, 200, 200, 200, 429]


def test_a_method_of_an_object_is_exempt() -> None:
    app, limits = local("1/minute")

    class Views:
        def free(self) -> str:
            return "free"

        def later(self) -> str:
            return "later"

        def limited(self) -> str:
            return "limited"

    views = Views()
    app.add_url_rule("/free", view_func=limits.exempt(views.free))
    app.add_url_rule("/later", "later", wraps(views.later)(lambda: views.later()))
    app.add_url_rule("/limited", view_func=views.limited)
    limits.exempt(views.later)

    calls = ["/free", "/free", "/later", "/later", "/limited", "/limited"]
    assert statuses(app, *calls) == [200, 200, 200, 200, 200, 429]


def test_a_limit_above_its_route_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The route does not get it; a view that is served without its limit on purpose looks the same."""
    app, limits = local("3/minute")

    @limits.limit("1/minute")
    @app.get("/above")
    def above() -> str:
        return "above"

    @app.get("/below")
    @limits.limit("1/minute")
    def below() -> str:
        return "below"

    @limits.limit("1/minute", methods=["GET"])
    @app.route("/half", methods=["GET", "POST"])
    @limits.limit("1/minute", methods=["POST"])
    def half() -> str:
        return "half"

    assert statuses(app, "/above", "/above", "/below", "/below") == [200, 200, 200, 429]
    assert statuses(app, "/half", "/half", "POST /half", "POST /half") == [200, 200, 200, 429]
    warned = [record.getMessage() for record in caplog.records if record.name == "limiter.flask"]
    for route, line in zip(("above", "half"), warned, strict=True):
        assert f"the function of route {route} was limited after it had become the route's" in line


def test_a_method_of_a_class_counts_beside_a_view_of_a_blueprint() -> None:
    """Joined with a dot, the names of both are ``a.get``."""
    app, limits = local(None)

    class Views(MethodView):
        @limits.limit("2/minute")
        def get(self) -> str:
            return "a"

    blueprint = Blueprint("a", "a")
    blueprint.add_url_rule("/view", "get", limits.limit("2/minute")(lambda: "view"))
    app.register_blueprint(blueprint)
    app.add_url_rule("/class", view_func=Views.as_view("a"))

    assert statuses(app, "/class", "/class", "/view", "/view", "/view") == [200, 200, 200, 200, 429]


def test_a_subclass_of_an_exempt_class_is_not_exempt() -> None:
    """The exemption was written for the base class only."""
    app, limits = local("1/minute")

    @limits.exempt
    class Free(MethodView):
        def get(self) -> str:
            return "free"

    class Derived(Free):
        pass

    app.add_url_rule("/free", view_func=Free.as_view("free"))
    app.add_url_rule("/derived", view_func=Derived.as_view("derived"))

    assert statuses(app, "/free", "/free", "/derived", "/derived") == [200, 200, 200, 429]


@pytest.mark.parametrize("nested", [True, False])
def test_an_exempt_blueprint_and_those_on_it(make: Make, nested: bool) -> None:
    app, limits = make("1/minute")
    outer, inner = Blueprint("outer", "outer"), Blueprint("inner", "inner", url_prefix="/in")
    inner.add_url_rule("/a", "a", hello)
    outer.register_blueprint(inner)
    limits.exempt(outer, nested=nested)
    app.register_blueprint(outer)

    assert statuses(app, "/in/a", "/in/a") == [200, 200 if nested else 429]


def test_exempt_by_a_function(make: Make) -> None:
    app, limits = make("1/minute", exempt_when=lambda: "free" in request.args)
    limits.exempt_when(lambda: request.headers.get("X-Health") == "1")
    own = limits.limit("1/minute", exempt_when=lambda: "mine" in request.args)
    app.add_url_rule("/own", "own", own(hello))

    assert statuses(app, "/own?free", "/own?free", "/own?mine") == [200] * 3
    assert statuses(app, "/own", "/own") == [200, 429]


def test_static_files_and_preflights_are_free_by_default(store: str, subject: str) -> None:
    """Only Flask's own route for files: a view that is called static is limited."""
    for limited in (False, True):
        app = Flask("app", static_folder="static", static_url_path="/files")
        options = {"limit_static": limited, "limit_options": limited}
        FlaskLimiter(
            app, "1/minute", store=store, prefix=f"{subject}.{limited}", timeout=5.0, **options
        )
        app.add_url_rule("/a", "a", hello)
        blueprint = Blueprint("mine", "mine")
        blueprint.add_url_rule("/mine", "static", hello)
        app.register_blueprint(blueprint)

        assert statuses(app, "/files/x", "/files/x") == [404, 429 if limited else 404]
        assert statuses(app, "OPTIONS /a", "OPTIONS /a") == [200, 429 if limited else 200]
        assert statuses(app, "/mine", "/mine") == [200, 429]


def test_a_preflight_that_counts_does_so_apart(make: Make) -> None:
    """For a view that answers OPTIONS itself: without a key, and without a charge to any client's count."""
    app, limits = make()

    @app.route("/a", methods=["GET", "OPTIONS"])
    @limits.limit("2/minute", key="api-key")
    def a() -> str:
        return "a"

    fields = {"Origin": "https://x.example", "Access-Control-Request-Method": "GET"}
    client = app.test_client()
    preflights = [client.options("/a", headers=fields).status_code for _ in range(3)]
    assert preflights == [200, 200, 429]
    keyed = [client.get("/a", headers={"X-API-Key": "k"}).status_code for _ in range(3)]
    assert keyed == [200, 200, 429]
    assert client.options("/a").status_code == 400


def test_limits_that_a_function_returns(make: Make) -> None:
    """A text, a policy, several; None means no limit, and overrides none."""
    app, limits = make("4/minute")
    plans: dict[str, Any] = {
        "free": "1/minute",
        "bucket": TokenBucket(2, per="minute", name="bucket"),
        "both": [FixedWindow(3, "minute"), FixedWindow(100, "hour")],
        "none": None,
    }
    says = limits.limit(lambda: plans[request.args["plan"]])
    app.add_url_rule("/a", "a", says(hello))

    for plan, allowed in {"free": 1, "bucket": 2, "both": 3, "none": 4}.items():
        found = statuses(app, *[f"/a?plan={plan}"] * (allowed + 1))
        assert found == [200] * allowed + [429], plan


def test_a_limit_that_changes_keeps_its_count(make: Make) -> None:
    app, limits = make(algorithm="fixed_window")
    says = limits.limit(lambda: request.args["limit"])
    app.add_url_rule("/a", "a", says(hello))

    for limit in ("2/minute", "4/minute"):
        assert statuses(app, *[f"/a?limit={limit}"] * 3) == [200, 200, 429]


def test_the_limiters_of_a_function_are_bounded(make: Make) -> None:
    app, limits = make()
    says = limits.limit(lambda: f"{request.args['limit']}/minute")
    app.add_url_rule("/a", "a", says(hello))
    statuses(app, *[f"/a?limit={limit}" for limit in range(1, MOST_KEPT + 20)])

    with app.app_context():
        (rule,) = limits.rules("a")
    rules = [each for each in gc.get_objects() if type(each) is ViewRule]
    kept = [each for each in rules if each.limit is rule.limit and each.by_amount is None]
    assert len(kept) == MOST_KEPT + 1  # and the one from which they were made


def test_costs(make: Make) -> None:
    """Fixed or by a function; a cost of 0 passes and takes nothing."""
    app, limits = make()
    app.add_url_rule("/two", "two", limits.limit("5/minute", cost=2)(hello))
    says = limits.limit("5/minute", cost=lambda: int(request.args["cost"]))
    app.add_url_rule("/says", "says", says(lambda: "says"))

    assert statuses(app, *["/two"] * 3) == [200, 200, 429]
    calls = ["/says?cost=5", "/says?cost=1", "/says?cost=0", "/says?cost=0"]
    assert statuses(app, *calls) == [200, 429, 200, 200]


def test_keys(make: Make) -> None:
    """A setting, a list of settings, a part of the path, or a function."""
    app, limits = make()
    by_user = limits.limit("1/minute", key=lambda: request.args["user"])
    app.add_url_rule("/user", "user", by_user(hello))
    by_tuple = limits.limit("1/minute", key=lambda: ("user", int(request.args["user"])))
    app.add_url_rule("/tuple", "tuple", by_tuple(lambda: "tuple"))
    by_part = limits.limit("1/minute", key="path:number")
    app.add_url_rule("/part/<int:number>", "part", by_part(lambda number: str(number)))
    both = limits.limit("1/minute", key=["address", "header:X-Tenant"])
    app.add_url_rule("/both", "both", both(lambda: "both"))
    everybody = limits.limit("1/minute", key="global")
    app.add_url_rule("/all", "all", everybody(lambda: "all"))
    by_nonsense = limits.limit("1/minute", key=lambda: "\ud800")
    app.add_url_rule("/nonsense", "nonsense", by_nonsense(lambda: "nonsense"))
    app.add_url_rule("/name", "\ud801" * 70, limits.limit("1/minute")(lambda: "name"))

    assert statuses(app, "/nonsense", "/nonsense") == [200, 429]
    with app.app_context():
        assert limits.rules("\ud801" * 70)
    assert statuses(app, "/user?user=1", "/user?user=2", "/user?user=1") == [200, 200, 429]
    assert statuses(app, "/tuple?user=1", "/tuple?user=2", "/tuple?user=1") == [200, 200, 429]
    assert statuses(app, "/part/1", "/part/2", "/part/1") == [200, 200, 429]
    assert statuses(app, "/both") == [400]
    assert statuses(app, "/all") + statuses(app, "/all", address="198.51.100.7") == [200, 429]


def test_trusted_proxies_name_the_client_s_address(make: Make) -> None:
    app, _ = make("1/minute", trusted=["10.0.0.0/8", "unix"])
    app.add_url_rule("/a", "a", hello)

    for peer, forwarded, status in [
        ("10.0.0.1", "203.0.113.1", 200),
        ("10.0.0.1", "198.51.100.1, 203.0.113.1", 429),
        ("10.0.0.1", "203.0.113.2", 200),
        ("192.0.2.9", "203.0.113.3", 200),
        ("192.0.2.9", "203.0.113.4", 429),
        ("", "203.0.113.5", 200),  # a proxy on a Unix socket
        ("", "203.0.113.5", 429),
    ]:
        assert statuses(app, "/a", address=peer, x_forwarded_for=forwarded) == [status]


def test_each_application_trusts_its_own_proxies() -> None:
    """The first one's configuration does not apply to the second."""
    limits = FlaskLimiter(default="1/minute", store="memory://")
    apps = [Flask("one"), Flask("two")]
    apps[0].config["LIMITER_TRUSTED_PROXIES"] = "10.0.0.0/8"
    for app, status in zip(apps, (200, 429), strict=True):
        limits.init_app(app)
        app.add_url_rule("/a", "a", hello)
        assert statuses(app, "/a", address="10.0.0.1", x_forwarded_for="203.0.113.1") == [200]
        assert statuses(app, "/a", address="10.0.0.1", x_forwarded_for="203.0.113.2") == [status]


def test_an_application_is_freed() -> None:
    """An extension that outlives its applications, as in tests, does not keep them."""
    limits = FlaskLimiter(default="1/minute", store="memory://")
    app = Flask("app")
    limits.init_app(app)
    app.add_url_rule("/a", "a", limits.limit("1/minute")(hello))
    assert statuses(app, "/a") == [200]
    known = weakref.ref(app)
    del app
    gc.collect()

    assert known() is None
    limits.close()


def test_other_decorators_around_a_limit(make: Make) -> None:
    """With or without functools.wraps, on either side: the limit is checked once."""
    app, limits = make("1/minute")

    def unaware(function: Callable[[], str]) -> Callable[[], str]:
        return lambda: function()

    app.add_url_rule(
        "/out", "out", unaware(limits.limit("2/minute", override_defaults=False)(hello))
    )
    app.add_url_rule("/in", "in", limits.limit("2/minute")(unaware(lambda: "in")))

    assert statuses(app, *["/in"] * 3) == [200, 200, 429]
    assert statuses(app, *["/out"] * 2) == [200, 429]  # by the default: the view hides its own


def test_a_limited_function_that_is_not_a_view(make: Make) -> None:
    """It counts once in a request, and not outside of requests."""
    app, limits = make()

    @limits.limit("2/minute")
    def send() -> str:
        return "sent"

    @app.get("/a")
    def a() -> str:
        return send() + send()

    with app.app_context():
        assert [send() for _ in range(5)] == ["sent"] * 5
    assert statuses(app, "/a", "/a", "/a") == [200, 200, 429]
    assert ask(app, "/a")[0].headers["RateLimit-Policy"] == '"send";q=2;w=60'


def test_a_denial_that_a_view_catches_stays_a_denial() -> None:
    """A request has passed a limit when this admits it, not when it was checked."""
    app, limits = local()
    sms = limits.limit("1/hour")(lambda: "sent")

    @app.get("/a")
    def a() -> str:
        found = []
        for _ in range(3):
            try:
                found.append(sms())
            except LimitExceeded:
                found.append("denied")
        return " ".join(found)

    assert [answer.text for answer in ask(app, "/a", "/a")] == [
        "sent sent sent",
        "denied denied denied",
    ]


def test_a_view_that_an_error_handler_calls_is_denied_too() -> None:
    """Its own limit has not admitted the request."""
    app, limits = local()
    view = limits.limit("1/minute")(hello)
    app.add_url_rule("/a", "a", view)

    @app.errorhandler(LimitExceeded)
    def again(_: LimitExceeded) -> Any:
        try:
            return view()
        except LimitExceeded:
            return "denied again", 429

    assert [answer.text for answer in ask(app, "/a", "/a")] == ["hello", "denied again"]


def test_a_dynamic_limit_on_a_function_that_is_not_a_view(make: Make) -> None:
    app, limits = make()
    helper = limits.limit(lambda: request.args.get("limit"))(lambda: "help")
    app.add_url_rule("/a", "a", lambda: helper())

    assert statuses(app, "/a", "/a", "/a?limit=1/hour", "/a?limit=1/hour") == [200, 200, 200, 429]


def test_one_decorator_in_several_places_is_several_limits(make: Make) -> None:
    app, limits = make()
    once = limits.limit("1/minute")
    helper = once(lambda: "help")
    app.add_url_rule("/a", "a", once(lambda: helper()))
    app.add_url_rule("/b", "b", lambda: helper())

    assert statuses(app, "/a", "/b") == [200, 429]


def test_a_limited_function_without_init_app_raises(store: str) -> None:
    limits = FlaskLimiter(default=None, store=store)
    app = Flask("app")
    app.add_url_rule("/a", "a", limits.limit("1/minute")(hello))

    assert statuses(app, "/a") == [500]


def test_disabled() -> None:
    """No limit, no store."""
    app = Flask("app")
    limits = FlaskLimiter(app, "1/minute", enabled=False)
    app.add_url_rule("/a", "a", limits.limit("1/minute")(hello))

    assert statuses(app, *["/a"] * 5) == [200] * 5


def test_shadow_mode_counts_and_does_not_deny(make: Make) -> None:
    app, limits = make()
    app.add_url_rule("/a", "a", limits.limit("1/minute", shadow=True)(hello))
    answers = ask(app, "/a", "/a", "/a")

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert "RateLimit" not in answers[0].headers


def test_long_and_foreign_names(make: Make) -> None:
    """An endpoint may have any name; keys and header fields keep to their syntax."""
    app, _ = make("1/minute")
    app.add_url_rule("/a", "é" * 100, hello)
    app.add_url_rule("/b", 'quo"te', hello)

    assert statuses(app, "/a", "/a", "/b", "/b") == [200, 429, 200, 429]


def test_two_extensions_in_one_application(make: Make, store: str, subject: str) -> None:
    """Each decides, and the header has the fields of both."""
    app, _ = make("5/minute")
    FlaskLimiter(app, None, application="2/minute", store=store, prefix=subject, timeout=5.0)
    app.add_url_rule("/a", "a", hello)
    answers = ask(app, "/a", "/a", "/a")

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0].headers.getlist("RateLimit-Policy") == [
        '"default";q=5;w=60, "application";q=2;w=60'
    ]


def test_a_denial_is_repeated_without_a_call(server: Server, make: Make) -> None:
    """By default; ``LIMITER_DENIAL_CACHE`` and the argument turn that off."""
    for settings, calls in (({}, 2), ({"denial_cache": 0}, 4)):
        app, _ = make("1/minute", name=f"cache-{calls}", **settings)
        app.add_url_rule("/a", "a", hello)
        with server.client() as client:
            before = scripts_run(client)
            answers = ask(app, "/a", "/a", "/a", "/a")
            assert scripts_run(client) - before == calls
        assert [answer.status_code for answer in answers] == [200, 429, 429, 429]
        fields = [{*answer.headers.keys()} for answer in answers[1:]]
        assert fields[0] == fields[1] == fields[2]
        assert answers[3].headers["RateLimit-Policy"] == answers[1].headers["RateLimit-Policy"]


def test_a_request_that_does_not_count_ends_denials(make: Make) -> None:
    """Others were denied while it was in progress; when its cost is refunded, the next one passes."""
    app, limits = make()
    meanwhile: list[int] = []

    def view() -> str:
        if not meanwhile:
            meanwhile.extend(statuses(app, "/a", "/a"))
        return "a"

    app.add_url_rule("/a", "a", limits.limit("1/minute", deduct_when=lambda _: False)(view))
    assert statuses(app, "/a", "/a") == [200, 200]
    assert meanwhile == [429, 429]
