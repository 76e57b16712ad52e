"""Everything that is written to disk: the home folder, atomic files and folders, and SQLite databases."""
