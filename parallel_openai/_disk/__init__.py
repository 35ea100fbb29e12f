"""Files of ours: whose they are, who holds them, and how a new one takes an old one's place."""
