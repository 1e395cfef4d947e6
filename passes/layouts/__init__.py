"""Layouts on edges: what a tensor looks like in memory, what a conversion costs, and where one is needed."""
