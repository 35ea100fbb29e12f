"""The account's limits, as the API enforces and tells them."""
