"""GenieHive: every model on every box you own, behind one OpenAI endpoint. This package is the shared floor."""

__version__ = "0.1.0"
