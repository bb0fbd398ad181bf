"""The machine a figure is measured on, and what it can do at best."""
