"""For tools that look for this file; everything is said in setup.cfg."""

from setuptools import setup

setup()
