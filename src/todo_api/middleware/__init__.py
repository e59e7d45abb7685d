"""Pure ASGI middleware. From the outside: request log, CORS, errors, limits, path aliases."""
