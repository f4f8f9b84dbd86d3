"""Lanemark: benchmark records that still mean something a week later.

Importing this package costs nothing but this file: every room below is imported by the verb that needs it.
"""

__version__ = "0.1.0"
