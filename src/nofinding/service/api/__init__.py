"""The service's HTTP interface: routes, who may call them, and what is refused."""
