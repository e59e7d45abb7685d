"""The HTTP adapter: FastAPI routes over the use cases, and the program that serves them."""
