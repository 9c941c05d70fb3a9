"""A Django REST framework project, written as for any server: nothing in it knows ours."""
