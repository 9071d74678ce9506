"""Pixels and headers out of files, in a child process that can be killed."""
