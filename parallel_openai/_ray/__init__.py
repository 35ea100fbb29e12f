"""Ray: the same runs on the machines of a cluster, all within one account's limits."""
