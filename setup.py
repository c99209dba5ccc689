"""For tools that look for this file. setup.cfg has all settings."""

from setuptools import setup

setup()
