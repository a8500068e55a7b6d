"""What the user sees on a terminal, and how Ctrl-C is heard."""
