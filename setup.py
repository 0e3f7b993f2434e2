"""Lets older tools install the package; everything is declared in pyproject.toml."""

from setuptools import setup

setup()
