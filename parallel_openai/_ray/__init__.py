"""The same runs on a Ray cluster, all machines within one account's limits."""
