"""The only place that writes to disk: atomic files and folders, and SQLite databases."""
