"""A place in the network where films arrive, wait, are scored and looked at: extra `clinical`."""
