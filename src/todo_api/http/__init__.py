"""Reads requests and writes responses: routing, bodies, query parameters, headers, cursors."""
