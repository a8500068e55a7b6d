"""Pages, tables and pictures of caches and runs."""
