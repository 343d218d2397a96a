"""One development cluster: its processes, its namespaces, and how all of it goes away again."""
