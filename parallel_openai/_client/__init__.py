"""An account: its server, its key and its limits; or several accounts as one."""
