"""What shows: the status of a running master, for people, tools and tests."""
