"""Configuration of other people's clients for a gateway: `geniehive connect`.

`choose` picks models from the catalogue, `clients` has a recipe for each client, `merge` puts a recipe into a file that
may have more in it, and `files` writes it, with a way back.
"""
