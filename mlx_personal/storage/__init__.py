"""Everything that is written to disk: atomic files and folders, and SQLite databases."""
