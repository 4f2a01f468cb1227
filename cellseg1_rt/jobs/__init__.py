"""Many images: what to read, what to write, and what happens when one of them fails."""
