"""The application: routes, layers around them, and adapters that live as long as it does."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version
from typing import Any, Final

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.types import ASGIApp

from todo_api.dependencies import Adapters
from todo_api.metrics import Metrics
from todo_api.middleware.cors import CorsMiddleware
from todo_api.middleware.errors import ErrorMiddleware
from todo_api.middleware.limits import LimitsMiddleware
from todo_api.middleware.path_aliases import PathAliasMiddleware
from todo_api.middleware.request_log import RequestLogMiddleware
from todo_api.openapi import DocumentedApp
from todo_api.routes import docs, health, me, metrics, tasks
from todo_api.tracing import telemetry

_DESCRIPTION: Final = (
    "Tasks of people who sign in with Better Auth.\n\nAuthorize with the JWT that your auth server "
    "answers at `/api/auth/token`, or, where `todo-api dev` runs the service, with the one that "
    "`todo-api token alice` prints."
)


class _App(DocumentedApp):
    """FastAPI with no layers but ours, which leave nothing to be done by its own.

    So it asks no exception handlers: ``failures.py`` has them all.
    """

    def build_middleware_stack(self) -> ASGIApp:
        app: ASGIApp = self.router
        for layer, args, kwargs in reversed(self.user_middleware):
            app = layer(app, *args, **kwargs)
        return app


def create_app(
    open_adapters: Callable[[], AbstractAsyncContextManager[Adapters]],
    *,
    cors_origins: Sequence[str] = (),
    concurrency: int = 1000,
    shows_metrics: bool = True,
) -> FastAPI:
    """The app over the adapters that ``open_adapters`` opens at its start and closes at its end."""
    counted = Metrics()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with open_adapters() as adapters:
            counted.add_gauges(adapters.gauges)
            readiness = health.Readiness(adapters.checks)
            yield {"adapters": adapters, "metrics": counted, "readiness": readiness}

    app = _App(
        title="todo-api",
        version=version("todo-api"),
        license_info={"name": "MIT", "identifier": "MIT"},
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
        telemetry=telemetry(),
        middleware=[
            Middleware(RequestLogMiddleware, metrics=counted),
            Middleware(CorsMiddleware, origins=cors_origins),
            Middleware(ErrorMiddleware),
            Middleware(LimitsMiddleware, concurrency=concurrency),
            Middleware(PathAliasMiddleware),
        ],
    )
    # Put side by side instead of included: FastAPI would match an included route twice. Those of
    # tasks come before FastAPI's own, because they are asked for most.
    routers = [tasks.router, me.router, health.router, docs.router]
    if shows_metrics:
        routers.append(metrics.router)
    app.router.routes[:0] = [route for router in routers for route in router.routes]
    return app
