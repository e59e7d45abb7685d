"""ASGI middleware, outermost first: path_aliases, request_log, cors, limits."""
