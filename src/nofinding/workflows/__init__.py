"""The use cases: the only place where sources, methods and evaluation meet.

Each is imported from its own file, so that a command waits for nothing that another one needs.
"""
