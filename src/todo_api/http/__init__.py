"""Reading requests and writing responses: routing, bodies, query parameters, headers, cursors."""
