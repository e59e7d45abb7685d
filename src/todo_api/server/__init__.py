"""Running the app: settings, Granian, logs, reverse proxies."""
