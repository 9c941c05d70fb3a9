"""Everything that can be set: each setting declared once, and where its value came from."""
