"""What people type first, each in a file of its own, as they would have it in main.py."""
