"""What the three scripts of openenergy share."""

__version__ = "1.0.0"
