"""When it may be sent: what an account's limits are, told or learnt, and who is next."""
