"""What every test of the repository shares."""
