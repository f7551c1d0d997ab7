"""Features: their moments in one read, and which of them vary most."""
