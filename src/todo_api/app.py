"""Creates the FastAPI app: routes, middleware, and adapters that are open while the app runs."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Final

from fastapi import FastAPI
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp

from todo_api.bearer_tokens import DevelopmentTokens
from todo_api.change_streams import ChangeStreams, StreamLimits
from todo_api.compat.hints import CompatHint
from todo_api.compat.middleware import CompatMiddleware
from todo_api.dependencies import Adapters
from todo_api.http.errors import EXCEPTION_HANDLERS
from todo_api.http.routing import Timeouts
from todo_api.metrics import Metrics
from todo_api.middleware.cors import CorsMiddleware
from todo_api.middleware.limits import LimitsMiddleware
from todo_api.middleware.path_aliases import PathAliasMiddleware
from todo_api.middleware.request_log import RequestLogMiddleware
from todo_api.openapi import DocumentedApp
from todo_api.routes import batch, bulk, docs, health, me, metrics, start, stream, sync, tasks
from todo_api.shutdown import stopping_event
from todo_api.tracing import stop_tracing, telemetry

_DESCRIPTION: Final = (
    "Tasks of users who sign in with Better Auth.\n\nAuthorize with the JWT that your auth server "
    "returns at `/api/auth/token`. If `todo-api dev` runs the service, authorize with the token "
    "that `todo-api token alice` prints."
)
_TAGS: Final = (
    {"name": "tasks", "description": "The user's tasks: one, a list, or several by a filter."},
    {"name": "batches", "description": "Several changes in one request."},
    {"name": "sync", "description": "For clients that keep a copy of the tasks."},
    {"name": "me", "description": "The authenticated user."},
    {"name": "health", "description": "For load balancers and orchestrators. Needs no token."},
)


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one process. ``concurrency`` is the number of concurrent requests."""

    concurrency: int = 1000
    timeouts: Timeouts = field(default_factory=Timeouts)
    streams: StreamLimits = field(default_factory=StreamLimits)


_DEFAULT_LIMITS: Final = Limits()


class _App(DocumentedApp):
    """FastAPI without its own middleware, which costs 5 % of a GET."""

    def build_middleware_stack(self) -> ASGIApp:
        app: ASGIApp = self.router
        for layer, args, kwargs in reversed(self.user_middleware):
            app = layer(app, *args, **kwargs)
        return app


def create_app(  # noqa: PLR0913 - each is an option of the app
    open_adapters: Callable[[], AbstractAsyncContextManager[Adapters]],
    *,
    cors_origins: Sequence[str] = (),
    root_path: str = "",
    shows_metrics: bool = True,
    shows_docs: bool = True,
    development_tokens: DevelopmentTokens | None = None,
    limits: Limits = _DEFAULT_LIMITS,
) -> FastAPI:
    """The app. It opens the adapters when it starts and closes them when it stops."""
    app_metrics = Metrics()
    tracing = telemetry()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        stopping = stopping_event()
        async with open_adapters() as adapters:
            streams = ChangeStreams(adapters.broker, limits.streams)
            app_metrics.add_gauges(adapters.gauges)
            app_metrics.add_gauges({"todo_streams": ("Open streams of changes.", streams.count)})
            with streams.ended_by(stopping):
                yield {
                    "adapters": adapters,
                    "metrics": app_metrics,
                    "readiness": health.Readiness(adapters.checks),
                    "stopping": stopping,
                    "streams": streams,
                    "timeouts": limits.timeouts,
                    "shows_docs": shows_docs,
                    "development_tokens": development_tokens,
                }
        await stop_tracing(tracing)

    # sync and stream before tasks: their paths also match the path of a task.
    routers = [
        *(sync.router, stream.router, tasks.router, bulk.router, batch.router),
        *(me.router, health.router, docs.problems, start.router),
    ]
    if shows_docs:
        routers.append(docs.router)
    if shows_metrics:
        routers.append(metrics.router)
    return _App(
        title="todo-api",
        version=version("todo-api"),
        license_info={"name": "MIT", "identifier": "MIT"},
        description=_DESCRIPTION,
        openapi_tags=list(_TAGS),
        # include_router would match each request twice, which costs 17 % of a GET.
        routes=[*(route for router in routers for route in router.routes), CompatHint()],
        lifespan=lifespan,
        openapi_url=None,  # routes.docs has the route
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
        telemetry=tracing,
        middleware=[
            Middleware(PathAliasMiddleware, root_path=root_path),
            Middleware(RequestLogMiddleware, metrics=app_metrics),
            Middleware(CorsMiddleware, origins=cors_origins),
            Middleware(CompatMiddleware),
            Middleware(ExceptionMiddleware, handlers=EXCEPTION_HANDLERS),
            Middleware(LimitsMiddleware, concurrency=limits.concurrency),
            Middleware(AsyncExitStackMiddleware),  # for FastAPI's own routes, such as PublicRoute
        ],
    )
