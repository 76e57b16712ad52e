"""The file formats that can be imported: one file for each, and what several have in common."""
