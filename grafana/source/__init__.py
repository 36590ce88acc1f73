"""The dashboards as Python: one module each, queries written once."""
