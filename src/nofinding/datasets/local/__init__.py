"""Films on this disk: a table, single files, volumes."""
