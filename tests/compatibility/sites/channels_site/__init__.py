"""A Django project with Channels, written as for any server: nothing in it knows ours."""
