"""Metrics in the Prometheus text format."""

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from todo_api.http.routing import PublicRoute

if TYPE_CHECKING:
    from todo_api.metrics import Metrics

router = APIRouter(include_in_schema=False, route_class=PublicRoute)


@router.get("/metrics")
async def show_metrics(request: Request) -> Response:
    metrics: Metrics = request.scope["state"]["metrics"]
    return Response(metrics.render(), media_type=CONTENT_TYPE_LATEST)
