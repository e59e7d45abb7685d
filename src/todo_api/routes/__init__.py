"""The routes. Each endpoint calls one use case and makes a response from the result."""
