"""Where it is sent: base URLs, proxies and redirects."""
