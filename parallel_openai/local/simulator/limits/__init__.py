"""The account's rate limits, as the API enforces and reports them."""
