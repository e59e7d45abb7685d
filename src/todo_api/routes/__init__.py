"""The routes. Each handler turns a request into one use case and its result into a response."""
