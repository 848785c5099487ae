"""For tools that still look for this file; everything it says stands in setup.cfg."""

from setuptools import setup

setup()
