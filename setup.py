from setuptools import setup

setup(name="psaq_mm", version="0.1.0", packages=["psaq_mm"])
