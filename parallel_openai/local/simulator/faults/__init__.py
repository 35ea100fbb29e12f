"""What goes wrong: at random, or laid down beforehand."""
