"""Outer and inner search, objectives and costing."""
