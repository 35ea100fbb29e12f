"""Where requests are sent: base URLs, proxies and redirects."""
