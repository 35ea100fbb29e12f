"""Rate limits: when the next request may be sent, by limits that are given, shown by the server or learned."""
