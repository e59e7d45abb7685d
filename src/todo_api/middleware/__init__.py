"""ASGI middleware, outermost first: request_log, cors, limits, path_aliases."""
