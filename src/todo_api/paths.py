"""Liberal addresses: a trailing slash and HEAD are served like the route they mean."""

from starlette.types import ASGIApp, Receive, Scope, Send


class LiberalPaths:
    """Pure ASGI. Rewrites the request before it is routed, so that there is one route for each."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            if len(path) > 1 and path.endswith("/"):
                scope["path"] = path[:-1]
            if scope["method"] == "HEAD":
                scope["method"] = "GET"  # the server leaves the body out
        await self._app(scope, receive, send)
